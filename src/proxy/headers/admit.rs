//! The first look at every request: what is ambiguous, or no request at all, ends here and the connection with it.
//!
//! It never knows locations or backends. `http` calls it before anything else. What hyper refuses by itself (folded lines, space before a
//! colon, bare CR, NUL, lengths that differ or are no number, HTTP/1.0 with Transfer-Encoding) never comes here.

use std::borrow::Cow;

use http::{
    HeaderMap, Method, Uri, Version,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING},
};

use super::elements;
use crate::{
    proxy::refuse::Refusal,
    router::{NormalPath, path::normalise},
};

/// What a request asks for, read in the one way that is left.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted<'a> {
    /// Host and port as the client spelled them, from the target in absolute form, else from Host. `None` only in HTTP/1.0.
    pub authority: Option<Authority<'a>>,
    /// What is asked for there.
    pub target: Target<'a>,
    /// The head has two readings, RFC 9112 prescribes one, and the connection ends after the answer.
    pub last: bool,
}

/// What is asked for at a host.
#[derive(Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A path with its query.
    Path(NormalPath<'a>, Option<&'a str>),
    /// `OPTIONS *`: the server as a whole.
    Server,
}

/// A host with an optional port, known to be well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Host and port as spelled.
    pub spelled: &'a str,
    /// The host in lower case, without port and trailing dot.
    pub host: Cow<'a, str>,
    /// The port, if it was given.
    pub port: Option<u16>,
}

/// What is allowed where CONNECT is not.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Reads a head, or refuses it.
pub fn admit<'a>(method: &Method, uri: &'a Uri, version: Version, headers: &'a HeaderMap) -> Result<Admitted<'a>, Refusal> {
    if method == Method::CONNECT {
        return Err(Refusal::MethodNotAllowed(METHODS));
    }
    transfer_encoding(headers)?;
    connection(headers)?;
    let host = host(version, headers)?;
    let (authority, differs) = match uri.authority() {
        None => (host, false),
        Some(named) => {
            if !matches!(uri.scheme_str(), Some("http" | "https")) {
                return Err(Refusal::InvalidTarget);
            }
            let named = Authority::parse(named.as_str()).ok_or(Refusal::InvalidTarget)?;
            let differs = host.is_some_and(|host| host.host != named.host || host.port != named.port);
            (Some(named), differs)
        }
    };
    Ok(Admitted { authority, target: target(method, uri)?, last: differs })
}

/// RFC 9112 6.1: we know `chunked` alone, and it once; whatever else is spelled there is read by somebody as something else.
fn transfer_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut fields = headers.get_all(TRANSFER_ENCODING).iter();
    match (fields.next(), fields.next()) {
        (None, _) => Ok(()),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::InvalidTransferEncoding),
    }
}

/// A field that Connection names goes no further: nobody may take these from a request that way.
fn connection(headers: &HeaderMap) -> Result<(), Refusal> {
    let needed = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, AUTHORIZATION, COOKIE];
    let taken = |token: &[u8]| {
        needed.iter().any(|name| name.as_str().as_bytes().eq_ignore_ascii_case(token))
            || token.get(..12).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"x-forwarded-"))
    };
    let fields = headers.get_all(CONNECTION).iter();
    if fields.flat_map(|value| elements(value.as_bytes())).any(taken) { Err(Refusal::InvalidConnection) } else { Ok(()) }
}

/// RFC 9112 3.2: exactly one; none in HTTP/1.0.
fn host(version: Version, headers: &HeaderMap) -> Result<Option<Authority<'_>>, Refusal> {
    let mut fields = headers.get_all(HOST).iter();
    match (fields.next(), fields.next()) {
        (None, _) if version == Version::HTTP_10 => Ok(None),
        (Some(value), None) => {
            let authority = value.to_str().ok().and_then(Authority::parse);
            authority.map(Some).ok_or(Refusal::InvalidHost)
        }
        _ => Err(Refusal::InvalidHost),
    }
}

fn target<'a>(method: &Method, uri: &'a Uri) -> Result<Target<'a>, Refusal> {
    let path = uri.path();
    if path == "*" && uri.authority().is_none() {
        return if method == Method::OPTIONS { Ok(Target::Server) } else { Err(Refusal::InvalidTarget) };
    }
    let query = uri.query();
    if query.is_some_and(|query| !query.bytes().all(query_byte)) {
        return Err(Refusal::InvalidTarget);
    }
    Ok(Target::Path(normalise(path).map_err(|_| Refusal::InvalidPath)?, query))
}

/// RFC 3986 3.4, and what browsers do not escape in a query (`[`, `]`, `{`, `}`, `|`, `\`, `^`, `` ` ``): one line, no control, no space,
/// and nothing that ends it.
fn query_byte(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'"' | b'#' | b'<' | b'>')
}

impl<'a> Authority<'a> {
    /// Reads `host`, `host:port`, `[IPv6]` and `[IPv6]:port`; `None` is anything else, userinfo above all.
    pub fn parse(spelled: &'a str) -> Option<Self> {
        let (host, port) = match spelled.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (&spelled[..address.len() + 2], port)
            }
            None => {
                let (host, port) = spelled.split_at(spelled.find(':').unwrap_or(spelled.len()));
                let bare = host.strip_suffix('.').unwrap_or(host);
                if bare.is_empty() || bare.len() > 253 || !bare.bytes().all(host_byte) || bare.split('.').any(str::is_empty) {
                    return None;
                }
                (bare, port)
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        let upper = host.bytes().any(|byte| byte.is_ascii_uppercase());
        let host = if upper { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) };
        Some(Self { spelled, host, port })
    }
}

/// Names that DNS and certificates know, and the underscore of the real world; no escapes, no sub-delims.
fn host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        fields.iter().map(field).collect()
    }

    fn refused(method: &str, target: &str, fields: &[(&str, &str)]) -> Option<Refusal> {
        let (method, uri) = (Method::from_bytes(method.as_bytes()).unwrap(), target.parse::<Uri>().unwrap());
        admit(&method, &uri, Version::HTTP_11, &headers(fields)).err()
    }

    #[test]
    fn exactly_one_valid_host() {
        assert_eq!(refused("GET", "/", &[("host", "shop.example")]), None);
        assert_eq!(refused("GET", "/", &[]), Some(Refusal::InvalidHost));
        assert_eq!(refused("GET", "/", &[("host", "a"), ("host", "a")]), Some(Refusal::InvalidHost));
        for host in
            ["", "a b", "a,b", "a/b", "u@a", "a:b", "a:65536", "a:+1", "[::1", "[::1]x", "[::g]", "a..b", ".a", ".", "a%41", "a\tb", "é"]
        {
            assert_eq!(refused("GET", "/", &[("host", host)]), Some(Refusal::InvalidHost), "{host:?}");
        }
        for host in ["a", "A.b:8080", "a.", "a:", "[::1]", "[::1]:80", "10.0.0.1:1", "my_app.x"] {
            assert_eq!(refused("GET", "/", &[("host", host)]), None, "{host:?}");
        }
    }

    #[test]
    fn http_1_0_may_name_no_host() {
        let (uri, none) = ("/".parse::<Uri>().unwrap(), HeaderMap::new());
        assert_eq!(admit(&Method::GET, &uri, Version::HTTP_10, &none).unwrap().authority, None);
    }

    #[test]
    fn hosts_are_compared_without_case_port_and_trailing_dot() {
        let authority = Authority::parse("Shop.Example.:8080").unwrap();
        assert_eq!((&*authority.host, authority.port, authority.spelled), ("shop.example", Some(8080), "Shop.Example.:8080"));
    }

    #[test]
    fn the_absolute_form_wins_over_host_and_ends_the_connection_where_they_differ() {
        let uri = "http://a.example/x?y".parse::<Uri>().unwrap();
        let fields = headers(&[("host", "b.example")]);
        let admitted = admit(&Method::GET, &uri, Version::HTTP_11, &fields).unwrap();
        assert_eq!(admitted.authority.unwrap().host, "a.example");
        assert!(admitted.last);
        let fields = headers(&[("host", "A.example")]);
        assert!(!admit(&Method::GET, &uri, Version::HTTP_11, &fields).unwrap().last);
    }

    #[test]
    fn targets_that_are_no_request_for_us() {
        let host = &[("host", "a")];
        assert_eq!(refused("GET", "*", host), Some(Refusal::InvalidTarget));
        assert_eq!(refused("OPTIONS", "*", host), None);
        assert_eq!(refused("GET", "a:80", host), Some(Refusal::InvalidTarget));
        assert_eq!(refused("GET", "ftp://a/", host), Some(Refusal::InvalidTarget));
        assert_eq!(refused("GET", "http://u@a/", host), Some(Refusal::InvalidTarget));
        assert!(matches!(refused("CONNECT", "a:80", host), Some(Refusal::MethodNotAllowed(_))));
        assert_eq!(refused("GET", "/%00", host), Some(Refusal::InvalidPath));
        assert_eq!(refused("GET", "/../etc", host), Some(Refusal::InvalidPath));
        assert_eq!(refused("GET", "/?filter[name]={x}|y", host), None);
    }

    #[test]
    fn transfer_encoding_is_chunked_once() {
        for value in ["xchunked", "chunked, identity", "gzip, chunked", "chunked,", "\"chunked\"", "chunked;q=1", ""] {
            let fields = [("host", "a"), ("transfer-encoding", value)];
            assert_eq!(refused("POST", "/", &fields), Some(Refusal::InvalidTransferEncoding), "{value:?}");
        }
        assert_eq!(refused("POST", "/", &[("host", "a"), ("transfer-encoding", "Chunked")]), None);
        let twice = [("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(refused("POST", "/", &twice), Some(Refusal::InvalidTransferEncoding));
    }

    #[test]
    fn connection_takes_nothing_that_the_backend_needs() {
        for name in ["Host", "content-length", "Transfer-Encoding", "authorization", "COOKIE", "X-Forwarded-For", "x-forwarded-anything"] {
            let value = format!("close, {name}");
            assert_eq!(refused("GET", "/", &[("host", "a"), ("connection", &value)]), Some(Refusal::InvalidConnection), "{name}");
        }
        assert_eq!(refused("GET", "/", &[("host", "a"), ("connection", "keep-alive, X-Mine")]), None);
    }
}
