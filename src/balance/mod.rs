//! The endpoints that outlive every configuration, and which of them the next request gets.
//!
//! It never knows requests, routes or sockets. `live` reconciles it with each table; `proxy` picks and holds leases; tunnels hold leases.

pub mod endpoint;
pub mod pick;

use std::{collections::BTreeMap, sync::Arc};

pub use endpoint::{Endpoint, Lease};
pub use pick::{PickError, Target, Tried};

use crate::model::{PoolKey, Table};

/// The owner of all endpoints: one of a process, shared.
#[derive(Default)]
pub struct Balancer {}

/// The pools of one table.
pub type Pools = BTreeMap<PoolKey, Arc<Pool>>;

/// The endpoints of one pool that take new requests.
pub struct Pool {
    /// Which pool it is.
    pub key: PoolKey,
    ready: Box<[Arc<Endpoint>]>,
}

impl Pool {
    /// The endpoints that take new requests.
    pub fn ready(&self) -> &[Arc<Endpoint>] {
        &self.ready
    }
}

impl Balancer {
    /// A balancer without endpoints.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Brings the pools in line with a table.
    pub fn reconcile(&self, _table: &Table) -> Pools {
        Pools::new()
    }
}
