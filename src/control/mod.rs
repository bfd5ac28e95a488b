//! The one loop between the halves: changes in, tables out.
//!
//! It never knows where changes come from or what a connection is. `app` runs it; `k8s` or `manifests` feed it by one channel,
//! `live` takes the tables, and the latest translation goes out on a watch channel for whoever writes or shows statuses.

mod holdoff;
mod report;
mod resolver;

use std::{collections::BTreeSet, future::pending, sync::Arc};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::info;

use crate::{
    live::Live,
    model::{PoolKey, Table, bygone::Bygone},
    telemetry::{Metrics, metrics::Applied},
    translate::{Change, Dirty, Index, Kind, Options, Translated},
};
use holdoff::Holdoff;
use resolver::Resolver;

/// Translates what comes in and publishes what differs, until the channel of changes ends.
///
/// Nothing is published before every kind was listed once, by an `Event::Reset`.
pub async fn run(
    changes: mpsc::Receiver<Change>,
    options: Options,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    latest: watch::Sender<Arc<Translated>>,
) {
    let publish = |table, bygone| live.publish_beside(table, bygone);
    drive(changes, options, || live.held(), publish, &metrics, latest).await;
}

async fn drive(
    mut changes: mpsc::Receiver<Change>,
    options: Options,
    held: impl Fn() -> BTreeSet<PoolKey>,
    mut publish: impl FnMut(Table, Bygone) -> Option<u64>,
    metrics: &Metrics,
    latest: watch::Sender<Arc<Translated>>,
) {
    let mut state = State::default();
    let mut resolver = Resolver::default();
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => state.take(change),
                None => return,
            },
            change = resolver.next() => state.take(change),
            () = due(state.holdoff.deadline().filter(|_| state.is_complete())) => {
                let began = state.holdoff.take(Instant::now());
                let last = latest.borrow().clone();
                let (next, lane) = state.translate(&options, &last);
                resolver.want(next.names.keys());
                report::log(&last, &next, &options);
                report::count(&next, metrics);
                let bygone = state.bygone(&options, &next, held());
                if state.published && next.table == last.table && state.bygone == bygone {
                    latest.send_if_modified(|latest| *latest != next && { *latest = next; true });
                    continue;
                }
                // The first one has waited for lists, which is another measure.
                let began = began.filter(|_| std::mem::replace(&mut state.published, true));
                state.bygone = bygone.clone();
                if let Some(generation) = publish(next.table.clone(), bygone) {
                    began.inspect(|began| lane.applied(metrics).0.observe(began.elapsed()));
                    info!(generation, hosts = next.table.hosts.len(), pools = next.table.pools.len(), "serving a new configuration");
                }
                latest.send_if_modified(|latest| *latest != next && { *latest = next; true });
            }
        }
    }
}

async fn due(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// What the loop knows between two changes.
#[derive(Default)]
struct State {
    index: Index,
    dirty: Dirty,
    holdoff: Holdoff,
    /// The kinds that were; before they all are, nothing is published.
    listed: BTreeSet<Kind>,
    translated: bool,
    published: bool,
    /// What was published beside the table.
    bygone: Bygone,
}

impl State {
    fn take(&mut self, change: Change) {
        let listed = change.listed().is_some_and(|kind| self.listed.insert(kind));
        let dirty = self.index.apply(change);
        self.dirty = self.dirty.and(dirty);
        if dirty.any() || listed {
            self.holdoff.changed(Instant::now());
        }
    }

    /// What open tunnels need beside a table: `held` are the pools that something is open to.
    fn bygone(&mut self, options: &Options, next: &Translated, held: BTreeSet<PoolKey>) -> Bygone {
        Bygone { pools: self.index.follow(options, held, &next.table), refused: next.refused.clone() }
    }

    fn is_complete(&self) -> bool {
        self.listed.len() == Kind::ALL.len()
    }

    /// By the lane that does for what has changed.
    fn translate(&mut self, options: &Options, last: &Translated) -> (Arc<Translated>, Lane) {
        let dirty = std::mem::take(&mut self.dirty);
        let lane = if dirty.routes || !self.translated { Lane::Routes } else { Lane::Endpoints };
        self.translated = true;
        let next = match lane {
            Lane::Routes => self.index.translate(options),
            Lane::Endpoints => self.index.refresh(options, last),
        };
        (Arc::new(next), lane)
    }
}

/// How much is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// All of it.
    Routes,
    /// The endpoints alone.
    Endpoints,
}

impl Lane {
    fn applied(self, metrics: &Metrics) -> &Applied {
        match self {
            Lane::Routes => &metrics.routes_applied,
            Lane::Endpoints => &metrics.endpoints_applied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{manifests, model::upstream::EndpointState};

    const ROUTE: &str = "apiVersion: carrick.dev/v1alpha1\nkind: WsRoute\nmetadata: {name: shop}\nspec:\n  locations: [{path: /ws, backends: [{address: '127.0.0.1:9'}]}]\n";

    fn changes(text: &str) -> Vec<Change> {
        manifests::parse(text).0
    }

    async fn send(sender: &mpsc::Sender<Change>, changes: Vec<Change>) {
        for change in changes {
            sender.send(change).await.unwrap();
        }
    }

    /// Runs the loop and gives back the tables that it publishes.
    fn start() -> (mpsc::Sender<Change>, mpsc::UnboundedReceiver<Table>, watch::Receiver<Arc<Translated>>) {
        let (sender, receiver) = mpsc::channel(64);
        let (published, tables) = mpsc::unbounded_channel();
        let (latest, statuses) = watch::channel(Arc::default());
        let publish = move |table, _| published.send(table).ok().map(|()| 1);
        #[allow(clippy::disallowed_methods, reason = "a test owns its tasks")]
        tokio::spawn(async move { drive(receiver, Options::default(), BTreeSet::new, publish, &Metrics::default(), latest).await });
        (sender, tables, statuses)
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_published_before_every_kind_was_listed() {
        let (sender, mut tables, _statuses) = start();
        let mut all = changes(ROUTE);
        let last = all.pop().unwrap();
        send(&sender, all).await;
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        assert!(tables.try_recv().is_err());
        send(&sender, vec![last]).await;
        assert_eq!(tables.recv().await.unwrap().hosts.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_equal_table_is_not_published_again() {
        let (sender, mut tables, _statuses) = start();
        send(&sender, changes(ROUTE)).await;
        tables.recv().await.unwrap();
        send(&sender, changes(&format!("# a comment\n{ROUTE}"))).await;
        send(&sender, changes(&ROUTE.replace("/ws", "/other"))).await;
        let next = tables.recv().await.unwrap();
        assert_eq!(&*next.hosts[0].locations[0].label, "/other");
        assert!(tables.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_with_open_tunnels_is_followed_beside_the_table() {
        let (sender, receiver) = mpsc::channel(64);
        let (published, mut served) = mpsc::unbounded_channel();
        let held = Arc::new(parking_lot::Mutex::new(BTreeSet::new()));
        let (latest, _statuses) = watch::channel(Arc::default());
        let ask = {
            let held = Arc::clone(&held);
            move || held.lock().clone()
        };
        let publish = move |table: Table, bygone| published.send((table, bygone)).ok().map(|()| 1);
        #[allow(clippy::disallowed_methods, reason = "a test owns its tasks")]
        tokio::spawn(async move { drive(receiver, Options::default(), ask, publish, &Metrics::default(), latest).await });
        let service = |terminating: bool| {
            format!(
                "kind: Service\napiVersion: v1\nmetadata: {{name: app}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
                 kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata: {{name: app-1, labels: {{kubernetes.io/service-name: app}}}}\n\
                 addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [10.0.0.1], conditions: {{terminating: {terminating}}}}}]\n"
            )
        };
        let route = ROUTE.replace("{address: '127.0.0.1:9'}", "{service: app, port: 80}");
        let key = PoolKey::Service { service: crate::model::ObjectRef::new("default", "app"), port: "80".into() };
        send(&sender, changes(&format!("{}---\n{route}", service(false)))).await;
        let (table, bygone) = served.recv().await.unwrap();
        assert!(table.pools.contains_key(&key) && bygone.pools.is_empty());

        held.lock().insert(key.clone());
        send(&sender, changes(&service(false))).await;
        let (table, bygone) = served.recv().await.unwrap();
        assert!(table.pools.is_empty());
        let state = |bygone: &Bygone| bygone.pools[&key].endpoints[0].state;
        assert_eq!(state(&bygone), EndpointState::Ready);
        send(&sender, changes(&service(true))).await;
        let (same, bygone) = served.recv().await.unwrap();
        assert_eq!((same, state(&bygone)), (table, EndpointState::Draining));

        held.lock().clear();
        send(&sender, changes(&service(false))).await;
        assert!(served.recv().await.unwrap().1.pools.is_empty(), "nobody needs it any more");
        send(&sender, changes(&service(true))).await;
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        assert!(served.try_recv().is_err(), "nor looks at it");
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_fill_the_pool_without_a_new_translation() {
        let (sender, mut tables, _statuses) = start();
        send(&sender, changes(&ROUTE.replace("127.0.0.1:9", "chat.invalid:9"))).await;
        let key = PoolKey::Address("chat.invalid:9".into());
        let first = tables.recv().await.unwrap();
        assert_eq!(first.pools[&key].endpoints.len(), 0);
        sender.send(Change::Address { host_port: "chat.invalid:9".into(), addresses: vec!["10.0.0.1:9".parse().unwrap()] }).await.unwrap();
        let second = tables.recv().await.unwrap();
        assert_eq!(second.pools[&key].endpoints.len(), 1);
        assert!(Arc::ptr_eq(&first.hosts[0].locations[0], &second.hosts[0].locations[0]));
    }
}
