//! Which tunnels are to be closed by us, and when each of them has its turn.
//!
//! Pure: it never knows tunnels, tasks or clocks. `registry` marks its tunnels by it; `proxy::retire`, `admin` and `app` give the orders.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::close::Reason;
use crate::{
    balance::Endpoint,
    model::{
        EndpointKey, LocationKey, PoolKey,
        route::{Drain, DrainBy},
        upstream::Pod,
    },
};

/// What a pod is left, at least, for closing handshakes that take their time.
const MARGIN: Duration = Duration::from_secs(2);
/// A pod with more time than this is drained in the last of it.
const LAST: Duration = Duration::from_secs(60);

/// Closes tunnels, evenly spread over a time.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which tunnels; those too whose handshake is under way.
    pub filter: Filter,
    /// When the first is closed.
    pub from: Instant,
    /// When the last is closed; all at once where this is not after `from`.
    pub until: Instant,
    /// At most so many a second, be it later than `until`.
    pub max_per_second: Option<u32>,
    /// Why.
    pub reason: Reason,
}

/// Which tunnels: all that every given field holds for. `Default` is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those that came by this location.
    pub location: Option<LocationKey>,
    /// Those to this endpoint.
    pub endpoint: Option<EndpointKey>,
    /// Those to this Pod: an address passes from one to another.
    pub pod: Option<Arc<Pod>>,
    /// Those to endpoints of this Service, by whatever port, or of this address.
    pub service: Option<PoolKey>,
}

impl Filter {
    /// Whether a tunnel of this location to this endpoint is meant.
    pub fn takes(&self, location: &LocationKey, endpoint: &Endpoint) -> bool {
        self.location.as_ref().is_none_or(|key| key == location)
            && self.endpoint.as_ref().is_none_or(|key| *key == endpoint.key)
            && (self.pod.is_none() || self.pod == endpoint.pod)
            && self.service.as_ref().is_none_or(|pool| pool.is_same_service(&endpoint.key.pool))
    }
}

impl Order {
    /// All tunnels at once.
    pub fn all_at_once(reason: Reason) -> Self {
        Self::spread(Filter::default(), Duration::ZERO, reason)
    }

    /// From now on, over a time.
    pub fn spread(filter: Filter, over: Duration, reason: Reason) -> Self {
        let now = Instant::now();
        Self { filter, from: now, until: now + over, max_per_second: None, reason }
    }

    /// The tunnels of a pod that was told to go at `since` and is killed at `deadline`, as their location says. An answer about the deadline
    /// that took its time moves the beginning, never the end.
    pub fn of_terminating(filter: Filter, drain: &Drain, since: Instant, deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(since);
        let start = match drain.by {
            DrainBy::Proxy => drain.start.unwrap_or_else(|| left.saturating_sub(LAST)),
            DrainBy::Application => left.saturating_sub(margin(left)),
        };
        let start = start.min(left.saturating_sub(MARGIN));
        let from = (since + start).max(Instant::now());
        let until = since + (left - margin(left - start));
        Self { filter, from, until, max_per_second: drain.max_per_second, reason: Reason::Terminating }
    }

    /// All tunnels, before this process is killed.
    pub fn of_shutdown(left: Duration) -> Self {
        let at_once = Drain { start: Some(Duration::ZERO), ..Drain::default() };
        let now = Instant::now();
        Self { reason: Reason::Shutdown, ..Self::of_terminating(Filter::default(), &at_once, now, now + left) }
    }

    /// The turn of the tunnel with this index among `count`.
    pub fn turn(&self, index: usize, count: usize) -> Instant {
        let even = self.duration().mul_f64(index as f64 / count.max(1) as f64);
        let slow = self.max_per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(index as f64 / f64::from(rate.max(1))));
        self.from + even.max(slow)
    }

    /// The turn of a tunnel that is opened while the order runs; `share`, 0 to 1, says where in the time that is left.
    pub fn late_turn(&self, now: Instant, share: f64) -> Instant {
        let from = self.from.max(now);
        from + self.until.saturating_duration_since(from).mul_f64(share.clamp(0.0, 1.0))
    }

    /// How long a tunnel may wait for a place for its Close when its turn comes: until the order is over.
    pub fn patience(&self, turn: Instant) -> Duration {
        self.until.saturating_duration_since(turn)
    }

    fn duration(&self) -> Duration {
        self.until.saturating_duration_since(self.from)
    }
}

/// What of the time of a drain is not used for it: a tenth, two seconds at least, half of it at most.
fn margin(time: Duration) -> Duration {
    (time / 10).max(MARGIN).min(time / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn spread(over: Duration) -> Order {
        Order::spread(Filter::default(), over, Reason::Shutdown)
    }

    /// First and last turn of many, in seconds from now.
    fn span(drain: Drain, left: u64) -> (u64, u64) {
        let now = Instant::now();
        let order = Order::of_terminating(Filter::default(), &drain, now, now + SECOND * left as u32);
        let seconds = |at: Instant| (at - now).as_secs();
        (seconds(order.from), seconds(order.until))
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_even_and_never_past_the_end() {
        let order = spread(SECOND * 10);
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
        let order = spread(SECOND * 10);
        let late = order.from + SECOND * 6;
        for share in [-1.0, 0.0, 0.3, 1.0, 7.0] {
            let turn = order.late_turn(late, share);
            assert!(turn >= late && turn <= order.until, "{share}");
        }
        let too_late = order.until + SECOND;
        assert_eq!(order.late_turn(too_late, 0.5), too_late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_whatever_the_end() {
        let order = Order { max_per_second: Some(2), ..spread(SECOND * 10) };
        assert_eq!((order.turn(99, 100) - order.from).as_millis(), 49_500);
        assert_eq!((order.turn(1, 2) - order.from).as_secs(), 5, "even is slower already");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_drained_before_its_end() {
        let auto = Drain::default();
        assert_eq!(span(auto, 30), (0, 27), "at once, to a tenth before the end");
        assert_eq!(span(auto, 10), (0, 8), "two seconds at least");
        assert_eq!(span(auto, 600), (540, 594), "in its last minute");
        assert_eq!(span(auto, 100), (40, 94));
        assert_eq!(span(auto, 0), (0, 0));
        assert_eq!(span(Drain { start: Some(SECOND * 5), ..auto }, 30), (5, 27));
        assert_eq!(span(Drain { start: Some(SECOND * 500), ..auto }, 30), (28, 29));
        assert_eq!(span(Drain { by: DrainBy::Application, ..auto }, 30), (27, 28), "what is left, shortly before");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_took_its_time_costs_the_beginning_not_the_end() {
        let since = Instant::now();
        tokio::time::advance(SECOND * 2).await;
        let order = Order::of_terminating(Filter::default(), &Drain::default(), since, since + SECOND * 30);
        assert_eq!(((order.from - since).as_secs(), (order.until - since).as_secs()), (2, 27));
        let late = Order::of_terminating(Filter::default(), &Drain::default(), since, since + SECOND);
        assert!((0..100).all(|index| late.turn(index, 100) == late.from), "a deadline that has passed is at once");
        let past = Order::of_terminating(Filter::default(), &Drain::default(), since + SECOND, since);
        assert!(past.until <= past.from && past.turn(9, 10) == past.from);
    }
}
