//! Splits requests between services by weight: exactly, evenly spread, without a lock.
//!
//! It never knows services: it is given weights and answers with an index. `Target` asks it.
//!
//! Each service but the last is split from those after it by a counter of its own: of every `total` requests that come to it, exactly `weight` stay,
//! as evenly as integers allow. So 9 and 1 give the second exactly one in ten, and 1, 1, 1 takes turns.

use std::sync::atomic::{AtomicU64, Ordering};

/// Weighted parts, by index.
#[derive(Debug)]
pub(super) struct Split(Box<[Part]>);

#[derive(Debug)]
struct Part {
    index: usize,
    weight: u64,
    /// Its weight and those after it.
    total: u64,
}

impl Split {
    /// Takes (index, weight) of the parts; a weight of 0 gets nothing.
    pub(super) fn new(parts: impl DoubleEndedIterator<Item = (usize, u32)>) -> Self {
        let mut total = 0;
        let mut split: Vec<_> = parts
            .rev()
            .filter(|(_, weight)| *weight > 0)
            .map(|(index, weight)| {
                total += u64::from(weight);
                Part { index, weight: weight.into(), total }
            })
            .collect();
        split.reverse();
        Self(split.into())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The indices of the parts, in order.
    pub(super) fn indices(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|part| part.index)
    }

    /// The part that the next request belongs to. `turns` has a counter for each index: it outlives the split.
    pub(super) fn next<'a>(&self, turns: impl Fn(usize) -> &'a AtomicU64) -> Option<usize> {
        let (last, others) = self.0.split_last()?;
        let stays = |part: &&Part| {
            let turn = turns(part.index).fetch_add(1, Ordering::Relaxed) % part.total;
            let due = |turn: u64| (turn * part.weight).div_ceil(part.total);
            due(turn + 1) > due(turn)
        };
        Some(others.iter().find(stays).unwrap_or(last).index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(weights: &[u32], length: usize) -> Vec<usize> {
        let split = Split::new(weights.iter().copied().enumerate());
        let turns: Vec<_> = weights.iter().map(|_| AtomicU64::new(0)).collect();
        (0..length).map(|_| split.next(|index| &turns[index]).unwrap()).collect()
    }

    #[test]
    fn nine_to_one_gives_exactly_every_tenth() {
        let sequence = sequence(&[9, 1], 100);
        let canary: Vec<_> = (0..100).filter(|at| sequence[*at] == 1).collect();
        assert_eq!(canary.len(), 10);
        assert!(canary.windows(2).all(|pair| pair[1] - pair[0] == 10));
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(sequence(&[1, 1], 4), [0, 1, 0, 1]);
        assert_eq!(sequence(&[5, 5, 5], 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn nothing_goes_to_weight_zero() {
        assert_eq!(sequence(&[0, 1, 0], 3), [1, 1, 1]);
        assert!(Split::new([(0, 0)].into_iter()).is_empty());
    }

    proptest! {
        #[test]
        fn a_round_gives_each_its_weight_and_never_bunches(weights in prop::collection::vec(0u32..40, 1..6)) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let round = total as usize;
            let sequence = sequence(&weights, 3 * round);
            for (index, weight) in weights.iter().enumerate() {
                for start in 0..2 {
                    let count = sequence[start * round..(start + 1) * round].iter().filter(|part| **part == index).count();
                    prop_assert_eq!(count, *weight as usize);
                }
            }
            // The first part is split off by one counter: no window of any length is more than one off its share.
            if weights[0] > 0 {
                for length in 1..=round {
                    let share = length as f64 * f64::from(weights[0]) / f64::from(total);
                    for window in sequence.windows(length) {
                        let count = window.iter().filter(|part| **part == 0).count() as f64;
                        prop_assert!((count - share).abs() < 1.0, "{} of {} in {}", count, share, length);
                    }
                }
            }
        }
    }
}
