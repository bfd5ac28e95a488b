//! What a location asks of a request beside its path: method, headers, query, cookies, subprotocols, upgrade.
//!
//! It never knows precedence. `decide` asks whether all holds, `explain` what does not.

use std::fmt;

use http::{HeaderName, Method, header};
use regex::bytes::Regex;
use smallvec::SmallVec;

use super::{Head, path};
use crate::model::{
    pattern,
    route::{Match, UpgradeMatch, ValueMatch, ValuePattern},
};

/// Compiled conditions.
pub(super) struct Conditions {
    methods: Box<[Method]>,
    headers: Box<[(HeaderName, Value)]>,
    query: Box<[(Box<str>, Value)]>,
    cookies: Box<[(Box<str>, Value)]>,
    subprotocols: Box<[Box<str>]>,
    upgrade: UpgradeMatch,
}

enum Value {
    Exact(Box<[u8]>),
    Regex(Regex),
}

/// Why a location does not take a request. Prints as the end of a sentence that the location begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch<'a> {
    /// Another path.
    Path,
    /// A method it does not list.
    Method,
    /// This header is missing or has another value.
    Header(&'a str),
    /// This query parameter is missing or has another value.
    Query(&'a str),
    /// This cookie is missing or has another value.
    Cookie(&'a str),
    /// None of its subprotocols is offered.
    Subprotocol,
    /// It takes WebSocket handshakes alone.
    NoHandshake,
    /// It takes no WebSocket handshakes.
    Handshake,
    /// An expression or a name of it does not compile, so it takes nothing.
    Broken,
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Path => f.write_str("takes other paths"),
            Mismatch::Method => f.write_str("takes other methods"),
            Mismatch::Header(name) => write!(f, "asks for another value of the header {name}"),
            Mismatch::Query(name) => write!(f, "asks for another value of the query parameter {name}"),
            Mismatch::Cookie(name) => write!(f, "asks for another value of the cookie {name}"),
            Mismatch::Subprotocol => f.write_str("asks for a subprotocol that is not offered"),
            Mismatch::NoHandshake => f.write_str("takes WebSocket handshakes only"),
            Mismatch::Handshake => f.write_str("takes no WebSocket handshakes"),
            Mismatch::Broken => f.write_str("takes nothing: an expression or a name of it is not valid"),
        }
    }
}

impl Conditions {
    /// Compiles conditions; `None` where one of them can never hold, because it is not valid.
    pub(super) fn compile(spec: &Match) -> Option<Self> {
        let header = |entry: &ValueMatch| Some((HeaderName::from_bytes(entry.name.as_bytes()).ok()?, Value::compile(&entry.value)?));
        let named = |entry: &ValueMatch| Some(((*entry.name).into(), Value::compile(&entry.value)?));
        Some(Self {
            methods: spec.methods.iter().map(|method| Method::from_bytes(method.as_bytes()).ok()).collect::<Option<_>>()?,
            headers: spec.headers.iter().map(header).collect::<Option<_>>()?,
            query: spec.query.iter().map(named).collect::<Option<_>>()?,
            cookies: spec.cookies.iter().map(named).collect::<Option<_>>()?,
            subprotocols: spec.subprotocols.iter().map(|token| (**token).into()).collect(),
            upgrade: spec.upgrade,
        })
    }

    /// The first condition that does not hold.
    pub(super) fn mismatch<'a>(&'a self, head: &Head<'_>) -> Option<Mismatch<'a>> {
        match (self.upgrade, head.websocket) {
            (UpgradeMatch::WebSocket, false) => return Some(Mismatch::NoHandshake),
            (UpgradeMatch::None, true) => return Some(Mismatch::Handshake),
            _ => {}
        }
        if !self.methods.is_empty() && !self.methods.contains(head.method) {
            return Some(Mismatch::Method);
        }
        if !self.subprotocols.is_empty() && !offers(head).any(|offer| self.subprotocols.iter().any(|wanted| **wanted == *offer)) {
            return Some(Mismatch::Subprotocol);
        }
        let header = self.headers.iter().find(|(name, value)| !has_header(head, name, value));
        let cookie = || self.cookies.iter().find(|(name, value)| !has_cookie(head, name, value));
        let query = || self.query.iter().find(|(name, value)| !has_parameter(head.query.unwrap_or_default(), name, value));
        header
            .map(|(name, _)| Mismatch::Header(name.as_str()))
            .or_else(|| cookie().map(|(name, _)| Mismatch::Cookie(name)))
            .or_else(|| query().map(|(name, _)| Mismatch::Query(name)))
    }
}

impl Value {
    fn compile(spec: &ValuePattern) -> Option<Self> {
        match spec {
            ValuePattern::Exact(value) => Some(Value::Exact(value.as_bytes().into())),
            ValuePattern::Regex(regex) => pattern::whole(regex).ok().map(Value::Regex),
        }
    }

    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Value::Exact(wanted) => **wanted == *value,
            Value::Regex(regex) => regex.is_match(value),
        }
    }
}

/// The subprotocols that the client offers (RFC 6455 11.3.4).
fn offers<'a>(head: &Head<'a>) -> impl Iterator<Item = &'a str> {
    let fields = head.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    fields.filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(',')).map(|offer| offer.trim_matches([' ', '\t']))
}

/// Any field of the name counts.
fn has_header(head: &Head<'_>, name: &HeaderName, value: &Value) -> bool {
    head.headers.get_all(name).into_iter().any(|field| value.matches(field.as_bytes()))
}

/// The first cookie of the name counts (RFC 6265 5.4: the one of the longest path comes first).
fn has_cookie(head: &Head<'_>, name: &str, value: &Value) -> bool {
    let fields = head.headers.get_all(header::COOKIE).into_iter();
    let mut pairs = fields.flat_map(|field| cookie_pairs(field.as_bytes()));
    let found = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    found.is_some_and(|found| value.matches(found))
}

/// The pairs of a Cookie field, without the spaces around them.
fn cookie_pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let field = rest?;
        let end = memchr::memchr(b';', field);
        rest = end.map(|end| &field[end + 1..]);
        Some(field[..end.unwrap_or(field.len())].trim_ascii())
    })
}

/// The first parameter of the name counts.
fn has_parameter(query: &str, name: &str, value: &Value) -> bool {
    let Some(found) = raw_parameter(query, name) else { return false };
    match value {
        Value::Exact(wanted) => decoded(found).eq(wanted.iter().copied()),
        // On the stack but for very long values.
        Value::Regex(regex) => regex.is_match(&decoded(found).collect::<SmallVec<[u8; 256]>>()),
    }
}

fn raw_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(found, _)| decoded(found).eq(name.bytes())).map(|(_, value)| value)
}

/// The value of the first query parameter of a name, as `match.query` reads it.
pub fn parameter<T: FromIterator<u8>>(query: &str, name: &str) -> Option<T> {
    raw_parameter(query, name).map(|value| decoded(value).collect())
}

/// The bytes of `application/x-www-form-urlencoded`: `+` is a space, an escape its byte, anything else itself.
fn decoded(raw: &str) -> impl Iterator<Item = u8> {
    let bytes = raw.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        at += 1;
        if byte == b'%' {
            let digits = bytes.get(at).zip(bytes.get(at + 1));
            if let Some(value) = digits.and_then(|(high, low)| path::escape(*high, *low)) {
                at += 2;
                return Some(value);
            }
        }
        Some(if byte == b'+' { b' ' } else { byte })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderMap;

    use super::*;

    fn entry(name: &str, value: &str) -> ValueMatch {
        let value = match value.strip_prefix('~') {
            Some(regex) => ValuePattern::Regex(regex.into()),
            None => ValuePattern::Exact(value.into()),
        };
        ValueMatch { name: name.into(), value }
    }

    fn mismatch<'a>(conditions: &'a Conditions, fields: &[(&'static str, &str)], query: Option<&str>) -> Option<Mismatch<'a>> {
        let path = path::normalise("/").unwrap();
        let headers: HeaderMap = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        let websocket = headers.contains_key(header::UPGRADE);
        let head = Head { listener: "default", host: None, path: &path, query, method: &Method::GET, headers: &headers, websocket };
        conditions.mismatch(&head)
    }

    #[test]
    fn any_field_of_a_header_may_match_and_expressions_match_as_a_whole() {
        let conditions =
            Conditions::compile(&Match { headers: vec![entry("x-a", "1"), entry("x-b", "~[0-9]+")], ..Match::default() }).unwrap();
        assert_eq!(mismatch(&conditions, &[("x-a", "0"), ("x-a", "1"), ("x-b", "42")], None), None);
        assert_eq!(mismatch(&conditions, &[("x-b", "42")], None), Some(Mismatch::Header("x-a")));
        assert_eq!(mismatch(&conditions, &[("x-a", "1"), ("x-b", "42x")], None), Some(Mismatch::Header("x-b")));
    }

    #[test]
    fn the_first_parameter_counts_after_decoding() {
        let conditions = Conditions::compile(&Match { query: vec![entry("a b", "ü+ ")], ..Match::default() }).unwrap();
        assert_eq!(mismatch(&conditions, &[], Some("x&a%20b=%C3%bc%2B+&a+b=2")), None);
        assert_eq!(mismatch(&conditions, &[], Some("a+b=2&a+b=%C3%BC%2B+")), Some(Mismatch::Query("a b")));
        assert_eq!(mismatch(&conditions, &[], None), Some(Mismatch::Query("a b")));
        let regex = Conditions::compile(&Match { query: vec![entry("v", "~a%?")], ..Match::default() }).unwrap();
        assert_eq!(mismatch(&regex, &[], Some("v=%61%")), None);
        assert_eq!(mismatch(&regex, &[], Some("v=%61%25%25")), Some(Mismatch::Query("v")));
        let empty = Conditions::compile(&Match { query: vec![entry("flag", "")], ..Match::default() }).unwrap();
        assert_eq!(mismatch(&empty, &[], Some("flag")), None);
        assert_eq!(mismatch(&empty, &[], Some("")), Some(Mismatch::Query("flag")));
    }

    #[test]
    fn cookies_are_found_in_any_field_and_the_first_of_a_name_counts() {
        let conditions = Conditions::compile(&Match { cookies: vec![entry("canary", "always")], ..Match::default() }).unwrap();
        assert_eq!(mismatch(&conditions, &[("cookie", "a=b"), ("cookie", "x=y=z; canary=always")], None), None);
        assert_eq!(mismatch(&conditions, &[("cookie", "canary=never; canary=always")], None), Some(Mismatch::Cookie("canary")));
        assert_eq!(mismatch(&conditions, &[("cookie", "notcanary=always")], None), Some(Mismatch::Cookie("canary")));
    }

    #[test]
    fn one_offered_subprotocol_is_enough() {
        let subprotocols: Vec<Arc<str>> = vec!["mqtt".into(), "stomp".into()];
        let conditions = Conditions::compile(&Match { subprotocols, ..Match::default() }).unwrap();
        assert_eq!(mismatch(&conditions, &[("sec-websocket-protocol", "chat , stomp")], None), None);
        assert_eq!(mismatch(&conditions, &[("sec-websocket-protocol", "MQTT")], None), Some(Mismatch::Subprotocol));
        assert_eq!(mismatch(&conditions, &[], None), Some(Mismatch::Subprotocol));
    }

    #[test]
    fn upgrade_and_method_are_asked_for() {
        let handshakes = Conditions::compile(&Match { upgrade: UpgradeMatch::WebSocket, ..Match::default() }).unwrap();
        assert_eq!(mismatch(&handshakes, &[("upgrade", "websocket")], None), None);
        assert_eq!(mismatch(&handshakes, &[], None), Some(Mismatch::NoHandshake));
        let others = Conditions::compile(&Match { upgrade: UpgradeMatch::None, ..Match::default() }).unwrap();
        assert_eq!(mismatch(&others, &[("upgrade", "websocket")], None), Some(Mismatch::Handshake));
        let posts = Conditions::compile(&Match { methods: vec!["POST".into()], ..Match::default() }).unwrap();
        assert_eq!(mismatch(&posts, &[], None), Some(Mismatch::Method));
    }

    #[test]
    fn what_does_not_compile_takes_nothing() {
        assert!(Conditions::compile(&Match { headers: vec![entry("x", "~(")], ..Match::default() }).is_none());
        assert!(Conditions::compile(&Match { headers: vec![entry("x y", "1")], ..Match::default() }).is_none());
    }
}
