//! The one form of a path that is decided on, forwarded and looked up as a file, so that no spelling reaches what another would not.
//! It never knows locations or headers. `proxy::headers` makes it once a request; `router` and `proxy::files` read it;
//! `translate` spells the paths of routes in it.
//!
//! # The normalised form
//!
//! - It begins with `/`; only characters of a path in RFC 3986 3.3 occur, and every `%` begins an escape. `[`, `]`, `|`, `^`, `{` and `}`, which
//!   browsers send as they are (WHATWG URL 4.4), are escaped, in upper case. Anything else is refused.
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

/// A path of a configuration as requests are compared with it: what must be escaped is escaped, then it is normalised. One that has no
/// normalised form is kept as it is, and matches nothing.
pub(crate) fn configured(raw: &str) -> Box<str> {
    let escaped = escape_forbidden(raw);
    normalise(&escaped).map_or_else(|_| raw.into(), |path| path.matching().into())
}

/// Escapes every byte that may not stand in a path. `%` is left alone: it begins an escape.
pub(crate) fn escape_forbidden(raw: &str) -> Cow<'_, str> {
    escape_unless(raw, |byte| pchar(byte) || matches!(byte, b'/' | b'%'))
}

/// The same for a query (RFC 3986 3.4).
pub(crate) fn escape_query(raw: &str) -> Cow<'_, str> {
    escape_unless(raw, |byte| pchar(byte) || matches!(byte, b'/' | b'?' | b'%'))
}

fn escape_unless(raw: &str, allowed: impl Fn(u8) -> bool) -> Cow<'_, str> {
    if raw.bytes().all(&allowed) {
        return Cow::Borrowed(raw);
    }
    let mut escaped = String::with_capacity(raw.len() + 16);
    for byte in raw.bytes() {
        if allowed(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(escaped)
}

/// What follows the first `count` elements: empty, or with a slash at its start.
pub(crate) fn after_elements(path: &str, count: usize) -> &str {
    memchr::memchr_iter(b'/', path.as_bytes()).nth(count).map_or("", |slash| &path[slash..])
}

/// Brings the path of a request target (no query, no fragment) into its normalised form.
pub fn normalise(raw: &str) -> Result<NormalPath<'_>, PathError> {
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let forwarded = match scan(raw.as_bytes())? {
        Shape::Normal => Cow::Borrowed(raw),
        Shape::NeedsWork => Cow::Owned(remove_dot_segments(&respell(raw))?),
    };
    let bare = if forwarded.contains(';') { Some(without_parameters(&forwarded)?) } else { None };
    if forwarded.contains(['%', ';']) && forwarded.split('/').any(hides_dot_segment) {
        return Err(PathError::HiddenDotSegment);
    }
    Ok(NormalPath { forwarded, bare })
}

/// A path spelled as in the normalised form, but with its slashes and dot segments as they are: for whom they are a mistake.
pub(crate) fn spelled(raw: &str) -> Result<String, PathError> {
    scan(raw.as_bytes()).map(|_| respell(raw))
}

/// What browsers do not escape in a path though RFC 3986 does not allow it there.
const LEFT_RAW: [char; 6] = ['[', ']', '|', '^', '{', '}'];

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
                if raw.get(at + 1) == Some(&b'/') || is_dot_segment(&raw[at + 1..]) {
                    shape = Shape::NeedsWork;
                }
            }
            _ if pchar(byte) => {}
            _ if LEFT_RAW.contains(&char::from(byte)) => shape = Shape::NeedsWork,
            _ => return Err(PathError::ForbiddenByte(byte)),
        }
        at += 1;
    }
    Ok(shape)
}

/// The byte of an escape, by its two digits.
pub(crate) fn escape(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Whether the bytes after a slash begin with `.` or `..` as a whole segment.
fn is_dot_segment(after: &[u8]) -> bool {
    let rest = after.strip_prefix(b"..").or_else(|| after.strip_prefix(b"."));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 3.3, without the escapes.
fn pchar(byte: u8) -> bool {
    unreserved(byte) || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// Decodes escaped unreserved characters, writes the other escapes in upper case, and escapes what browsers leave raw. The escapes are known
/// to be well-formed.
fn respell(raw: &str) -> String {
    let mut spelled = String::with_capacity(raw.len() + 16);
    let mut rest = raw;
    while let Some(at) = rest.find(|char| char == '%' || LEFT_RAW.contains(&char)) {
        spelled.push_str(&rest[..at]);
        let (taken, after) = rest[at..].split_at(if rest[at..].starts_with('%') { 3 } else { 1 });
        match *taken.as_bytes() {
            [_, high, low] => match escape(high, low) {
                Some(byte) if unreserved(byte) => spelled.push(char::from(byte)),
                _ => spelled.push_str(&taken.to_ascii_uppercase()),
            },
            _ => spelled.push_str(&escape_forbidden(taken)),
        }
        rest = after;
    }
    spelled.push_str(rest);
    spelled
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forwarded(raw: &str) -> String {
        normalise(raw).unwrap_or_else(|error| panic!("{raw}: {error}")).as_str().to_owned()
    }

    #[test]
    fn one_spelling_remains_of_many() {
        for (raw, normal) in [
            ("/", "/"),
            ("//", "/"),
            ("/a//b///c", "/a/b/c"),
            ("/a/", "/a/"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/../../c", "/c"),
            ("/a//../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/%61%7a%2D%7e", "/az-~"),
            ("/a%2fb%c3%a9", "/a%2Fb%C3%A9"),
            ("/a%252e", "/a%252e"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a..b/.c", "/a..b/.c"),
            ("/a;x=1/../b;y", "/b;y"),
            ("/!$&'()*+,=:@", "/!$&'()*+,=:@"),
            ("/[id]/{a}|b^c", "/%5Bid%5D/%7Ba%7D%7Cb%5Ec"),
            ("/%5bid%5D/[id]", "/%5Bid%5D/%5Bid%5D"),
            ("/a/[x]/../%7b", "/a/%7B"),
        ] {
            assert_eq!(forwarded(raw), normal, "{raw}");
        }
    }

    #[test]
    fn what_readers_could_see_differently_is_refused() {
        for (raw, error) in [
            ("", PathError::NotAbsolute),
            ("a/b", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("/%", PathError::MalformedEscape),
            ("/%4", PathError::MalformedEscape),
            ("/%4g", PathError::MalformedEscape),
            ("/%+1", PathError::MalformedEscape),
            ("/%00", PathError::Nul),
            ("/a b", PathError::ForbiddenByte(b' ')),
            ("/a\\..\\b", PathError::ForbiddenByte(b'\\')),
            ("/é", PathError::ForbiddenByte(0xc3)),
            ("/a#b", PathError::ForbiddenByte(b'#')),
            ("/[\"]", PathError::ForbiddenByte(b'"')),
            ("/{<}", PathError::ForbiddenByte(b'<')),
            ("/a`", PathError::ForbiddenByte(b'`')),
            ("/..[/../..", PathError::AboveRoot),
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
            ("/%2e%2e/", PathError::AboveRoot),
            ("/a/..;/b", PathError::HiddenDotSegment),
            ("/a/.;x/b", PathError::HiddenDotSegment),
            ("/a/..%2fb", PathError::HiddenDotSegment),
            ("/a/x%2F..%2Fb", PathError::HiddenDotSegment),
            ("/a/..%5cb", PathError::HiddenDotSegment),
            ("/a/%2e%2e%3bx", PathError::HiddenDotSegment),
            ("/a/b;..", PathError::HiddenDotSegment),
            ("/;x/admin", PathError::BareParameters),
        ] {
            assert_eq!(normalise(raw).unwrap_err(), error, "{raw}");
        }
    }

    #[test]
    fn parameters_are_forwarded_but_not_matched() {
        let path = normalise("/admin;jsessionid=1/users;x;y/").unwrap();
        assert_eq!((path.as_str(), path.matching()), ("/admin;jsessionid=1/users;x;y/", "/admin/users/"));
        let path = normalise("/;jsessionid=1").unwrap();
        assert_eq!((path.as_str(), path.matching()), ("/;jsessionid=1", "/"));
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for raw in ["/", "/a/b.c/", "/a%2Fb", "/.well-known/acme-challenge/x", "/a;x"] {
            assert!(matches!(normalise(raw).unwrap().forwarded, Cow::Borrowed(_)), "{raw}");
        }
    }

    #[test]
    fn paths_of_a_configuration_are_compared_in_the_same_form() {
        assert_eq!(*configured("/café au lait"), *"/caf%C3%A9%20au%20lait");
        assert_eq!(*configured("/%7euser"), *"/~user");
        assert_eq!(*configured(""), *"");
    }

    #[test]
    fn elements_are_skipped_whole() {
        assert_eq!(after_elements("/a;x/b/c", 1), "/b/c");
        assert_eq!(after_elements("/a/b", 2), "");
        assert_eq!(after_elements("/a/b/", 2), "/");
        assert_eq!(after_elements("/a", 0), "/a");
    }

    /// Pieces that make every rule likely to apply.
    fn spelling() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "/", ".", "..", "%2e", "%2E", "%2f", "%5C", ";", ";x", "a", "B", "%61", "%c3%A9", "%00", "%", "\\", "%3b", "~",
            "%25", "[", "}", "^", "%5b",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(raw in spelling()) {
            if let Ok(once) = normalise(&raw) {
                let again = normalise(once.as_str()).unwrap();
                prop_assert!(matches!(again.forwarded, Cow::Borrowed(_)));
                prop_assert_eq!(&again, &once);
                let bare = normalise(once.matching()).unwrap();
                prop_assert_eq!(bare.as_str(), once.matching());
            }
        }

        #[test]
        fn no_reader_sees_a_dot_segment_in_what_is_forwarded(raw in spelling()) {
            if let Ok(path) = normalise(&raw) {
                let decoded = percent_encoding::percent_decode_str(path.as_str()).decode_utf8_lossy().into_owned();
                for piece in decoded.split(['/', '\\', ';']) {
                    prop_assert!(piece != "." && piece != "..", "{} from {}", decoded, raw);
                }
                prop_assert!(!path.as_str().contains("//") && !path.matching().contains(';'));
            }
        }

        #[test]
        fn any_text_is_survived(raw in ".{0,64}") {
            let _ = normalise(&raw);
            let _ = normalise(&format!("/{raw}"));
        }
    }
}
