//! The control side: where the objects come from, the loop that translates them, and in a cluster what the leader writes.
//!
//! It glues `k8s` and `manifests`, which know nothing of the data side, to what the data side tells and is told. `server` starts it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{addresses::Addresses, server::Source, settings, threads::Threads};
use crate::{
    admin,
    balance::Share,
    cli::{Controller, Flags, Translation},
    control,
    k8s::{
        self,
        peers::{Peers, Sight},
    },
    live::Live,
    manifests,
    model::{ObjectRef, keys::Seeds},
    proxy::{
        keys::{Keyring, random},
        retire::AskFate,
    },
    telemetry::Metrics,
    translate::{Change, Translated},
    tunnel::Registry,
};

/// Changes that wait for the control loop; whoever has more of them waits.
const CHANGES: usize = 1024;

/// How long giving the Lease back may take.
const RESIGNING: Duration = Duration::from_secs(3);

/// The candidate for the Lease.
pub struct Leader {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Leader {
    /// Gives the Lease back, so that another replica writes at once.
    pub async fn resign(self) {
        self.stop.cancel();
        if timeout(RESIGNING, self.running).await.is_err() {
            tracing::warn!("the Lease could not be given back: another replica takes it when it ends");
        }
    }
}

/// The control side, as far as the rest has to do with it.
#[derive(Default)]
pub struct Controlling {
    /// Who is to give the Lease back at the end.
    pub leader: Option<Leader>,
    /// Who knows what becomes of Pods.
    pub ask: Option<AskFate>,
}

/// What the control side has of the data side.
pub struct Seen {
    /// Takes the tables.
    pub live: Arc<Live>,
    /// Knows the tunnels.
    pub registry: Arc<Registry>,
    /// Is told how many replicas there are.
    pub share: Arc<Share>,
    /// Is told the seeds that they share.
    pub keys: Arc<Keyring>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Starts what feeds the data side: where the objects come from, and the loop that translates them.
pub fn start(threads: &Threads, flags: &Flags, source: Source, addresses: &Addresses, seen: Seen) -> anyhow::Result<Controlling> {
    let (send, changes) = mpsc::channel(CHANGES);
    let (latest, _) = watch::channel(Arc::default());
    let handle = threads.handle();
    let mut controlling = Controlling::default();
    let options = match source {
        Source::Manifests { paths, translation } => {
            handle.spawn(manifests::watch(paths, send));
            settings::server_options(flags, &translation, addresses)
        }
        Source::Text(text) => {
            handle.spawn(feed(text, send));
            settings::server_options(flags, &Translation::default(), addresses)
        }
        Source::Cluster(controller) => {
            controlling = start_cluster(threads, &controller, send, &latest, addresses.ops(), &seen)?;
            settings::controller_options(flags, &controller.cluster, addresses)
        }
    };
    handle.spawn(control::run(changes, options, seen.live, seen.metrics, latest));
    Ok(controlling)
}

/// What watches a cluster, and what writes to it while we lead.
fn start_cluster(
    threads: &Threads,
    controller: &Controller,
    send: mpsc::Sender<Change>,
    latest: &watch::Sender<Arc<Translated>>,
    ops: Option<SocketAddr>,
    seen: &Seen,
) -> anyhow::Result<Controlling> {
    let handle = threads.handle();
    let metrics = || Arc::clone(&seen.metrics);
    let access = settings::access(&controller.cluster);
    let connection = threads.block_on(async move { k8s::connect(&access).await })?;
    let scope = settings::scope(&controller.cluster);
    let ask = ask_fate(handle, k8s::pods::Pods::new(&connection, scope.clone()));
    match (&controller.zone, &controller.node_name) {
        (Some(zone), _) => send_zone(&send, zone),
        (None, Some(node)) => drop(handle.spawn(k8s::zone::tell(connection.clone(), node.clone(), send.clone()))),
        (None, None) => {}
    }
    handle.spawn(k8s::watch::run(connection.clone(), scope, send, latest.subscribe(), metrics()));
    if let Some(secret) = &controller.keys_secret {
        let keys = Arc::clone(&seen.keys);
        let replace = move |seeds: &Seeds| keys.replace(seeds);
        handle.spawn(k8s::keys::run(connection.clone(), secret.clone(), controller.lease_name.clone(), random, replace));
    }
    let (leading, is_leading) = watch::channel(false);
    let stop = CancellationToken::new();
    let running = handle.spawn(k8s::lease::run(connection.clone(), settings::lease(controller), leading, stop.clone(), metrics()));
    let share = Arc::clone(&seen.share);
    let sources = k8s::leader::Sources {
        latest: latest.subscribe(),
        leading: is_leading,
        peers: controller.peers_service.clone().map(|service| follow_peers(handle, &connection, service, share)),
        sight: sight(Arc::clone(&seen.registry), ops),
    };
    handle.spawn(k8s::leader::run(connection, settings::leader(controller), sources, metrics()));
    Ok(Controlling { leader: Some(Leader { stop, running }), ask: Some(ask) })
}

/// Has the control side ask the API server about Pods: its connections live there.
fn ask_fate(control: &Handle, pods: k8s::pods::Pods) -> AskFate {
    let (control, pods) = (control.clone(), Arc::new(pods));
    Arc::new(move |pod| {
        let pods = Arc::clone(&pods);
        let asked = control.spawn(async move { pods.fate(&pod).await });
        // A control side that has ended knows nothing.
        Box::pin(async move { asked.await.ok().flatten() })
    })
}

/// The replicas behind a Service of ours, each of which has its share of what the installation may do.
fn follow_peers(handle: &Handle, connection: &k8s::Connection, service: ObjectRef, share: Arc<Share>) -> watch::Receiver<Peers> {
    let (known, peers) = watch::channel(Peers::None);
    handle.spawn(k8s::peers::follow(connection.clone(), service, known));
    let mut watched = peers.clone();
    handle.spawn(async move {
        while watched.changed().await.is_ok() {
            if let Some(ready) = k8s::peers::ready(&watched.borrow_and_update()) {
                share.set_replicas(ready);
            }
        }
    });
    peers
}

/// How the tunnels of all replicas are seen: ours in the registry, those of others by their ops ports.
fn sight(registry: Arc<Registry>, ours: Option<SocketAddr>) -> Sight {
    Sight {
        departures: registry.departures(),
        own: Arc::new(move || registry.pods()),
        ask: Arc::new(move |replica| Box::pin(admin::ask_for_pods(replica, ours))),
    }
}

/// Nothing is in the channel yet: there is room.
fn send_zone(changes: &mpsc::Sender<Change>, zone: &str) {
    if changes.try_send(Change::Zone(zone.into())).is_err() {
        tracing::error!(zone, "the zone could not be handed over");
    }
}

/// Hands a text over, and keeps the channel open: it is all there ever is.
async fn feed(text: String, changes: mpsc::Sender<Change>) {
    let (objects, faults) = manifests::parse(&text);
    for fault in faults {
        tracing::error!("{fault}");
    }
    for change in objects {
        if changes.send(change).await.is_err() {
            return;
        }
    }
    changes.closed().await;
}
