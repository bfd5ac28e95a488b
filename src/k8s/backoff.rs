//! How long to wait before the API server is asked again.
//!
//! It never waits and knows no clock. Whoever asks in vain asks here; one answer that is good starts it anew.

use std::time::Duration;

/// The first wait: an API server that restarts beside others is back at once.
const FIRST: Duration = Duration::from_millis(200);

/// However long it is away: eight watches of a few replicas in 10 s are nothing to an API server that comes back, and
/// configuration is not older than this when it does.
const AT_MOST: Duration = Duration::from_secs(10);

/// What `Retry-After` may ask for.
const ASKED_AT_MOST: Duration = Duration::from_secs(60);

/// Doubles from failure to failure, with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: between a half and the whole of what it comes to, so that replicas that lost their watch
    /// together don't come back together. Never less than the API server `asked` for.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(AT_MOST);
        self.failures += 1;
        let jittered = whole.mul_f64(0.5 + 0.5 * fastrand::f64());
        asked.map_or(jittered, |asked| asked.min(ASKED_AT_MOST) + jittered)
    }

    /// It answers.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_its_bound_and_starts_anew() {
        let mut backoff = Backoff::default();
        let first = backoff.next(None);
        assert!(first >= FIRST / 2 && first <= FIRST);
        let waits: Vec<_> = (0..40).map(|_| backoff.next(None)).collect();
        assert!(waits[39] >= AT_MOST / 2 && waits.iter().all(|wait| *wait <= AT_MOST));
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }

    #[test]
    fn what_the_server_asks_for_is_waited_within_reason() {
        let wait = Backoff::default().next(Some(Duration::from_secs(7)));
        assert!(wait >= Duration::from_secs(7) && wait <= Duration::from_secs(8));
        assert!(Backoff::default().next(Some(Duration::from_hours(9))) <= ASKED_AT_MOST + FIRST);
    }
}
