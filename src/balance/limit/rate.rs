//! How many come in a second, with a burst: the generic cell rate algorithm on one atomic number, without a lock and without a clock.
//!
//! It never knows what comes. `Account` tells it the time.
//!
//! Of those that are kept out it knows in how long their turn would be, were they to come back one after the other at the same rate: a storm of
//! ten times the rate is told ten seconds, and does not come back as the same storm.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::model::route::Rate;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;
/// The longest that anybody is told to wait: nobody comes back later than that by our word.
const FARTHEST: u64 = 60 * SECOND;

/// What came, as the time at which the next one would be neither early nor late. In nanoseconds since its owner began.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    due: AtomicU64,
    /// The same of those that were kept out.
    turn: AtomicU64,
}

impl Arrivals {
    /// Lets one in at `now`, or says in how long its turn would be. The rate may differ from call to call.
    pub(super) fn take(&self, rate: Rate, now: u64) -> Result<(), Duration> {
        // Rounded up: never more than the rate.
        let interval = SECOND.div_ceil(u64::from(rate.per_second.max(1)));
        let early = interval.saturating_mul(u64::from(rate.burst.saturating_sub(1)));
        let take = |due: u64| (due <= now.saturating_add(early)).then(|| due.max(now).saturating_add(interval));
        let Err(due) = self.due.fetch_update(Relaxed, Relaxed, take) else { return Ok(()) };
        let next = |turn: u64| turn.max(now).saturating_add(interval).min(now.saturating_add(FARTHEST));
        let turn = self.turn.fetch_update(Relaxed, Relaxed, |turn| Some(next(turn))).map_or(due, next);
        Err(Duration::from_nanos(turn.saturating_sub(now)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_burst_at_once_then_the_rate() {
        let arrivals = Arrivals::default();
        assert_eq!((0..10).filter(|_| arrivals.take(RATE, SECOND).is_ok()).count(), 3);
        assert!(arrivals.take(RATE, SECOND + SECOND / 10 - 1).is_err());
        assert!(arrivals.take(RATE, SECOND + SECOND / 10).is_ok());
        assert_eq!((0..10).filter(|_| arrivals.take(RATE, 60 * SECOND).is_ok()).count(), 3, "a long rest saves no more than the burst");
    }

    #[test]
    fn those_kept_out_are_told_different_times() {
        let arrivals = Arrivals::default();
        let told: Vec<_> = (0..40).filter_map(|_| arrivals.take(RATE, SECOND).err()).collect();
        assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
        assert_eq!(told[36], Duration::from_millis(3700), "the 37 that were too many need 3.7 s at 10 a second");
        assert!((0..10_000).filter_map(|_| arrivals.take(RATE, SECOND).err()).all(|wait| wait <= Duration::from_nanos(FARTHEST)));
    }

    #[test]
    fn a_lower_rate_holds_at_once() {
        let arrivals = Arrivals::default();
        let burst = Rate { per_second: 100, burst: 100 };
        assert_eq!((0..200).filter(|_| arrivals.take(burst, 0).is_ok()).count(), 100);
        assert!(arrivals.take(Rate { per_second: 1, burst: 1 }, SECOND / 2).is_err(), "the burst of before is paid for first");
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_in_any_time(per_second in 1_u32..5000, burst in 1_u32..50, steps in prop::collection::vec(0_u64..20_000_000, 1..300)) {
            let rate = Rate { per_second, burst };
            let arrivals = Arrivals::default();
            let mut now = 0;
            let mut taken = Vec::new();
            for step in steps {
                now += step;
                if arrivals.take(rate, now).is_ok() {
                    taken.push(now);
                }
            }
            for (i, first) in taken.iter().enumerate() {
                for (j, last) in taken.iter().enumerate().skip(i) {
                    let allowed = u64::from(burst) + (last - first) * u64::from(per_second) / SECOND;
                    prop_assert!((j - i + 1) as u64 <= allowed, "{} in {} ns", j - i + 1, last - first);
                }
            }
        }
    }
}
