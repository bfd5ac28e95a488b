//! Fields that go no further than one hop (RFC 9110 7.6.1): taken off requests and answers, whatever they say.
//!
//! It never knows which side it works for beyond the two functions. `http` calls it for requests, `forward` and `upgrade` for answers, after the framing was read.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
};
use smallvec::SmallVec;

use super::elements;
use crate::proxy::client_cert::is_of_certificate;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether Connection has this token, in any of its fields.
pub fn connection_has(headers: &HeaderMap, token: &str) -> bool {
    let mut fields = headers.get_all(CONNECTION).iter();
    fields.any(|value| elements(value.as_bytes()).any(|element| element.eq_ignore_ascii_case(token.as_bytes())))
}

/// Takes off a request what is for us alone, its framing included. `TE: trailers` stays, as the one thing a client may say there.
pub fn strip_request(headers: &mut HeaderMap) {
    let trailers = wants_trailers(headers);
    strip(headers);
    headers.remove(UPGRADE);
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes off an answer what is for us alone, its framing included. A 426 keeps `Upgrade`: RFC 9110 15.5.22 wants it there.
pub fn strip_response(status: StatusCode, headers: &mut HeaderMap) {
    strip(headers);
    headers.remove(TE);
    if status != StatusCode::UPGRADE_REQUIRED {
        headers.remove(UPGRADE);
    }
}

/// Whether the sender takes trailers.
pub fn wants_trailers(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(TE).iter();
    fields.any(|value| elements(value.as_bytes()).any(|element| element.eq_ignore_ascii_case(b"trailers")))
}

fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named = headers.get_all(CONNECTION).iter().flat_map(|value| elements(value.as_bytes()));
        let named: SmallVec<[HeaderName; 4]> = named.filter_map(|token| HeaderName::from_bytes(token).ok()).collect();
        for name in named {
            // The Upgrade of a 426 is judged by the caller.
            if name != UPGRADE {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING, CONTENT_LENGTH] {
        headers.remove(name);
    }
}

/// Fields that may not stand in a trailer section: framing, routing, authentication (RFC 9110 6.5.1).
pub fn strip_trailers(trailers: &mut HeaderMap) {
    use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT, HOST, SET_COOKIE, TRAILER};
    strip(trailers);
    for name in [AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT, HOST, SET_COOKIE, TE, TRAILER, UPGRADE] {
        trailers.remove(name);
    }
    // Some servers add trailers to the header section.
    let of_certificate: SmallVec<[HeaderName; 1]> = trailers.keys().filter(|name| is_of_certificate(name.as_str())).cloned().collect();
    for name in of_certificate {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_connection_names_goes_no_further() {
        let mut request = headers(&[
            ("connection", "keep-alive, X-Mine"),
            ("connection", "upgrade"),
            ("x-mine", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "x"),
            ("upgrade", "h2c"),
            ("te", "gzip, trailers"),
            ("content-length", "5"),
        ]);
        strip_request(&mut request);
        assert_eq!(request, headers(&[("x-other", "2"), ("te", "trailers")]));
    }

    #[test]
    fn te_without_trailers_is_taken_off() {
        let mut request = headers(&[("te", "gzip;q=1")]);
        strip_request(&mut request);
        assert!(request.is_empty());
    }

    #[test]
    fn a_426_keeps_its_upgrade() {
        let fields = [("upgrade", "websocket"), ("connection", "upgrade")];
        let mut answer = headers(&fields);
        strip_response(StatusCode::UPGRADE_REQUIRED, &mut answer);
        assert_eq!(answer, headers(&[("upgrade", "websocket")]));
        let mut answer = headers(&fields);
        strip_response(StatusCode::OK, &mut answer);
        assert!(answer.is_empty());
    }

    #[test]
    fn trailers_frame_and_route_nothing() {
        let mut trailers = headers(&[("content-length", "1"), ("host", "x"), ("x-checksum", "ab")]);
        strip_trailers(&mut trailers);
        assert_eq!(trailers, headers(&[("x-checksum", "ab")]));
    }
}
