//! What the rest of the process sees of one tunnel: its identity, what it moved, and the order that was given to it.
//!
//! It never knows sockets. The tunnel's task alone writes its totals; `registry` reads them, settles counters and gives orders.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering, fence},
    },
    task::Waker,
    time::Duration,
};

use super::{
    Identity,
    clock::Tick,
    close::{End, Reason, Unclean},
    frame::Tally,
};
use crate::telemetry::metrics::{ByOpcode, Initiator, Opcode, Side};

/// A backend that is gone sooner than that after its 101 has not really answered the handshake.
const AT_ONCE: Duration = Duration::from_secs(1);

/// One tunnel in the registry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) identity: Identity,
    pub(super) opened: Tick,
    /// By source.
    moved: [Meter; 2],
    active: AtomicU32,
    /// When it began to close.
    closing: AtomicU32,
    /// From the last Ping of ours to its Pong, in microseconds; 0 before the first. It stands where alignment leaves room.
    rtt: AtomicU32,
    /// When it is to be closed, and why: a [`Slot`].
    slot: AtomicU64,
    /// Of the tunnel's task, which keeps its waker for life. It is not used up by an order: a second one may be for an earlier turn.
    waker: OnceLock<Waker>,
}

/// What moved in one direction.
#[derive(Debug, Default)]
struct Meter {
    /// On the wire, headers included. Written by the tunnel's task alone, so a load and a store do.
    bytes: AtomicU64,
    frames: AtomicU64,
    /// What the location's counters have not got yet. They are settled when somebody looks, not for each message: counters that all
    /// workers add to would be the one cache line that every message of every tunnel waits for.
    fresh_frames: [AtomicU32; Opcode::ALL.len()],
    fresh_bytes: [AtomicU64; Opcode::ALL.len()],
}

/// How a tunnel stands, as `/debug/tunnels` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Closing,
}

/// A turn to be closed, the patience that it has, and its reason in one word, so that the earliest of several orders wins with its own.
#[derive(Clone, Copy, Debug)]
struct Slot(u64);

/// An order whose turn has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ordered {
    pub(super) reason: Reason,
    /// How long a place for the Close may be waited for.
    pub(super) patience: Duration,
}

impl Slot {
    const NEVER: Slot = Slot(u64::MAX);

    /// The longest patience, in seconds: 24 bits of them are half a year.
    const PATIENCE: u32 = (1 << 24) - 1;

    fn new(turn: Tick, patience: Duration, reason: Reason) -> Self {
        // A kill is before every turn: it reaches a tunnel that is closing already.
        let turn = if reason == Reason::Killed { Tick(0) } else { turn };
        let patience = u32::try_from(patience.as_secs()).unwrap_or(Self::PATIENCE).min(Self::PATIENCE);
        Self(u64::from(turn.0) << 32 | u64::from(patience) << 8 | reason as u64)
    }

    fn turn(self) -> Tick {
        Tick((self.0 >> 32) as u32)
    }

    fn ordered(self) -> Ordered {
        let patience = Duration::from_secs(self.0 >> 8 & u64::from(Self::PATIENCE));
        Ordered { reason: Reason::of(self.0 as u8).unwrap_or(Reason::Shutdown), patience }
    }
}

impl Entry {
    pub(super) fn new(id: u64, now: Tick, identity: Identity) -> Self {
        Self {
            id,
            identity,
            opened: now,
            moved: Default::default(),
            active: AtomicU32::new(now.0),
            closing: AtomicU32::new(Tick::NEVER.0),
            rtt: AtomicU32::new(0),
            slot: AtomicU64::new(Slot::NEVER.0),
            waker: OnceLock::new(),
        }
    }

    /// Bytes moved: `wire` of them, and of the frames what the tally says.
    pub(super) fn meter(&self, from: Side, wire: usize, tally: &Tally, now: Tick) {
        let meter = &self.moved[from as usize];
        let mut frames = 0;
        for (opcode, (&count, &bytes)) in tally.frames.iter().zip(&tally.bytes).enumerate() {
            if count > 0 {
                frames += u64::from(count);
                meter.fresh_frames[opcode].fetch_add(count, Ordering::Relaxed);
            }
            if bytes > 0 {
                meter.fresh_bytes[opcode].fetch_add(bytes, Ordering::Relaxed);
            }
        }
        add(&meter.bytes, wire as u64);
        add(&meter.frames, frames);
        self.touch(now);
    }

    /// Something moved.
    pub(super) fn touch(&self, now: Tick) {
        self.active.store(now.0, Ordering::Relaxed);
    }

    /// When something last moved.
    pub(super) fn active(&self) -> Tick {
        Tick(self.active.load(Ordering::Relaxed))
    }

    /// Bytes on the wire that came from a side.
    pub(super) fn bytes(&self, from: Side) -> u64 {
        self.moved[from as usize].bytes.load(Ordering::Relaxed)
    }

    /// Frames that came from a side.
    pub(super) fn frames(&self, from: Side) -> u64 {
        self.moved[from as usize].frames.load(Ordering::Relaxed)
    }

    /// A Pong of the tunnel came so long after its Ping.
    pub(super) fn answered(&self, took: Duration) {
        self.identity.metrics.ping_rtt_seconds.observe(took);
        self.rtt.store(u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1), Ordering::Relaxed);
    }

    /// How long the last Pong took, if there was one.
    pub(super) fn rtt(&self) -> Option<Duration> {
        Some(self.rtt.load(Ordering::Relaxed)).filter(|micros| *micros > 0).map(|micros| Duration::from_micros(micros.into()))
    }

    /// Hands to the location's counters what they have not got yet.
    pub(super) fn settle(&self) {
        let metrics = &self.identity.metrics;
        let [up, down] = &self.moved;
        up.settle(&metrics.frames_to_backend, &metrics.bytes_to_backend);
        down.settle(&metrics.frames_to_client, &metrics.bytes_to_client);
    }

    /// Orders the tunnel to close at its turn, if that is sooner than what it was ordered before, and wakes it.
    pub(super) fn order(&self, turn: Tick, patience: Duration, reason: Reason) {
        let slot = Slot::new(turn, patience, reason);
        if self.slot.fetch_min(slot.0, Ordering::AcqRel) > slot.0 {
            // Either the task sees the slot, or it is seen here.
            fence(Ordering::SeqCst);
            if let Some(waker) = self.waker.get() {
                waker.wake_by_ref();
            }
        }
    }

    /// From now on an order wakes this task; it looks for one that was given before.
    pub(super) fn attach(&self, task: &Waker) {
        self.waker.get_or_init(|| task.clone());
        fence(Ordering::SeqCst);
    }

    /// When the tunnel is to close, if it is.
    pub(super) fn slot(&self) -> Tick {
        Slot(self.slot.load(Ordering::Acquire)).turn()
    }

    /// Why it is to close, and how patiently.
    pub(super) fn ordered(&self) -> Ordered {
        Slot(self.slot.load(Ordering::Acquire)).ordered()
    }

    /// Whether it is to end now, whatever it does.
    pub(super) fn is_killed(&self) -> bool {
        self.slot() == Tick(0)
    }

    /// It closes; only the first word counts.
    pub(super) fn closes(&self, now: Tick) {
        self.closing.fetch_min(now.0, Ordering::Relaxed);
    }

    /// When it began to close.
    pub(super) fn closing_since(&self) -> Tick {
        Tick(self.closing.load(Ordering::Relaxed))
    }

    pub(super) fn state(&self) -> State {
        if self.closing_since() == Tick::NEVER { State::Open } else { State::Closing }
    }

    /// Counts how the tunnel ended.
    pub(super) fn count_end(&self, end: &End, now: Tick) {
        self.settle();
        self.identity.metrics.tunnel_age_seconds.observe(now.since(self.opened));
        self.identity.metrics.tunnel_ends.inc(end.reason);
        for (side, close) in Side::ALL.into_iter().zip(end.closes) {
            if let Some(code) = close {
                self.identity.metrics.closes.inc(code, side, end.by);
            }
        }
        if let Some(unclean) = end.unclean {
            self.identity.metrics.unclean_ends.inc(unclean.label());
        }
        let is_cut = end.by == Initiator::Backend && end.unclean == Some(Unclean::BackendGone);
        if is_cut && self.closing_since().min(now).since(self.opened) < AT_ONCE {
            self.identity.lease.endpoint().broke_off();
        }
    }
}

impl Meter {
    fn settle(&self, frames: &ByOpcode, bytes: &ByOpcode) {
        for (index, opcode) in Opcode::ALL.into_iter().enumerate() {
            let (fresh_frames, fresh_bytes) = (&self.fresh_frames[index], &self.fresh_bytes[index]);
            if fresh_frames.load(Ordering::Relaxed) > 0 {
                frames.add(opcode, fresh_frames.swap(0, Ordering::Relaxed).into());
            }
            if fresh_bytes.load(Ordering::Relaxed) > 0 {
                bytes.add(opcode, fresh_bytes.swap(0, Ordering::Relaxed));
            }
        }
    }
}

fn add(total: &AtomicU64, count: u64) {
    total.store(total.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}
