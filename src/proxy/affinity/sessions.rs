//! Sessions whose names servers made up: where each of them is. Bounded, and forgotten when nobody asks for them.
//!
//! It never knows protocols. `learn` tells it what an answer said, `affinity` asks it about a request. Other replicas do not know what it knows.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{balance::Pin, telemetry::Metrics};

/// A session that nobody asks for is forgotten after this time, or up to twice as long: clients that poll do so every half minute.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// So that requests at the same time seldom meet.
const SHARDS: usize = 64;

/// Where sessions are, by the key of their name.
pub struct Sessions {
    shards: [Mutex<Shard>; SHARDS],
    /// Sessions that a shard holds in one of its two generations.
    room: usize,
    metrics: Arc<Metrics>,
}

/// Two generations: what is asked for moves to the young one, and when that is full or old, the other is forgotten as a whole.
struct Shard {
    young: HashMap<u64, Pin>,
    old: HashMap<u64, Pin>,
    born: Instant,
}

impl Sessions {
    /// At most `limit` sessions, rounded up to what its parts divide it into.
    pub fn new(limit: usize, metrics: Arc<Metrics>) -> Self {
        let room = limit.div_ceil(2 * SHARDS).max(1);
        metrics.learned_sessions_limit.set(i64::try_from(2 * room * SHARDS).unwrap_or(i64::MAX));
        let shard = || Mutex::new(Shard { young: HashMap::new(), old: HashMap::new(), born: Instant::now() });
        Self { shards: std::array::from_fn(|_| shard()), room, metrics }
    }

    /// Remembers where a session is.
    pub fn learn(&self, session: u64, pin: Pin, now: Instant) {
        let mut shard = self.shard(session).lock();
        self.age(&mut shard, now);
        self.put(&mut shard, session, pin, now);
    }

    /// Where a session is, if it was learned.
    pub fn find(&self, session: u64, now: Instant) -> Option<Pin> {
        let mut shard = self.shard(session).lock();
        self.age(&mut shard, now);
        if let Some(pin) = shard.young.get(&session) {
            return Some(*pin);
        }
        let pin = shard.old.remove(&session)?;
        self.metrics.learned_sessions.add(-1);
        self.put(&mut shard, session, pin, now);
        Some(pin)
    }

    fn put(&self, shard: &mut Shard, session: u64, pin: Pin, now: Instant) {
        if shard.young.len() >= self.room && !shard.young.contains_key(&session) {
            self.metrics.learned_sessions_evicted.add(shard.old.len() as u64);
            self.turn(shard, now);
        }
        if shard.young.insert(session, pin).is_none() {
            self.metrics.learned_sessions.add(1);
        }
        if shard.old.remove(&session).is_some() {
            self.metrics.learned_sessions.add(-1);
        }
    }

    fn age(&self, shard: &mut Shard, now: Instant) {
        let age = now.saturating_duration_since(shard.born);
        if age >= FORGOTTEN_AFTER {
            self.turn(shard, now);
        }
        if age >= 2 * FORGOTTEN_AFTER {
            self.turn(shard, now);
        }
    }

    /// The old are forgotten, the young are the old ones now.
    fn turn(&self, shard: &mut Shard, now: Instant) {
        let forgotten = std::mem::replace(&mut shard.old, std::mem::take(&mut shard.young));
        self.metrics.learned_sessions.add(-i64::try_from(forgotten.len()).unwrap_or_default());
        shard.born = now;
    }

    fn shard(&self, session: u64) -> &Mutex<Shard> {
        &self.shards[(session >> 32) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn pin(n: u64) -> Pin {
        Pin { endpoint: n, pool: 0, client: n }
    }

    /// Sessions of one shard.
    fn sessions(limit: usize) -> (Sessions, Arc<Metrics>) {
        let metrics = Arc::<Metrics>::default();
        (Sessions::new(limit * SHARDS, metrics.clone()), metrics)
    }

    #[test]
    fn no_more_are_held_than_may_be_and_those_asked_for_stay() {
        let (sessions, metrics) = sessions(20);
        let now = Instant::now();
        for n in 0..1000 {
            sessions.learn(n, pin(n), now);
            assert_eq!(sessions.find(0, now), Some(pin(0)), "after {n}");
        }
        let held = (0..1000).filter(|n| sessions.find(*n, now).is_some()).count();
        assert!((1..=20).contains(&held), "{held}");
        assert!(metrics.learned_sessions.get() <= 20);
        assert!(metrics.learned_sessions_evicted.get() > 900);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_nobody_asks_for_is_forgotten() {
        let (sessions, metrics) = sessions(20);
        sessions.learn(1, pin(1), Instant::now());
        sessions.learn(2, pin(2), Instant::now());
        for _ in 0..10 {
            advance(FORGOTTEN_AFTER / 2).await;
            assert_eq!(sessions.find(1, Instant::now()), Some(pin(1)));
        }
        assert_eq!(sessions.find(2, Instant::now()), None);
        assert_eq!(metrics.learned_sessions.get(), 1);
        advance(FORGOTTEN_AFTER * 2).await;
        assert_eq!(sessions.find(1, Instant::now()), None);
        assert_eq!((metrics.learned_sessions.get(), metrics.learned_sessions_evicted.get()), (0, 0));
    }

    #[test]
    fn a_session_that_moved_is_where_it_was_last() {
        let (sessions, metrics) = sessions(4);
        let now = Instant::now();
        sessions.learn(1, pin(1), now);
        sessions.learn(1, pin(2), now);
        assert_eq!((sessions.find(1, now), metrics.learned_sessions.get()), (Some(pin(2)), 1));
    }
}
