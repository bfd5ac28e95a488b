//! Pools that grow, shrink and lose clients while their surplus moves: at the rate that is allowed, never below the share, nobody twice, to an end.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use carrick::{
    model::{LocationKey, route::Rebalance},
    proxy::rebalance::{Consent, Levelling, surplus},
    tunnel::Berth,
};
use fastrand::Rng;
use tokio::time::Instant;

use super::for_seeds;

const STEP: Duration = Duration::from_secs(1);

/// Where a client lands that comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landing {
    /// On the emptiest endpoint.
    Least,
    /// Anywhere.
    Random,
    /// Where it was, as with a cookie.
    Back,
}

struct World {
    now: Instant,
    ready: BTreeSet<SocketAddr>,
    berths: Vec<Berth>,
    /// When a client comes back, and where it was.
    away: Vec<(Instant, SocketAddr)>,
    landing: Landing,
    next: u64,
    /// What was told of each endpoint, and when.
    told: BTreeMap<SocketAddr, Vec<Instant>>,
    /// The most tunnels that an endpoint had.
    most: usize,
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn location() -> LocationKey {
    LocationKey { namespace: "default".into(), identity: "/ws".into() }
}

impl World {
    fn new(rng: &mut Rng, endpoints: u8, tunnels: usize, landing: Landing) -> Self {
        let now = Instant::now() + Duration::from_secs(10_000);
        let ready = (0..endpoints).map(address).collect();
        let mut world = Self { now, ready, berths: Vec::new(), away: Vec::new(), landing, next: 0, told: BTreeMap::new(), most: 0 };
        for _ in 0..tunnels {
            world.open(address(rng.u8(..endpoints)), now - Duration::from_secs(rng.u64(1..1000)));
        }
        world
    }

    fn open(&mut self, endpoint: SocketAddr, opened: Instant) {
        self.berths.push(Berth { id: self.next, endpoint, location: location(), opened });
        self.next += 1;
    }

    fn counts(&self) -> BTreeMap<SocketAddr, usize> {
        let mut counts: BTreeMap<_, _> = self.ready.iter().map(|address| (*address, 0)).collect();
        self.berths.iter().for_each(|berth| _ = counts.entry(berth.endpoint).and_modify(|count| *count += 1));
        counts
    }

    fn land(&mut self, rng: &mut Rng) {
        let now = self.now;
        let back: Vec<_> = self.away.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, was) in back {
            let endpoint = match self.landing {
                Landing::Back if self.ready.contains(&was) => was,
                Landing::Least => self.counts().into_iter().min_by_key(|(_, count)| *count).map_or(was, |(address, _)| address),
                Landing::Back | Landing::Random => *self.ready.iter().nth(rng.usize(..self.ready.len())).unwrap(),
            };
            self.open(endpoint, now);
        }
    }

    /// A pod ends: whom it had comes back.
    fn remove(&mut self, rng: &mut Rng) {
        if self.ready.len() < 2 {
            return;
        }
        let gone = *self.ready.iter().nth(rng.usize(..self.ready.len())).unwrap();
        self.ready.remove(&gone);
        let (gone, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut self.berths).into_iter().partition(|berth| berth.endpoint == gone);
        self.berths = stay;
        let now = self.now;
        self.away.extend(gone.into_iter().map(|berth| (now + STEP * rng.u32(..20), berth.endpoint)));
    }

    fn step(&mut self, levelling: &mut Levelling, consent: &Consent, percent: u8, rng: &mut Rng) -> Vec<Berth> {
        self.now += STEP;
        self.land(rng);
        let before = self.counts();
        self.most = self.most.max(before.values().copied().max().unwrap_or(0));
        let over = surplus(&self.ready, &self.berths, 0);
        let going = levelling.step(&self.ready, &self.berths, consent, self.now);
        for berth in &going {
            let told = self.told.entry(berth.endpoint).or_default();
            told.push(self.now);
            let in_a_minute = told.iter().filter(|at| **at + Duration::from_secs(60) > self.now).count();
            assert!(in_a_minute <= self.most * usize::from(percent) / 100 + 2, "{in_a_minute} of {} in a minute", self.most);
            assert!(self.ready.contains(&berth.endpoint), "of a pod that is gone");
        }
        self.berths.retain(|berth| going.iter().all(|gone| gone.id != berth.id));
        for (address, count) in self.counts() {
            let gone = before[&address] - count;
            assert!(gone <= over[&address], "{address} is below its share: {before:?}");
            let theirs = |berth: &&Berth| berth.endpoint == address;
            let oldest_left = self.berths.iter().filter(theirs).map(|berth| berth.opened).min();
            let youngest_gone = going.iter().filter(theirs).map(|berth| berth.opened).max();
            assert!(youngest_gone.zip(oldest_left).is_none_or(|(gone, left)| gone <= left), "the oldest first");
        }
        self.away.extend(going.iter().map(|berth| (self.now + STEP * rng.u32(..10), berth.endpoint)));
        going
    }
}

fn consent(percent: u8) -> Consent {
    Consent::new([(location(), Rebalance { max_percent_per_minute: percent, min_age: Duration::ZERO })])
}

#[test]
fn a_pool_that_grows_becomes_even_and_then_nobody_moves() {
    for_seeds(100, |rng| {
        let (endpoints, tunnels) = (rng.u8(1..5), rng.usize(..80));
        let mut world = World::new(rng, endpoints, tunnels, Landing::Least);
        let percent = [20, 50, 100][rng.usize(..3)];
        let added = rng.u8(1..4);
        world.ready.extend((0..added).map(|n| address(100 + n)));
        let mut levelling = Levelling::begin(world.now);
        let mut moved = 0;
        for _ in 0..1_500 {
            if levelling.is_over() {
                break;
            }
            moved += world.step(&mut levelling, &consent(percent), percent, rng).len();
        }
        assert!(levelling.is_over());
        while !world.away.is_empty() {
            world.now += STEP;
            world.land(rng);
        }
        let counts = world.counts();
        let (most, least) = (counts.values().max().unwrap(), counts.values().min().unwrap());
        assert!(most - least <= 1, "{counts:?} after {moved} moves");
        assert!(moved <= tunnels);
    });
}

#[test]
fn whatever_happens_meanwhile_it_ends_and_nobody_moves_twice_for_one_addition() {
    for_seeds(150, |rng| {
        let landing = [Landing::Least, Landing::Random, Landing::Back][rng.usize(..3)];
        let (endpoints, tunnels) = (rng.u8(2..5), rng.usize(..60));
        let mut world = World::new(rng, endpoints, tunnels, landing);
        let percent = [20, 50, 100][rng.usize(..3)];
        let mut levelling = Levelling::begin(world.now);
        let mut since = world.now;
        for second in 0..2_000_u32 {
            if levelling.is_over() {
                return;
            }
            // Changes cease, so that it can be seen to end.
            match rng.u8(..40) {
                0 if second < 300 => {
                    world.ready.insert(address(rng.u8(50..60)));
                    since = world.now;
                    levelling.added(since);
                }
                1 if second < 300 => world.remove(rng),
                2 if !world.berths.is_empty() => _ = world.berths.swap_remove(rng.usize(..world.berths.len())),
                3 if second < 300 => world.open(*world.ready.first().unwrap(), world.now),
                _ => {}
            }
            let going = world.step(&mut levelling, &consent(percent), percent, rng);
            assert!(going.iter().all(|berth| berth.opened < since), "one that came after the addition could choose");
        }
        panic!("it never ends");
    });
}
