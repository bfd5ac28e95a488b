//! TLS to the backends of one location or layer-4 route.
//!
//! It never knows handshakes. `Live` makes it with each location that it serves anew, `proxy` asks it for each new connection.

use std::sync::Arc;

use crate::{
    dial::{Client, Clients},
    model::{PoolKey, route::Backend},
};

/// The clients of those backends that are spoken TLS to, by pool: sixteen at most, so a list.
#[derive(Debug, Default)]
pub struct Secured(Box<[(PoolKey, Arc<Client>)]>);

impl Secured {
    pub(super) fn new(backends: &[Backend], clients: &Clients) -> Self {
        Self(backends.iter().filter_map(|backend| Some((backend.pool.clone(), clients.get(backend.tls.as_ref()?)))).collect())
    }

    /// How to speak TLS to the endpoints of a pool; `None` is plain.
    pub fn client(&self, pool: &PoolKey) -> Option<&Arc<Client>> {
        self.0.iter().find(|(known, _)| known == pool).map(|(_, client)| client)
    }
}
