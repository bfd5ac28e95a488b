//! The zone that we are in: the label of the node that our pod runs on.
//!
//! It never knows what zones are for. `app` starts it where `--zone` does not say it; the index learns it as any other change.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Error};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{Connection, backoff::Backoff, trouble::Trouble};
use crate::translate::Change;

/// The label, as the API reference calls it.
const ZONE: &str = "topology.kubernetes.io/zone";
/// One request.
const REQUEST: Duration = Duration::from_secs(10);

/// Tells the zone of a node, once: nodes do not move. A node that has none, or that we may not read, is in no zone.
pub async fn tell(connection: Connection, node: String, changes: mpsc::Sender<Change>) {
    let nodes: Api<Node> = Api::all(connection.client);
    let mut trouble = Trouble::new(format!("node {node} can not be read, so that no zone is preferred"));
    let mut backoff = Backoff::default();
    let labels = loop {
        match timeout(REQUEST, nodes.get_metadata(&node)).await {
            Ok(Ok(node)) => break node.metadata.labels.unwrap_or_default(),
            Ok(Err(Error::Api(status))) if matches!(status.code, 403 | 404) => {
                warn!(node, "no zone is preferred: {}; give --zone, or the right to get nodes", status.message);
                return;
            }
            Ok(Err(error)) => trouble.say(&error),
            Err(_) => trouble.say(&"no answer in time"),
        }
        sleep(backoff.next(None)).await;
    };
    trouble.is_over();
    if let Some(zone) = labels.get(ZONE) {
        info!(zone, "endpoints that are meant for this zone come first");
        // An error is a server that ends.
        let _ = changes.send(Change::Zone(zone.as_str().into())).await;
    }
}
