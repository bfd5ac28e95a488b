//! Heads towards and from a backend: requests printed, answers parsed, the framing of an answer told. Pure.
//!
//! It never knows sockets. `forward` and `upgrade` print; `connection` parses.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::Fault;
use crate::proxy::headers::hop::connection_has;

/// Longest head of an answer.
pub const LONGEST: usize = 64 * 1024;
/// Most fields of an answer.
const MOST_FIELDS: usize = 128;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After this many bytes.
    Length(u64),
    /// By the chunked coding.
    Chunked,
    /// With the connection. Answers only.
    UntilClose,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status; may be 1xx.
    pub status: StatusCode,
    /// Its header section as it came.
    pub headers: HeaderMap,
    /// HTTP/1.0 or `Connection: close`, or a length beside chunks: the connection serves nothing more.
    pub last: bool,
}

/// Prints the request line and Host, which comes first, as RFC 9110 7.2 asks. `target` is in origin form.
pub fn start(out: &mut Vec<u8>, method: &Method, target: &impl std::fmt::Display, host: &[u8]) {
    use std::io::Write;
    out.extend_from_slice(method.as_str().as_bytes());
    // Writing to a vector does not fail.
    let _ = write!(out, " {target} HTTP/1.1\r\nHost: ");
    out.extend_from_slice(host);
    out.extend_from_slice(b"\r\n");
}

/// Prints fields as their RFCs spell them.
pub fn fields(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        spelled(out, name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Prints how the request's body ends. A request without one says so only where its method leaves that open (RFC 9110 8.6).
pub fn framing(out: &mut Vec<u8>, method: &Method, framing: Framing) {
    use std::io::Write;
    let _ = match framing {
        Framing::None if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => write!(out, "Content-Length: 0\r\n"),
        Framing::None | Framing::UntilClose => Ok(()),
        Framing::Length(length) => write!(out, "Content-Length: {length}\r\n"),
        Framing::Chunked => write!(out, "Transfer-Encoding: chunked\r\n"),
    };
}

/// Prints a field that is spelled as given.
pub fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Ends the head.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Title-Case, and the words that their RFCs spell otherwise: old servers compare letter by letter.
fn spelled(out: &mut Vec<u8>, name: &HeaderName) {
    const SEC_WEBSOCKET: &str = "sec-websocket-";
    let mut rest = name.as_str();
    if let Some(after) = rest.strip_prefix(SEC_WEBSOCKET) {
        out.extend_from_slice(b"Sec-WebSocket-");
        rest = after;
    } else if rest == "te" {
        out.extend_from_slice(b"TE");
        return;
    }
    let mut first = true;
    out.extend(rest.bytes().map(|byte| {
        let byte_as_printed = if first { byte.to_ascii_uppercase() } else { byte };
        first = byte == b'-';
        byte_as_printed
    }));
}

/// Parses the head of an answer: it, and how long it was. `None` while it is not all there.
pub fn parse(input: &[u8]) -> Result<Option<(Answer, usize)>, Fault> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MOST_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let length = match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, input, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= LONGEST => length,
        Ok(httparse::Status::Partial) if input.len() < LONGEST => return Ok(None),
        Ok(_) => return Err(Fault::Invalid("its head is too long")),
        Err(_) => return Err(Fault::Invalid("its head is malformed")),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Fault::Invalid("its status is no status"))?;
    // One copy for all values: they are slices of it.
    let shared = Bytes::copy_from_slice(&input[..length]);
    let offset = |value: &[u8]| value.as_ptr() as usize - input.as_ptr() as usize;
    let mut headers = HeaderMap::with_capacity(answer.headers.len() + 4);
    for field in answer.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Fault::Invalid("a field has a malformed name"))?;
        let at = offset(field.value);
        let value = if field.value.is_empty() { Bytes::new() } else { shared.slice(at..at + field.value.len()) };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Fault::Invalid("a field has a malformed value"))?;
        headers.append(name, value);
    }
    let old = answer.version == Some(0);
    if old && headers.contains_key(TRANSFER_ENCODING) {
        return Err(Fault::Invalid("Transfer-Encoding in HTTP/1.0"));
    }
    let ends = if old { !connection_has(&headers, "keep-alive") } else { connection_has(&headers, "close") };
    let last = ends || (headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH));
    Ok(Some((Answer { status, headers, last }, length)))
}

impl Answer {
    /// How the body of this answer to `method` ends (RFC 9112 6.3).
    pub fn framing(&self, method: &Method) -> Result<Framing, Fault> {
        let bodyless = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if *method == Method::HEAD || bodyless || self.status.is_informational() {
            return Ok(Framing::None);
        }
        let mut codings = self.headers.get_all(TRANSFER_ENCODING).iter();
        match (codings.next(), codings.next()) {
            (None, _) => {}
            (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => return Ok(Framing::Chunked),
            _ => return Err(Fault::Invalid("its Transfer-Encoding is not chunked")),
        }
        Ok(match self.content_length()? {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        })
    }

    /// Content-Length, where it is given: one number, however often it is said.
    pub fn content_length(&self) -> Result<Option<u64>, Fault> {
        let mut length = None;
        for value in self.headers.get_all(CONTENT_LENGTH) {
            for digits in value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                let number = number(digits).ok_or(Fault::Invalid("its Content-Length is no number"))?;
                if length.is_some_and(|length| length != number) {
                    return Err(Fault::Invalid("its Content-Lengths differ"));
                }
                length = Some(number);
            }
        }
        Ok(length)
    }
}

/// Digits alone: `u64::from_str` would take a sign.
fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(method: Method, head: &str) -> Result<Framing, ()> {
        parse(head.as_bytes()).map_err(drop)?.unwrap().0.framing(&method).map_err(drop)
    }

    #[test]
    fn a_request_is_printed_as_the_rfcs_spell_it() {
        let fields = [("sec-websocket-key", "k"), ("te", "trailers"), ("x-request-id", "1")];
        let headers = fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        let mut out = Vec::new();
        start(&mut out, &Method::GET, &"/a?b", b"shop.example");
        super::fields(&mut out, &headers);
        field(&mut out, "Upgrade", "websocket");
        end(&mut out);
        let expected = "GET /a?b HTTP/1.1\r\nHost: shop.example\r\nSec-WebSocket-Key: k\r\nTE: trailers\r\nX-Request-Id: 1\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_request_says_how_its_body_ends() {
        let printed = |method: Method, body: Framing| {
            let mut out = Vec::new();
            framing(&mut out, &method, body);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(printed(Method::GET, Framing::None), "");
        assert_eq!(printed(Method::POST, Framing::None), "Content-Length: 0\r\n");
        assert_eq!(printed(Method::GET, Framing::Length(5)), "Content-Length: 5\r\n");
        assert_eq!(printed(Method::HEAD, Framing::Chunked), "Transfer-Encoding: chunked\r\n");
    }

    #[test]
    fn the_framing_of_an_answer_follows_rfc_9112() {
        assert_eq!(framed(Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framed(Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), Ok(Framing::None));
        assert_eq!(framed(Method::GET, "HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n"), Ok(Framing::None));
        assert_eq!(framed(Method::GET, "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"), Ok(Framing::Chunked));
        assert_eq!(framed(Method::GET, "HTTP/1.0 200 OK\r\n\r\n"), Ok(Framing::UntilClose));
        assert_eq!(framed(Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n"), Ok(Framing::Length(5)));
        for broken in
            ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: +5", "Content-Length: ", "Transfer-Encoding: gzip, chunked"]
        {
            assert_eq!(framed(Method::GET, &format!("HTTP/1.1 200 OK\r\n{broken}\r\n\r\n")), Err(()), "{broken}");
        }
        assert_eq!(framed(Method::GET, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(()));
    }

    #[test]
    fn connections_that_serve_nothing_more_are_told() {
        let last = |head: &str| parse(head.as_bytes()).unwrap().unwrap().0.last;
        assert!(!last("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(last("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n"));
        assert!(last("HTTP/1.0 200 OK\r\n\r\n"));
        assert!(!last("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n"));
        assert!(last("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"));
    }

    #[test]
    fn a_head_is_waited_for_but_not_forever() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nA: b\r\n").unwrap().is_none());
        assert!(parse(b"SSH-2.0-OpenSSH\r\n").is_err());
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".as_slice(), &[b'x'; LONGEST]].concat();
        assert!(parse(&endless).is_err());
    }

    #[test]
    fn empty_values_and_the_bytes_behind_the_head_are_kept_apart() {
        let (answer, length) = parse(b"HTTP/1.1 200 OK\r\nA:\r\nB: c \r\n\r\nbody").unwrap().unwrap();
        assert_eq!(answer.headers["a"], "");
        assert_eq!(answer.headers["b"], "c");
        assert_eq!(length, "HTTP/1.1 200 OK\r\nA:\r\nB: c \r\n\r\n".len());
    }
}
