//! One direction of a tunnel that may be closing: what passes of it, and what has been said in it.
//!
//! It never knows the other direction, nor why something passes or not: that is [`Closing`](super::Closing)'s.

use super::words::{Sink, Source};
use crate::tunnel::frame::{FrameTracker, Tally, Until};

/// What comes from a side and goes to the other.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tracker: FrameTracker,
    pub(super) source: Source,
    /// Towards the other side.
    pub(super) sink: Sink,
    pub(super) passing: Passing,
    /// What comes after it is not counted.
    pub(super) seen: Seen,
}

/// What passes of what a source sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passing {
    All,
    /// All until here, where we say Close.
    Until(Until),
    Nothing,
}

/// The Close that went this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Nothing,
    /// The source's own.
    Theirs,
    /// Ours, with this code.
    Ours(u16),
}

impl Lane {
    pub(super) fn new(tracker: FrameTracker) -> Self {
        Self { tracker, source: Source::Open, sink: Sink::Open, passing: Passing::All, seen: Seen::Nothing }
    }

    /// How much of a chunk passes, which is counted. The rest is to be [skipped](Self::skip).
    pub(super) fn pass(&mut self, chunk: &[u8], tally: &mut Tally) -> usize {
        match self.passing {
            Passing::All => self.tracker.advance(chunk, Until::Closed, tally),
            Passing::Until(until) => self.tracker.advance(chunk, until, tally),
            Passing::Nothing => 0,
        }
    }

    /// Whether the place for our Close is here, `stopped` saying whether what came last did not pass whole. A Close of theirs that was half
    /// through when we decided to say ours is the last one this way.
    pub(super) fn is_at_place(&self, stopped: bool) -> bool {
        let there = matches!(self.passing, Passing::Until(until) if stopped || self.tracker.is_at(until));
        there && !self.tracker.closed()
    }

    /// Follows what does not pass.
    pub(super) fn skip(&mut self, rest: &[u8]) {
        self.tracker.advance(rest, Until::End, &mut Tally::default());
    }

    /// Where in a chunk that comes next a frame may be put in, if anywhere.
    pub(super) fn boundary(&self, chunk: &[u8]) -> Option<usize> {
        let mut ahead = self.tracker.clone();
        let boundary = ahead.advance(chunk, Until::Frame, &mut Tally::default());
        ahead.between_frames().then_some(boundary)
    }

    /// Whether a frame may follow what has passed.
    pub(super) fn takes_frame(&self) -> bool {
        self.sink == Sink::Open && self.tracker.between_frames()
    }

    /// Whether a Close went this way, whosever.
    pub(super) fn is_closed(&self) -> bool {
        self.tracker.closed() || self.seen != Seen::Nothing
    }

    /// The Close that went this way; without a code, where it had none.
    pub(super) fn close(&self) -> Option<Option<u16>> {
        match self.seen {
            Seen::Nothing => None,
            Seen::Theirs => Some(self.tracker.close_code()),
            Seen::Ours(code) => Some(Some(code)),
        }
    }

    /// Our Close goes this way: nothing passes after it.
    pub(super) fn say(&mut self, code: u16) {
        self.passing = Passing::Nothing;
        self.seen = Seen::Ours(code);
    }

    /// It gets its FIN once all that is on its way is written; nothing more passes.
    pub(super) fn finish(&mut self) {
        self.passing = Passing::Nothing;
        if self.sink == Sink::Open {
            self.sink = Sink::Ending;
        }
    }

    /// Writing failed.
    pub(super) fn breaks(&mut self) {
        self.passing = Passing::Nothing;
        self.sink = Sink::Broken;
    }
}
