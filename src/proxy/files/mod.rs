//! Static content: files below the static root, and files that a ConfigMap holds.
//!
//! It never knows connections or backends. `proxy::http` calls it for a location whose action is `Static`.

mod answer;
mod coding;
mod condition;
mod configmap;
mod disk;
mod name;
mod open;
mod range;
mod read;

use std::{path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use self::{
    disk::{Disk, Found},
    name::{Asked, Wanted},
    open::Trouble,
    read::Readers,
};
use super::{body::Body, refuse::Refusal};
use crate::{
    model::route::{PathPattern, Static, StaticSource},
    router::{Location, NormalPath},
};

/// How the static root is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One folder a namespace: a route reaches what is below its own.
    Namespaced,
    /// Every route reaches all of it.
    Shared,
}

/// What a request for a file is answered by.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path.
    pub path: &'a NormalPath<'a>,
    /// What follows `?`, as it came.
    pub query: Option<&'a str>,
    /// Its header section.
    pub headers: &'a HeaderMap,
}

/// Answers with files. One for the whole data side.
#[derive(Debug)]
pub struct Files {
    disk: Option<Arc<Disk>>,
    readers: Readers,
}

impl Files {
    /// Serves directories below `root`; without one there are only ConfigMaps.
    pub fn new(root: Option<PathBuf>, layout: Layout) -> Self {
        Self { disk: root.map(|root| Arc::new(Disk::new(root, layout))), readers: Readers::new() }
    }

    /// The answer to a request that `location` took, whose action is `content`. Without the location's response headers.
    pub async fn serve(&self, location: &Location, content: &Static, request: &Request<'_>) -> Response<Body> {
        self.answer(location, content, request).await.unwrap_or_else(Refusal::into_response)
    }

    async fn answer(&self, location: &Location, content: &Static, request: &Request<'_>) -> Result<Response<Body>, Refusal> {
        if !matches!(*request.method, Method::GET | Method::HEAD) {
            return Err(Refusal::MethodNotAllowed("GET, HEAD"));
        }
        let rest = location.rest(request.path);
        let asked = asked(rest, request.path, &location.spec.path);
        if rest.is_empty() && asked == Asked::File {
            return Ok(redirect_to_folder(request));
        }
        let wanted = Wanted::new(rest, asked, &content.index, content.fallback.as_deref()).ok_or(Refusal::NotFound)?;
        let (name, fallback) = (wanted.name.clone(), wanted.fallback.clone());
        let codings = coding::accepted(request.headers);
        let found = match (&content.source, &self.disk) {
            (StaticSource::Files(files), _) => configmap::find(files, &wanted, &codings),
            (StaticSource::Directory(directory), Some(disk)) => {
                let place = (location.spec.key.namespace.clone(), directory.clone());
                disk.find(place, wanted, codings, &self.readers).await.map_err(|trouble| refusal(trouble, directory, &name))?
            }
            (StaticSource::Directory(directory), None) => {
                tracing::warn!(%directory, "a route serves a directory, but there is no --static-root");
                Found::Nothing
            }
        };
        match found {
            Found::File(file) => {
                let name = if file.is_fallback { fallback.unwrap_or(name) } else { name };
                answer::answer(file, &name, request, location.cache_control.as_ref(), &self.readers).await
            }
            Found::Folder => Ok(redirect_to_folder(request)),
            Found::Nothing => Err(Refusal::NotFound),
        }
    }
}

/// A folder is named with a slash at the end, so that relative links in its index work. A location that is no Prefix may not take the path
/// with a slash: it gives its index at once.
fn asked(rest: &str, path: &NormalPath<'_>, pattern: &PathPattern) -> Asked {
    match rest.is_empty() {
        false if rest.ends_with('/') => Asked::Folder,
        false => Asked::File,
        true if path.matching().ends_with('/') || !matches!(pattern, PathPattern::Prefix(_)) => Asked::Folder,
        true => Asked::File,
    }
}

/// 308 to the same path with a slash. The normalised path begins with exactly one slash, so that it can't name another host.
fn redirect_to_folder(request: &Request<'_>) -> Response<Body> {
    let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    match HeaderValue::try_from(format!("{}/{query}", request.path.as_str())) {
        Ok(location) => response.headers_mut().insert(header::LOCATION, location),
        Err(_) => return Refusal::InvalidTarget.into_response(),
    };
    response
}

fn refusal(trouble: Trouble, directory: &str, name: &[u8]) -> Refusal {
    let name = String::from_utf8_lossy(name);
    match trouble {
        Trouble::Forbidden => {
            tracing::debug!(directory, ?name, %trouble, "a static file is not served");
            Refusal::FileForbidden
        }
        Trouble::Exhausted => Refusal::Exhausted,
        Trouble::Again | Trouble::Io(_) => {
            tracing::warn!(directory, ?name, %trouble, "a static file could not be opened");
            Refusal::FileUnreadable
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

    use http::HeaderName;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::{
        model::{
            LocationKey, ObjectRef,
            route::{self, Action, StaticFile},
        },
        router::path,
    };

    /// A location with static content, and what serves it.
    struct Site {
        files: Files,
        location: Location,
        content: Static,
    }

    impl Site {
        fn new(prefix: &str, source: StaticSource, files: Files) -> Self {
            Self::with(prefix, Static { source, index: "index.html".into(), fallback: None, cache_control: Some("no-cache".into()) }, files)
        }

        fn with(prefix: &str, content: Static, files: Files) -> Self {
            let spec = route::Location {
                key: LocationKey { namespace: "shop".into(), identity: "page".into() },
                route: ObjectRef::new("shop", "page"),
                label: "/".into(),
                path: PathPattern::Prefix(prefix.into()),
                matching: route::Match::default(),
                action: Action::Static(content.clone()),
                request_headers: route::HeaderEdits::default(),
                response_headers: route::HeaderEdits::default(),
                access: Default::default(),
            };
            Self { files, location: Location::compile(Arc::new(spec)), content }
        }

        fn directory(root: &Path, directory: &str) -> Self {
            Self::new("", StaticSource::Directory(directory.into()), Files::new(Some(root.into()), Layout::Shared))
        }

        async fn ask(&self, method: Method, target: &str, fields: &[(HeaderName, &str)]) -> Answer {
            let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
            let path = path::normalise(path).unwrap();
            let headers = fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
            let request = Request { method: &method, path: &path, query, headers: &headers };
            let (head, mut body) = self.files.serve(&self.location, &self.content, &request).await.into_parts();
            let mut bytes = Vec::new();
            while let Some(frame) = body.frame().await {
                bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
            }
            if method == Method::GET && head.headers.contains_key(header::CONTENT_LENGTH) {
                assert_eq!(head.headers[header::CONTENT_LENGTH], bytes.len().to_string());
            }
            Answer { status: head.status.as_u16(), headers: head.headers, body: bytes }
        }

        async fn get(&self, target: &str) -> Answer {
            self.ask(Method::GET, target, &[]).await
        }
    }

    #[derive(Debug)]
    struct Answer {
        status: u16,
        headers: HeaderMap,
        body: Vec<u8>,
    }

    impl Answer {
        fn header(&self, name: HeaderName) -> &str {
            self.headers.get(name).map_or("", |value| value.to_str().unwrap())
        }
    }

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("page/docs")).unwrap();
        fs::create_dir_all(dir.path().join("page/empty")).unwrap();
        for (path, content) in [
            ("secret", "secret"),
            ("page/index.html", "<h1>hello</h1>"),
            ("page/docs/index.html", "docs"),
            ("page/app.js", "plain script"),
            ("page/app.js.gz", "gzipped"),
            ("page/app.js.br", "brotli"),
            ("page/ten.txt", "0123456789"),
        ] {
            fs::write(dir.path().join(path), content).unwrap();
            let old = fs::FileTimes::new().set_modified(httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap());
            fs::File::options().write(true).open(dir.path().join(path)).unwrap().set_times(old).unwrap();
        }
        dir
    }

    #[tokio::test]
    async fn a_file_comes_with_what_a_cache_needs() {
        let dir = root();
        let site = Site::directory(dir.path(), "page");
        for _ in 0..2 {
            let answer = site.get("/").await;
            assert_eq!((answer.status, &*answer.body), (200, &b"<h1>hello</h1>"[..]));
            assert_eq!(answer.header(header::CONTENT_TYPE), "text/html; charset=utf-8");
            assert_eq!(answer.header(header::LAST_MODIFIED), "Sun, 06 Nov 1994 08:49:37 GMT");
            assert_eq!(answer.header(header::CACHE_CONTROL), "no-cache");
            assert_eq!(answer.header(header::VARY), "accept-encoding");
            let etag = answer.header(header::ETAG);
            assert!(etag.starts_with('"'), "{etag}");
            let again = site.ask(Method::GET, "/", &[(header::IF_NONE_MATCH, etag)]).await;
            assert_eq!((again.status, again.body.len(), again.header(header::ETAG)), (304, 0, etag));
            assert!(!again.headers.contains_key(header::CONTENT_LENGTH));
            let head = site.ask(Method::HEAD, "/", &[]).await;
            assert_eq!((head.status, head.body.len(), head.header(header::CONTENT_LENGTH)), (200, 0, "14"));
            assert_eq!(site.ask(Method::GET, "/", &[(header::IF_MATCH, "\"x\"")]).await.status, 412);
        }
    }

    #[tokio::test]
    async fn a_fresh_file_has_a_weak_tag_until_its_time_tells_changes_apart() {
        let dir = root();
        fs::write(dir.path().join("page/new"), "new").unwrap();
        let answer = Site::directory(dir.path(), "page").get("/new").await;
        assert!(answer.header(header::ETAG).starts_with("W/\""));
    }

    #[tokio::test]
    async fn a_folder_is_asked_for_with_a_slash() {
        let dir = root();
        let site = Site::directory(dir.path(), "page");
        let answer = site.get("/docs?a=//b").await;
        assert_eq!((answer.status, answer.header(header::LOCATION)), (308, "/docs/?a=//b"));
        assert_eq!(site.get("//docs").await.header(header::LOCATION), "/docs/", "never another host");
        assert_eq!(site.get("/docs/").await.body, b"docs");
        assert_eq!(site.get("/empty/").await.status, 404);
        assert_eq!(site.get("/ten.txt/").await.status, 404);
        let below = Site::new("/static", StaticSource::Directory("page".into()), Files::new(Some(dir.path().into()), Layout::Shared));
        assert_eq!(below.get("/static").await.header(header::LOCATION), "/static/");
        assert_eq!(below.get("/static/docs/").await.body, b"docs");
    }

    #[tokio::test]
    async fn ranges_single_multiple_and_beyond() {
        let dir = root();
        let site = Site::directory(dir.path(), "page");
        let range = async |value| site.ask(Method::GET, "/ten.txt", &[(header::RANGE, value)]).await;
        let one = range("bytes=2-4").await;
        assert_eq!((one.status, &*one.body, one.header(header::CONTENT_RANGE)), (206, &b"234"[..], "bytes 2-4/10"));
        assert_eq!(range("bytes=0-,0-").await.status, 200);
        let beyond = range("bytes=10-").await;
        assert_eq!((beyond.status, beyond.header(header::CONTENT_RANGE)), (416, "bytes */10"));
        let many = range("bytes=0-1,-1").await;
        let content_type = many.header(header::CONTENT_TYPE);
        let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let head = |range| format!("--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes {range}/10\r\n\r\n");
        let expected = format!("{}01\r\n{}9\r\n--{boundary}--\r\n", head("0-1"), head("9-9"));
        assert_eq!((many.status, String::from_utf8(many.body.clone()).unwrap()), (206, expected));
        let head = site.ask(Method::HEAD, "/ten.txt", &[(header::RANGE, "bytes=2-4")]).await;
        assert_eq!(head.status, 200, "only GET has ranges");
        let changed = site.ask(Method::GET, "/ten.txt", &[(header::RANGE, "bytes=2-4"), (header::IF_RANGE, "\"old\"")]).await;
        assert_eq!((changed.status, changed.body.len()), (200, 10));
    }

    #[tokio::test]
    async fn a_range_of_a_huge_file_and_a_file_of_many_chunks() {
        let dir = root();
        let huge = fs::File::create(dir.path().join("page/huge")).unwrap();
        huge.set_len(10 << 30).unwrap();
        let large: Vec<u8> = (0..500_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        fs::write(dir.path().join("page/large"), &large).unwrap();
        let site = Site::directory(dir.path(), "page");
        let end = site.ask(Method::GET, "/huge", &[(header::RANGE, "bytes=-100000")]).await;
        assert_eq!(
            (end.status, end.body.len(), end.header(header::CONTENT_RANGE)),
            (206, 100_000, "bytes 10737318240-10737418239/10737418240")
        );
        assert_eq!(site.get("/large").await.body, large);
    }

    #[tokio::test]
    async fn the_smallest_sibling_that_the_client_takes() {
        let dir = root();
        let site = Site::directory(dir.path(), "page");
        for (accepted, body, coding) in
            [("gzip, br", "brotli", "br"), ("gzip", "gzipped", "gzip"), ("br;q=0", "plain script", ""), ("zstd", "plain script", "")]
        {
            let answer = site.ask(Method::GET, "/app.js", &[(header::ACCEPT_ENCODING, accepted)]).await;
            assert_eq!(
                (answer.body, answer.headers.get(header::CONTENT_ENCODING).map_or("", |token| token.to_str().unwrap())),
                (body.into(), coding)
            );
            assert_eq!(answer.headers[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        }
        assert_eq!(site.ask(Method::GET, "/ten.txt", &[(header::ACCEPT_ENCODING, "gzip, br")]).await.body, b"0123456789");
    }

    #[tokio::test]
    async fn nothing_outside_the_folder_by_any_name() {
        let dir = root();
        symlink("../secret", dir.path().join("page/out")).unwrap();
        symlink("/etc", dir.path().join("page/etc")).unwrap();
        symlink("docs", dir.path().join("page/in")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("page/pipe"), rustix::fs::Mode::RWXU).unwrap();
        let site = Site::directory(dir.path(), "page");
        for target in [
            "/out",
            "/etc/passwd",
            "/etc",
            "/pipe",
            "/..%5Csecret%00x".trim_end_matches("%00x"),
            "/docs%2Findex.html",
            "/none",
            "/ten.txt/x",
        ] {
            let Ok(path) = path::normalise(target) else { continue };
            assert_eq!(site.get(path.as_str()).await.status, 404, "{target}");
        }
        assert_eq!(site.get("/in/").await.body, b"docs");
        for method in [Method::POST, Method::OPTIONS, Method::DELETE] {
            let refused = site.ask(method, "/", &[]).await;
            assert_eq!((refused.status, refused.header(header::ALLOW)), (405, "GET, HEAD"));
        }
    }

    #[tokio::test]
    async fn a_namespace_reaches_its_own_folder_alone() {
        let dir = root();
        fs::create_dir_all(dir.path().join("shop/www")).unwrap();
        fs::write(dir.path().join("shop/www/a.txt"), "mine").unwrap();
        symlink("../../page", dir.path().join("shop/www/theirs")).unwrap();
        symlink("../page", dir.path().join("shop/page")).unwrap();
        let site = |directory: &str| {
            Site::new("", StaticSource::Directory(directory.into()), Files::new(Some(dir.path().into()), Layout::Namespaced))
        };
        assert_eq!(site("www").get("/a.txt").await.body, b"mine");
        assert_eq!(site("www").get("/theirs/ten.txt").await.status, 404);
        assert_eq!(site("page").get("/ten.txt").await.status, 404);
        assert_eq!(site(".").get("/www/a.txt").await.body, b"mine");
        assert_eq!(site("none").get("/").await.status, 404);
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_is_replaced_is_seen_soon() {
        let dir = root();
        symlink("page", dir.path().join("current")).unwrap();
        fs::create_dir(dir.path().join("next")).unwrap();
        fs::write(dir.path().join("next/ten.txt"), "next").unwrap();
        let site = Site::directory(dir.path(), "current");
        assert_eq!(site.get("/ten.txt").await.body, b"0123456789");
        symlink("next", dir.path().join("link")).unwrap();
        fs::rename(dir.path().join("link"), dir.path().join("current")).unwrap();
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!(site.get("/ten.txt").await.body, b"next");
    }

    #[tokio::test]
    async fn a_config_map_is_a_folder_too() {
        let file = |content: &'static str| StaticFile(content.into());
        let files = BTreeMap::from([
            ("index.html".into(), file("home")),
            ("app.css".into(), file("css")),
            ("app.css.gz".into(), file("gz")),
            ("docs/index.html".into(), file("docs")),
        ]);
        let content = Static {
            source: StaticSource::Files(Arc::new(files)),
            index: "index.html".into(),
            fallback: Some("/index.html".into()),
            cache_control: None,
        };
        let site = Site::with("", content, Files::new(None, Layout::Shared));
        let home = site.get("/").await;
        let etag = home.header(header::ETAG);
        assert_eq!((home.status, &*home.body, home.header(header::LAST_MODIFIED)), (200, &b"home"[..], ""));
        assert_eq!(site.ask(Method::GET, "/", &[(header::IF_NONE_MATCH, etag)]).await.status, 304);
        assert_eq!(site.get("/docs").await.header(header::LOCATION), "/docs/");
        assert_eq!(site.get("/docs/").await.body, b"docs");
        let styled = site.ask(Method::GET, "/app.css", &[(header::ACCEPT_ENCODING, "gzip")]).await;
        assert_eq!((&*styled.body, styled.header(header::CONTENT_ENCODING)), (&b"gz"[..], "gzip"));
        let app = site.get("/some/view.that").await;
        assert_eq!((app.status, &*app.body, app.header(header::CONTENT_TYPE)), (200, &b"home"[..], "text/html; charset=utf-8"));
        let parts = site.ask(Method::GET, "/", &[(header::RANGE, "bytes=0-0,2-2")]).await;
        assert_eq!(parts.status, 206);
    }
}
