//! What is asked of the frames of one WebSocket beyond passing them on: limits on messages, and a Ping for a side that is silent.
//!
//! Pure: it is told what was heard and what time it is. A tunnel without such a feature has none of this; `relay` does what it says.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    clock::Tick,
    gate::{Gate, Sender, Token},
};
use crate::{
    model::route::{Frames, MessageLimits, Ping},
    telemetry::metrics::Side,
};

const PING: u8 = 0x89;
const MASKED: u8 = 0x80;

/// The features of a tunnel.
#[derive(Debug)]
pub(super) struct Features {
    /// By source; none for a direction that nothing is asked of.
    gates: [Option<Gate>; 2],
    /// By side.
    askers: [Option<Asker>; 2],
    token: Token,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A Ping to this side, at the next frame boundary.
    Ask(Side),
    /// This side did not answer: it is gone.
    Silent(Side),
}

/// Asks one side whether it lives.
#[derive(Debug)]
struct Asker {
    interval: Duration,
    timeout: Duration,
    heard: Tick,
    asked: Asked,
    /// When the last Ping went, until its Pong has come.
    sent: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// It is not silent.
    No,
    /// It is, and a Ping waits for a place between two frames.
    Wanted,
    /// A Ping went to it.
    At(Tick),
}

impl Features {
    /// The features of a location. `extensions`: the two ends agreed on one.
    pub(super) fn new(frames: &Arc<Frames>, extensions: bool, now: Tick) -> Box<Self> {
        let token = fastrand::u64(..).to_ne_bytes();
        let asker = |side: Side| frames.ping.filter(|ping| ping.asks(side == Side::Client)).map(|ping| Asker::new(ping, now));
        let askers = Side::ALL.map(asker);
        let token_from = |side: Side| askers[side as usize].as_ref().map(|_| token);
        let client = Gate::new(Sender::Client, extensions, frames.messages, token_from(Side::Client), now);
        let backend =
            token_from(Side::Backend).map(|token| Gate::new(Sender::Backend, extensions, MessageLimits::default(), Some(token), now));
        Box::new(Self { gates: [Some(client), backend], askers, token })
    }

    /// What looks at the frames of a side.
    pub(super) fn gate(&mut self, from: Side) -> Option<&mut Gate> {
        self.gates[from as usize].as_mut()
    }

    /// The frames of a side are looked at no more: after a fault it is not known where they begin.
    pub(super) fn lift_gate(&mut self, from: Side) {
        self.gates[from as usize] = None;
    }

    /// Something came from a side.
    pub(super) fn heard(&mut self, side: Side, now: Tick) {
        if let Some(asker) = &mut self.askers[side as usize] {
            asker.heard = now;
            asker.asked = Asked::No;
        }
    }

    /// A side took what was kept for it: the Ping may have been behind that, so that its time begins now.
    pub(super) fn delivered(&mut self, side: Side, now: Tick) {
        if let Some(asker) = &mut self.askers[side as usize]
            && let Asked::At(_) = asker.asked
        {
            asker.asked = Asked::At(now);
        }
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Tick {
        self.askers.iter().flatten().map(Asker::deadline).min().unwrap_or(Tick::NEVER)
    }

    /// What is due by now.
    pub(super) fn due(&mut self, now: Tick) -> Option<Due> {
        let side = Side::ALL.into_iter().find(|side| self.askers[*side as usize].as_ref().is_some_and(|asker| asker.deadline() <= now))?;
        let asker = self.askers[side as usize].as_mut()?;
        match asker.asked {
            Asked::At(_) => Some(Due::Silent(side)),
            Asked::No | Asked::Wanted => {
                asker.asked = Asked::Wanted;
                Some(Due::Ask(side))
            }
        }
    }

    /// Whether a Ping waits for a frame boundary towards a side.
    pub(super) fn wants_to_ask(&self, side: Side) -> bool {
        self.askers[side as usize].as_ref().is_some_and(|asker| asker.asked == Asked::Wanted)
    }

    /// The Ping for a side that is silent, masked towards the backend, whose client we are.
    pub(super) fn ask(&mut self, side: Side, now: Tick) -> Vec<u8> {
        if let Some(asker) = &mut self.askers[side as usize] {
            asker.asked = Asked::At(now);
            asker.sent = Some(Instant::now());
        }
        let length = self.token.len() as u8;
        match side {
            Side::Client => [&[PING, length], &self.token[..]].concat(),
            Side::Backend => {
                let key = fastrand::u32(..).to_ne_bytes();
                let masked = self.token.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
                [PING, MASKED | length].into_iter().chain(key).chain(masked).collect()
            }
        }
    }

    /// The Pong of a side has come: how long it took.
    pub(super) fn answered(&mut self, side: Side) -> Option<Duration> {
        self.askers[side as usize].as_mut()?.sent.take().map(|sent| sent.elapsed())
    }
}

impl Asker {
    fn new(ping: Ping, now: Tick) -> Self {
        Self { interval: ping.interval, timeout: ping.timeout, heard: now, asked: Asked::No, sent: None }
    }

    fn deadline(&self) -> Tick {
        match self.asked {
            Asked::No => self.heard.after(self.interval),
            // The bytes that it waits for wake the tunnel.
            Asked::Wanted => Tick::NEVER,
            Asked::At(asked) => asked.after(self.timeout),
        }
    }
}
