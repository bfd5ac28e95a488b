//! The endpoints that outlive every configuration, and which of them the next request gets.
//!
//! It never knows requests, routes or sockets. `live` reconciles it with each table; `proxy` picks; proxies and tunnels hold leases.

pub mod affinity;
pub mod endpoint;
pub mod health;
pub mod limit;
pub mod pick;
mod policy;
mod pool;
mod share;
mod slab;
mod split;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

pub use self::{
    affinity::{Pin, Wish},
    endpoint::{Endpoint, Lease},
    health::{Attempt, PoolView, Proof, Symptom},
    limit::{Limiter, Over, Slot},
    pick::{Ask, PickError, Purpose, Target, Tried},
    pool::Pool,
    share::Share,
};
use self::{
    health::{Check, PoolHealth},
    limit::Accounts,
    pool::Common,
    slab::Slab,
};
use crate::{
    model::{
        EndpointKey, LocationKey, ObjectRef, PoolKey, Table,
        limits::Limits,
        upstream::{EndpointSpec, EndpointState, PoolSpec},
    },
    telemetry::Metrics,
};

/// The owner of all endpoints: one of a process, shared.
#[derive(Debug)]
pub struct Balancer {
    /// Taken when a table comes, never for a request.
    state: Mutex<State>,
    common: Arc<Common>,
    slab: Arc<Slab>,
    accounts: Accounts,
    metrics: Arc<Metrics>,
    reconciled: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Every endpoint that a pool or a lease holds, and some that nobody does any more.
    endpoints: HashMap<EndpointKey, Weak<Endpoint>>,
    /// What is known of their health, as long as one of a pool is held.
    health: HashMap<PoolKey, Weak<PoolHealth>>,
    pools: Pools,
}

/// The pools of one table.
pub type Pools = BTreeMap<PoolKey, Arc<Pool>>;

impl Balancer {
    /// A balancer without endpoints, whose ejections nobody sees.
    pub fn new() -> Arc<Self> {
        Self::with(Arc::default())
    }

    /// A balancer without endpoints.
    pub fn with(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            common: Arc::default(),
            slab: Arc::default(),
            accounts: Accounts::default(),
            metrics,
            reconciled: watch::Sender::new(()),
        })
    }

    /// Our part of every limit that holds for the installation.
    pub fn share(&self) -> &Arc<Share> {
        &self.common.share
    }

    /// The limits of a location or layer-4 route, held against what is open there already. Whoever waits there hears of `target`.
    pub fn limiter(&self, key: &LocationKey, route: &ObjectRef, limits: Limits, target: &Arc<Target>) -> Limiter {
        let account = self.accounts.of(key, route);
        account.queue().lead_to(target);
        Limiter::new(limits, account, self.common.share.clone())
    }

    /// Brings the pools in line with a table. A pool that stays the same is the same `Arc`; an endpoint known before keeps its counters and number.
    pub fn reconcile(&self, table: &Table) -> Pools {
        let mut rules = health::rules::of(table);
        let mut state = self.state.lock();
        let mut pools = Pools::new();
        for (key, spec) in &table.pools {
            let before = state.pools.get(key).cloned();
            let pool = self.pool(&mut state, key, spec, before.as_ref());
            let rules = rules.remove(key).unwrap_or_default();
            if before.is_none_or(|before| !Arc::ptr_eq(&before, &pool)) || !pool.health.has(&rules) {
                pool.health.arrange(rules, pool.ready());
            }
            pools.insert(key.clone(), pool);
        }
        state.pools = pools.clone();
        state.endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
        self.accounts.forget_unused();
        state.health.retain(|_, health| health.strong_count() > 0);
        drop(state);
        self.reconciled.send_replace(());
        pools
    }

    /// The pools with open leases, be they in the last table or not.
    pub fn held(&self) -> BTreeSet<PoolKey> {
        let state = self.state.lock();
        let open = state.endpoints.iter().filter(|(_, endpoint)| endpoint.upgrade().is_some_and(|endpoint| endpoint.open() > 0));
        open.map(|(key, _)| key.pool.clone()).collect()
    }

    /// Tells of every table.
    fn reconciled(&self) -> watch::Receiver<()> {
        self.reconciled.subscribe()
    }

    /// What is to be asked of whom.
    fn checks(&self) -> Vec<(Arc<Endpoint>, Arc<Check>)> {
        let state = self.state.lock();
        let mut all = Vec::new();
        for pool in state.pools.values() {
            for check in pool.health.checks().iter() {
                all.extend(pool.ready().iter().map(|endpoint| (endpoint.clone(), check.clone())));
            }
        }
        all
    }

    /// How the endpoints of each pool stand.
    pub fn health(&self) -> BTreeMap<PoolKey, PoolView> {
        self.state.lock().pools.iter().map(|(key, pool)| (key.clone(), pool.health.view())).collect()
    }

    fn pool(&self, state: &mut State, key: &PoolKey, spec: &Arc<PoolSpec>, before: Option<&Arc<Pool>>) -> Arc<Pool> {
        if let Some(pool) = before.filter(|pool| pool.spec == *spec) {
            return pool.clone();
        }
        let health = state.health(key, || PoolHealth::new(key.clone(), self.common.clone(), self.metrics.clone()));
        let mut known = |is_it: &dyn Fn(&EndpointSpec) -> bool| -> Vec<Arc<Endpoint>> {
            spec.endpoints.iter().filter(|spec| is_it(spec)).map(|spec| state.endpoint(key, spec, &self.slab, &health)).collect()
        };
        let ready = known(&|spec| spec.state == EndpointState::Ready);
        let near = known(&|spec| spec.state == EndpointState::Ready && !spec.elsewhere);
        let serving = known(&|spec| spec.state == EndpointState::Draining && spec.serving);
        let resting = known(&|spec| spec.state != EndpointState::Ready && !(spec.state == EndpointState::Draining && spec.serving));
        self.admit(&ready, before.map(Arc::as_ref));
        Arc::new(Pool {
            key: key.clone(),
            identity: affinity::service(key),
            spec: spec.clone(),
            near: (near.len() < ready.len()).then(|| near.into_iter().collect()),
            ready: ready.into_iter().collect(),
            serving: serving.into(),
            resting: resting.into(),
            health,
            common: self.common.clone(),
        })
    }

    /// Lets those of a pool take requests that were not ready before.
    fn admit(&self, ready: &[Arc<Endpoint>], before: Option<&Pool>) {
        let were_ready: HashSet<u32> = before.iter().flat_map(|pool| pool.ready()).map(|endpoint| endpoint.number).collect();
        let (old, new): (Vec<_>, Vec<_>) = ready.iter().partition(|endpoint| were_ready.contains(&endpoint.number));
        let now = self.common.millis(Instant::now());
        let handicap = pool::handicap(old.into_iter().map(|endpoint| &endpoint.slot));
        for endpoint in new {
            endpoint.slot.admit(now, handicap);
        }
    }
}

impl State {
    /// The endpoint as it was known, unless another Pod has taken its address: the leases of the old one are no burden of the new.
    fn endpoint(&mut self, pool: &PoolKey, spec: &EndpointSpec, slab: &Arc<Slab>, health: &Arc<PoolHealth>) -> Arc<Endpoint> {
        let key = EndpointKey { pool: pool.clone(), address: spec.address };
        let known = self.endpoints.get(&key).and_then(Weak::upgrade).filter(|known| known.pod == spec.pod);
        known.unwrap_or_else(|| {
            let endpoint = Endpoint::new(key.clone(), spec.pod.clone(), slab, health);
            self.endpoints.insert(key, Arc::downgrade(&endpoint));
            endpoint
        })
    }

    /// What is known of the health of a pool.
    fn health(&mut self, pool: &PoolKey, new: impl FnOnce() -> PoolHealth) -> Arc<PoolHealth> {
        let known = self.health.get(pool).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let health = Arc::new(new());
            self.health.insert(pool.clone(), Arc::downgrade(&health));
            health
        })
    }
}

#[cfg(test)]
mod tests;
