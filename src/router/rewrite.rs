//! How the path of a request changes: towards a backend, and in the Location of a redirect.
//!
//! It never knows which requests it is for. `Location` compiles it and applies it.

use std::{borrow::Cow, fmt};

use http::{HeaderValue, StatusCode};
use regex::Regex;

use super::{
    origin::{Origin, PublicPorts, own_port},
    path::{self, NormalPath, PathError},
};
use crate::model::{
    pattern,
    route::{Redirect, RedirectPath, Rewrite},
};

/// What a request asks for behind its host: path and query as they go out. Prints as a target in origin form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// In normalised form.
    pub path: Cow<'a, str>,
    /// What follows `?`.
    pub query: Option<Cow<'a, str>>,
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        self.query.as_ref().map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

/// A compiled [`Rewrite`].
pub(super) enum Rewriting {
    Prefix(Box<str>),
    Regex { regex: Regex, replacement: Box<str> },
}

impl Rewriting {
    pub(super) fn compile(spec: &Rewrite) -> Option<Self> {
        match spec {
            Rewrite::Prefix(prefix) => Some(Rewriting::Prefix(path::configured(prefix))),
            Rewrite::Regex { regex, replacement } => {
                let regex = pattern::anywhere(regex).ok()?;
                Some(Rewriting::Regex { regex, replacement: (**replacement).into() })
            }
        }
    }

    /// `elements`: how many of them the location's own path takes.
    pub(super) fn apply<'a>(&self, path: &'a NormalPath<'_>, query: Option<&'a str>, elements: usize) -> Result<Target<'a>, PathError> {
        match self {
            Rewriting::Prefix(prefix) => {
                Ok(Target { path: Cow::Owned(with_prefix(prefix, path, elements)), query: query.map(Cow::Borrowed) })
            }
            Rewriting::Regex { regex, replacement } => match regex.replace_all(path.matching(), &**replacement) {
                Cow::Borrowed(_) => Ok(Target { path: Cow::Borrowed(path.as_str()), query: query.map(Cow::Borrowed) }),
                Cow::Owned(rewritten) => retarget(&rewritten, query),
            },
        }
    }
}

/// A path in place of the first elements of another.
fn with_prefix(prefix: &str, path: &NormalPath<'_>, elements: usize) -> String {
    let rest = path::after_elements(path.as_str(), elements);
    match (prefix, rest) {
        ("", "") => "/".to_owned(),
        (_, "") => prefix.to_owned(),
        _ => format!("{}{rest}", prefix.trim_end_matches('/')),
    }
}

/// What a replacement made of a path, brought back into normalised form. What it put behind a `?` goes before the client's query.
fn retarget<'a>(rewritten: &str, query: Option<&'a str>) -> Result<Target<'a>, PathError> {
    let (path, added) = rewritten.split_once('?').map_or((rewritten, None), |(path, added)| (path, Some(added)));
    let rooted = if path.starts_with('/') { Cow::Borrowed(path) } else { Cow::Owned(format!("/{path}")) };
    let path = path::normalise(&path::escape_forbidden(&rooted))?.as_str().to_owned();
    let query = match (added, query) {
        (Some(added), Some(query)) if !query.is_empty() => Some(Cow::Owned(format!("{}&{query}", path::escape_query(added)))),
        (Some(added), _) => Some(Cow::Owned(path::escape_query(added).into_owned())),
        (None, query) => query.map(Cow::Borrowed),
    };
    Ok(Target { path: Cow::Owned(path), query })
}

/// A compiled [`Redirect`].
pub(super) struct Redirecting {
    status: StatusCode,
    scheme: Option<Box<str>>,
    host: Option<Box<str>>,
    port: Option<u16>,
    path: NewPath,
}

enum NewPath {
    Keep,
    /// Path, perhaps with a query of its own.
    Full(Box<str>),
    Prefix(Box<str>),
}

impl Redirecting {
    pub(super) fn compile(spec: &Redirect) -> Self {
        Self {
            status: StatusCode::from_u16(spec.status).unwrap_or(StatusCode::PERMANENT_REDIRECT),
            scheme: spec.scheme.as_deref().map(Into::into),
            host: spec.host.as_deref().map(Into::into),
            port: spec.port,
            path: match &spec.path {
                RedirectPath::Keep => NewPath::Keep,
                RedirectPath::Full(full) => NewPath::Full((**full).into()),
                RedirectPath::Prefix(prefix) => NewPath::Prefix(path::configured(prefix)),
            },
        }
    }

    pub(super) fn apply(
        &self,
        came_to: Origin<'_>,
        ports: PublicPorts,
        path: &NormalPath<'_>,
        query: Option<&str>,
        elements: usize,
    ) -> Option<(StatusCode, HeaderValue)> {
        let target = match &self.path {
            NewPath::Keep => Target { path: path.as_str().into(), query: query.map(Cow::Borrowed) },
            NewPath::Full(full) => retarget(full, query).ok()?,
            NewPath::Prefix(prefix) => Target { path: with_prefix(prefix, path, elements).into(), query: query.map(Cow::Borrowed) },
        };
        let scheme = self.scheme.as_deref().unwrap_or(came_to.scheme);
        let host = self.host.as_deref().unwrap_or(came_to.host);
        let port = self.port.or_else(|| if scheme == came_to.scheme { came_to.port } else { ports.of(scheme) });
        let location = match (host, port.filter(|port| own_port(scheme) != Some(*port))) {
            // A client that named no host gets a relative Location.
            ("", _) => target.to_string(),
            (host, Some(port)) => format!("{scheme}://{host}:{port}{target}"),
            (host, None) => format!("{scheme}://{host}{target}"),
        };
        Some((self.status, HeaderValue::from_str(&location).ok()?))
    }
}

impl PublicPorts {
    fn of(self, scheme: &str) -> Option<u16> {
        match scheme {
            "http" => Some(self.http),
            "https" => Some(self.https),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(spec: &Rewrite, elements: usize, raw: &str, query: Option<&str>) -> String {
        let path = path::normalise(raw).unwrap();
        Rewriting::compile(spec).unwrap().apply(&path, query, elements).unwrap().to_string()
    }

    #[test]
    fn a_prefix_takes_the_place_of_whole_elements() {
        for (prefix, raw, expected) in [
            ("/v1", "/api", "/v1"),
            ("/v1", "/api/", "/v1/"),
            ("/v1", "/api/x;p/y", "/v1/x;p/y"),
            ("/v1", "/api;p/x", "/v1/x"),
            ("/v1/", "/api", "/v1/"),
            ("/v1/", "/api/x", "/v1/x"),
            ("/", "/api", "/"),
            ("/", "/api/x", "/x"),
            ("", "/api", "/"),
        ] {
            assert_eq!(rewritten(&Rewrite::Prefix(prefix.into()), 1, raw, None), expected, "{prefix} {raw}");
        }
        assert_eq!(rewritten(&Rewrite::Prefix("/app".into()), 0, "/x", Some("a=1")), "/app/x?a=1");
        assert_eq!(rewritten(&Rewrite::Prefix("/app".into()), 0, "/", None), "/app/");
    }

    #[test]
    fn an_expression_replaces_every_match_and_the_result_is_normal() {
        let regex = |regex: &str, replacement: &str| Rewrite::Regex { regex: regex.into(), replacement: replacement.into() };
        assert_eq!(rewritten(&regex("^/v[0-9]+/(?P<rest>.*)$", "/${rest}"), 0, "/v2/a/b", Some("q")), "/a/b?q");
        assert_eq!(rewritten(&regex("^/a(.*)$", "/$1"), 0, "/a/b", None), "/b");
        assert_eq!(rewritten(&regex("^/user/(.*)$", "/show?name=$1&x=a b"), 0, "/user/j%2Fd", Some("y=1")), "/show?name=j%2Fd&x=a%20b&y=1");
        assert_eq!(rewritten(&regex("x", "é "), 0, "/axa", None), "/a%C3%A9%20a");
        assert_eq!(rewritten(&regex("^/v1/", "/"), 0, "/v1;p/a", None), "/a");
        assert_eq!(rewritten(&regex("^/v1/", "/"), 0, "/v2;p/a", None), "/v2;p/a");
    }

    #[test]
    fn a_replacement_that_hides_a_way_up_is_an_error() {
        let path = path::normalise("/a/.x.%2Fb").unwrap();
        let rewriting = Rewriting::compile(&Rewrite::Regex { regex: "x".into(), replacement: "".into() }).unwrap();
        assert_eq!(rewriting.apply(&path, None, 0), Err(PathError::HiddenDotSegment));
    }

    fn redirected(spec: Redirect, came_to: Origin<'_>, raw: &str, query: Option<&str>) -> String {
        let ports = PublicPorts { http: 8080, https: 8443 };
        let (status, location) = Redirecting::compile(&spec).apply(came_to, ports, &path::normalise(raw).unwrap(), query, 1).unwrap();
        format!("{} {}", status.as_u16(), location.to_str().unwrap())
    }

    #[test]
    fn a_redirect_changes_what_it_names() {
        let same = Redirect { scheme: None, host: None, port: None, path: RedirectPath::Keep, status: 308 };
        let here = Origin { scheme: "http", host: "a.example", port: Some(8080) };
        let cases = [
            (Redirect { scheme: Some("https".into()), ..same.clone() }, "308 https://a.example:8443/old/x?q"),
            (Redirect { scheme: Some("https".into()), port: Some(443), ..same.clone() }, "308 https://a.example/old/x?q"),
            (Redirect { host: Some("b.example".into()), status: 301, ..same.clone() }, "301 http://b.example:8080/old/x?q"),
            (Redirect { path: RedirectPath::Prefix("/new".into()), ..same.clone() }, "308 http://a.example:8080/new/x?q"),
            (Redirect { path: RedirectPath::Full("/one?a=b".into()), ..same.clone() }, "308 http://a.example:8080/one?a=b&q"),
        ];
        for (spec, expected) in cases {
            assert_eq!(redirected(spec, here, "/old/x", Some("q")), expected);
        }
        let nowhere = Origin { scheme: "http", host: "", port: None };
        assert_eq!(redirected(same.clone(), nowhere, "//evil.example/x", None), "308 /evil.example/x");
    }
}
