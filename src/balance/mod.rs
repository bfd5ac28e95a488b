//! The endpoints that outlive every configuration, and which of them the next request gets.
//!
//! It never knows requests, routes or sockets. `live` reconciles it with each table; `proxy` picks; proxies and tunnels hold leases.

pub mod endpoint;
pub mod pick;
mod share;
mod split;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use self::endpoint::Numbers;
pub use self::{
    endpoint::{Endpoint, Lease},
    pick::{PickError, Target, Tried},
    share::Share,
};
use crate::model::{
    EndpointKey, PoolKey, Table,
    upstream::{EndpointSpec, EndpointState, PoolSpec},
};

/// The owner of all endpoints: one of a process, shared.
#[derive(Debug, Default)]
pub struct Balancer {
    /// Taken when a table comes, never for a request.
    state: Mutex<State>,
    numbers: Arc<Numbers>,
    share: Arc<Share>,
}

#[derive(Debug, Default)]
struct State {
    /// Every endpoint that a pool or a lease holds, and some that nobody does any more.
    endpoints: HashMap<EndpointKey, Weak<Endpoint>>,
    pools: Pools,
}

/// The pools of one table.
pub type Pools = BTreeMap<PoolKey, Arc<Pool>>;

/// The endpoints of one pool.
#[derive(Debug)]
pub struct Pool {
    /// Which pool it is.
    pub key: PoolKey,
    spec: Arc<PoolSpec>,
    ready: Box<[Arc<Endpoint>]>,
    /// Those that take nothing new. Held, so that they are the same ones when they are ready again.
    resting: Box<[Arc<Endpoint>]>,
}

impl Balancer {
    /// A balancer without endpoints.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Our part of every limit that holds for the installation.
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Brings the pools in line with a table. A pool that stays the same is the same `Arc`; an endpoint known before keeps its counters and number.
    pub fn reconcile(&self, table: &Table) -> Pools {
        let mut state = self.state.lock();
        let pools: Pools = table.pools.iter().map(|(key, spec)| (key.clone(), state.pool(key, spec, &self.numbers))).collect();
        state.pools = pools.clone();
        state.endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
        pools
    }
}

impl State {
    fn pool(&mut self, key: &PoolKey, spec: &Arc<PoolSpec>, numbers: &Arc<Numbers>) -> Arc<Pool> {
        if let Some(pool) = self.pools.get(key).filter(|pool| pool.spec == *spec) {
            return pool.clone();
        }
        let (ready, resting): (Vec<_>, Vec<_>) = spec.endpoints.iter().partition(|endpoint| endpoint.state == EndpointState::Ready);
        let mut known = |specs: Vec<&EndpointSpec>| specs.into_iter().map(|spec| self.endpoint(key, spec, numbers)).collect();
        Arc::new(Pool { key: key.clone(), spec: spec.clone(), ready: known(ready), resting: known(resting) })
    }

    /// The endpoint as it was known, unless another Pod has taken its address: the leases of the old one are no burden of the new.
    fn endpoint(&mut self, pool: &PoolKey, spec: &EndpointSpec, numbers: &Arc<Numbers>) -> Arc<Endpoint> {
        let key = EndpointKey { pool: pool.clone(), address: spec.address };
        let known = self.endpoints.get(&key).and_then(Weak::upgrade).filter(|known| known.pod == spec.pod);
        known.unwrap_or_else(|| {
            let endpoint = Endpoint::new(key.clone(), spec.pod.clone(), numbers);
            self.endpoints.insert(key, Arc::downgrade(&endpoint));
            endpoint
        })
    }
}

impl Pool {
    /// The endpoints that take new requests.
    pub fn ready(&self) -> &[Arc<Endpoint>] {
        &self.ready
    }

    /// All endpoints, ready or not.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.ready.iter().chain(&self.resting)
    }
}

#[cfg(test)]
mod tests;
