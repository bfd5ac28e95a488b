//! What the outside sees of a running Carrick: counters, access log, log of events.
//!
//! It never knows what a route, a tunnel or a request is beyond the names and numbers it is handed.
//! Everyone calls it; nothing in here waits, takes a lock for long, or fails a request.

pub mod access;
pub mod counter;
pub mod expose;
pub mod log;
pub mod metrics;
pub mod retries;
pub mod watch;

pub use access::AccessLog;
pub use metrics::{LocationMetrics, Metrics};
pub use watch::WatchMetrics;
