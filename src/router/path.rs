//! The one form of a path that is decided on, forwarded and looked up as a file, so that no spelling reaches what another would not.
//! It never knows locations or headers. `proxy::headers` makes it once a request; `router` and `proxy::files` read it.
//!
//! # The normalised form
//!
//! - It begins with `/`; only characters of a path in RFC 3986 3.3 occur, and every `%` begins an escape. Anything else is refused.
//! - An escaped unreserved character (letter, digit, `-._~`) is decoded; every other escape stays, in upper case. `%2F` stays data: it never
//!   separates. `%00` is refused.
//! - Repeated slashes are one slash. Then `.` and `..` are removed as RFC 3986 5.2.4 says; above the root is refused.
//! - A segment that becomes `.` or `..` for a backend that decodes once more, or drops parameters, is refused: one that holds such a piece between
//!   `%2F`, `%5C`, `%3B` and `;` (`..;/`, `..%2f`).
//! - Parameters (`;` to the end of a segment) are forwarded, but not matched: `/admin;x` is decided as `/admin`. A segment of parameters alone is
//!   refused, but for the last.
//!
//! Normalising what is normal changes nothing and allocates nothing.

use std::borrow::Cow;

/// A path in normalised form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    forwarded: Cow<'a, str>,
    /// Without parameters; `None` where there are none.
    bare: Option<Box<str>>,
}

/// Why a path has no normalised form. All of them are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// `%` without two hexadecimal digits after it.
    #[error("the path holds a percent sign that begins no escape: write %25")]
    MalformedEscape,
    /// A byte that RFC 3986 3.3 does not allow.
    #[error("the path holds the byte {0:#04x}, which must be percent-encoded")]
    ForbiddenByte(u8),
    /// `%00`.
    #[error("the path holds an encoded NUL")]
    Nul,
    /// More `..` than there are segments before them.
    #[error("the path leads above the root")]
    AboveRoot,
    /// A dot segment that only some readers see.
    #[error("the path hides a dot segment behind an encoded separator or parameters")]
    HiddenDotSegment,
    /// A segment of parameters alone before the last.
    #[error("the path has parameters without a segment")]
    BareParameters,
}

impl NormalPath<'_> {
    /// What goes to a backend, in origin form, without the query.
    pub fn as_str(&self) -> &str {
        &self.forwarded
    }

    /// What locations are compared with: the same without parameters.
    pub fn matching(&self) -> &str {
        self.bare.as_deref().unwrap_or(&self.forwarded)
    }

    /// The same path, on its own.
    pub fn into_owned(self) -> NormalPath<'static> {
        NormalPath { forwarded: Cow::Owned(self.forwarded.into_owned()), bare: self.bare }
    }
}

/// Brings the path of a request target (no query, no fragment) into its normalised form.
pub fn normalise(raw: &str) -> Result<NormalPath<'_>, PathError> {
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let forwarded = match scan(raw.as_bytes())? {
        Shape::Normal => Cow::Borrowed(raw),
        Shape::NeedsWork => Cow::Owned(remove_dot_segments(&decode_unreserved(raw))?),
    };
    let bare = if forwarded.contains(';') { Some(without_parameters(&forwarded)?) } else { None };
    if forwarded.contains(['%', ';']) && forwarded.split('/').any(hides_dot_segment) {
        return Err(PathError::HiddenDotSegment);
    }
    Ok(NormalPath { forwarded, bare })
}

enum Shape {
    Normal,
    NeedsWork,
}

/// One pass over the bytes: refuses what has no normalised form by itself, and tells whether anything is to be changed.
fn scan(raw: &[u8]) -> Result<Shape, PathError> {
    let mut shape = Shape::Normal;
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match byte {
            b'%' => {
                let (high, low) = (raw.get(at + 1).copied().unwrap_or(0), raw.get(at + 2).copied().unwrap_or(0));
                let value = escape(high, low).ok_or(PathError::MalformedEscape)?;
                if value == 0 {
                    return Err(PathError::Nul);
                }
                if unreserved(value) || high.is_ascii_lowercase() || low.is_ascii_lowercase() {
                    shape = Shape::NeedsWork;
                }
                at += 2;
            }
            b'/' => {
                // `//`, `/.`: the latter may be `/.well-known`, which the second pass leaves as it is.
                if matches!(raw.get(at + 1), Some(b'/' | b'.')) && raw.get(at..at + 6) != Some(b"/.well") {
                    shape = Shape::NeedsWork;
                }
            }
            _ if pchar(byte) => {}
            _ => return Err(PathError::ForbiddenByte(byte)),
        }
        at += 1;
    }
    Ok(shape)
}

fn escape(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 3.3, without the escapes.
fn pchar(byte: u8) -> bool {
    unreserved(byte) || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// Decodes escaped unreserved characters, writes the other escapes in upper case. The escapes are known to be well-formed.
fn decode_unreserved(raw: &str) -> String {
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let (digits, after) = after.split_at(2);
        match escape(digits.as_bytes()[0], digits.as_bytes()[1]) {
            Some(byte) if unreserved(byte) => decoded.push(char::from(byte)),
            _ => {
                decoded.push('%');
                decoded.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = after;
    }
    decoded.push_str(rest);
    decoded
}

/// RFC 3986 5.2.4 after repeated slashes were merged; a dot segment at the end leaves its slash.
fn remove_dot_segments(path: &str) -> Result<String, PathError> {
    let mut kept = String::with_capacity(path.len());
    let mut slash_at_end = false;
    for segment in path.split('/').skip(1) {
        match segment {
            "" | "." => slash_at_end = true,
            ".." => {
                let parent = kept.rfind('/').ok_or(PathError::AboveRoot)?;
                kept.truncate(parent);
                slash_at_end = true;
            }
            _ => {
                kept.push('/');
                kept.push_str(segment);
                slash_at_end = false;
            }
        }
    }
    if slash_at_end {
        kept.push('/');
    }
    Ok(kept)
}

fn without_parameters(path: &str) -> Result<Box<str>, PathError> {
    let mut bare = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split(';').next().unwrap_or_default();
        if name.is_empty() && segments.peek().is_some() {
            return Err(PathError::BareParameters);
        }
        bare.push('/');
        bare.push_str(name);
    }
    Ok(bare.into())
}

/// Whether a reader that decodes separators or drops parameters would see `.` or `..` in this segment.
fn hides_dot_segment(segment: &str) -> bool {
    let mut rest = segment;
    loop {
        let end = separator(rest);
        let (piece, after) = end.map_or((rest, None), |(at, len)| (&rest[..at], Some(&rest[at + len..])));
        if matches!(piece, "." | "..") {
            return true;
        }
        match after {
            Some(after) => rest = after,
            None => return false,
        }
    }
}

/// The first separator that some reader may see inside a segment: where it is and how long. Escapes are in upper case.
fn separator(segment: &str) -> Option<(usize, usize)> {
    let bytes = segment.as_bytes();
    bytes.iter().enumerate().find_map(|(at, byte)| match byte {
        b';' => Some((at, 1)),
        b'%' if matches!(bytes.get(at + 1..at + 3), Some(b"2F" | b"5C" | b"3B")) => Some((at, 3)),
        _ => None,
    })
}
