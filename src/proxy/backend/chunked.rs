//! The chunked coding of RFC 9112 7.1, read: pure, fed with whatever arrived.
//!
//! It never knows sockets. `answer` feeds it. Sizes are at most 16 digits; extensions are dropped; lines end with CRLF and nothing else.

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Longest trailer section, and longest line of a chunk's size with its extensions.
const LONGEST: usize = 16 * 1024;
/// Most fields of a trailer section.
const MOST_TRAILERS: usize = 64;

/// Follows a chunked body.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// Of the chunk that is being read: what is left.
    size: u64,
    /// Bytes of the line or section that is being read.
    length: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    FirstDigit,
    Digits,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    End,
}

/// A step through the body.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Some of the content.
    Data(Bytes),
    /// The trailer section; the body has ended.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// More bytes are needed.
    More,
}

/// The coding was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunked coding is broken")]
pub struct Broken;

impl Decoder {
    /// Takes what it can from the front of `input`. After [`Step::Trailers`] and [`Step::End`] the rest is not the body's.
    pub fn step(&mut self, input: &mut Bytes) -> Result<Step, Broken> {
        loop {
            if self.state == State::End {
                return Ok(Step::End);
            }
            if input.is_empty() {
                return Ok(Step::More);
            }
            if self.state == State::Data {
                let taken = usize::try_from(self.size).unwrap_or(usize::MAX).min(input.len());
                self.size -= taken as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step::Data(input.split_to(taken)));
            }
            let byte = input.get_u8();
            if let Some(trailers) = self.line_byte(byte)? {
                return Ok(if trailers.is_empty() { Step::End } else { Step::Trailers(trailers) });
            }
        }
    }

    /// One byte outside the content. The trailers, once the body has ended.
    fn line_byte(&mut self, byte: u8) -> Result<Option<HeaderMap>, Broken> {
        self.length += 1;
        if self.length > LONGEST {
            return Err(Broken);
        }
        self.state = match (self.state, byte) {
            (State::FirstDigit | State::Digits, _) if byte.is_ascii_hexdigit() => {
                if self.size >> 60 != 0 {
                    return Err(Broken);
                }
                self.size = self.size << 4 | u64::from(char::from(byte).to_digit(16).ok_or(Broken)?);
                State::Digits
            }
            (State::Digits | State::Extension, b'\r') => State::SizeLf,
            (State::Digits, b';' | b' ' | b'\t') => State::Extension,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => State::Extension,
            (State::SizeLf, b'\n') => {
                self.length = 0;
                if self.size == 0 { State::Trailers } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.length = 0;
                State::FirstDigit
            }
            (State::Trailers, _) => {
                self.trailers.push(byte);
                if self.trailers != b"\r\n" && !self.trailers.ends_with(b"\r\n\r\n") {
                    return Ok(None);
                }
                self.state = State::End;
                return self.fields().map(Some);
            }
            _ => return Err(Broken),
        };
        Ok(None)
    }

    fn fields(&mut self) -> Result<HeaderMap, Broken> {
        let section = std::mem::take(&mut self.trailers);
        let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
        match httparse::parse_headers(&section, &mut fields) {
            Ok(httparse::Status::Complete((_, fields))) => {
                let field = |field: &httparse::Header<'_>| {
                    Some((HeaderName::from_bytes(field.name.as_bytes()).ok()?, HeaderValue::from_bytes(field.value).ok()?))
                };
                fields.iter().map(field).collect::<Option<HeaderMap>>().ok_or(Broken)
            }
            _ => Err(Broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Content, trailers and what is left, with the input cut into pieces of this size.
    fn decoded(input: &[u8], piece: usize) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), Broken> {
        let (mut decoder, mut content) = (Decoder::default(), Vec::new());
        let mut pieces = input.chunks(piece).map(Bytes::copy_from_slice);
        let mut at_hand = Bytes::new();
        loop {
            let trailers = match decoder.step(&mut at_hand)? {
                Step::Data(data) => {
                    content.extend_from_slice(&data);
                    continue;
                }
                Step::More => {
                    at_hand = pieces.next().ok_or(Broken)?;
                    continue;
                }
                Step::Trailers(trailers) => trailers,
                Step::End => HeaderMap::new(),
            };
            let rest = at_hand.into_iter().chain(pieces.flatten()).collect();
            return Ok((content, trailers, rest));
        }
    }

    #[test]
    fn content_trailers_and_what_follows_are_told_apart() {
        let input = b"4;name=value\r\nwiki\r\n05 \r\npedia\r\n0\r\nX-Sum: ab\r\n\r\nHTTP/1.1";
        for piece in 1..input.len() {
            let (content, trailers, rest) = decoded(input, piece).unwrap();
            assert_eq!((&content[..], &rest[..]), (&b"wikipedia"[..], &b"HTTP/1.1"[..]));
            assert_eq!(trailers["x-sum"], "ab");
        }
    }

    #[test]
    fn what_is_no_size_breaks_it() {
        for input in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1\nx\r\n",
            "1\rx",
            "1\r\nxy\r\n",
            "1\r\nx\n",
            "fffffffffffffffff\r\n",
            "1;\nx",
        ] {
            assert_eq!(decoded(input.as_bytes(), 64), Err(Broken), "{input:?}");
        }
    }

    #[test]
    fn endless_lines_break_it() {
        let extension = [b"1;".as_slice(), &[b'x'; LONGEST]].concat();
        assert_eq!(decoded(&extension, 1000), Err(Broken));
        let trailers = [b"0\r\nx: ".as_slice(), &[b'x'; LONGEST]].concat();
        assert_eq!(decoded(&trailers, 1000), Err(Broken));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_the_same_however_they_are_cut(input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'1'), Just(b'a'), Just(b';'), any::<u8>()], 0..64), piece in 1usize..8) {
            prop_assert_eq!(decoded(&input, piece), decoded(&input, usize::MAX));
        }

        #[test]
        fn what_was_chunked_comes_out(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6), piece in 1usize..50) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decoded(&input, piece).unwrap().0, chunks.concat());
        }
    }
}
