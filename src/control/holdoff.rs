//! When to translate: shortly after the last of a burst of changes, in the end even if the burst goes on.
//!
//! It takes `now` and holds no timer: the loop of `control` sleeps until [`Holdoff::deadline`].

use std::time::Duration;

use tokio::time::Instant;

/// A rollout changes an EndpointSlice in steps of some milliseconds: one table for all of them.
const QUIET: Duration = Duration::from_millis(50);
/// However busy the cluster is, no change waits longer than this.
const AT_MOST: Duration = Duration::from_millis(500);

/// The hold-off of one loop.
#[derive(Debug, Default)]
pub struct Holdoff {
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Holdoff {
    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// When to translate; `None` while nothing has changed.
    pub fn deadline(&self) -> Option<Instant> {
        Some((self.last? + QUIET).min(self.first? + AT_MOST))
    }

    /// If it is time, starts anew, and says since when something has waited.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        self.deadline().filter(|deadline| *deadline <= now)?;
        std::mem::take(self).first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn nothing_changed_is_never() {
        assert_eq!(Holdoff::default().deadline(), None);
    }

    #[test]
    fn a_burst_is_one_translation_after_its_last_change() {
        let start = Instant::now();
        let mut holdoff = Holdoff::default();
        for at in [0, 10, 20] {
            holdoff.changed(start + ms(at));
            assert_eq!(holdoff.take(start + ms(at)), None);
        }
        assert_eq!(holdoff.deadline(), Some(start + ms(70)));
        assert_eq!(holdoff.take(start + ms(69)), None);
        assert_eq!(holdoff.take(start + ms(70)), Some(start));
        assert_eq!(holdoff.deadline(), None);
    }

    #[test]
    fn a_burst_without_end_is_cut_at_half_a_second() {
        let start = Instant::now();
        let mut holdoff = Holdoff::default();
        let translated = (0..200).map(|n| start + ms(n * 10)).filter(|now| {
            let due = holdoff.take(*now);
            holdoff.changed(*now);
            due.is_some()
        });
        assert_eq!(translated.count(), 3);
    }
}
