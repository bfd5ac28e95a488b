//! Counters that cost one relaxed addition: no lock, no look-up by label, no allocation.
//!
//! They never know how they are shown; `expose` reads them. The data path writes them through `LocationMetrics`.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// What it stands at.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Takes one off.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// Adds this many, or takes them off.
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// What it stands at.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// More distinct reasons than this, and the rest is counted as `other`. The enums that reasons come from are smaller.
const REASONS: usize = 48;

/// Counts by a reason that is a constant of the program.
///
/// A reason takes the first free slot when it is first counted and keeps it: a search over a few slots, no lock. The slots come with
/// the first reason, because each location has three of these and most never count anything.
#[derive(Debug, Default)]
pub struct Tally {
    slots: OnceLock<Box<[Slot; REASONS]>>,
    other: Counter,
}

type Slot = OnceLock<(&'static str, Counter)>;

impl Tally {
    /// Counts one of `reason`, which is a metric label: lower case, words joined by `_`.
    pub fn inc(&self, reason: &'static str) {
        self.counter(reason).inc();
    }

    /// How many of `reason` were counted.
    pub fn get(&self, reason: &str) -> u64 {
        self.iter().find(|(name, _)| *name == reason).map_or(0, |(_, count)| count)
    }

    /// Every reason counted so far.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let other = Some(("other", self.other.get())).filter(|(_, count)| *count > 0);
        self.slots
            .get()
            .into_iter()
            .flat_map(|slots| slots.iter())
            .map_while(OnceLock::get)
            .map(|(name, counter)| (*name, counter.get()))
            .chain(other)
    }

    fn counter(&self, reason: &'static str) -> &Counter {
        self.slots
            .get_or_init(|| Box::new([const { OnceLock::new() }; REASONS]))
            .iter()
            .map(|slot| slot.get_or_init(|| (reason, Counter::default())))
            .find(|(name, _)| *name == reason)
            .map_or(&self.other, |(_, counter)| counter)
    }
}

/// How long something took, in buckets. `N` upper bounds and one for what is beyond them.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [Duration; N],
    buckets: [Counter; N],
    beyond: Counter,
    sum_micros: Counter,
}

impl<const N: usize> Histogram<N> {
    /// An empty one with these upper bounds, which grow.
    pub fn new(bounds: &'static [Duration; N]) -> Self {
        Self { bounds, buckets: std::array::from_fn(|_| Counter::default()), beyond: Counter::default(), sum_micros: Counter::default() }
    }

    /// Counts one that took this long.
    pub fn observe(&self, took: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < took);
        self.buckets.get(bucket).unwrap_or(&self.beyond).inc();
        self.sum_micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum::<u64>() + self.beyond.get()
    }

    /// Sum of all in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_micros.get() as f64 / 1e6
    }

    /// Upper bound in seconds and count of each bucket, the last one unbounded.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounded = self.bounds.iter().zip(&self.buckets).map(|(bound, count)| (bound.as_secs_f64(), count.get()));
        bounded.chain([(f64::INFINITY, self.beyond.get())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_each_reason_and_the_surplus_together() {
        let tally = Tally::default();
        let reasons: Vec<&'static str> = (0..REASONS + 2).map(|i| &*Box::leak(i.to_string().into_boxed_str())).collect();
        reasons.iter().for_each(|reason| tally.inc(reason));
        tally.inc(reasons[0]);
        assert_eq!((tally.get("0"), tally.get("1"), tally.get("other")), (2, 1, 2));
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        static BOUNDS: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(20)];
        let histogram = Histogram::new(&BOUNDS);
        for millis in [10, 11, 20, 21] {
            histogram.observe(Duration::from_millis(millis));
        }
        assert_eq!(histogram.buckets().iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!((histogram.count(), histogram.sum_seconds()), (4, 0.062));
    }
}
