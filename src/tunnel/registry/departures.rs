//! Pods on their way out, as this replica sees them: how many tunnels they had, and how many of those they cut.
//!
//! Pure: it never knows tunnels and is handed the time. `registry::pods` tells it what happens and shows what came of it.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::model::pod::{Departure, PodRef};

/// What became of a Pod is shown for so long after its last tunnel.
const SHOWN: Duration = Duration::from_secs(60);
/// A process that exits at once is often faster than the news that its Pod is to go: what it cut so shortly before belongs to it.
const JUST_BEFORE: Duration = Duration::from_secs(3);
/// Pods that are kept in mind, the youngest: beyond it a large rollout loses words, not tunnels.
const BOUND: usize = 1024;

/// The Pods that go, and the cuts of which nobody knows yet whether they are the end of one.
#[derive(Debug, Default)]
pub(super) struct Departures {
    leaving: HashMap<PodRef, Leaving>,
    cuts: HashMap<PodRef, Cuts>,
}

#[derive(Debug)]
struct Leaving {
    since: Instant,
    tunnels: u64,
    cuts: Cuts,
    /// When the last of its tunnels ended so far.
    last: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cuts {
    count: u64,
    first: Option<Instant>,
}

impl Cuts {
    fn add(&mut self, at: Instant) {
        self.count += 1;
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
    }
}

impl Departures {
    /// A Pod with so many open tunnels is to go. Only the first word counts; one that has and had nothing is not worth one.
    pub(super) fn begin(&mut self, pod: &PodRef, open: u64, now: Instant) {
        if self.leaving.contains_key(pod) {
            return;
        }
        let cuts = self.cuts.remove(pod).filter(|cuts| cuts.first.is_some_and(|first| first + JUST_BEFORE > now)).unwrap_or_default();
        let tunnels = open + cuts.count;
        if tunnels > 0 {
            make_room(&mut self.leaving, |leaving| leaving.since);
            self.leaving.insert(pod.clone(), Leaving { since: now, tunnels, cuts, last: now });
        }
    }

    /// It is given tunnels again: whoever took its name is another Pod, which only a UID would have told.
    pub(super) fn take_back(&mut self, pod: &PodRef) {
        self.leaving.remove(pod);
    }

    /// A tunnel of a Pod has ended; `cut` is when the Pod went without a Close, if it did.
    pub(super) fn ended(&mut self, pod: &PodRef, cut: Option<Instant>, now: Instant) {
        if let Some(leaving) = self.leaving.get_mut(pod) {
            leaving.last = now;
            if let Some(at) = cut {
                leaving.cuts.add(at);
            }
        } else if let Some(at) = cut {
            self.cuts.retain(|_, cuts| cuts.first.is_some_and(|first| first + JUST_BEFORE > now));
            make_room(&mut self.cuts, |cuts| cuts.first.unwrap_or(now));
            self.cuts.entry(pod.clone()).or_default().add(at);
        }
    }

    /// Every Pod that goes and how; what is over for long is forgotten. `open` says how many tunnels a Pod has.
    pub(super) fn show(&mut self, open: impl Fn(&PodRef) -> u64, now: Instant) -> impl Iterator<Item = (&PodRef, Departure)> {
        self.leaving.retain(|pod, leaving| leaving.last + SHOWN > now || open(pod) > 0);
        self.leaving.iter().map(move |(pod, leaving)| (pod, leaving.show(now)))
    }
}

impl Leaving {
    fn show(&self, now: Instant) -> Departure {
        Departure {
            age_seconds: (now - self.since).as_secs_f64(),
            // One may have ended between the word and the count.
            tunnels: self.tunnels.max(self.cuts.count),
            cut: self.cuts.count,
            first_cut_seconds: self.cuts.first.map(|first| first.saturating_duration_since(self.since).as_secs_f64()),
        }
    }
}

/// Forgets the oldest of too many.
fn make_room<V>(known: &mut HashMap<PodRef, V>, since: impl Fn(&V) -> Instant) {
    if known.len() >= BOUND
        && let Some(oldest) = known.iter().min_by_key(|(_, value)| since(value)).map(|(pod, _)| pod.clone())
    {
        known.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodRef {
        PodRef { namespace: "default".into(), name: name.into(), uid: "1".into() }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn shown(departures: &mut Departures, open: u64, now: Instant) -> Vec<Departure> {
        departures.show(|_| open, now).map(|(_, departure)| departure).collect()
    }

    #[test]
    fn cuts_are_counted_from_the_first_word_on() {
        let (mut departures, began) = (Departures::default(), Instant::now());
        departures.begin(&pod("chat-0"), 3, began);
        departures.begin(&pod("chat-0"), 1, began + SECOND); // by another Service
        departures.ended(&pod("chat-0"), None, began + SECOND);
        departures.ended(&pod("chat-0"), Some(began + SECOND * 3), began + SECOND * 4);
        departures.ended(&pod("chat-0"), Some(began + SECOND * 2), began + SECOND * 5);
        let departure = Departure { age_seconds: 6.0, tunnels: 3, cut: 2, first_cut_seconds: Some(2.0) };
        assert_eq!(shown(&mut departures, 0, began + SECOND * 6), [departure]);
    }

    #[test]
    fn what_was_cut_just_before_the_word_came_is_part_of_it() {
        let (mut departures, cut) = (Departures::default(), Instant::now());
        departures.ended(&pod("chat-0"), Some(cut), cut);
        departures.begin(&pod("chat-0"), 0, cut + SECOND);
        let departure = Departure { age_seconds: 1.0, tunnels: 1, cut: 1, first_cut_seconds: Some(0.0) };
        assert_eq!(shown(&mut departures, 0, cut + SECOND * 2), [departure]);
        departures.ended(&pod("chat-1"), Some(cut), cut);
        departures.begin(&pod("chat-1"), 0, cut + JUST_BEFORE);
        assert_eq!(shown(&mut departures, 0, cut + JUST_BEFORE).len(), 1, "that crash was another story");
    }

    #[test]
    fn a_pod_is_forgotten_a_minute_after_its_last_tunnel() {
        let (mut departures, began) = (Departures::default(), Instant::now());
        departures.begin(&pod("idle"), 0, began);
        assert!(shown(&mut departures, 0, began).is_empty(), "nothing to tell");
        departures.begin(&pod("chat-0"), 2, began);
        assert_eq!(shown(&mut departures, 1, began + SHOWN * 2).len(), 1, "one is open");
        departures.ended(&pod("chat-0"), None, began + SHOWN * 2);
        assert_eq!(shown(&mut departures, 0, began + SHOWN * 3 - SECOND).len(), 1);
        assert!(shown(&mut departures, 0, began + SHOWN * 3).is_empty());
    }

    #[test]
    fn of_too_many_pods_the_youngest_are_kept() {
        let (mut departures, began) = (Departures::default(), Instant::now());
        for number in 0..BOUND as u32 + 5 {
            departures.begin(&pod(&number.to_string()), 1, began + SECOND * number);
        }
        assert_eq!(departures.leaving.len(), BOUND);
        assert!(!departures.leaving.contains_key(&pod("4")) && departures.leaving.contains_key(&pod("5")));
    }
}
