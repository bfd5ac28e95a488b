//! How often something may be done to each object: a token bucket an object.
//!
//! It never knows what is done, and reads no clock. `events` and the ledger of statuses ask it.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// Objects that are remembered; beyond it those that may have all of theirs are forgotten.
const OBJECTS: usize = 4096;

/// The buckets of all objects.
#[derive(Debug)]
pub(super) struct Allowances<K> {
    burst: f64,
    refill: Duration,
    buckets: HashMap<K, (f64, Instant)>,
}

impl<K: Hash + Eq> Allowances<K> {
    /// So many at once, and after that one in `refill`.
    pub(super) fn new(burst: u32, refill: Duration) -> Self {
        Self { burst: burst.into(), refill, buckets: HashMap::new() }
    }

    /// Takes one, or says how long until there is one.
    pub(super) fn take(&mut self, object: K, now: Instant) -> Result<(), Duration> {
        let (burst, refill) = (self.burst, self.refill.as_secs_f64());
        let filled = |(tokens, at): &(f64, Instant)| (tokens + now.duration_since(*at).as_secs_f64() / refill).min(burst);
        if self.buckets.len() >= OBJECTS {
            self.buckets.retain(|_, bucket| filled(bucket) < burst);
        }
        let tokens = self.buckets.get(&object).map_or(burst, filled);
        let rest = if tokens >= 1.0 { Ok(tokens - 1.0) } else { Err(self.refill.mul_f64(1.0 - tokens)) };
        self.buckets.insert(object, (rest.unwrap_or(tokens), now));
        rest.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_a_few_at_once_and_then_one_in_a_while() {
        let mut allowances = Allowances::new(10, Duration::from_secs(60));
        let now = Instant::now();
        assert_eq!((0..100).filter(|_| allowances.take("a", now).is_ok()).count(), 10);
        assert!(allowances.take("b", now).is_ok());
        let wait = allowances.take("a", now + Duration::from_secs(59)).unwrap_err();
        assert!(wait <= Duration::from_millis(1_001), "{wait:?}");
        assert!(allowances.take("a", now + Duration::from_secs(61)).is_ok());
    }

    #[test]
    fn what_has_all_of_its_own_is_forgotten() {
        let mut allowances = Allowances::new(10, Duration::from_secs(60));
        let now = Instant::now();
        for i in 0..2 * OBJECTS {
            assert!(allowances.take(i, now + Duration::from_millis(i as u64 * 700)).is_ok());
        }
        assert!(allowances.buckets.len() <= OBJECTS);
    }
}
