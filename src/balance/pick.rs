//! Which endpoint a request gets: first a service by weight, smoothly, then an endpoint of it by policy.
//!
//! Pure but for its counters: no lock, no allocation, no clock. `proxy` asks it.

use smallvec::SmallVec;

use super::endpoint::{Endpoint, Lease};

/// Where the requests of one location, or the connections of one layer-4 route, go.
pub struct Target {}

/// The endpoints that one request has already tried in vain.
#[derive(Debug, Default)]
pub struct Tried(SmallVec<[u32; 4]>);

impl Tried {
    /// Remembers an endpoint. Hold its lease, or nothing of it, as you like: its number is not given away while the snapshot lives.
    pub fn add(&mut self, endpoint: &Endpoint) {
        self.0.push(endpoint.number);
    }

    /// Whether nothing was tried yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// There is no service, or all weights are 0.
    #[error("no backend has a weight")]
    NoBackends,
    /// No service has an endpoint that takes new requests.
    #[error("no endpoint is ready")]
    NoReadyEndpoint,
    /// Every ready endpoint was tried.
    #[error("every ready endpoint was tried")]
    AllTried,
}

impl Target {
    /// Picks an endpoint that was not tried, and counts it as open.
    pub fn pick(&self, _tried: &Tried) -> Result<Lease, PickError> {
        Err(PickError::NoBackends)
    }
}
