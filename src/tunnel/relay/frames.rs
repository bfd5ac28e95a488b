//! What passes through a tunnel whose frames are looked at: gates in front of the closing state, Pings in between.
//!
//! It never knows what a frame is, nor when one is due: `gate` and `features` do. `relay` hands it all that a side sent.

use std::task::Context;

use super::Relay;
use crate::{
    telemetry::metrics::Side,
    tunnel::{
        clock::Tick,
        close::{Reason, Source, other},
        gate::{Event, Fault},
    },
};

impl Relay {
    /// What a side sent goes on, as far as it may.
    pub(super) fn pass(&mut self, from: Side, chunk: &[u8], cx: &mut Context<'_>, now: Tick) {
        let Some(features) = &mut self.features else { return self.forward(from, chunk, cx, now) };
        features.heard(from, now);
        let mut rest = chunk;
        while !rest.is_empty() {
            let Some(gate) = self.features.as_mut().and_then(|features| features.gate(from)) else {
                return self.forward_around_ping(from, rest, cx, now);
            };
            let step = gate.advance(rest, now);
            if let Some(Event::Fault(fault)) = step.event {
                let held = gate.take_held();
                self.forward_around_ping(from, &rest[..step.pass], cx, now);
                self.refuse(from, fault, now);
                // Nothing of what follows passes, but the answer to our Close is in it.
                self.forward(from, &held, cx, now);
                return self.forward(from, &rest[step.pass..], cx, now);
            }
            if step.release {
                let held = gate.take_held();
                self.forward_around_ping(from, &held, cx, now);
            }
            self.forward_around_ping(from, &rest[..step.pass], cx, now);
            if step.event == Some(Event::Pong) {
                self.answered(from);
            }
            rest = &rest[step.taken..];
        }
    }

    /// The same with a Ping put in between two frames, where one waits for that.
    fn forward_around_ping(&mut self, from: Side, chunk: &[u8], cx: &mut Context<'_>, now: Tick) {
        let to = other(from);
        let wanted = self.features.as_ref().is_some_and(|features| features.wants_to_ask(to));
        let boundary = if wanted { self.closing.boundary(from, chunk) } else { None };
        let Some(boundary) = boundary else { return self.forward(from, chunk, cx, now) };
        self.forward(from, &chunk[..boundary], cx, now);
        self.ask(to, now);
        self.forward(from, &chunk[boundary..], cx, now);
    }

    fn refuse(&mut self, from: Side, fault: Fault, now: Tick) {
        let reason = match fault {
            Fault::Framing => Reason::Framing,
            Fault::TooBig => Reason::TooBig,
            Fault::TooMany => Reason::TooMany,
        };
        if let Some(features) = &mut self.features {
            features.lift_gate(from);
        }
        let goodbye = match from {
            Side::Client => self.closing.fault(reason, now),
            // A backend that speaks no WebSocket is none.
            Side::Backend => self.closing.ended(Side::Backend, Source::Lost, now),
        };
        self.say(goodbye, now);
    }

    fn answered(&mut self, side: Side) {
        if let Some(took) = self.features.as_mut().and_then(|features| features.answered(side)) {
            self.entry.answered(took);
        }
    }

    /// Puts a Ping behind what is on its way already, if that ends with a frame; else it waits for one that does.
    pub(super) fn ask(&mut self, side: Side, now: Tick) {
        let from = other(side);
        if !self.closing.is_open() || !self.closing.between_frames(from) {
            return;
        }
        if let Some(features) = &mut self.features {
            let ping = features.ask(side, now);
            self.put(from, &ping);
        }
    }
}
