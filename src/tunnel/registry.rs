//! Every tunnel of the process: who is open, what it moved, and how to reach it.
//!
//! It never knows sockets or frames. `relay` enters a tunnel before its first byte and removes it in `Drop`; `admin` lists, `app` drains.

use std::sync::Arc;

use crate::telemetry::AccessLog;

/// The tunnels. One of a process, shared.
#[derive(Debug)]
pub struct Registry {}

impl Registry {
    /// An empty registry. Tunnels write their last line to `access`.
    pub fn new(_access: AccessLog) -> Arc<Registry> {
        Arc::new(Registry {})
    }

    /// How many tunnels are open.
    pub fn len(&self) -> usize {
        0
    }

    /// Whether no tunnel is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Done when no tunnel is open.
    pub async fn emptied(&self) {}
}
