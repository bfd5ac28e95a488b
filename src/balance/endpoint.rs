//! One endpoint with its counters, and the lease that counts as open on it.
//!
//! It never knows why it is picked. `Balancer` makes it; pools and leases keep it alive, over any number of configurations.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    affinity,
    health::{Check, PoolHealth, Proof, Symptom, probe::Fault},
    slab::{Slab, Slot},
};
use crate::model::{EndpointKey, upstream::Pod};

/// An endpoint: one value for as long as a pool, a lease or anybody else holds it.
#[derive(Debug)]
pub struct Endpoint {
    /// Which one it is.
    pub key: EndpointKey,
    /// The Pod behind it.
    pub pod: Option<Arc<Pod>>,
    /// Its number, unique among the endpoints alive, and small. It is given away again when the last `Arc` is gone: whoever keeps
    /// something by number keeps the `Arc` beside it.
    pub number: u32,
    /// What affinity knows it by: the same on every replica and after a restart.
    pub identity: u64,
    pub(super) slot: Slot,
    health: Arc<PoolHealth>,
    /// Failures stand against it: what goes well is to be told, too.
    accused: AtomicBool,
    slab: Arc<Slab>,
}

/// Counts as open on its endpoint until it is dropped.
#[derive(Debug)]
pub struct Lease(Arc<Endpoint>);

impl Endpoint {
    pub(super) fn new(key: EndpointKey, pod: Option<Arc<Pod>>, slab: &Arc<Slab>, health: &Arc<PoolHealth>) -> Arc<Self> {
        let slot = slab.take();
        let identity = affinity::identity(key.address, pod.as_deref());
        let (health, slab) = (health.clone(), slab.clone());
        Arc::new(Self { key, pod, number: slot.number, identity, slot, health, accused: AtomicBool::new(false), slab })
    }

    /// How many leases are open.
    pub fn open(&self) -> u32 {
        self.slot.open.load(Ordering::Relaxed)
    }

    /// A tunnel broke off as soon as it was there.
    pub fn broke_off(&self) {
        self.failed(Symptom::Tunnel, "tunnel", false);
    }

    /// A request failed on it.
    pub(super) fn failed(&self, symptom: Symptom, reason: &'static str, on_trial: bool) {
        self.accused.store(self.health.failed(self.number, symptom, reason, on_trial), Ordering::Relaxed);
    }

    /// A request went well on it.
    pub(super) fn succeeded(&self, proof: Proof, on_trial: bool) {
        if on_trial || self.accused.load(Ordering::Relaxed) {
            self.accused.store(self.health.succeeded(self.number, proof, on_trial), Ordering::Relaxed);
        }
    }

    /// Nobody will know how its trial went.
    pub(super) fn abandoned(&self) {
        self.health.abandoned(self.number);
    }

    /// What a check of it found.
    pub(super) fn checked(&self, check: &Check, found: Result<(), &Fault>) {
        self.health.checked(self.number, check, found);
    }

    /// Whether it is passed over while others can be had.
    pub fn is_ejected(&self) -> bool {
        self.slot.is_ejected()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.health.forget(self.number);
        self.slab.give(self.number);
    }
}

impl Lease {
    /// Opens one more on an endpoint, unless `limit` are open: exact, however many ask at once.
    pub(super) fn open_below(endpoint: &Arc<Endpoint>, limit: u32) -> Option<Self> {
        let more = |open| (open < limit).then_some(open + 1);
        endpoint.slot.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(endpoint.clone()))
    }

    /// Opens one more if exactly `open` are: whoever compared by that number, and was overtaken, compares again.
    pub(super) fn open_if(endpoint: &Arc<Endpoint>, open: u32) -> Option<Self> {
        endpoint.slot.open.compare_exchange(open, open + 1, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        Some(Self(endpoint.clone()))
    }

    /// A lease on an endpoint of its own, outside any pool: for what holds leases and is tested alone.
    pub fn detached(key: EndpointKey) -> Self {
        Self::alone(key, None)
    }

    /// The same on an endpoint of this Pod.
    pub fn detached_of(key: EndpointKey, pod: Arc<Pod>) -> Self {
        Self::alone(key, Some(pod))
    }

    fn alone(key: EndpointKey, pod: Option<Arc<Pod>>) -> Self {
        let health = PoolHealth::new(key.pool.clone(), Arc::default(), Arc::default());
        let endpoint = Endpoint::new(key, pod, &Arc::default(), &Arc::new(health));
        endpoint.slot.open.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }

    /// The endpoint it is for.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.slot.open.fetch_sub(1, Ordering::Relaxed);
    }
}
