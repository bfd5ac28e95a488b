//! Time in a tunnel: ticks of 50 ms since the registry was made, four bytes instead of sixteen.
//!
//! It never knows what waits for them. `registry` owns the clock, everything else in `tunnel` is handed ticks.

use std::time::Duration;

use tokio::time::Instant;

/// Fine enough for deadlines that are configured in milliseconds and tested in tenths of a second; 6.8 years fit.
const TICK: Duration = Duration::from_millis(50);

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u32);

impl Tick {
    /// Later than everything.
    pub const NEVER: Tick = Tick(u32::MAX);

    /// The first tick that is at least `duration` after every moment within this one.
    pub fn after(self, duration: Duration) -> Tick {
        let ticks = duration.as_millis().div_ceil(TICK.as_millis()).saturating_add(1);
        Tick(u32::try_from(ticks).map_or(u32::MAX, |ticks| self.0.saturating_add(ticks)))
    }

    /// How long after `earlier` this is.
    pub fn since(self, earlier: Tick) -> Duration {
        TICK * self.0.saturating_sub(earlier.0)
    }
}

/// Where ticks are counted from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    /// Tick 1 is now, so that tick 0 is before everything.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// The tick that runs.
    pub(super) fn now(self) -> Tick {
        self.tick(Instant::now())
    }

    /// The tick that runs at `instant`.
    pub(super) fn tick(self, instant: Instant) -> Tick {
        let ticks = instant.saturating_duration_since(self.0).as_millis() / TICK.as_millis();
        Tick(u32::try_from(ticks).map_or(u32::MAX, |ticks| ticks.saturating_add(1)))
    }

    /// When `tick` begins.
    pub(super) fn instant(self, tick: Tick) -> Instant {
        self.0 + TICK * tick.0.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_never_early_and_at_most_two_ticks_late() {
        let clock = Clock::start();
        for offset in [0, 1, 49, 50, 51, 99] {
            for wait in [0, 1, 50, 75, 5_000] {
                let begun = clock.0 + Duration::from_millis(offset);
                let wait = Duration::from_millis(wait);
                let fires = clock.instant(clock.tick(begun).after(wait));
                assert!(fires >= begun + wait && fires <= begun + wait + 2 * TICK, "{offset} {wait:?}");
            }
        }
    }

    #[test]
    fn a_time_beyond_all_is_never() {
        assert_eq!(Tick(7).after(Duration::MAX), Tick::NEVER);
        assert_eq!(Tick::NEVER.after(Duration::from_secs(1)), Tick::NEVER);
    }
}
