//! Follows the frame headers of one direction of a WebSocket (RFC 6455 section 5.2) as its bytes pass, however they are cut.
//!
//! It never buffers or changes a byte, and never knows where they go. `close` steers by it; nobody else calls it.

use crate::telemetry::metrics::Opcode;

/// The top bit of a 64-bit length must be 0.
const IMPOSSIBLE: u64 = 1 << 63;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x8;
/// Opcodes from here on are control frames: never fragmented, allowed between the fragments of a message.
const CONTROL: u8 = 0x8;

/// Where one direction stands. One for each direction of every tunnel, so every byte counts.
#[derive(Clone, Debug)]
pub struct FrameTracker {
    /// Payload bytes of this frame still to come; while the length is being read, the bytes of it so far.
    left: u64,
    /// First two bytes of the masking key, zero where there is none.
    key: [u8; 2],
    /// First two bytes of the payload of the first Close, unmasked.
    code: [u8; 2],
    /// First byte of the header of this frame.
    first: u8,
    at: At,
    /// Bytes of `at` that are still to come.
    missing: u8,
    /// This frame is masked.
    masked: bool,
    /// The last data frame was not the end of its message.
    fragmented: bool,
    close: Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Between two frames.
    Boundary,
    /// The second byte of a header: mask bit and short length.
    Short,
    /// A 16- or 64-bit length.
    Long,
    /// The masking key.
    Key,
    /// The payload.
    Payload,
    /// A length that can't be was announced: where frames begin is no longer known.
    Lost,
}

/// How far the first Close of this direction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    None,
    /// Its payload passes; this many bytes of the code were seen.
    Passing(u8),
    /// It has passed whole; with a code, or without.
    Passed(bool),
}

/// How far to follow a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To its end.
    End,
    /// To the first place between two frames.
    Frame,
    /// To the first place between two messages.
    Message,
    /// To the first byte of a Close.
    Close,
    /// To the end of a Close: nothing may follow it (RFC 6455 section 5.5.1).
    Closed,
}

/// What passed, by opcode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames, counted at their first byte.
    pub frames: [u32; Opcode::ALL.len()],
    /// Bytes of payload.
    pub bytes: [u64; Opcode::ALL.len()],
}

impl Default for FrameTracker {
    fn default() -> Self {
        Self {
            left: 0,
            key: [0; 2],
            code: [0; 2],
            first: 0,
            at: At::Boundary,
            missing: 0,
            masked: false,
            fragmented: false,
            close: Close::None,
        }
    }
}

impl FrameTracker {
    /// For bytes that are no frames: lost from the start.
    pub fn opaque() -> Self {
        Self { at: At::Lost, ..Self::default() }
    }

    /// Whether frames can no longer be told apart.
    pub fn is_lost(&self) -> bool {
        self.at == At::Lost
    }

    /// Whether a frame may be put in here.
    pub fn between_frames(&self) -> bool {
        self.at == At::Boundary
    }

    /// Whether a message may be put in here.
    pub fn between_messages(&self) -> bool {
        self.at == At::Boundary && !self.fragmented
    }

    /// Whether a whole Close has passed.
    pub fn closed(&self) -> bool {
        matches!(self.close, Close::Passed(_))
    }

    /// The code of the first Close that passed whole, if it had one.
    pub fn close_code(&self) -> Option<u16> {
        (self.close == Close::Passed(true)).then(|| u16::from_be_bytes(self.code))
    }

    /// Whether the stream stands at a place that `until` asks for.
    pub fn is_at(&self, until: Until) -> bool {
        match until {
            Until::Frame => self.between_frames(),
            Until::Message => self.between_messages(),
            Until::Closed => self.closed(),
            Until::End | Until::Close => false,
        }
    }

    /// Follows `chunk`, at most to `until`, and counts what passed. Returns how much of it that was.
    pub fn advance(&mut self, chunk: &[u8], until: Until, tally: &mut Tally) -> usize {
        let mut rest = chunk;
        while let Some(&byte) = rest.first() {
            let passed = match self.at {
                At::Boundary if self.is_at(until) || (until == Until::Close && byte & OPCODE == CLOSE) => break,
                At::Boundary => self.begin(rest, tally),
                At::Payload => self.payload(rest, tally),
                At::Lost => {
                    tally.bytes[Opcode::Opaque as usize] += rest.len() as u64;
                    rest.len()
                }
                At::Short | At::Long | At::Key => {
                    self.header_byte(byte);
                    1
                }
            };
            rest = &rest[passed..];
        }
        chunk.len() - rest.len()
    }

    /// The header in one go where the chunk has all of it, else its first byte.
    fn begin(&mut self, rest: &[u8], tally: &mut Tally) -> usize {
        self.first = rest[0];
        let opcode = self.first & OPCODE;
        tally.frames[Opcode::of(opcode) as usize] += 1;
        if opcode < CONTROL {
            self.fragmented = self.first & FIN == 0;
        } else if opcode == CLOSE && self.close == Close::None {
            self.close = Close::Passing(0);
        }
        self.at = At::Short;
        let Some(&second) = rest.get(1) else { return 1 };
        let (length, key) = match second & !MASKED {
            126 if rest.len() >= 4 => (u64::from(u16::from_be_bytes([rest[2], rest[3]])), 4),
            // Eight bytes of length are rare enough to be read one by one.
            126 | 127 => return 1,
            short => (u64::from(short), 2),
        };
        self.masked = second & MASKED != 0;
        if !self.masked {
            self.key = [0; 2];
            self.payload_begins(length);
            return key;
        }
        let Some(bytes) = rest.get(key..key + 4) else { return 1 };
        self.key = [bytes[0], bytes[1]];
        self.payload_begins(length);
        key + 4
    }

    fn header_byte(&mut self, byte: u8) {
        match self.at {
            At::Short => {
                self.masked = byte & MASKED != 0;
                self.key = [0; 2];
                match byte & !MASKED {
                    126 => self.expect(At::Long, 2),
                    127 => self.expect(At::Long, 8),
                    short => self.length_known(u64::from(short)),
                }
            }
            At::Long => {
                self.left = self.left << 8 | u64::from(byte);
                self.missing -= 1;
                if self.missing == 0 {
                    self.length_known(self.left);
                }
            }
            At::Key => {
                if let Some(place) = self.key.get_mut(usize::from(4 - self.missing)) {
                    *place = byte;
                }
                self.missing -= 1;
                if self.missing == 0 {
                    self.payload_begins(self.left);
                }
            }
            At::Boundary | At::Payload | At::Lost => {}
        }
    }

    fn expect(&mut self, at: At, bytes: u8) {
        self.left = 0;
        self.at = at;
        self.missing = bytes;
    }

    fn length_known(&mut self, length: u64) {
        if length & IMPOSSIBLE != 0 {
            self.at = At::Lost;
        } else if self.masked {
            self.expect(At::Key, 4);
            self.left = length;
        } else {
            self.payload_begins(length);
        }
    }

    fn payload_begins(&mut self, length: u64) {
        self.left = length;
        self.at = At::Payload;
        if length == 0 {
            self.frame_ends();
        }
    }

    fn payload(&mut self, rest: &[u8], tally: &mut Tally) -> usize {
        let here = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
        if let Close::Passing(seen @ 0..2) = self.close {
            self.read_code(seen, &rest[..here]);
        }
        tally.bytes[Opcode::of(self.first & OPCODE) as usize] += here as u64;
        self.left -= here as u64;
        if self.left == 0 {
            self.frame_ends();
        }
        here
    }

    /// Takes the code from a Close of which `seen` bytes of payload have passed.
    fn read_code(&mut self, seen: u8, payload: &[u8]) {
        let mut seen = seen;
        for &byte in payload.iter().take(usize::from(2 - seen)) {
            self.code[usize::from(seen)] = byte ^ self.key[usize::from(seen)];
            seen += 1;
        }
        self.close = Close::Passing(seen);
    }

    fn frame_ends(&mut self) {
        self.at = At::Boundary;
        if let Close::Passing(seen) = self.close {
            self.close = Close::Passed(seen == 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(mask | short as u8),
            long @ 126..=0xffff => {
                frame.push(mask | 126);
                frame.extend((long as u16).to_be_bytes());
            }
            huge => {
                frame.push(mask | 127);
                frame.extend((huge as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend(KEY);
        }
        frame.extend(payload.iter().enumerate().map(|(i, byte)| if masked { byte ^ KEY[i % 4] } else { *byte }));
        frame
    }

    /// Follows a stream in chunks of this size.
    fn follow(stream: &[u8], chunk: usize) -> (FrameTracker, Tally) {
        let (mut tracker, mut tally) = (FrameTracker::default(), Tally::default());
        for chunk in stream.chunks(chunk) {
            assert_eq!(tracker.advance(chunk, Until::End, &mut tally), chunk.len());
        }
        (tracker, tally)
    }

    #[test]
    fn lengths_of_every_kind_are_followed_however_they_are_cut() {
        for masked in [false, true] {
            for length in [0, 1, 2, 125, 126, 127, 0xffff, 0x1_0000] {
                let stream = [frame(0x82, &vec![9; length], masked), frame(0x89, b"hi", masked)].concat();
                for chunk in [1, 2, 3, 7, 14, stream.len()] {
                    let (tracker, tally) = follow(&stream, chunk);
                    assert!(tracker.between_messages(), "{masked} {length} {chunk}");
                    assert_eq!(tally.frames, [0, 0, 1, 0, 1, 0, 0]);
                    assert_eq!(tally.bytes, [0, 0, length as u64, 0, 2, 0, 0]);
                }
                let (tracker, _) = follow(&stream[..stream.len() - 1], 5);
                assert!(!tracker.between_frames());
            }
        }
    }

    #[test]
    fn a_close_shows_its_code_once_it_has_passed_whole() {
        for masked in [false, true] {
            let stream = [frame(0x81, b"hello", masked), frame(0x88, b"\x03\xf4come back", masked)].concat();
            for chunk in 1..stream.len() {
                assert_eq!(follow(&stream, chunk).0.close_code(), Some(1012));
                assert!(!follow(&stream[..stream.len() - 1], chunk).0.closed());
            }
            for short in [&b""[..], b"\x03"] {
                let (tracker, _) = follow(&frame(0x88, short, masked), 1);
                assert!(tracker.closed() && tracker.close_code().is_none());
            }
        }
    }

    #[test]
    fn the_first_close_counts() {
        let stream = [frame(0x88, b"\x03\xe8", true), frame(0x88, b"\x0f\xff", true)].concat();
        assert_eq!(follow(&stream, 3).0.close_code(), Some(1000));
    }

    #[test]
    fn control_frames_between_fragments_end_no_message() {
        let parts = [frame(0x01, b"a", true), frame(0x89, b"", true), frame(0x00, b"b", true), frame(0x80, b"c", true)];
        let mut tracker = FrameTracker::default();
        let ends: Vec<_> = parts
            .iter()
            .map(|part| {
                tracker.advance(part, Until::End, &mut Tally::default());
                (tracker.between_frames(), tracker.between_messages())
            })
            .collect();
        assert_eq!(ends, [(true, false), (true, false), (true, false), (true, true)]);
    }

    #[test]
    fn it_stops_where_it_is_told() {
        let (first, second, close) = (frame(0x01, b"a", false), frame(0x80, b"b", false), frame(0x88, b"", false));
        let stream = [&first[..], &second, &close].concat();
        let stop = |from: usize, until| {
            let (mut tracker, mut tally) = (FrameTracker::default(), Tally::default());
            tracker.advance(&stream[..from], Until::End, &mut tally);
            from + tracker.advance(&stream[from..], until, &mut tally)
        };
        assert_eq!(stop(1, Until::Frame), first.len());
        assert_eq!(stop(1, Until::Message), first.len() + second.len());
        assert_eq!(stop(0, Until::Close), first.len() + second.len());
        assert_eq!(stop(0, Until::Frame), 0, "it is there already");
        assert_eq!(stop(0, Until::End), stream.len());
    }

    #[test]
    fn an_impossible_length_is_lost_for_good() {
        let stream = [&b"\x82\xff\x80\0\0\0\0\0\0\0"[..], &frame(0x88, b"\x03\xe8", true)].concat();
        for chunk in 1..stream.len() {
            let (tracker, tally) = follow(&stream, chunk);
            assert!(tracker.is_lost() && !tracker.between_frames() && !tracker.closed());
            assert_eq!(tally.frames.iter().sum::<u32>(), 1);
        }
        let (largest, _) = follow(b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", 3);
        assert!(!largest.is_lost() && largest.left == IMPOSSIBLE - 1);
    }
}
