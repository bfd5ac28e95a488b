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

mod words;

use std::time::Duration;

pub use words::{End, Goodbye, Reason, Sink, Source, Unclean, Verdict};

use super::{
    clock::Tick,
    frame::{FrameTracker, Tally, Until},
};
use crate::telemetry::metrics::{Initiator, Side};

/// How long a frame boundary, an answer or a FIN is waited for.
const WAIT: Duration = Duration::from_secs(5);
/// How long the end of a message is preferred to the end of a frame: a client that gets half a message and a Close reports an error.
const MESSAGE_WAIT: Duration = Duration::from_secs(1);
/// How long a reader may draw out its last bytes, however steadily it takes them.
const LAST_BYTES: Duration = Duration::from_secs(600);
/// The answer to a Close whose code no endpoint may send (RFC 6455 section 7.4).
const NORMAL: u16 = 1000;
/// Going away: what the backend sees in every close that we start.
const GOING_AWAY: u16 = 1001;

/// What passes of what a source sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passing {
    All,
    /// All until here, where we say Close.
    Until(Until),
    Nothing,
}

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

/// One direction: what comes from a side and goes to the other.
#[derive(Debug)]
struct Lane {
    tracker: FrameTracker,
    source: Source,
    /// Towards the other side.
    sink: Sink,
    passing: Passing,
    /// The code of the Close that passed, or that we said; what comes after it is not counted.
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// The source's own Close passed.
    Theirs,
    Ours(u16),
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
        let lane = || Lane { tracker: tracker.clone(), source: Source::Open, sink: Sink::Open, passing: Passing::All, seen: Seen::Nothing };
        Self {
            lanes: [lane(), lane()],
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
        let lane = &mut self.lanes[from as usize];
        let closed = lane.tracker.closed();
        let mut verdict = Verdict { pass: 0, say: None };
        match lane.passing {
            Passing::All => {
                verdict.pass = lane.tracker.advance(chunk, Until::Closed, tally);
                lane.tracker.advance(&chunk[verdict.pass..], Until::End, &mut Tally::default());
            }
            Passing::Nothing => _ = lane.tracker.advance(chunk, Until::End, &mut Tally::default()),
            Passing::Until(until) => {
                verdict.pass = lane.tracker.advance(chunk, until, tally);
                let there = verdict.pass < chunk.len() || lane.tracker.is_at(until);
                // A Close that was half through when we decided to say ours is the last one this way.
                if there && !lane.tracker.closed() {
                    verdict.say = self.take_turn(from, now);
                }
                self.lane(from).tracker.advance(&chunk[verdict.pass..], Until::End, &mut Tally::default());
            }
        }
        if !closed && self.lanes[from as usize].tracker.closed() {
            let answer = self.closed_by(from, now);
            verdict.say = verdict.say.or(answer);
        }
        verdict
    }

    /// A side will send no more.
    pub fn ended(&mut self, from: Side, how: Source, now: Tick) -> Option<Goodbye> {
        self.lane(from).source = how;
        if how == Source::Lost {
            self.unwritable(from);
        }
        let lane = &self.lanes[from as usize];
        let goodbye_said = lane.tracker.closed() || lane.seen != Seen::Nothing;
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
        let lane = self.lane(other(to));
        lane.sink = Sink::Broken;
        lane.passing = Passing::Nothing;
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
        let lane = &self.lanes[from as usize];
        lane.sink == Sink::Open && lane.tracker.between_frames()
    }

    /// Where in a chunk from a side a frame may be put in, if anywhere.
    pub fn boundary(&self, from: Side, chunk: &[u8]) -> Option<usize> {
        let mut ahead = self.lanes[from as usize].tracker.clone();
        let boundary = ahead.advance(chunk, Until::Frame, &mut Tally::default());
        ahead.between_frames().then_some(boundary)
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
        let seen = |by: Side| match self.lanes[by as usize].seen {
            Seen::Nothing => None,
            Seen::Theirs => Some(self.lanes[by as usize].tracker.close_code()),
            Seen::Ours(code) => Some(Some(code)),
        };
        let closes = [seen(Side::Backend), seen(Side::Client)];
        End { by: self.by.unwrap_or(Initiator::Proxy), reason, unclean: self.unclean, closes }
    }

    /// The lane of what comes from a side.
    fn lane(&mut self, from: Side) -> &mut Lane {
        &mut self.lanes[from as usize]
    }

    fn enter(&mut self, stage: Stage, now: Tick) {
        self.stage = stage;
        self.limit = now.after(WAIT);
        self.last_bytes = self.last_bytes.min(now.after(LAST_BYTES));
    }

    /// The client is told at the end of what passes now.
    fn await_boundary(&mut self, patience: Duration, now: Tick) -> Option<Goodbye> {
        self.enter(Stage::Boundary, now);
        self.limit = now.after(WAIT.max(patience));
        self.patience = now.after(MESSAGE_WAIT);
        let down = self.lane(Side::Backend);
        down.passing = Passing::Until(Until::Message);
        if down.tracker.between_messages() {
            return self.take_turn(Side::Backend, now);
        }
        if down.tracker.is_lost() {
            self.give_up_boundary(now);
        }
        None
    }

    /// The place that a lane waited for has come: the other side is told, and the lane carries no more.
    fn take_turn(&mut self, from: Side, now: Tick) -> Option<Goodbye> {
        match from {
            Side::Backend => {
                self.await_client(now);
                Some(self.say(Side::Client))
            }
            // The client's answer: all that it sent before has passed.
            Side::Client => {
                self.finish(Side::Client);
                self.tell_backend(now)
            }
        }
    }

    fn say(&mut self, to: Side) -> Goodbye {
        let (code, reason) = match (to, self.reason) {
            (Side::Backend, _) => (GOING_AWAY, ""),
            (Side::Client, Some(reason)) => (reason.fault().unwrap_or(self.reconnect_code), reason.text()),
            (Side::Client, None) => (self.reconnect_code, "backend is gone"),
        };
        self.put(Goodbye { to, code, reason })
    }

    /// Nothing passes after a Close.
    fn put(&mut self, goodbye: Goodbye) -> Goodbye {
        let lane = self.lane(other(goodbye.to));
        lane.passing = Passing::Nothing;
        lane.seen = Seen::Ours(goodbye.code);
        goodbye
    }

    /// Says 1001 to the backend where that can be done and makes sense, and waits for its answer.
    fn tell_backend(&mut self, now: Tick) -> Option<Goodbye> {
        self.enter(Stage::Backend, now);
        let backend_sends = self.lane(Side::Backend).source == Source::Open;
        let up = self.lane(Side::Client);
        up.passing = Passing::Nothing;
        if !backend_sends {
            self.finish_both(now);
            return None;
        }
        if up.sink != Sink::Open || up.seen != Seen::Nothing || !up.tracker.between_frames() {
            self.finish(Side::Backend);
            return None;
        }
        let goodbye = self.say(Side::Backend);
        if self.lane(Side::Backend).tracker.closed() {
            // It had said Close itself, into the void: ours is its answer.
            self.finish_both(now);
        }
        Some(goodbye)
    }

    /// A Close of a side is complete.
    fn closed_by(&mut self, from: Side, now: Tick) -> Option<Goodbye> {
        let passed = self.lane(from).passing != Passing::Nothing;
        if passed {
            self.lane(from).seen = Seen::Theirs;
            self.by.get_or_insert(initiator(from));
        }
        match (self.stage, from) {
            (Stage::Open, _) if self.lane(other(from)).tracker.closed() => self.enter(Stage::Parting, now),
            (Stage::Held, Side::Client) => return self.answer_client(now),
            // The backend hears nothing of a client at fault but from us.
            (Stage::Boundary, Side::Backend) if passed && self.lane(Side::Client).passing == Passing::Nothing => {
                return self.tell_backend(now);
            }
            // A side's own Close went through before the boundary we waited for: it is that side's closing then.
            (Stage::Boundary, _) if passed => {
                self.by = Some(initiator(from));
                self.reason = None;
                self.lane(Side::Backend).passing = Passing::All;
                self.enter(Stage::Parting, now);
            }
            (Stage::Backend, Side::Backend) => self.finish_both(now),
            // Its own Close was on its way already when ours was said: the backend has seen it whole, and may answer.
            (Stage::Client, Side::Client) if passed => {
                self.finish(Side::Client);
                self.await_backend(now);
            }
            // A client whose bytes go nowhere any more has answered.
            (Stage::Client, Side::Client) => self.finish_both(now),
            _ => {}
        }
        None
    }

    /// The backend has seen the last of the client: its answer is waited for, if there is to be one.
    fn await_backend(&mut self, now: Tick) {
        let down = self.lane(Side::Backend);
        if down.tracker.closed() || down.source != Source::Open {
            return self.finish_both(now);
        }
        self.lane(Side::Client).passing = Passing::Nothing;
        self.enter(Stage::Backend, now);
    }

    /// The client is gone without a Close: the backend is told at a frame boundary, and gets its FIN.
    fn client_vanished(&mut self, now: Tick) -> Option<Goodbye> {
        self.went(Side::Client);
        let goodbye = self.can_be_told(Side::Backend).then(|| self.say(Side::Backend));
        self.enter(Stage::Backend, now);
        self.finish(Side::Backend);
        // What the backend still sends passes to a client that only stopped sending, unless we had a Close for it in mind.
        if self.lane(Side::Backend).passing != Passing::All {
            self.finish(Side::Client);
        }
        goodbye
    }

    /// The backend is gone without a Close: the client is told, at once or in its own time.
    fn backend_vanished(&mut self, now: Tick) -> Option<Goodbye> {
        self.went(Side::Backend);
        if self.hold(now) { None } else { self.send_away(now) }
    }

    /// Lets the client wait for its moment, if it is to have one and still can be told anything.
    fn hold(&mut self, now: Tick) -> bool {
        let up = &self.lanes[Side::Client as usize];
        let waits = up.source == Source::Open && up.seen == Seen::Nothing && self.sink(Side::Client) == Sink::Open;
        let holds = waits && self.stage == Stage::Open && self.client_delay > 0;
        if holds {
            self.enter(Stage::Held, now);
            self.limit = now.after(Duration::from_millis(self.client_delay.into()));
        }
        holds
    }

    /// The client of a backend that is gone has its moment.
    fn moment(&mut self, now: Tick) -> Option<Goodbye> {
        if self.frames {
            return self.send_away(now);
        }
        if self.lane(Side::Backend).source == Source::Lost {
            self.finish_both(now);
        } else {
            // It may still read.
            self.finish(Side::Client);
            self.stage = Stage::Open;
            (self.limit, self.last_bytes) = (Tick::NEVER, Tick::NEVER);
        }
        None
    }

    /// The client is told that its backend is gone at a frame boundary, else by FIN alone. It has a right to answer before its FIN.
    fn send_away(&mut self, now: Tick) -> Option<Goodbye> {
        if self.can_be_told(Side::Client) {
            self.await_client(now);
            return Some(self.say(Side::Client));
        }
        self.finish(Side::Client);
        match self.lane(Side::Client).seen {
            Seen::Theirs => self.enter(Stage::Parting, now),
            // One that only stopped sending may still read.
            _ => self.await_client(now),
        }
        None
    }

    /// A client that says Close while it waits for ours has it answered, with its own code where that can be sent.
    fn answer_client(&mut self, now: Tick) -> Option<Goodbye> {
        let code = self.lane(Side::Client).tracker.close_code().filter(|code| can_be_echoed(*code)).unwrap_or(NORMAL);
        let between_frames = self.lane(Side::Backend).tracker.between_frames();
        let answer = between_frames.then(|| self.put(Goodbye { to: Side::Client, code, reason: "" }));
        self.finish_both(now);
        answer
    }

    /// A side is gone without a Close.
    fn went(&mut self, side: Side) {
        // Once somebody has said Close it is a way to end, if not a polite one.
        if self.by.is_none() || self.stage == Stage::Boundary {
            self.unclean.get_or_insert(gone(side));
        }
        self.by.get_or_insert(initiator(side));
    }

    /// Whether a Close may be said to a side, and makes sense.
    fn can_be_told(&self, to: Side) -> bool {
        let (its, towards) = (&self.lanes[to as usize], &self.lanes[other(to) as usize]);
        its.source == Source::Open && its.seen != Seen::Theirs && towards.sink == Sink::Open && towards.tracker.between_frames()
    }

    /// No place for a Close came: only FIN. The client's bytes still pass until its end.
    fn give_up_boundary(&mut self, now: Tick) {
        self.unclean.get_or_insert(Unclean::MidFrame);
        self.finish(Side::Client);
        self.await_client(now);
    }

    /// What the client sends passes up to its Close, which is for us: the backend does not see an echo of what it did not say.
    fn await_client(&mut self, now: Tick) {
        let up = self.lane(Side::Client);
        if up.passing == Passing::All {
            up.passing = Passing::Until(Until::Close);
        }
        self.enter(Stage::Client, now);
    }

    fn opaque_ended(&mut self, from: Side, how: Source, now: Tick) {
        self.by.get_or_insert(initiator(from));
        if how == Source::Lost {
            self.unclean.get_or_insert(gone(from));
        }
        if from == Side::Backend && self.hold(now) {
            return;
        }
        self.finish(other(from));
        if how == Source::Lost {
            self.finish_both(now);
        }
    }

    /// A side gets its FIN once all that is on its way to it is written; nothing more passes.
    fn finish(&mut self, to: Side) {
        let lane = self.lane(other(to));
        lane.passing = Passing::Nothing;
        if lane.sink == Sink::Open {
            lane.sink = Sink::Ending;
        }
    }

    fn finish_both(&mut self, now: Tick) {
        for side in Side::ALL {
            self.finish(side);
        }
        self.enter(Stage::Lingering, now);
    }
}

/// The other end.
pub(super) fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Backend,
        Side::Backend => Side::Client,
    }
}

fn initiator(side: Side) -> Initiator {
    match side {
        Side::Client => Initiator::Client,
        Side::Backend => Initiator::Backend,
    }
}

fn gone(side: Side) -> Unclean {
    match side {
        Side::Client => Unclean::ClientGone,
        Side::Backend => Unclean::BackendGone,
    }
}

/// Whether a code means something on the wire, and is not 1011, which is never sent.
fn can_be_echoed(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1010 | 1012..=1014 | 3000..=4999)
}
