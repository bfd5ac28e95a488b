//! Locations that are gone, or have nothing to say any more: how long they may come back, and how what they left open is drained.
//!
//! Pure: it never gives orders. The parent tells it of each step and asks when time is over.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::listed::Listed;
use crate::model::{LocationKey, route::Drain};

/// A location may be away this long: `kubectl replace`, or a move to another WsRoute.
pub(super) const RETURN: Duration = Duration::from_secs(30);

/// Locations that are gone and may come back, each with the end of its time.
#[derive(Debug, Default)]
pub(super) struct Away(HashMap<LocationKey, Instant>);

/// What a location last said of its tunnels, where it says nothing now and still has some.
#[derive(Debug, Default)]
pub(super) struct LastWords(HashMap<LocationKey, Drain>);

impl Away {
    pub(super) fn update(&mut self, before: &Listed<'_>, now: &Listed<'_>, words: &LastWords, at: Instant) {
        self.0.retain(|key, _| !now.has(key));
        for key in before.gone(now) {
            if !words.of(before, key).keep_on_route_removed {
                self.0.insert(key.clone(), at + RETURN);
            }
        }
    }

    /// When the next of them has been away for too long.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Those that have been away for too long.
    pub(super) fn due(&mut self, now: Instant) -> Vec<LocationKey> {
        self.0.extract_if(|_, due| *due <= now).map(|(key, _)| key).collect()
    }

    /// Those that will not come back, because they may not.
    pub(super) fn refused(&mut self, now: &Listed<'_>) -> Vec<LocationKey> {
        self.0.extract_if(|key, _| now.refuses(key)).map(|(key, _)| key).collect()
    }
}

impl LastWords {
    /// Takes down what is said for the last time, by locations that have tunnels.
    pub(super) fn update(&mut self, before: &Listed<'_>, now: &Listed<'_>, has_tunnels: impl Fn(&LocationKey) -> bool) {
        self.0.extend(before.silenced(now).map(|(key, drain)| (key.clone(), *drain)));
        self.0.retain(|key, _| now.drain(key).is_none() && has_tunnels(key));
    }

    /// What a location says of its tunnels, or last said.
    pub(super) fn of(&self, now: &Listed<'_>, key: &LocationKey) -> Drain {
        now.drain(key).or_else(|| self.0.get(key)).copied().unwrap_or_default()
    }
}
