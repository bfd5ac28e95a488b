//! The steps of a tunnel's end: from one stage to the next, and what is said on the way.
//!
//! They never know what made them due: [`Closing`] takes each event and calls them.

use std::time::Duration;

use super::{
    Closing, Goodbye, Initiator, Side, Stage, Unclean,
    lane::{Passing, Seen},
    words::{Sink, Source, other},
};
use crate::tunnel::{clock::Tick, frame::Until};

/// How long a frame boundary, an answer or a FIN is waited for.
pub(super) const WAIT: Duration = Duration::from_secs(5);
/// How long the end of a message is preferred to the end of a frame: a client that gets half a message and a Close reports an error.
const MESSAGE_WAIT: Duration = Duration::from_secs(1);
/// How long a reader may draw out its last bytes, however steadily it takes them.
const LAST_BYTES: Duration = Duration::from_secs(600);
/// The answer to a Close whose code no endpoint may send (RFC 6455 section 7.4).
const NORMAL: u16 = 1000;
/// Going away: what the backend sees in every close that we start.
const GOING_AWAY: u16 = 1001;

impl Closing {
    pub(super) fn enter(&mut self, stage: Stage, now: Tick) {
        self.stage = stage;
        self.limit = now.after(WAIT);
        self.last_bytes = self.last_bytes.min(now.after(LAST_BYTES));
    }

    /// The client is told at the end of what passes now.
    pub(super) fn await_boundary(&mut self, patience: Duration, now: Tick) -> Option<Goodbye> {
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
    pub(super) fn take_turn(&mut self, from: Side, now: Tick) -> Option<Goodbye> {
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

    fn put(&mut self, goodbye: Goodbye) -> Goodbye {
        self.lane(other(goodbye.to)).say(goodbye.code);
        goodbye
    }

    /// Says 1001 to the backend where that can be done and makes sense, and waits for its answer.
    pub(super) fn tell_backend(&mut self, now: Tick) -> Option<Goodbye> {
        self.enter(Stage::Backend, now);
        let backend_sends = self.lane(Side::Backend).source == Source::Open;
        let up = self.lane(Side::Client);
        up.passing = Passing::Nothing;
        if !backend_sends {
            self.finish_both(now);
            return None;
        }
        if up.seen != Seen::Nothing || !up.takes_frame() {
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
    pub(super) fn closed_by(&mut self, from: Side, now: Tick) -> Option<Goodbye> {
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
    pub(super) fn client_vanished(&mut self, now: Tick) -> Option<Goodbye> {
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
    pub(super) fn backend_vanished(&mut self, now: Tick) -> Option<Goodbye> {
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
    pub(super) fn moment(&mut self, now: Tick) -> Option<Goodbye> {
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
        its.source == Source::Open && its.seen != Seen::Theirs && towards.takes_frame()
    }

    /// No place for a Close came: only FIN. The client's bytes still pass until its end.
    pub(super) fn give_up_boundary(&mut self, now: Tick) {
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

    pub(super) fn opaque_ended(&mut self, from: Side, how: Source, now: Tick) {
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

    /// A side gets its FIN.
    pub(super) fn finish(&mut self, to: Side) {
        self.lane(other(to)).finish();
    }

    pub(super) fn finish_both(&mut self, now: Tick) {
        for side in Side::ALL {
            self.finish(side);
        }
        self.enter(Stage::Lingering, now);
    }
}

pub(super) fn initiator(side: Side) -> Initiator {
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
