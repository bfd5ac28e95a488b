//! The opening handshake of RFC 6455 on both sides of us: what a client must have sent, and what a backend's 101 must say. Pure.
//!
//! It never knows sockets. `upgrade` asks it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Version,
    header::{ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use sha1::{Digest, Sha1};

use crate::{
    proxy::{
        backend::Answer,
        headers::{elements, hop::connection_has},
        refuse::Refusal,
    },
    router::{Location, Origin},
};

/// RFC 6455 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a request asks to be upgraded to: the tokens of Upgrade, in the client's order of preference (RFC 9110 7.8).
///
/// None in HTTP/1.0, and none unless Connection says that Upgrade is meant for us.
pub fn wanted(version: Version, headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let meant = version == Version::HTTP_11 && headers.contains_key(UPGRADE) && connection_has(headers, "upgrade");
    let fields = meant.then(|| headers.get_all(UPGRADE).iter()).into_iter().flatten();
    fields.flat_map(|value| elements(value.as_bytes())).filter_map(|token| std::str::from_utf8(token).ok())
}

/// Whether a request asks for a WebSocket.
pub fn wants_websocket(version: Version, headers: &HeaderMap) -> bool {
    wanted(version, headers).any(|token| token.eq_ignore_ascii_case("websocket"))
}

/// Whether a request for a WebSocket is a handshake (RFC 6455 4.2.1) that the location lets in.
pub fn check(method: &Method, headers: &HeaderMap, location: &Location, came_to: Origin<'_>) -> Result<(), Refusal> {
    if method != Method::GET {
        return Err(Refusal::MethodNotAllowed("GET"));
    }
    if single(headers, SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err(Refusal::HandshakeVersion);
    }
    let key = single(headers, SEC_WEBSOCKET_KEY).ok_or(Refusal::HandshakeKey)?;
    if !STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16) {
        return Err(Refusal::HandshakeKey);
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    if origins.all(|origin| location.allows_origin(origin.as_bytes(), came_to)) { Ok(()) } else { Err(Refusal::Origin) }
}

/// Takes off the offers of subprotocols that the location does not pass on.
pub fn filter_subprotocols(headers: &mut HeaderMap, location: &Location) {
    let passes = |offer: &[u8]| std::str::from_utf8(offer).is_ok_and(|offer| location.passes_subprotocol(offer));
    if offers(headers).all(passes) {
        return;
    }
    let kept = offers(headers).filter(|offer| passes(offer)).collect::<Vec<_>>().join(b", ".as_slice());
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if !kept.is_empty()
        && let Ok(kept) = HeaderValue::from_bytes(&kept)
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

/// What the backend must answer, kept of a handshake that was sent.
#[derive(Debug)]
pub struct Expected {
    token: Box<str>,
    /// Of a WebSocket: the accept hash, and the offers.
    websocket: Option<(String, Vec<HeaderValue>)>,
}

impl Expected {
    /// Of a handshake for a WebSocket, as it goes to the backend.
    pub fn websocket(headers: &HeaderMap) -> Self {
        let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
        let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
        Self { token: "websocket".into(), websocket: Some((accept(key), offers)) }
    }

    /// Of an upgrade to something else.
    pub fn opaque(token: &str) -> Self {
        Self { token: token.into(), websocket: None }
    }

    /// Whether it is a WebSocket.
    pub fn is_websocket(&self) -> bool {
        self.websocket.is_some()
    }

    /// The token of Upgrade, towards both sides.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether a 101 answers the handshake. What it lacks, else.
    pub fn verify(&self, answer: &Answer) -> Result<(), &'static str> {
        let headers = &answer.headers;
        if answer.status != StatusCode::SWITCHING_PROTOCOLS {
            return Err("it is no 101");
        }
        if !connection_has(headers, "upgrade") {
            return Err("Connection does not say upgrade");
        }
        let upgrade = single(headers, UPGRADE).map(HeaderValue::as_bytes).unwrap_or_default();
        if !upgrade.eq_ignore_ascii_case(self.token.as_bytes()) {
            return Err("Upgrade is not what was asked for");
        }
        let Some((accept, offers)) = &self.websocket else { return Ok(()) };
        if single(headers, SEC_WEBSOCKET_ACCEPT).is_none_or(|value| value.as_bytes() != accept.as_bytes()) {
            return Err("Sec-WebSocket-Accept does not match the key");
        }
        if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
            return Ok(());
        }
        let chosen = single(headers, SEC_WEBSOCKET_PROTOCOL).map(HeaderValue::as_bytes).unwrap_or_default();
        let offered = offers.iter().flat_map(|value| elements(value.as_bytes())).any(|offer| offer == chosen);
        if offered { Ok(()) } else { Err("its subprotocol was not offered") }
    }
}

/// RFC 6455 4.2.2: what the server answers to a key.
pub fn accept(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

fn offers(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().flat_map(|value| elements(value.as_bytes()))
}

/// The value of a field that may be there once.
fn single(headers: &HeaderMap, name: http::HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::proxy::backend::head::parse;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn verdict(expected: &Expected, fields: &str) -> Result<(), &'static str> {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
        expected.verify(&parse(head.as_bytes()).unwrap().unwrap().0)
    }

    #[test]
    fn the_accept_hash_is_that_of_the_rfc() {
        assert_eq!(accept(KEY.as_bytes()), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_upgrade_is_meant_only_where_connection_says_so() {
        let fields = headers(&[("upgrade", "h2c, WebSocket"), ("connection", "keep-alive, Upgrade")]);
        assert!(wants_websocket(Version::HTTP_11, &fields));
        assert!(!wants_websocket(Version::HTTP_10, &fields));
        assert!(!wants_websocket(Version::HTTP_11, &headers(&[("upgrade", "websocket")])));
    }

    #[test]
    fn a_101_is_taken_only_for_this_handshake() {
        let expected = Expected::websocket(&headers(&[("sec-websocket-key", KEY), ("sec-websocket-protocol", "chat, superchat")]));
        let good = "Upgrade: WebSocket\r\nConnection: x, Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert_eq!(verdict(&expected, good), Ok(()));
        assert_eq!(verdict(&expected, &format!("{good}Sec-WebSocket-Protocol: superchat\r\n")), Ok(()));
        assert!(verdict(&expected, &format!("{good}Sec-WebSocket-Protocol: other\r\n")).is_err());
        assert!(verdict(&expected, &format!("{good}Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n")).is_err());
        assert!(verdict(&expected, &good.replace("s3p", "S3p")).is_err());
        assert!(verdict(&expected, &good.replace("Upgrade: WebSocket\r\n", "")).is_err());
        assert!(verdict(&expected, &good.replace("Upgrade: WebSocket", "Upgrade: h2c")).is_err());
        assert!(verdict(&expected, &good.replace("Connection: x, Upgrade\r\n", "")).is_err());
    }

    #[test]
    fn no_subprotocol_may_come_that_nobody_offered() {
        let expected = Expected::websocket(&headers(&[("sec-websocket-key", KEY)]));
        let answer = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: a\r\n";
        assert!(verdict(&expected, answer).is_err());
    }

    #[test]
    fn an_opaque_upgrade_is_asked_for_its_token_alone() {
        let expected = Expected::opaque("SPDY/3.1");
        assert_eq!(verdict(&expected, "Upgrade: spdy/3.1\r\nConnection: upgrade\r\n"), Ok(()));
        assert!(verdict(&expected, "Upgrade: websocket\r\nConnection: upgrade\r\n").is_err());
    }
}
