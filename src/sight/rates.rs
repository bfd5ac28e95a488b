//! What moved between two looks: bytes a second, for `carrick tunnels top`.
//!
//! It never reads a clock: it is told when a look was.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{Listing, Seen};

/// Bytes received and sent, by replica and number of a tunnel.
type Moved = HashMap<(Arc<str>, u64), [u64; 2]>;

/// The last look.
#[derive(Debug, Default)]
pub struct Rates {
    last: Option<(Instant, Moved)>,
}

impl Rates {
    /// Bytes a second of each row, received and sent; none for those that were not in the last look.
    pub fn since_last(&mut self, listing: &Listing, now: Instant) -> Vec<Option<[f64; 2]>> {
        let key = |seen: &Seen| (Arc::clone(&seen.replica), seen.row.id);
        let moved = |seen: &Seen| [seen.row.bytes_received, seen.row.bytes_sent];
        let rate = |seen: &Seen| {
            let (then, before) = self.last.as_ref()?;
            let before = before.get(&key(seen))?;
            let seconds = now.duration_since(*then).as_secs_f64().max(0.001);
            let now = moved(seen);
            Some([0, 1].map(|way| now[way].saturating_sub(before[way]) as f64 / seconds))
        };
        let rates = listing.tunnels.iter().map(rate).collect();
        self.last = Some((now, listing.tunnels.iter().map(|seen| (key(seen), moved(seen))).collect()));
        rates
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sight::tests::listing;

    #[tokio::test(start_paused = true)]
    async fn a_row_has_a_rate_from_its_second_look_on() {
        let mut rates = Rates::default();
        let now = Instant::now();
        let mut seen = listing();
        assert_eq!(rates.since_last(&seen, now), [None, None, None]);
        seen.tunnels.remove(2);
        seen.tunnels[0].row.bytes_sent += 3000;
        assert_eq!(rates.since_last(&seen, now + Duration::from_secs(2)), [Some([0.0, 1500.0]), Some([0.0, 0.0])]);
    }
}
