//! What a request calls a file: a relative path of plain names, decoded.
//!
//! It never touches a disk. `mod` asks it once a request.

use percent_encoding::percent_decode_str;

/// Longest path that Linux opens, less the NUL.
const LONGEST: usize = 4095;

/// The names to look for, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The file itself, or the index of the folder that was asked for.
    pub(super) name: Vec<u8>,
    /// What is served where it is missing.
    pub(super) fallback: Option<Vec<u8>>,
    /// What the request took it for.
    pub(super) asked: Asked,
}

/// Whether the request named a folder as one: with a slash at its end, or as the whole of the location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    File,
    Folder,
}

impl Wanted {
    /// What `rest`, the percent-encoded rest of a normalised path, asks for. `None` where no file can have that name.
    pub(super) fn new(rest: &str, asked: Asked, index: &str, fallback: Option<&str>) -> Option<Self> {
        let mut name = decode(rest)?;
        if asked == Asked::Folder {
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(index.as_bytes());
        }
        let fallback = fallback.map(|path| path.trim_start_matches('/').as_bytes().to_vec());
        (name.len() <= LONGEST).then_some(Self { name, fallback, asked })
    }
}

/// Decodes segment by segment: a decoded slash or NUL, or a dot segment, is no name of a file.
fn decode(rest: &str) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(rest.len() + 16);
    for segment in rest.trim_matches('/').split('/') {
        if !name.is_empty() {
            name.push(b'/');
        }
        let start = name.len();
        name.extend(percent_decode_str(segment));
        let decoded = &name[start..];
        if decoded == b"." || decoded == b".." || decoded.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return None;
        }
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(rest: &str, asked: Asked) -> Option<String> {
        Wanted::new(rest, asked, "index.html", None).map(|wanted| String::from_utf8(wanted.name).unwrap())
    }

    #[test]
    fn a_folder_is_its_index() {
        assert_eq!(name("", Asked::Folder).unwrap(), "index.html");
        assert_eq!(name("a/b/", Asked::Folder).unwrap(), "a/b/index.html");
        assert_eq!(name("a%20b/%C3%A9.txt", Asked::File).unwrap(), "a b/é.txt");
    }

    #[test]
    fn no_decoded_byte_becomes_a_separator_or_a_dot_segment() {
        for rest in ["a%2Fb", "%2E%2E/a", "a/..", "a/./b", "%00", "a%00.html"] {
            assert_eq!(name(rest, Asked::File), None, "{rest}");
        }
        assert_eq!(name(&"a/".repeat(3000), Asked::File), None);
        assert_eq!(name("..a/.well-known", Asked::File).unwrap(), "..a/.well-known");
    }
}
