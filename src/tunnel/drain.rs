//! Which tunnels are to be closed by us, and when each of them has its turn.
//!
//! Pure: it never knows tunnels, tasks or clocks. `registry` marks its tunnels by it; `app` gives the orders.

use tokio::time::Instant;

use super::close::Reason;
use crate::model::{EndpointKey, LocationKey};

/// Closes tunnels, evenly spread over a time.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which tunnels.
    pub filter: Filter,
    /// When the first is closed.
    pub from: Instant,
    /// When the last is closed; all at once where this is not after `from`.
    pub until: Instant,
    /// Why.
    pub reason: Reason,
}

/// Which tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All; those that are opened later too.
    All,
    /// Those that came by a location.
    Location(LocationKey),
    /// Those to an endpoint.
    Endpoint(EndpointKey),
}

impl Filter {
    /// Whether a tunnel of this location to this endpoint is meant.
    pub fn takes(&self, location: &LocationKey, endpoint: &EndpointKey) -> bool {
        match self {
            Filter::All => true,
            Filter::Location(key) => key == location,
            Filter::Endpoint(key) => key == endpoint,
        }
    }
}

impl Order {
    /// All tunnels at once: the order of a shutdown.
    pub fn all_at_once(reason: Reason) -> Self {
        let now = Instant::now();
        Self { filter: Filter::All, from: now, until: now, reason }
    }

    /// The turn of the tunnel with this index among `count`.
    pub fn turn(&self, index: usize, count: usize) -> Instant {
        let spread = self.until.saturating_duration_since(self.from);
        self.from + spread.mul_f64(index as f64 / count.max(1) as f64)
    }

    /// The turn of a tunnel that is opened while the order runs; `share`, 0 to 1, says where in the time that is left.
    pub fn late_turn(&self, now: Instant, share: f64) -> Instant {
        let from = self.from.max(now);
        from + self.until.saturating_duration_since(from).mul_f64(share.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn order(spread: Duration) -> Order {
        let from = Instant::now();
        Order { filter: Filter::All, from, until: from + spread, reason: Reason::Shutdown }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_even_and_never_past_the_end() {
        let order = order(Duration::from_secs(10));
        let turns: Vec<_> = (0..5).map(|index| (order.turn(index, 5) - order.from).as_secs()).collect();
        assert_eq!(turns, [0, 2, 4, 6, 8]);
        assert_eq!(order.turn(0, 0), order.from);
    }

    #[tokio::test(start_paused = true)]
    async fn at_once_is_at_once() {
        let order = Order::all_at_once(Reason::Shutdown);
        assert!((0..1000).all(|index| order.turn(index, 1000) == order.from));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_tunnel_gets_a_turn_in_what_is_left() {
        let order = order(Duration::from_secs(10));
        let late = order.from + Duration::from_secs(6);
        for share in [-1.0, 0.0, 0.3, 1.0, 7.0] {
            let turn = order.late_turn(late, share);
            assert!(turn >= late && turn <= order.until, "{share}");
        }
        let too_late = order.until + Duration::from_secs(1);
        assert_eq!(order.late_turn(too_late, 0.5), too_late);
    }
}
