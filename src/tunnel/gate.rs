//! Looks at the frame headers of one direction before they pass (RFC 6455 section 5.2): limits on messages, the framing itself, and Pongs
//! that answer a Ping of ours.
//!
//! Pure: it never knows sockets or the other direction, and holds back no payload: only a header that is not complete, and a Pong as
//! short as ours while it may be ours. `features` has one for each direction that something is asked of; `relay` feeds it.

use super::clock::Tick;
use crate::model::route::MessageLimits;

/// The payload of our Pings.
pub(super) type Token = [u8; 8];

/// The longest header: two bytes, a 64-bit length, a masking key.
const HEADER: usize = 14;
const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const PONG: u8 = 0xa;

/// What a source did that ends its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Frames that RFC 6455 does not know.
    Framing,
    /// A message over `messages.maxSize`.
    TooBig,
    /// More messages than `messages.perSecond`.
    TooMany,
}

/// Who sends what a gate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// Its frames are masked.
    Client,
    /// Its frames are not.
    Backend,
}

/// What becomes of the bytes of a chunk: what was held back and the first `pass` go on, `taken` are dealt with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// What was held back goes on, before anything of this chunk.
    pub(super) release: bool,
    /// So much of the chunk goes on.
    pub(super) pass: usize,
    /// So much of the chunk is dealt with: passed, held back, or swallowed.
    pub(super) taken: usize,
    /// What the next byte of the chunk would be part of.
    pub(super) event: Option<Event>,
}

/// Something that is no frame to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An answer to our Ping, which was swallowed.
    Pong,
    /// Nothing more is to pass.
    Fault(Fault),
}

/// One direction.
#[derive(Debug)]
pub(super) struct Gate {
    sender: Sender,
    /// An extension was agreed on: it may use the reserved bits.
    extensions: bool,
    limits: MessageLimits,
    token: Option<Token>,
    /// A header, or a Pong, of which more is to come.
    held: Vec<u8>,
    /// Payload of the frame that passes.
    left: u64,
    /// Bytes of the message that passes, in all its fragments.
    size: u64,
    within_message: bool,
    bucket: Bucket,
}

/// Messages that may still come: `burst` at most, `per_second` more a second.
#[derive(Debug)]
struct Bucket {
    /// In thousandths of a message.
    filled: u64,
    at: Tick,
}

/// A frame header.
struct Header {
    first: u8,
    masked: bool,
    length: u64,
    /// Bytes of it.
    size: usize,
    key: [u8; 4],
}

impl Header {
    /// The header at the beginning of some bytes, if they have all of it.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else { return None };
        let (length, rest) = match second & 0x7f {
            126 => rest.split_first_chunk().map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
            127 => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
            short => (u64::from(short), rest),
        };
        let masked = second & 0x80 != 0;
        let (key, rest) = if masked { rest.split_first_chunk().map(|(key, rest)| (*key, rest))? } else { ([0; 4], rest) };
        Some(Self { first: *first, masked, length, size: bytes.len() - rest.len(), key })
    }

    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    fn is_control(&self) -> bool {
        self.opcode() >= 0x8
    }

    fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }

    fn reserved(&self) -> bool {
        self.first & 0x70 != 0
    }
}

impl Gate {
    /// Pongs with this token are swallowed.
    pub(super) fn new(sender: Sender, extensions: bool, limits: MessageLimits, token: Option<Token>, now: Tick) -> Self {
        let filled = limits.rate.map_or(0, |rate| u64::from(rate.burst) * 1000);
        Self {
            sender,
            extensions,
            limits,
            token,
            held: Vec::new(),
            left: 0,
            size: 0,
            within_message: false,
            bucket: Bucket { filled, at: now },
        }
    }

    /// Takes what was held back, to be passed on.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Looks at a chunk as far as it is of one kind. To be called again with the rest, until all is taken or there was a fault.
    pub(super) fn advance(&mut self, chunk: &[u8], now: Tick) -> Step {
        let mut step = Step::default();
        while step.taken < chunk.len() {
            let rest = &chunk[step.taken..];
            if self.left > 0 {
                let payload = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                self.left -= payload as u64;
                step.taken += payload;
                step.pass = step.taken;
                continue;
            }
            let before = self.held.len();
            let Some(header) = self.header(rest) else {
                self.held.extend_from_slice(rest);
                step.taken = chunk.len();
                return step;
            };
            if let Err(fault) = self.admit(&header, now) {
                step.event = Some(Event::Fault(fault));
                return step;
            }
            if self.may_be_ours(&header) {
                let whole = header.size + header.length as usize;
                if before + rest.len() < whole {
                    self.held.extend_from_slice(rest);
                    step.taken = chunk.len();
                    return step;
                }
                if self.is_ours(&header, rest, whole) {
                    step.taken += whole - before;
                    self.held = Vec::new();
                    step.event = Some(Event::Pong);
                    return step;
                }
            }
            self.begin(&header);
            step.release |= before > 0;
            step.taken += header.size.saturating_sub(before);
            // A Pong that was held back beyond its header, and is not ours.
            self.left -= before.saturating_sub(header.size) as u64;
            step.pass = step.taken;
            if step.release {
                return step;
            }
        }
        step
    }

    /// The header of the frame that begins with what is held back, and goes on in `rest`.
    fn header(&self, rest: &[u8]) -> Option<Header> {
        if self.held.is_empty() {
            return Header::parse(rest);
        }
        let mut bytes = [0; HEADER];
        let held = self.held.len().min(HEADER);
        let more = rest.len().min(HEADER - held);
        bytes[..held].copy_from_slice(&self.held[..held]);
        bytes[held..held + more].copy_from_slice(&rest[..more]);
        Header::parse(&bytes[..held + more])
    }

    /// Whether a frame may pass; counts it, if it begins a message.
    fn admit(&mut self, header: &Header, now: Tick) -> Result<(), Fault> {
        let masks = self.sender == Sender::Client;
        if header.masked != masks || header.length >> 63 != 0 || (header.reserved() && !self.extensions) {
            return Err(Fault::Framing);
        }
        if header.is_control() {
            let known = header.opcode() <= PONG;
            return if known && header.is_final() && header.length <= 125 { Ok(()) } else { Err(Fault::Framing) };
        }
        let continues = header.opcode() == CONTINUATION;
        if header.opcode() > BINARY || continues != self.within_message {
            return Err(Fault::Framing);
        }
        let so_far = if continues { self.size } else { 0 };
        if self.limits.max_size.is_some_and(|most| so_far.saturating_add(header.length) > most) {
            return Err(Fault::TooBig);
        }
        if !continues && !self.bucket.take(&self.limits, now) {
            return Err(Fault::TooMany);
        }
        Ok(())
    }

    fn begin(&mut self, header: &Header) {
        self.left = header.length;
        if !header.is_control() {
            self.size = if self.within_message { self.size + header.length } else { header.length };
            self.within_message = !header.is_final();
        }
    }

    fn may_be_ours(&self, header: &Header) -> bool {
        self.token.is_some_and(|token| header.opcode() == PONG && header.length == token.len() as u64)
    }

    fn is_ours(&self, header: &Header, rest: &[u8], whole: usize) -> bool {
        let payload = self.held.iter().chain(rest).take(whole).skip(header.size);
        let unmasked = payload.zip(header.key.iter().cycle()).map(|(byte, key)| byte ^ key);
        self.token.is_some_and(|token| unmasked.eq(token))
    }
}

impl Bucket {
    fn take(&mut self, limits: &MessageLimits, now: Tick) -> bool {
        let Some(rate) = limits.rate else { return true };
        let elapsed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        let more = elapsed.saturating_mul(rate.per_second.into());
        self.filled = self.filled.saturating_add(more).min(u64::from(rate.burst) * 1000);
        self.at = now;
        let enough = self.filled >= 1000;
        if enough {
            self.filled -= 1000;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::route::Rate;

    const TOKEN: Token = *b"carrick!";
    const NOW: Tick = Tick(0);

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let key = [1, 2, 3, 4];
        let mut bytes = vec![first];
        match payload.len() {
            short @ ..126 => bytes.push(0x80 | short as u8),
            long @ ..65536 => bytes.extend([&[0xfe][..], &(long as u16).to_be_bytes()].concat()),
            long => bytes.extend([&[0xff][..], &(long as u64).to_be_bytes()].concat()),
        }
        bytes.extend(key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    fn gate(limits: MessageLimits) -> Gate {
        Gate::new(Sender::Client, false, limits, Some(TOKEN), NOW)
    }

    fn sized(max_size: u64) -> MessageLimits {
        MessageLimits { max_size: Some(max_size), rate: None }
    }

    /// What goes on of some chunks, the Pongs, and how it ended.
    fn run<'a>(gate: &mut Gate, chunks: impl IntoIterator<Item = &'a [u8]>, now: Tick) -> (Vec<u8>, usize, Option<Fault>) {
        let (mut passed, mut pongs) = (Vec::new(), 0);
        for mut chunk in chunks {
            while !chunk.is_empty() {
                let step = gate.advance(chunk, now);
                if step.release {
                    passed.extend(gate.take_held());
                }
                passed.extend(&chunk[..step.pass]);
                chunk = &chunk[step.taken..];
                match step.event {
                    Some(Event::Fault(fault)) => return (passed, pongs, Some(fault)),
                    Some(Event::Pong) => pongs += 1,
                    None => {}
                }
            }
        }
        (passed, pongs, None)
    }

    fn fault(limits: MessageLimits, bytes: &[u8]) -> Option<Fault> {
        run(&mut gate(limits), [bytes], NOW).2
    }

    #[test]
    fn a_message_over_the_size_does_not_begin_to_pass() {
        let allowed = frame(0x82, &[7; 200]);
        let bytes = [allowed.clone(), frame(0x82, &[7; 201])].concat();
        assert_eq!(run(&mut gate(sized(200)), [&bytes[..]], NOW), (allowed, 0, Some(Fault::TooBig)));
        // Announced alone is enough, up to 63 bits.
        assert_eq!(fault(sized(200), &[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]), Some(Fault::TooBig));
    }

    #[test]
    fn fragments_are_one_message_and_control_frames_between_them_are_none_of_it() {
        let first = frame(0x01, &[7; 100]);
        let ping = frame(0x89, &[7; 125]);
        let bytes = [first.clone(), ping.clone(), frame(0x00, &[7; 100]), frame(0x80, &[7; 1])].concat();
        assert_eq!(fault(sized(201), &bytes), None);
        let (passed, _, fault) = run(&mut gate(sized(200)), [&bytes[..]], NOW);
        assert_eq!((passed.len(), fault), (first.len() + ping.len() + frame(0x00, &[7; 100]).len(), Some(Fault::TooBig)));
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limits = MessageLimits { max_size: None, rate: Some(Rate { per_second: 2, burst: 3 }) };
        let mut gate = gate(limits);
        let message = frame(0x81, b"hi");
        let many = message.repeat(4);
        let (passed, _, fault) = run(&mut gate, [&many[..]], NOW);
        assert_eq!((passed.len(), fault), (message.len() * 3, Some(Fault::TooMany)));
        let later = NOW.after(Duration::from_secs(1));
        assert_eq!(run(&mut gate, [&message.repeat(2)[..]], later).2, None);
        assert_eq!(run(&mut gate, [&message[..]], later).2, Some(Fault::TooMany));
    }

    #[test]
    fn what_the_rfc_does_not_know_is_a_fault() {
        for (what, bytes) in [
            ("no mask", vec![0x81, 0]),
            ("reserved bit", frame(0xc1, b"")),
            ("reserved opcode", frame(0x83, b"")),
            ("reserved control opcode", frame(0x8b, b"")),
            ("fragmented control frame", frame(0x09, b"")),
            ("long control frame", frame(0x89, &[0; 126])),
            ("continuation of nothing", frame(0x80, b"")),
            ("a message within a message", [frame(0x01, b"a"), frame(0x01, b"b")].concat()),
            ("a length of 64 bits", vec![0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(fault(MessageLimits::default(), &bytes), Some(Fault::Framing), "{what}");
        }
        let mut extended = Gate::new(Sender::Client, true, MessageLimits::default(), None, NOW);
        assert_eq!(run(&mut extended, [&frame(0xc1, b"")[..]], NOW).2, None, "permessage-deflate marks its messages so");
    }

    #[test]
    fn only_our_pong_is_swallowed() {
        let ours = frame(0x8a, &TOKEN);
        let theirs = [frame(0x8a, b"theirs!!"), frame(0x8a, b""), frame(0x89, &TOKEN), frame(0x81, b"on")].concat();
        let bytes = [&theirs[..9], &theirs[9..], &ours].concat();
        assert_eq!(run(&mut gate(MessageLimits::default()), [&bytes[..]], NOW), (theirs, 1, None));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_it_is_cut(kinds in prop::collection::vec((0usize..6, 0usize..300), 0..12), cuts in prop::collection::vec(1usize..40, 1..200)) {
            let (mut all, mut expected, mut pongs) = (Vec::new(), Vec::new(), 0);
            for (kind, length) in kinds {
                let frame = match kind {
                    0 => frame(0x81, &vec![7; length]),
                    1 => frame(0x82, &vec![7; length * 300]),
                    2 => [frame(0x01, &vec![7; length]), frame(0x80, &vec![8; length])].concat(),
                    3 => frame(0x89, &vec![7; length % 126]),
                    4 => frame(0x8a, &vec![7; length % 20]),
                    _ => frame(0x8a, &TOKEN),
                };
                if kind == 5 { pongs += 1 } else { expected.extend(&frame) }
                all.extend(frame);
            }
            let mut rest = &all[..];
            let mut chunks = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (chunk, more) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            prop_assert_eq!(run(&mut gate(MessageLimits::default()), chunks, NOW), (expected, pongs, None));
        }
    }
}
