//! Random WebSocket streams, with all that is to be known of them beside.

use std::collections::BTreeSet;

use carrick::{telemetry::metrics::Opcode, tunnel::frame::Tally};
use fastrand::Rng;

/// The bytes of one direction, and where things are in them.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Offsets between two frames.
    pub frames: BTreeSet<usize>,
    /// Offsets between two messages.
    pub messages: BTreeSet<usize>,
    /// First byte, end and code of the first Close.
    pub close: Option<(usize, usize, Option<u16>)>,
    /// What all of it counts for.
    pub tally: Tally,
    masked: bool,
    fragmented: bool,
}

impl Stream {
    pub fn new(masked: bool) -> Self {
        let start = BTreeSet::from([0]);
        Self { masked, frames: start.clone(), messages: start, ..Self::default() }
    }

    /// Some messages, in fragments or whole, with control frames between.
    pub fn random(rng: &mut Rng, masked: bool, frames: usize) -> Self {
        let mut stream = Self::new(masked);
        for _ in 0..frames {
            stream.push_random(rng);
        }
        stream
    }

    pub fn push_random(&mut self, rng: &mut Rng) {
        let payload: Vec<u8> = match rng.u8(..100) {
            0..10 => Vec::new(),
            10..80 => (0..rng.usize(1..40)).map(|_| rng.u8(..)).collect(),
            80..90 => vec![7; rng.usize(120..130)],
            90 => vec![8; rng.usize(0xfff0..0x1_0010)],
            _ => vec![9; rng.usize(126..2000)],
        };
        match rng.u8(..6) {
            0 => self.push(rng, 0x89, &payload[..payload.len().min(125)]),
            1 => self.push(rng, 0x8a, &payload[..payload.len().min(125)]),
            _ => {
                let opcode = if self.fragmented { 0 } else { rng.u8(1..=2) };
                let fin = if rng.u8(..3) == 0 { 0 } else { 0x80 };
                self.push(rng, fin | opcode, &payload);
            }
        }
    }

    pub fn push_close(&mut self, rng: &mut Rng, code: Option<u16>) {
        let start = self.bytes.len();
        let payload = code.map_or(Vec::new(), |code| [&code.to_be_bytes()[..], b"bye"].concat());
        self.push(rng, 0x88, &payload);
        self.close.get_or_insert((start, self.bytes.len(), code));
    }

    fn push(&mut self, rng: &mut Rng, first: u8, payload: &[u8]) {
        let mask = if self.masked { 0x80 } else { 0 };
        self.bytes.push(first);
        match (payload.len(), rng.u8(..8)) {
            // A longer form than needed is against RFC 6455 5.2, but can be followed, and so is.
            (length, 0) => self.bytes.extend([&[mask | 127][..], &(length as u64).to_be_bytes()].concat()),
            (length @ 0..126, _) => self.bytes.push(mask | length as u8),
            (length @ 126..=0xffff, _) => self.bytes.extend([&[mask | 126][..], &(length as u16).to_be_bytes()].concat()),
            (length, _) => self.bytes.extend([&[mask | 127][..], &(length as u64).to_be_bytes()].concat()),
        }
        let key = if self.masked { [rng.u8(..), rng.u8(..), rng.u8(..), rng.u8(..)] } else { [0; 4] };
        if self.masked {
            self.bytes.extend(key);
        }
        self.bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        let opcode = Opcode::of(first & 0x0f) as usize;
        self.tally.frames[opcode] += 1;
        self.tally.bytes[opcode] += payload.len() as u64;
        if first & 0x08 == 0 {
            self.fragmented = first & 0x80 == 0;
        }
        self.frames.insert(self.bytes.len());
        if !self.fragmented {
            self.messages.insert(self.bytes.len());
        }
    }
}
