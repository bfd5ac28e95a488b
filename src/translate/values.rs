//! Values that a schema can't judge: expressions that must compile, paths in their normal form, header edits that leave the framing alone.
//!
//! It never knows objects. Errors go on after the field's name: "is …: do …". `location` and `layer4` call it.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::{
    api::{self, IntOrString},
    model::{
        path::{PathError, escape_forbidden, normalise, spelled},
        pattern,
        route::{HeaderEdits, OriginPattern},
        table::HostPattern,
    },
};

/// Fields that say how a message is framed or a connection used: an edit would make the two sides read different messages.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// An expression that compiles, alone and anchored: `a)|(b` does only the latter.
pub(super) fn regex(expression: &str) -> Result<Arc<str>, String> {
    match pattern::anywhere(expression).and_then(|_| pattern::whole(expression)) {
        Ok(_) => Ok(expression.into()),
        Err(regex::Error::CompiledTooBig(_)) => Err(format!("\"{expression}\" is too large once compiled: use smaller repetitions")),
        Err(error) => {
            let text = error.to_string();
            Err(format!("\"{expression}\" is not a regular expression: {}", text.lines().last().unwrap_or_default().trim()))
        }
    }
}

/// A path in the form that requests are brought into before they are compared: no other would ever match.
///
/// Letters beyond ASCII are percent-encoded, escapes put in upper case, those of unreserved characters decoded.
pub(super) fn path(raw: &str) -> Result<String, String> {
    if !raw.starts_with('/') {
        return Err(format!("\"{raw}\" does not begin with a slash"));
    }
    if raw.contains(['?', '#']) {
        return Err(format!("\"{raw}\" has a query or fragment: a path ends before it (see match.query)"));
    }
    if raw.contains(';') {
        return Err(format!("\"{raw}\" has parameters: they are not part of what is matched"));
    }
    let normal = spelled(&escape_forbidden(raw)).map_err(|error| match error {
        PathError::Nul => format!("{raw:?} has a NUL: no request has one"),
        _ => format!("\"{raw}\" has a percent sign that begins no escape: write %25"),
    })?;
    if normal.contains("//") {
        return Err(format!("\"{raw}\" has a double slash: requests are compared with single ones"));
    }
    if normal.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(format!("\"{raw}\" has a dot segment: requests are compared without them"));
    }
    match normalise(&normal) {
        Ok(_) => Ok(normal),
        Err(error) => Err(format!("\"{raw}\" can be in no request: {error}, which is refused")),
    }
}

/// A path, perhaps with a query.
pub(super) fn target(raw: &str) -> Result<Arc<str>, String> {
    match raw.split_once('?') {
        Some((before, query)) => Ok(format!("{}?{query}", path(before)?).into()),
        None => path(raw).map(Arc::from),
    }
}

/// A file below a folder: relative, no element empty, `.` or `..`.
pub(super) fn file(raw: &str) -> Result<Arc<str>, String> {
    let stays = !raw.contains(['\0', '\\']) && raw.split('/').all(|element| !matches!(element, "" | "." | ".."));
    if stays { Ok(raw.into()) } else { Err(format!("\"{raw}\" is no relative path without empty and dot elements")) }
}

/// A folder below the static root; `.` is the root itself.
pub(super) fn directory(raw: &str) -> Result<Arc<str>, String> {
    let inner = raw.strip_prefix("./").unwrap_or(raw);
    match inner.strip_suffix('/').unwrap_or(inner) {
        "." => Ok(".".into()),
        "" if raw == "./" => Ok(".".into()),
        inner => file(inner).map_err(|_| format!("\"{raw}\" is no folder below the static root: write it relative, without dot elements")),
    }
}

/// A host of `spec.hosts`, which the schema has let pass.
pub(super) fn host(raw: &str) -> HostPattern {
    match raw.strip_prefix("*.") {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None => HostPattern::Exact(raw.into()),
    }
}

/// An entry of `websocket.origins`, which the schema has let pass.
pub(super) fn origin(raw: &str) -> Result<OriginPattern, String> {
    let (scheme, authority) = match raw.split_once("://") {
        _ if raw == "*" => return Ok(OriginPattern::Any),
        _ if raw == "SameHost" => return Ok(OriginPattern::SameHost),
        Some((scheme, rest)) => (Some(Arc::from(scheme)), rest),
        None => (None, raw),
    };
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, Some(port.parse::<u16>().map_err(|_| format!("\"{raw}\" has no port between 0 and 65535"))?)),
        None => (authority, None),
    };
    Ok(OriginPattern::Host { scheme, host: host(name), port })
}

/// A number of bytes, plain or as a quantity with one of the suffixes of Kubernetes.
pub(super) fn bytes(quantity: &IntOrString) -> Result<u64, String> {
    let text = match quantity {
        IntOrString::Int(number) => return u64::try_from(*number).map_err(|_| format!("is {number}: it takes 0 and more")),
        IntOrString::String(text) => text,
    };
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit: Option<u64> = match suffix {
        "" => Some(1),
        "k" => Some(1000),
        "M" => Some(1000_u64.pow(2)),
        "G" => Some(1000_u64.pow(3)),
        "T" => Some(1000_u64.pow(4)),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        "Ti" => Some(1 << 40),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    bytes.ok_or_else(|| format!("is {text:?}: it takes bytes, or a quantity such as 64Ki or 1Mi"))
}

/// `host:port`, with its host in lower case and the port a number.
pub(super) fn address(raw: &str) -> Result<Arc<str>, String> {
    let valid = raw.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).is_some_and(|port| port > 0);
    if valid { Ok(raw.to_ascii_lowercase().into()) } else { Err(format!("\"{raw}\" has no port between 1 and 65535")) }
}

/// Header edits, names in lower case.
pub(super) fn header_edits(edits: Option<&api::HeaderEdits>) -> Result<HeaderEdits, String> {
    let Some(edits) = edits else { return Ok(HeaderEdits::default()) };
    let fields = |fields: Option<&Vec<api::HeaderValue>>| {
        fields
            .into_iter()
            .flatten()
            .map(|field| Ok((header_name(&field.name)?, header_value(&field.value)?)))
            .collect::<Result<_, String>>()
    };
    Ok(HeaderEdits {
        set: fields(edits.set.as_ref())?,
        add: fields(edits.add.as_ref())?,
        remove: edits.remove.iter().flatten().map(|name| header_name(name)).collect::<Result<_, _>>()?,
    })
}

fn header_name(raw: &str) -> Result<Arc<str>, String> {
    let name = HeaderName::try_from(raw).map_err(|_| format!("has \"{raw}\", which is no name of a header field"))?;
    match name.as_str() {
        "host" => Err("can't edit host: use rewrite.host".to_owned()),
        name if FRAMING.contains(&name) => Err(format!("can't edit {name}: it belongs to the connection")),
        name if name.starts_with("sec-websocket-") => Err(format!("can't edit {name}: it belongs to the handshake")),
        name => Ok(name.into()),
    }
}

/// A field value that can be sent.
pub(super) fn header_value(raw: &str) -> Result<Arc<str>, String> {
    match HeaderValue::from_str(raw) {
        Ok(_) => Ok(raw.trim_matches([' ', '\t']).into()),
        Err(_) => Err(format!("has \"{}\", which is no value of a header field: only printable ASCII is", raw.escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regex_that_escapes_its_anchors_is_refused() {
        assert!(regex("/a|/b").is_ok());
        assert!(regex("a)|(b").is_err());
        assert!(regex("(?x) a # no end").is_err());
        assert!(regex("(a{1000}){1000}").unwrap_err().contains("too large"));
        assert!(regex("/a(").unwrap_err().contains("is not a regular expression"));
    }

    #[test]
    fn paths_are_brought_into_the_form_of_requests() {
        for (raw, normal) in
            [("/", "/"), ("/a/", "/a/"), ("/ä", "/%C3%A4"), ("/%c3%a4", "/%C3%A4"), ("/%61%2f", "/a%2F"), ("/a b", "/a%20b")]
        {
            assert_eq!(path(raw).as_deref(), Ok(normal));
            assert_eq!(path(normal).as_deref(), Ok(normal), "normalising again changes nothing");
        }
        for raw in [
            "",
            "a",
            "/a//b",
            "/a/../b",
            "/.",
            "/%2e%2E/a",
            "/a;x",
            "/a?b",
            "/a#b",
            "/%",
            "/%0",
            "/%zz",
            "/%00",
            "/\0",
            "/%+1",
            "/a/..%2Fb",
            "/a/..%5C",
            "/%2e%2E%2f",
        ] {
            assert!(path(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn files_and_folders_stay_below() {
        assert_eq!(directory("site/").as_deref(), Ok("site"));
        assert_eq!(directory("./site").as_deref(), Ok("site"));
        assert_eq!(directory(".").as_deref(), Ok("."));
        for raw in ["/etc", "..", "a/../b", "a//b", "./../x", ""] {
            assert!(directory(raw).is_err(), "{raw}");
        }
        assert!(file("a/b.html").is_ok() && file("../a").is_err() && file("/a").is_err() && file("a\\b").is_err());
    }

    #[test]
    fn origins_have_scheme_and_port_where_given() {
        assert_eq!(origin("*"), Ok(OriginPattern::Any));
        assert_eq!(origin("SameHost"), Ok(OriginPattern::SameHost));
        let wildcard = HostPattern::Wildcard("example.com".into());
        assert_eq!(
            origin("https://*.example.com:8443"),
            Ok(OriginPattern::Host { scheme: Some("https".into()), host: wildcard, port: Some(8443) })
        );
        assert!(origin("a.example:99999").is_err());
    }

    #[test]
    fn bytes_may_be_a_quantity() {
        let of = |text: &str| bytes(&IntOrString::String(text.into()));
        assert_eq!(bytes(&IntOrString::Int(7)), Ok(7));
        assert_eq!((of("7"), of("2k"), of("1Mi")), (Ok(7), Ok(2000), Ok(1 << 20)));
        for bad in ["", "Mi", "1mi", "-1", "1.5Gi", "99999999999999999999", "99999999999Ti"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(bytes(&IntOrString::Int(-1)).is_err());
    }

    #[test]
    fn no_edit_touches_the_framing() {
        let set = |name: &str| {
            let field = api::HeaderValue { name: name.to_owned(), value: "x".to_owned() };
            header_edits(Some(&api::HeaderEdits { set: Some(vec![field]), ..api::HeaderEdits::default() }))
        };
        assert_eq!(set("X-Team").unwrap().set, [("x-team".into(), "x".into())]);
        for name in ["Content-Length", "transfer-encoding", "Connection", "Host", "Sec-WebSocket-Key", "bad name"] {
            assert!(set(name).is_err(), "{name}");
        }
    }
}
