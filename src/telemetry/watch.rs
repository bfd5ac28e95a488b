//! What is counted of each watch on the API server.
//!
//! It never knows what was seen. `k8s` counts, `expose` prints.

use super::counter::{Counter, Gauge, Tally};

/// One kind in one namespace, or in all.
#[derive(Debug, Default)]
pub struct WatchMetrics {
    /// 1 while it is listed and changes come in.
    pub up: Gauge,
    /// Objects there are.
    pub objects: Gauge,
    /// Changes that came in.
    pub events: Counter,
    /// Full lists.
    pub lists: Counter,
    /// Lists and watches that failed, by reason (`unreachable`, `forbidden`, `gone`…).
    pub errors: Tally,
}
