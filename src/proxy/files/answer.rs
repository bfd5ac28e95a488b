//! The answer that sends a file: 200, 206, 304, 412 or 416.
//!
//! It never looks for files. `mod` calls it with what was found.

use std::{collections::VecDeque, ops::Range, time::SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED,
        VARY,
    },
};

use super::{
    Request,
    condition::Verdict,
    disk::{Content, File},
    range::Ranges,
    read::{CHUNK, FileBody, Piece, Readers},
};
use crate::proxy::{body::Body, refuse::Refusal};

/// Answers with `file`, which the client knows by `name`.
pub(super) async fn answer(
    file: File,
    name: &[u8],
    request: &Request<'_>,
    cache_control: Option<&HeaderValue>,
    readers: &Readers,
) -> Result<Response<Body>, Refusal> {
    let mut response = Response::new(Body::empty());
    describe(&file, cache_control, response.headers_mut());
    match file.validators.verdict(request.headers) {
        Verdict::Send => {}
        Verdict::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        Verdict::Failed => {
            *response.status_mut() = StatusCode::PRECONDITION_FAILED;
            return Ok(response);
        }
    }
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let content_type = content_type(name);
    if request.method == Method::HEAD {
        send(&mut response, content_type, file.coding.map(|coding| coding.token()), file.len);
        return Ok(response);
    }
    let ranges = match file.validators.range_holds(request.headers, SystemTime::now()) {
        true => Ranges::of(request.headers, file.len),
        false => Ranges::Whole,
    };
    let whole = file.len;
    let coding = file.coding.map(|coding| coding.token());
    let body = match ranges {
        Ranges::Whole => {
            send(&mut response, content_type, coding, whole);
            part(file.content, 0..whole, readers).await?
        }
        Ranges::Parts(parts) if parts.len() == 1 => {
            let range = parts[0].clone();
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            response.headers_mut().insert(CONTENT_RANGE, printed(format!("bytes {}-{}/{whole}", range.start, range.end - 1)));
            send(&mut response, content_type, coding, range.end - range.start);
            part(file.content, range, readers).await?
        }
        Ranges::Parts(parts) => {
            let boundary = format!("{:032x}", fastrand::u128(..));
            let (pieces, len) = multipart(&parts, &boundary, &content_type, whole);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            send(&mut response, printed(format!("multipart/byteranges; boundary={boundary}")), coding, len);
            joined(file.content, pieces, readers)
        }
        Ranges::Unsatisfiable => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            response.headers_mut().insert(CONTENT_RANGE, printed(format!("bytes */{whole}")));
            Body::empty()
        }
    };
    *response.body_mut() = body;
    Ok(response)
}

/// What is said of the file with every status. Vary too where there is no sibling: a cache must not give one to others when it appears.
fn describe(file: &File, cache_control: Option<&HeaderValue>, headers: &mut HeaderMap) {
    headers.insert(ETAG, printed(file.validators.etag.clone()));
    if let Some(modified) = file.validators.modified {
        headers.insert(LAST_MODIFIED, printed(httpdate::fmt_http_date(modified)));
    }
    if let Some(value) = cache_control {
        headers.insert(CACHE_CONTROL, value.clone());
    }
    headers.insert(VARY, HeaderValue::from(ACCEPT_ENCODING));
}

fn send(response: &mut Response<Body>, content_type: HeaderValue, coding: Option<&'static str>, len: u64) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    if let Some(token) = coding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(token));
    }
}

/// One range of the content: a small one is read before the head is sent, so that a disk's fault is still a 500.
async fn part(content: Content, range: Range<u64>, readers: &Readers) -> Result<Body, Refusal> {
    match content {
        Content::Memory(bytes) => Ok(slice(&bytes, &range).into()),
        Content::Disk(file) if range.end - range.start <= CHUNK => match readers.read(&file, range).await {
            Ok(bytes) => Ok(Bytes::from(bytes).into()),
            Err(error) => {
                tracing::warn!(%error, "a static file could not be read");
                Err(Refusal::FileUnreadable)
            }
        },
        Content::Disk(file) => Ok(Body::boxed(FileBody::new(file, [Piece::File(range)].into(), readers.clone()))),
    }
}

fn joined(content: Content, pieces: VecDeque<Piece>, readers: &Readers) -> Body {
    match content {
        Content::Disk(file) => Body::boxed(FileBody::new(file, pieces, readers.clone())),
        Content::Memory(bytes) => {
            let parts = pieces.into_iter().map(|piece| match piece {
                Piece::Text(text) => text,
                Piece::File(range) => slice(&bytes, &range),
            });
            Bytes::from(parts.collect::<Vec<_>>().concat()).into()
        }
    }
}

/// The range is known to lie within the bytes, whose length fits a usize.
fn slice(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    bytes.slice(range.start as usize..range.end as usize)
}

/// The pieces of a multipart/byteranges body (RFC 9110 14.6) and their length.
fn multipart(parts: &[Range<u64>], boundary: &str, content_type: &HeaderValue, whole: u64) -> (VecDeque<Piece>, u64) {
    let content_type = content_type.to_str().unwrap_or_default();
    let mut pieces = VecDeque::with_capacity(2 * parts.len() + 1);
    let mut len = 0;
    let mut line_end = "";
    for part in parts {
        let (first, last) = (part.start, part.end - 1);
        let head = format!("{line_end}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: bytes {first}-{last}/{whole}\r\n\r\n");
        line_end = "\r\n";
        len += head.len() as u64 + part.end - part.start;
        pieces.push_back(Piece::Text(head.into()));
        pieces.push_back(Piece::File(part.clone()));
    }
    let end = format!("\r\n--{boundary}--\r\n");
    len += end.len() as u64;
    pieces.push_back(Piece::Text(end.into()));
    (pieces, len)
}

/// By the extension; text is said to be UTF-8, for what else would it be today.
fn content_type(name: &[u8]) -> HeaderValue {
    let file = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let extension = file.iter().rposition(|byte| *byte == b'.').map(|dot| &file[dot + 1..]);
    let extension = extension.and_then(|extension| std::str::from_utf8(extension).ok()).unwrap_or_default();
    match mime_guess::from_ext(extension).first_raw() {
        None => HeaderValue::from_static("application/octet-stream"),
        Some("text/html") => HeaderValue::from_static("text/html; charset=utf-8"),
        Some("text/css") => HeaderValue::from_static("text/css; charset=utf-8"),
        Some("text/javascript" | "application/javascript") => HeaderValue::from_static("text/javascript; charset=utf-8"),
        Some(text) if text.starts_with("text/") => printed(format!("{text}; charset=utf-8")),
        Some(other) => HeaderValue::from_static(other),
    }
}

/// A value that we printed from numbers and tokens; it has no byte that a header can't hold.
fn printed(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
}
