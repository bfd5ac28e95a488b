//! What a backend is told about who asked: X-Forwarded-*, X-Real-IP, X-Request-Id, Forwarded (RFC 7239).
//!
//! It never knows locations. `http` calls it once a request. From a peer that is not trusted, all of it is replaced.

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use smallvec::SmallVec;

use super::elements;
use crate::proxy::client_cert::is_of_certificate;

/// The client's address first, then every proxy's but the last.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `http` or `https`.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The Host that the client asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The port that the client connected to.
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// The client's address alone.
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// One name for a request in every log.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Ours to say, so that a spelling with underscores, which CGI reads as the same field, must not say it.
const OURS: [&str; 10] = [
    "x-real-ip",
    "x-request-id",
    "forwarded",
    "host",
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "authorization",
    "cookie",
];

/// Who asked, as seen on the connection.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// The peer's address.
    pub peer: IpAddr,
    /// Whether what the peer says about earlier hops counts.
    pub trusted: bool,
    /// Whether we verify clients' certificates here: then nobody else's word about them counts.
    pub verifies: bool,
    /// Whether the client came by TLS, as far as the connection tells.
    pub secure: bool,
    /// Host and port as the client spelled them.
    pub authority: Option<&'a str>,
    /// The public port that the client connected to.
    pub port: u16,
}

/// The scheme that a trusted peer names in X-Forwarded-Proto: whether it is https. `None` where it names none.
pub fn named_scheme(headers: &HeaderMap) -> Option<bool> {
    let first = elements(headers.get(X_FORWARDED_PROTO)?.as_bytes()).next()?;
    match first {
        _ if first.eq_ignore_ascii_case(b"https") || first.eq_ignore_ascii_case(b"wss") => Some(true),
        _ if first.eq_ignore_ascii_case(b"http") || first.eq_ignore_ascii_case(b"ws") => Some(false),
        _ => None,
    }
}

/// Who asked, where `peer` is a trusted proxy: the last hop of X-Forwarded-For that is none itself. Whatever the client put before it is not
/// believed. Without such a hop it is the first one that is named, behind what can't be read; without any, the peer.
pub fn client(headers: &HeaderMap, peer: IpAddr, trusts: impl Fn(IpAddr) -> bool) -> IpAddr {
    let hops = headers.get_all(X_FORWARDED_FOR).iter().flat_map(|chain| elements(chain.as_bytes())).map(hop_address);
    let (mut client, mut first) = (None, None);
    for hop in hops {
        match hop {
            Some(hop) if trusts(hop) => first = first.or(Some(hop)),
            Some(hop) => client = Some(hop),
            None => (client, first) = (None, None),
        }
    }
    client.or(first).unwrap_or(peer)
}

/// An address, as proxies write it: alone, in brackets, or with a port.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = text.parse().ok().or_else(bracketed).or_else(|| text.parse::<SocketAddr>().ok().map(|hop| hop.ip()))?;
    Some(address.to_canonical())
}

/// The request's name: a trusted peer's, if it is fit to be printed, else a new one.
pub fn request_id(headers: &HeaderMap, trusted: bool) -> HeaderValue {
    if trusted
        && let Some(id) = headers.get(X_REQUEST_ID)
        && (1..=128).contains(&id.len())
        && id.as_bytes().iter().all(u8::is_ascii_graphic)
    {
        return id.clone();
    }
    let mut digits = [0; 32];
    let random = fastrand::u128(..);
    for (at, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(random >> (4 * at)) as usize & 15];
    }
    value(Bytes::copy_from_slice(&digits))
}

/// Writes the fields into a request that is about to be sent on.
pub fn apply(headers: &mut HeaderMap, hop: &Hop<'_>, id: HeaderValue, forwarded: bool) {
    let earlier = drop_foreign(headers, hop.trusted, hop.verifies);
    let address = address(hop.peer);
    let chain = match &earlier {
        Some(chain) => {
            let mut joined = BytesMut::with_capacity(chain.len() + 2 + address.len());
            joined.extend_from_slice(chain.as_bytes());
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(&address);
            value(joined.freeze())
        }
        None => value(address.clone()),
    };
    headers.insert(X_FORWARDED_FOR, chain);
    if !headers.contains_key(X_REAL_IP) {
        headers.insert(X_REAL_IP, first_hop(earlier.as_ref()).unwrap_or_else(|| value(address)));
    }
    let secure = named_scheme(headers).unwrap_or_else(|| {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if hop.secure { "https" } else { "http" }));
        hop.secure
    });
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = hop.authority.and_then(|authority| HeaderValue::from_str(authority).ok())
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    if !headers.contains_key(X_FORWARDED_PORT) {
        headers.insert(X_FORWARDED_PORT, HeaderValue::from(hop.port));
    }
    if forwarded {
        headers.append(FORWARDED, element(hop, secure));
    }
    headers.insert(X_REQUEST_ID, id);
}

/// Takes off what this peer may not say, and returns the chain of earlier hops that it may.
fn drop_foreign(headers: &mut HeaderMap, trusted: bool, verifies: bool) -> Option<HeaderValue> {
    let foreign: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| is_foreign(name.as_str(), trusted, verifies)).cloned().collect();
    for name in foreign {
        headers.remove(name);
    }
    let mut chain = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let first = chain.next()?;
    let joined = chain.fold(BytesMut::from(first), |mut joined, next| {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(next);
        joined
    });
    (!joined.trim_ascii().is_empty()).then(|| value(joined.freeze()))
}

fn is_foreign(name: &str, trusted: bool, verifies: bool) -> bool {
    let reserved = |name: &str| name.starts_with("x-forwarded-") || OURS.contains(&name) || is_of_certificate(name);
    if name.contains('_') {
        return reserved(&name.replace('_', "-"));
    }
    if is_of_certificate(name) {
        return verifies || !trusted;
    }
    !trusted && (name.starts_with("x-forwarded-") || name == "x-real-ip" || name == "forwarded")
}

/// The first hop of a chain, where it is an address.
fn first_hop(chain: Option<&HeaderValue>) -> Option<HeaderValue> {
    let first = elements(chain?.as_bytes()).next()?;
    std::str::from_utf8(first).ok()?.parse::<IpAddr>().ok()?;
    HeaderValue::from_bytes(first).ok()
}

fn address(address: IpAddr) -> Bytes {
    let mut text = BytesMut::with_capacity(40);
    // Writing to a buffer that grows does not fail.
    let _ = write!(text, "{address}");
    text.freeze()
}

/// RFC 7239 4: an IPv6 address and a host with a port are quoted.
fn element(hop: &Hop<'_>, secure: bool) -> HeaderValue {
    let mut text = BytesMut::with_capacity(96);
    let _ = match hop.peer {
        IpAddr::V4(address) => write!(text, "for={address}"),
        IpAddr::V6(address) => write!(text, "for=\"[{address}]\""),
    };
    if let Some(authority) = hop.authority {
        let _ = write!(text, ";host=\"{authority}\"");
    }
    let _ = write!(text, ";proto={}", if secure { "https" } else { "http" });
    value(text.freeze())
}

/// What is made here from addresses, digits and checked names is always a field value; were it not, it is left empty.
fn value(bytes: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: Hop<'_> = Hop {
        peer: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        trusted: false,
        verifies: false,
        secure: true,
        authority: Some("shop.example"),
        port: 443,
    };

    fn applied(fields: &[(&'static str, &'static str)], hop: &Hop<'_>, forwarded: bool) -> HeaderMap {
        let mut headers = fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        let id = request_id(&headers, hop.trusted);
        apply(&mut headers, hop, id, forwarded);
        headers
    }

    #[test]
    fn a_strangers_words_are_replaced() {
        let said = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-prefix", "/admin"),
            ("x-real-ip", "1.1.1.1"),
            ("x-request-id", "mine"),
            ("forwarded", "for=1.1.1.1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("content_length", "7"),
        ];
        let headers = applied(&said, &HOP, false);
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.1");
        assert_eq!(headers[X_REAL_IP], "192.0.2.1");
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        assert_eq!(headers[X_FORWARDED_HOST], "shop.example");
        assert_eq!(headers[X_FORWARDED_PORT], "443");
        assert_eq!(headers[X_REQUEST_ID].len(), 32);
        assert_eq!(headers.len(), 6);
    }

    #[test]
    fn a_trusted_peer_is_believed_and_appended_to() {
        let said = [
            ("x-forwarded-for", "203.0.113.9, 10.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "www.shop.example"),
            ("x-request-id", "abc-1"),
        ];
        let headers = applied(&said, &Hop { trusted: true, ..HOP }, false);
        assert_eq!(headers[X_FORWARDED_FOR], "203.0.113.9, 10.0.0.1, 192.0.2.1");
        assert_eq!(headers[X_REAL_IP], "203.0.113.9");
        assert_eq!(headers[X_FORWARDED_PROTO], "http");
        assert_eq!(headers[X_FORWARDED_HOST], "www.shop.example");
        assert_eq!(headers[X_REQUEST_ID], "abc-1");
    }

    #[test]
    fn underscores_say_nothing_in_our_name_even_for_a_trusted_peer() {
        let headers = applied(&[("x_real_ip", "1.1.1.1"), ("x_mine", "1")], &Hop { trusted: true, ..HOP }, false);
        assert!(!headers.contains_key("x_real_ip"));
        assert!(headers.contains_key("x_mine"));
    }

    #[test]
    fn forwarded_is_written_where_it_is_asked_for() {
        let headers = applied(&[], &Hop { peer: "2001:db8::1".parse().unwrap(), ..HOP }, true);
        assert_eq!(headers[FORWARDED], "for=\"[2001:db8::1]\";host=\"shop.example\";proto=https");
    }

    #[test]
    fn nobody_but_us_tells_of_a_clients_certificate() {
        let said = [("x-client-cert-subject", "CN=admin"), ("client-cert", ":YQ==:"), ("x_client_cert_subject", "CN=admin")];
        let kept = |hop: Hop<'_>| applied(&said, &hop, false).keys().filter(|name| is_of_certificate(name.as_str())).count();
        assert_eq!(kept(HOP), 0);
        assert_eq!(kept(Hop { trusted: true, ..HOP }), 2, "a proxy that is trusted may have verified it");
        assert_eq!(kept(Hop { trusted: true, verifies: true, ..HOP }), 0);
        assert!(applied(&said, &Hop { trusted: true, ..HOP }, false).get("x_client_cert_subject").is_none());
    }

    #[test]
    fn request_ids_differ() {
        assert_ne!(request_id(&HeaderMap::new(), false), request_id(&HeaderMap::new(), false));
    }
}
