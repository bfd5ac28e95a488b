//! What only one replica does: statuses, Events, the Service of layer-4 ports, news of drains, the costs of deleting Pods.
//!
//! It never knows how it came to lead: `lease` says whether it does. `app` starts it; what it started ends when it leads no more.

use std::{future::pending, sync::Arc};

use kube::Client;
use tokio::sync::watch;

use super::{
    Connection, deletion_cost, drains,
    events::Recorder,
    peers::{Peers, Replicas, Sight},
    published::{self, Watched},
    status, tcp_service,
};
use crate::{model::ObjectRef, telemetry::Metrics, translate::Translated};

/// What it writes, and what it says of ourselves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--controller-name`.
    pub controller: String,
    /// Where clients reach us.
    pub publish: Publish,
    /// Whether the leader keeps the Service of `tcp` ports beside the published one.
    pub manage_tcp_service: bool,
    /// Whether it writes to Pods what it would cost to delete them.
    pub pod_deletion_cost: bool,
    /// Only WsRoutes of these namespaces; empty is all.
    pub namespaces: Vec<String>,
}

impl Settings {
    /// The field manager: one for all replicas, so that whoever leads owns what the others wrote. The API server takes 128 characters.
    pub(super) fn manager(&self) -> String {
        self.controller.chars().take(128).collect()
    }
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

/// What it knows of, beside the API server.
pub struct Sources {
    /// What is served, and what there is to say about it.
    pub latest: watch::Receiver<Arc<Translated>>,
    /// Whether we lead.
    pub leading: watch::Receiver<bool>,
    /// The replicas; `None` without `--peers-service`, and then we are the only one.
    pub peers: Option<watch::Receiver<Peers>>,
    /// How their tunnels are seen.
    pub sight: Sight,
}

/// Does it while we lead, until nothing more will come.
pub async fn run(connection: Connection, settings: Settings, sources: Sources, metrics: Arc<Metrics>) {
    let Sources { latest, mut leading, peers, sight } = sources;
    let replicas = Replicas::new(sight, peers);
    while leading.wait_for(|leading| *leading).await.is_ok() {
        tokio::select! {
            () = lead(&connection.client, &settings, latest.clone(), &replicas, &metrics) => return,
            // What is under way is dropped: the next leader sees what came of it.
            _ = leading.wait_for(|leading| !*leading) => metrics.status_pending.set(0),
        }
    }
}

async fn lead(client: &Client, settings: &Settings, latest: watch::Receiver<Arc<Translated>>, replicas: &Replicas, metrics: &Arc<Metrics>) {
    let (notices, recorder) = Recorder::new(client.clone(), settings.controller.clone(), Arc::clone(metrics));
    let (known, published) = watch::channel(Watched::Unknown);
    let following = async {
        match &settings.publish {
            Publish::Service(name) => published::follow(client.clone(), name.clone(), known).await,
            Publish::Nothing | Publish::Addresses(_) => pending().await,
        }
    };
    let tcp_service = async {
        match &settings.publish {
            Publish::Service(name) if settings.manage_tcp_service => {
                tcp_service::keep(client, &settings.controller, name, published.clone(), latest.clone(), notices.clone()).await;
            }
            _ => pending().await,
        }
    };
    let costs = async {
        if !settings.pod_deletion_cost {
            return pending().await;
        }
        deletion_cost::keep(client, settings.manager(), replicas, latest.clone(), metrics).await;
    };
    tokio::select! {
        () = status::write(client, settings, latest.clone(), published.clone(), &notices, metrics) => {}
        () = recorder.run() => {}
        () = following => {}
        () = tcp_service => {}
        () = drains::tell(replicas, latest.clone(), &notices) => {}
        () = costs => {}
    }
}
