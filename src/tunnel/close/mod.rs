//! How a tunnel ends: who is told what, in which order, and how long each is waited for.
//!
//! Pure: it is told what was read and what time it is, and says what passes, what is put in between, and when a side gets its FIN. It never
//! knows sockets or buffers. `relay` drives it, `tests/sim` drives it through every race; `words` is what the three say to each other.
//!
//! ```text
//!            order          a boundary            the client's Close        its Close
//!   Open ────────► Boundary ──────────► Client ───────────────────► Backend ─────────► Lingering ──► done
//!    │ │ backend vanished                 ▲                            ▲                   ▲
//!    │ ├──────────────────────────────────┤                            │                   │
//!    │ └─► Held ── its moment, an order ──┘      client vanished       │                   │
//!    ├─────────────────────────────────────────────────────────────────┘                   │
//!    └── both have said Close, or one is gone after it ──► Parting ── 5 s ─────────────────┘
//! ```

mod lane;
mod steps;
mod words;

use std::time::Duration;

pub(super) use words::other;
pub use words::{End, Goodbye, Reason, Sink, Source, Unclean, Verdict};

use lane::{Lane, Passing, Seen};
use steps::{WAIT, initiator};

use super::{
    clock::Tick,
    frame::{FrameTracker, Tally, Until},
};
use crate::telemetry::metrics::{Initiator, Side};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The backend vanished; the client is told in its own time, so that not all of them come back at once.
    Held,
    /// We mean to say Close to the client and wait for a place to.
    Boundary,
    /// The client was told; its answer is waited for, and what it sends before passes.
    Client,
    /// The backend was told, or need not be; its answer is waited for.
    Backend,
    /// Both know without us; their FINs are waited for.
    Parting,
    /// All is said; FINs are written and waited for, and what still comes is dropped, so that no reset destroys what they have not read.
    Lingering,
}

/// The end of one tunnel, from its first byte on.
#[derive(Debug)]
pub struct Closing {
    /// By source.
    lanes: [Lane; 2],
    stage: Stage,
    frames: bool,
    reconnect_code: u16,
    /// How long after its backend the client is told, in milliseconds.
    client_delay: u32,
    /// Until when the message boundary is preferred.
    patience: Tick,
    /// When this stage is given up.
    limit: Tick,
    /// When even a reader that goes on taking its last bytes is.
    last_bytes: Tick,
    by: Option<Initiator>,
    reason: Option<Reason>,
    unclean: Option<Unclean>,
    cut: bool,
}

impl Closing {
    /// For WebSocket frames. The code tells a client to come back; one whose backend vanished is told after `client_delay`.
    pub fn websocket(reconnect_code: u16, client_delay: Duration) -> Self {
        Self::new(true, reconnect_code, client_delay, FrameTracker::default())
    }

    /// For bytes that are no frames: nobody is told anything but by FIN, and one direction may end before the other. The backend's end
    /// reaches the client after `client_delay`.
    pub fn opaque(client_delay: Duration) -> Self {
        Self::new(false, 0, client_delay, FrameTracker::opaque())
    }

    fn new(frames: bool, reconnect_code: u16, client_delay: Duration, tracker: FrameTracker) -> Self {
        Self {
            lanes: [Lane::new(tracker.clone()), Lane::new(tracker)],
            stage: Stage::Open,
            frames,
            reconnect_code,
            client_delay: u32::try_from(client_delay.as_millis()).unwrap_or(u32::MAX),
            patience: Tick::NEVER,
            limit: Tick::NEVER,
            last_bytes: Tick::NEVER,
            by: None,
            reason: None,
            unclean: None,
            cut: false,
        }
    }

    /// Bytes came from a side. Counts what passes.
    pub fn received(&mut self, from: Side, chunk: &[u8], now: Tick, tally: &mut Tally) -> Verdict {
        let lane = self.lane(from);
        let closed = lane.tracker.closed();
        let pass = lane.pass(chunk, tally);
        let turn = if lane.is_at_place(pass < chunk.len()) { self.take_turn(from, now) } else { None };
        let lane = self.lane(from);
        lane.skip(&chunk[pass..]);
        let answer = if !closed && lane.tracker.closed() { self.closed_by(from, now) } else { None };
        Verdict { pass, say: turn.or(answer) }
    }

    /// A side will send no more.
    pub fn ended(&mut self, from: Side, how: Source, now: Tick) -> Option<Goodbye> {
        self.lane(from).source = how;
        if how == Source::Lost {
            self.unwritable(from);
        }
        let goodbye_said = self.lane(from).is_closed();
        match (self.stage, from) {
            (Stage::Lingering, _) | (Stage::Held, Side::Backend) => {}
            // Nobody is left to be told.
            (Stage::Held, Side::Client) => self.finish_both(now),
            _ if !self.frames => self.opaque_ended(from, how, now),
            (_, Side::Client) if !goodbye_said => return self.client_vanished(now),
            (_, Side::Backend) if !goodbye_said => return self.backend_vanished(now),
            // It has seen our Close and is gone: there is no answer to wait for.
            (Stage::Backend, Side::Backend) => self.finish_both(now),
            (Stage::Open | Stage::Parting, _) => {
                self.finish(other(from));
                self.enter(Stage::Parting, now);
            }
            // The other one's answer is waited for, whatever this one does.
            (Stage::Boundary | Stage::Client | Stage::Backend, _) => {}
        }
        None
    }

    /// Writing to a side failed. What it sent before can still be read.
    pub fn unwritable(&mut self, to: Side) {
        self.lane(other(to)).breaks();
    }

    /// The proxy wants the tunnel closed; a place for the Close may be waited for as long as `patience`, where that is more than usual.
    /// Without effect on one that is closing already, but that a client who was to be told later is told now.
    pub fn order(&mut self, reason: Reason, patience: Duration, now: Tick) -> Option<Goodbye> {
        match self.stage {
            _ if reason == Reason::Killed => self.cut = true,
            Stage::Open => {}
            Stage::Held => return self.moment(now),
            _ => return None,
        }
        if self.lanes.iter().any(|lane| lane.tracker.closed()) && !self.cut {
            // One of the two has said Close: it is that side's closing.
            self.enter(Stage::Parting, now);
            return None;
        }
        self.by.get_or_insert(Initiator::Proxy);
        self.reason = Some(reason);
        match self.lanes[Side::Backend as usize].sink {
            _ if self.cut => None,
            _ if !self.frames => {
                self.finish_both(now);
                None
            }
            Sink::Open => self.await_boundary(patience, now),
            // A client that takes nothing can't be told.
            Sink::Ending | Sink::Shut | Sink::Broken => self.tell_backend(now),
        }
    }

    /// The client did what it may not: nothing more of it passes, and it hears why, unless it was told something else before.
    pub fn fault(&mut self, reason: Reason, now: Tick) -> Option<Goodbye> {
        let said = self.lanes[Side::Client as usize].tracker.closed();
        if !said {
            self.lane(Side::Client).passing = Passing::Nothing;
        }
        match self.stage {
            Stage::Open => self.order(reason, Duration::ZERO, now),
            Stage::Boundary => {
                self.reason = Some(reason);
                None
            }
            Stage::Client => self.tell_backend(now),
            Stage::Held | Stage::Backend | Stage::Parting | Stage::Lingering => None,
        }
    }

    /// A side does not answer: it is as if it were gone.
    pub fn silent(&mut self, side: Side, now: Tick) -> Option<Goodbye> {
        if self.stage == Stage::Open {
            self.by = Some(initiator(side));
            self.unclean = Some(Unclean::Silent);
        }
        self.ended(side, Source::Lost, now)
    }

    /// The client was told. Whose bytes go nowhere need not answer before the backend is told too.
    pub fn told_client(&mut self, now: Tick) -> Option<Goodbye> {
        let at_fault = self.reason.is_some_and(|reason| reason.fault().is_some());
        (at_fault && self.stage == Stage::Client).then(|| self.tell_backend(now)).flatten()
    }

    /// Time passed: whatever is due by `now`.
    pub fn expired(&mut self, now: Tick) -> Option<Goodbye> {
        let impatient = self.stage == Stage::Boundary && now >= self.patience;
        if impatient && self.lane(Side::Backend).passing == Passing::Until(Until::Message) {
            self.lane(Side::Backend).passing = Passing::Until(Until::Frame);
            if self.lane(Side::Backend).tracker.between_frames() {
                return self.take_turn(Side::Backend, now);
            }
        }
        if now < self.limit {
            return None;
        }
        match self.stage {
            Stage::Open => {}
            Stage::Held => return self.moment(now),
            Stage::Boundary => self.give_up_boundary(now),
            Stage::Client => {
                self.unclean.get_or_insert(Unclean::CloseTimeout);
                self.finish(Side::Client);
                return self.tell_backend(now);
            }
            Stage::Backend => {
                if matches!(self.lane(Side::Client).seen, Seen::Ours(_)) {
                    self.unclean.get_or_insert(Unclean::CloseTimeout);
                }
                self.finish_both(now);
            }
            Stage::Parting => self.finish_both(now),
            Stage::Lingering => self.cut = true,
        }
        None
    }

    /// Bytes that were kept went out to a side: a slow reader is not a dead one, so what was read before the end is delivered to it.
    pub fn delivered(&mut self, to: Side, now: Tick) {
        let lane = self.lane(other(to));
        let last_bytes = lane.passing == Passing::Nothing || lane.source != Source::Open;
        if last_bytes && !matches!(self.stage, Stage::Open | Stage::Held | Stage::Boundary) {
            self.limit = now.after(WAIT).min(self.last_bytes);
        }
    }

    /// A side got its FIN.
    pub fn shut(&mut self, to: Side) {
        self.lane(other(to)).sink = Sink::Shut;
    }

    /// When [`Closing::expired`] is to be called.
    pub fn deadline(&self) -> Tick {
        match (self.stage, self.lanes[Side::Backend as usize].passing) {
            (Stage::Boundary, Passing::Until(Until::Message)) => self.patience.min(self.limit),
            _ => self.limit,
        }
    }

    /// Whether nothing is left to be done, or to be waited for.
    pub fn is_done(&self) -> bool {
        let gone = |side: Side| {
            let sink = self.lanes[other(side) as usize].sink;
            self.lanes[side as usize].source != Source::Open && matches!(sink, Sink::Shut | Sink::Broken)
        };
        self.cut || (gone(Side::Client) && gone(Side::Backend))
    }

    /// Whether the tunnel is neither closed nor closing.
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether an order still changes anything: it is open, or its client is to be told later.
    pub fn takes_orders(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Held)
    }

    /// Whether a frame may follow what came from a side.
    pub fn between_frames(&self, from: Side) -> bool {
        self.lanes[from as usize].takes_frame()
    }

    /// Where in a chunk from a side a frame may be put in, if anywhere.
    pub fn boundary(&self, from: Side, chunk: &[u8]) -> Option<usize> {
        self.lanes[from as usize].boundary(chunk)
    }

    /// Whether bytes are frames.
    pub fn has_frames(&self) -> bool {
        self.frames
    }

    /// Whether more is to be read from a side.
    pub fn source(&self, from: Side) -> Source {
        self.lanes[from as usize].source
    }

    /// How the way towards a side stands.
    pub fn sink(&self, to: Side) -> Sink {
        self.lanes[other(to) as usize].sink
    }

    /// Whether what a side sends is only read to be dropped.
    pub fn drops(&self, from: Side) -> bool {
        self.lanes[from as usize].passing == Passing::Nothing
    }

    /// How the tunnel ended; how it would have, where it is cut.
    pub fn end(&self) -> End {
        let reason = match (self.reason, self.unclean) {
            (Some(reason), _) => reason.label(),
            (None, Some(unclean)) => unclean.label(),
            (None, None) if self.by.is_some() => "close",
            (None, None) => "aborted",
        };
        let closes = [Side::Backend, Side::Client].map(|by| self.lanes[by as usize].close());
        End { by: self.by.unwrap_or(Initiator::Proxy), reason, unclean: self.unclean, closes }
    }

    /// The lane of what comes from a side.
    fn lane(&mut self, from: Side) -> &mut Lane {
        &mut self.lanes[from as usize]
    }
}
