//! One endpoint with its counters, and the lease that counts as open.
//!
//! It never knows why it is picked. `Balancer` makes it; whoever holds a lease keeps it alive.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use crate::model::EndpointKey;

/// An endpoint, known over all configurations for as long as a pool or a lease holds it.
#[derive(Debug)]
pub struct Endpoint {
    /// Which one it is.
    pub key: EndpointKey,
    /// Name of the Pod behind it.
    pub pod: Option<Arc<str>>,
    /// Its number, unique among the endpoints alive: small, so that an index by it stays small.
    pub number: u32,
    open: AtomicU32,
    failures: AtomicU64,
}

impl Endpoint {
    /// How many leases are open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a failure that is the endpoint's: refused, timed out, broken handshake.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// How many failures were counted.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// Counts as open on its endpoint until it is dropped.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
}

impl Lease {
    /// The endpoint it is for.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// A lease on an endpoint of its own, for tests of what holds leases.
    pub fn detached(key: EndpointKey) -> Self {
        Self::new(&Arc::new(Endpoint { key, pod: None, number: 0, open: AtomicU32::new(0), failures: AtomicU64::new(0) }))
    }

    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.open.fetch_add(1, Ordering::Relaxed);
        Self { endpoint: Arc::clone(endpoint) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.open.fetch_sub(1, Ordering::Relaxed);
    }
}
