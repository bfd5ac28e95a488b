//! The endpoints of one pool, in the groups that picks go through.
//!
//! It never knows policies or requests. `Balancer` builds one for each pool of a table; targets hold them.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::time::Instant;

use super::{Share, endpoint::Endpoint, health::PoolHealth, slab::Slot};
use crate::model::{PoolKey, upstream::PoolSpec};

/// The endpoints of one pool.
#[derive(Debug)]
pub struct Pool {
    /// Which pool it is.
    pub key: PoolKey,
    /// What affinity knows it by: the same on every replica and after a restart.
    pub identity: u64,
    pub(super) spec: Arc<PoolSpec>,
    /// Those that take new requests.
    pub(super) ready: Members,
    /// Of them those that are meant for our zone, where some are not.
    pub(super) near: Option<Members>,
    /// Those that take nothing new but requests that are pinned to them.
    pub(super) serving: Box<[Arc<Endpoint>]>,
    /// Those that take nothing at all. Held, so that they are the same ones when they are ready again.
    pub(super) resting: Box<[Arc<Endpoint>]>,
    /// Which of them are out.
    pub(super) health: Arc<PoolHealth>,
    pub(super) common: Arc<Common>,
}

/// What all pools of a balancer have in common.
#[derive(Debug)]
pub(super) struct Common {
    /// Times in slots count from here.
    epoch: Instant,
    /// Our part of limits of the installation.
    pub(super) share: Arc<Share>,
}

/// Endpoints, with what picks read of them side by side.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) endpoints: Box<[Arc<Endpoint>]>,
    pub(super) slots: Box<[Slot]>,
    pub(super) identities: Box<[u64]>,
}

impl Pool {
    /// The endpoints that take new requests, ejected ones among them.
    pub fn ready(&self) -> &[Arc<Endpoint>] {
        &self.ready.endpoints
    }

    /// All endpoints, ready or not.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.ready.endpoints.iter().chain(&self.serving).chain(&self.resting)
    }

    /// The ready endpoint of an identity.
    pub(super) fn find(&self, identity: u64) -> Option<&Arc<Endpoint>> {
        let index = self.ready.identities.iter().position(|known| *known == identity)?;
        self.ready.endpoints.get(index)
    }
}

/// How many less than the others have in the mean a new endpoint begins with.
const BELOW_MEAN: u32 = 10;

/// What a new endpoint counts for beside its leases, at first: so that it does not get every client that comes.
pub(super) fn handicap<'a>(others: impl Iterator<Item = &'a Slot>) -> u32 {
    let (sum, count) = others.fold((0u64, 0u64), |(sum, count), other| (sum + u64::from(other.open.load(Relaxed)), count + 1));
    let mean = sum.checked_div(count).unwrap_or_default();
    u32::try_from(mean).unwrap_or(u32::MAX).saturating_sub(BELOW_MEAN)
}

impl Default for Common {
    /// Its time begins now.
    fn default() -> Self {
        Self { epoch: Instant::now(), share: Arc::default() }
    }
}

impl Common {
    /// A time as slots count it.
    pub(super) fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromIterator<Arc<Endpoint>> for Members {
    fn from_iter<I: IntoIterator<Item = Arc<Endpoint>>>(endpoints: I) -> Self {
        let endpoints: Box<[_]> = endpoints.into_iter().collect();
        let slots = endpoints.iter().map(|endpoint| endpoint.slot.clone()).collect();
        let identities = endpoints.iter().map(|endpoint| endpoint.identity).collect();
        Self { endpoints, slots, identities }
    }
}
