//! The counters of all endpoints, side by side: a pick reads those of a whole pool, and may not chase a pointer for each.
//!
//! It never knows what an endpoint is. `endpoint` takes a slot for each and gives it back with its last `Arc`; the picks read slots.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

/// Slots that are allocated together, and stay where they are.
const CHUNK: usize = 64;

/// [`Counters::since`] of an endpoint that is ejected.
const EJECTED: u64 = u64::MAX;

/// All slots. It grows and never shrinks: 24 bytes for each endpoint there ever was at once.
#[derive(Debug, Default)]
pub(super) struct Slab(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    chunks: Vec<Arc<[Counters; CHUNK]>>,
    returned: Vec<u32>,
    /// The lowest number that was never given away.
    next: u32,
}

/// The counters of one endpoint, found without asking the slab.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    chunk: Arc<[Counters; CHUNK]>,
    /// Its number in the slab.
    pub(super) number: u32,
}

/// What a pick reads of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Leases open now.
    pub(super) open: AtomicU32,
    /// What it was counted for beside its leases when it was new.
    handicap: AtomicU32,
    /// Since when it takes requests, in milliseconds of the balancer's clock.
    since: AtomicU64,
}

impl Slab {
    /// A slot that nobody else has, all zero.
    pub(super) fn take(&self) -> Slot {
        let mut state = self.0.lock();
        let number = state.returned.pop().unwrap_or_else(|| {
            state.next += 1;
            state.next - 1
        });
        let chunk = number as usize / CHUNK;
        if chunk == state.chunks.len() {
            state.chunks.push(Arc::new(std::array::from_fn(|_| Counters::default())));
        }
        let slot = Slot { chunk: state.chunks[chunk].clone(), number };
        slot.open.store(0, Relaxed);
        slot.admit(0, 0);
        slot
    }

    /// Takes back a number: nobody reads its slot for that endpoint any more.
    pub(super) fn give(&self, number: u32) {
        self.0.lock().returned.push(number);
    }
}

impl Deref for Slot {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.chunk[self.number as usize % CHUNK]
    }
}

impl Counters {
    /// It takes requests from now on, and counts as if it had `handicap` leases more for a while.
    pub(super) fn admit(&self, now: u64, handicap: u32) {
        self.handicap.store(handicap, Relaxed);
        self.since.store(now, Relaxed);
    }

    /// It takes no requests while others can.
    pub(super) fn eject(&self) {
        self.since.store(EJECTED, Relaxed);
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.since.load(Relaxed) == EJECTED
    }

    /// How long it has been taking requests, in milliseconds; one that is ejected, not at all.
    pub(super) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.since.load(Relaxed))
    }

    /// What it was counted for beside its leases when it was new.
    pub(super) fn handicap(&self) -> u32 {
        self.handicap.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_small_and_their_slots_begin_at_zero() {
        let slab = Slab::default();
        let slots: Vec<Slot> = (0..CHUNK + 1).map(|_| slab.take()).collect();
        assert!(slots.iter().enumerate().all(|(n, slot)| slot.number as usize == n));
        slots[3].open.store(7, Relaxed);
        slots[3].eject();
        slab.give(3);
        let again = slab.take();
        assert_eq!((again.number, again.open.load(Relaxed), again.is_ejected()), (3, 0, false));
        assert_eq!(slots[CHUNK].open.load(Relaxed), 0);
    }
}
