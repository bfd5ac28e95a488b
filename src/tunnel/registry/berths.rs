//! Where the tunnels of a pool lie, and sending some of them elsewhere: what `proxy::rebalance` sees and does.
//!
//! It never knows who should go. A tunnel that was told to go, by whomever and for whenever, has no berth any more.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::Registry;
use crate::{
    model::{LocationKey, PoolKey},
    tunnel::{
        clock::Tick,
        close::Reason,
        drain::{Filter, Order},
        entry::State,
    },
};

/// Where one tunnel lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Berth {
    /// Unique in this process.
    pub id: u64,
    /// Its endpoint in the pool.
    pub endpoint: SocketAddr,
    /// The location it came by.
    pub location: LocationKey,
    /// When it was opened.
    pub opened: Instant,
}

impl Registry {
    /// The open tunnels of these pools, the oldest first.
    pub fn berths(&self, pools: &BTreeSet<PoolKey>) -> BTreeMap<PoolKey, Vec<Berth>> {
        let mut berths: BTreeMap<PoolKey, Vec<Berth>> = BTreeMap::new();
        self.for_each(|entry| {
            let endpoint = &entry.identity.lease.endpoint().key;
            if entry.state() == State::Open && entry.slot() == Tick::NEVER && pools.contains(&endpoint.pool) {
                let opened = self.clock.instant(entry.opened);
                let berth = Berth { id: entry.id, endpoint: endpoint.address, location: entry.identity.location.clone(), opened };
                berths.entry(endpoint.pool.clone()).or_default().push(berth);
            }
        });
        for berths in berths.values_mut() {
            berths.sort_unstable_by_key(|berth| berth.id);
        }
        berths
    }

    /// Tells these tunnels to come back, one after the other over a time. Returns how many there are.
    pub fn move_on(&self, ids: &HashSet<u64>, over: Duration) -> usize {
        let order = Order::spread(Filter::default(), over, Reason::Rebalance);
        self.mark(&order, |entry| ids.contains(&entry.id))
    }
}
