//! One endpoint with its counters, and the lease that counts as open on it.
//!
//! It never knows why it is picked. `Balancer` makes it; pools and leases keep it alive, over any number of configurations.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use parking_lot::Mutex;

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
    open: AtomicU32,
    failures: AtomicU64,
    numbers: Arc<Numbers>,
}

/// Counts as open on its endpoint until it is dropped.
#[derive(Debug)]
pub struct Lease(Arc<Endpoint>);

/// Where endpoints get their numbers from.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    returned: Vec<u32>,
    /// The lowest that was never given away.
    next: u32,
}

impl Endpoint {
    pub(super) fn new(key: EndpointKey, pod: Option<Arc<Pod>>, numbers: &Arc<Numbers>) -> Arc<Self> {
        let number = numbers.take();
        Arc::new(Self { key, pod, number, open: AtomicU32::new(0), failures: AtomicU64::new(0), numbers: numbers.clone() })
    }

    /// How many leases are open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a failure that is the endpoint's: refused, timed out, broken handshake. Never one of ours.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// How many failures were counted.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.numbers.0.lock().returned.push(self.number);
    }
}

impl Numbers {
    fn take(&self) -> u32 {
        let mut free = self.0.lock();
        if let Some(number) = free.returned.pop() {
            return number;
        }
        free.next += 1;
        free.next - 1
    }
}

impl Lease {
    /// Opens one more on an endpoint.
    pub(super) fn open(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.open.fetch_add(1, Ordering::Relaxed);
        Self(endpoint.clone())
    }

    /// Opens one more if exactly `open` are: whoever compared by that number, and was overtaken, compares again.
    pub(super) fn open_if(endpoint: &Arc<Endpoint>, open: u32) -> Option<Self> {
        endpoint.open.compare_exchange(open, open + 1, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        Some(Self(endpoint.clone()))
    }

    /// A lease on an endpoint of its own, outside any pool: for what holds leases and is tested alone.
    pub fn detached(key: EndpointKey) -> Self {
        Self::open(&Endpoint::new(key, None, &Arc::default()))
    }

    /// The same on an endpoint of this Pod.
    pub fn detached_of(key: EndpointKey, pod: Arc<Pod>) -> Self {
        Self::open(&Endpoint::new(key, Some(pod), &Arc::default()))
    }

    /// The endpoint it is for.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
