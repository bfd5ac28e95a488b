//! One endpoint of many: by policy or by key, within what each may have at once.
//!
//! It never knows services or weights. `pick` asks it about one group of endpoints; the counters of those are all it reads.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{
    Tried, affinity,
    endpoint::{Endpoint, Lease},
    pool::Members,
    slab::Counters,
};
use crate::model::balancing::Policy;

/// How often a pick that was overtaken by others compares again before it takes what it has.
const OVERTAKEN: usize = 8;
/// Of more endpoints than this the emptiest is that of a few: a pick costs the same, and the counts stay as even.
const COMPARED: usize = 64;
/// So many at random.
const FEW: usize = 8;
/// How often turns are passed on by endpoints that start slowly.
const PASSED_ON: usize = 16;
/// How long a new endpoint counts for more than it has, in milliseconds.
const DECAY: u64 = 10_000;
/// The share of an endpoint that is as old as the others.
const FULL: u64 = 1024;
/// The least share of a new one: it gets something at once.
const LEAST: u64 = FULL / 100;

/// What holds for one pick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// In milliseconds of the balancer's clock.
    pub now: u64,
    /// In milliseconds; 0 is off.
    pub slow_start: u64,
    /// So many leases at once on one endpoint, on this replica.
    pub limit: u32,
    /// Ejected endpoints count, too.
    pub ejected_too: bool,
}

/// A group of endpoints as one pick sees it.
pub(super) struct Field<'a> {
    members: &'a Members,
    tried: &'a Tried,
    rules: Rules,
}

impl Rules {
    /// Which part of 1024 of its share an endpoint gets.
    fn share(&self, counters: &Counters) -> u64 {
        let age = counters.age(self.now);
        if age >= self.slow_start {
            return FULL;
        }
        (FULL * age / self.slow_start).max(LEAST)
    }

    /// How many leases an endpoint counts for that has `open`.
    fn load(&self, counters: &Counters, open: u32) -> u64 {
        let open = u64::from(open);
        if self.slow_start > 0 {
            return open * FULL / self.share(counters);
        }
        let left = DECAY.saturating_sub(counters.age(self.now));
        open + u64::from(counters.handicap()) * left / DECAY
    }
}

impl<'a> Field<'a> {
    pub(super) fn new(members: &'a Members, tried: &'a Tried, rules: Rules) -> Self {
        Self { members, tried, rules }
    }

    /// Picks by policy. `turn` is that of round robin.
    pub(super) fn pick(&self, policy: Policy, turn: &AtomicU32) -> Option<Lease> {
        let count = self.members.slots.len();
        let picked = match policy {
            _ if count == 0 => return None,
            Policy::RoundRobin => self.next(turn),
            Policy::LeastConnections if count <= COMPARED => self.emptiest(|| 0..count),
            Policy::LeastConnections => self.emptiest(|| std::iter::repeat_with(|| fastrand::usize(..count)).take(FEW)),
            Policy::Random => self.emptiest(|| two(count)),
        };
        picked.or_else(|| self.emptiest(|| 0..count)).or_else(|| self.any())
    }

    /// Picks whom a key falls to.
    pub(super) fn pick_by_key(&self, key: u64) -> Option<Lease> {
        for _ in 0..OVERTAKEN {
            let mut best: Option<(u64, usize)> = None;
            for (index, identity) in self.members.identities.iter().enumerate() {
                let fit = affinity::fit(key, *identity);
                if best.is_none_or(|(highest, _)| fit > highest) && self.has_room(index) {
                    best = Some((fit, index));
                }
            }
            if let Some(lease) = self.lease(best?.1) {
                return Some(lease);
            }
        }
        self.any()
    }

    /// Whether an endpoint may be picked at all, and its limit leaves room.
    fn has_room(&self, index: usize) -> bool {
        let counters = &self.members.slots[index];
        counters.open.load(Relaxed) < self.rules.limit && self.may(index, counters)
    }

    fn may(&self, index: usize, counters: &Counters) -> bool {
        (self.rules.ejected_too || !counters.is_ejected()) && !self.tried.contains(self.endpoint(index))
    }

    fn endpoint(&self, index: usize) -> &'a Arc<Endpoint> {
        &self.members.endpoints[index]
    }

    fn lease(&self, index: usize) -> Option<Lease> {
        Lease::open_below(self.endpoint(index), self.rules.limit)
    }

    /// The emptiest of some. It is taken only while it still has as few, so that picks at the same time spread.
    fn emptiest<I: Iterator<Item = usize>>(&self, some: impl Fn() -> I) -> Option<Lease> {
        for _ in 0..OVERTAKEN {
            let (index, open) = self.compare(some())?;
            if let Some(lease) = Lease::open_if(self.endpoint(index), open) {
                return Some(lease);
            }
        }
        self.lease(self.compare(some())?.0)
    }

    /// The one that counts for the fewest leases, with how many it has; ties at random, by share.
    fn compare(&self, some: impl Iterator<Item = usize>) -> Option<(usize, u32)> {
        let mut emptiest: Option<(usize, u32, u64)> = None;
        let mut ties = 0;
        for index in some {
            let counters = &*self.members.slots[index];
            let open = counters.open.load(Relaxed);
            if open >= self.rules.limit || !self.may(index, counters) {
                continue;
            }
            let load = self.rules.load(counters, open);
            match emptiest {
                Some((.., fewest)) if load > fewest => {}
                Some((.., fewest)) if load == fewest => {
                    let share = self.rules.share(counters);
                    // Each of the ties is kept with the probability of its share in all of them.
                    ties += share;
                    if fastrand::u64(..ties) < share {
                        emptiest = Some((index, open, load));
                    }
                }
                _ => {
                    ties = self.rules.share(counters);
                    emptiest = Some((index, open, load));
                }
            }
        }
        emptiest.map(|(index, open, _)| (index, open))
    }

    /// The next one in turn. One that starts slowly passes most of its turns on.
    fn next(&self, turn: &AtomicU32) -> Option<Lease> {
        let count = self.members.slots.len();
        let mut passed = 0;
        for _ in 0..count {
            let index = turn.fetch_add(1, Relaxed) as usize % count;
            if !self.has_room(index) {
                continue;
            }
            let share = self.rules.share(&self.members.slots[index]);
            if share < FULL && passed < PASSED_ON && fastrand::u64(..FULL) >= share {
                passed += 1;
                continue;
            }
            if let Some(lease) = self.lease(index) {
                return Some(lease);
            }
        }
        None
    }

    /// Whoever has room: the last resort of a pick that was overtaken again and again.
    fn any(&self) -> Option<Lease> {
        (0..self.members.slots.len()).filter(|index| self.has_room(*index)).find_map(|index| self.lease(index))
    }
}

/// Two at random, different ones where there are as many.
fn two(count: usize) -> impl Iterator<Item = usize> {
    let first = fastrand::usize(..count);
    let second = if count > 1 { (first + fastrand::usize(1..count)) % count } else { first };
    [first, second].into_iter()
}
