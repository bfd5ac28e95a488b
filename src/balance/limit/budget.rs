//! How much may be tried again at one location: a fifth of what comes, and a little always, so that a backend in trouble is not drowned by retries.
//!
//! It never knows what is tried. `Account` holds one; `proxy` spends from it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::rate::Arrivals;
use crate::model::route::Rate;

/// Requests that earn one retry: 20 % of the load.
const PRICE: u32 = 5;
/// The most that is saved, in retries: what a quiet hour earned is no storm's to spend.
const SAVED: u32 = 100;
/// What a location may try again that has earned nothing: one that is hardly used needs retries as well.
const ALWAYS: Rate = Rate { per_second: 1, burst: 3 };

/// The budget for retries of one location.
#[derive(Debug, Default)]
pub(super) struct Budget {
    earned: AtomicU32,
    always: Arrivals,
}

impl Budget {
    /// A request came.
    pub(super) fn earn(&self) {
        // Full is no error: nothing is added.
        let _ = self.earned.fetch_update(Relaxed, Relaxed, |earned| (earned < SAVED * PRICE).then(|| earned + 1));
    }

    /// Whether one may be tried again at `now`, in the nanoseconds of the account; it is spent then.
    pub(super) fn spend(&self, now: u64) -> bool {
        let paid = self.earned.fetch_update(Relaxed, Relaxed, |earned| earned.checked_sub(PRICE)).is_ok();
        paid || self.always.take(ALWAYS, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_fifth_of_the_load_may_be_tried_again_and_a_little_always() {
        let budget = Budget::default();
        (0..100).for_each(|_| budget.earn());
        assert_eq!((0..1000).filter(|_| budget.spend(SECOND)).count(), 20 + 3);
        assert_eq!((0..1000).filter(|_| budget.spend(2 * SECOND)).count(), 1);
    }

    #[test]
    fn what_a_quiet_hour_earned_has_an_end() {
        let budget = Budget::default();
        (0..1_000_000).for_each(|_| budget.earn());
        assert_eq!((0..1000).filter(|_| budget.spend(0)).count(), 100 + 3);
    }
}
