//! The atomic joint between the two halves: one pointer to all that a request needs. The only module that names arc_swap.
//!
//! It never knows where a table comes from or what a request is. `control` publishes, `proxy` loads.

mod secured;
mod swap;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
pub use arc_swap::Guard;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::secured::Secured;
use crate::{
    balance::{Balancer, Limiter, Pools, Target},
    dial::Clients,
    model::{
        LocationKey, ObjectRef, PoolKey, Table,
        balancing::Balancing,
        bygone::Bygone,
        route::{Action, Backend},
        tcp::TcpRoute,
    },
    router::{self, Router},
    telemetry::{LocationMetrics, Metrics},
};

pub use self::swap::Swap;

/// What is served now.
pub struct Live {
    current: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
    replaced: watch::Sender<()>,
    balancer: Arc<Balancer>,
    clients: Clients,
    metrics: Arc<Metrics>,
    /// One publication at a time.
    publishing: Mutex<()>,
}

/// All that a request needs, never changed once published.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// 0 before the first publication; moves only when the meaning does.
    pub generation: u64,
    /// What it was made from.
    pub table: Arc<Table>,
    /// What open tunnels need beside it.
    pub bygone: Arc<Bygone>,
    /// Decides where requests go.
    pub router: Arc<Router>,
    /// The locations, by [`router::Decision::Location`].
    pub served: Box<[Arc<Served>]>,
    /// The layer-4 routes, by [`Router::tcp`].
    pub tcp: Box<[Arc<ServedTcp>]>,
}

/// A location with what it needs to serve.
pub struct Served {
    /// What it does.
    pub location: Arc<router::Location>,
    /// Its backends; `None` where it has none by its nature.
    pub target: Option<Arc<Target>>,
    /// TLS to them.
    pub secured: Secured,
    /// What is let in to them; `None` where there are none.
    pub limiter: Option<Limiter>,
    /// Its counters.
    pub metrics: Arc<LocationMetrics>,
}

/// A layer-4 route with what it needs to serve.
pub struct ServedTcp {
    /// What it does.
    pub route: Arc<TcpRoute>,
    /// Its backends.
    pub target: Arc<Target>,
    /// TLS to them.
    pub secured: Secured,
    /// Which clients are let in.
    pub access: router::Access,
    /// How many of them.
    pub limiter: Limiter,
    /// Its counters.
    pub metrics: Arc<LocationMetrics>,
}

impl Live {
    /// Serves nothing until the first publication.
    pub fn new(balancer: Arc<Balancer>, metrics: Arc<Metrics>) -> Arc<Self> {
        let (generation, replaced, clients) = (watch::Sender::new(0), watch::Sender::default(), Clients::default());
        let current = ArcSwap::from_pointee(Snapshot::default());
        Arc::new(Self { current, generation, replaced, balancer, clients, metrics, publishing: Mutex::new(()) })
    }

    /// The owner of the endpoints.
    pub fn balancer(&self) -> &Arc<Balancer> {
        &self.balancer
    }

    /// What is served now. Drop the guard before the next await.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Serves this table from now on. The new generation, or `None` if it means the same as the one served. The first table is always new.
    ///
    /// Endpoints alone: the router and every location whose pools stayed are the same ones as before.
    pub fn publish(&self, table: Table) -> Option<u64> {
        self.publish_beside(table, Bygone::default())
    }

    /// The same with what open tunnels need beside the table, which is replaced without a new generation where it alone differs.
    pub fn publish_beside(&self, table: Table, bygone: Bygone) -> Option<u64> {
        let _one_at_a_time = self.publishing.lock();
        let last = self.current.load_full();
        if last.generation > 0 && *last.table == table {
            if *last.bygone != bygone {
                self.current.store(Arc::new(Snapshot { bygone: Arc::new(bygone), ..(*last).clone() }));
                self.replaced.send_replace(());
            }
            return None;
        }
        let snapshot = Snapshot { bygone: Arc::new(bygone), ..self.next(&last, table) };
        let generation = snapshot.generation;
        self.current.store(Arc::new(snapshot));
        self.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.generation.send_replace(generation);
        self.replaced.send_replace(());
        Some(generation)
    }

    /// The pools that requests or tunnels are open to, be they in the table or not.
    pub fn held(&self) -> BTreeSet<PoolKey> {
        self.balancer.held()
    }

    fn next(&self, last: &Snapshot, table: Table) -> Snapshot {
        let pools = self.balancer.reconcile(&table);
        let router = if same_routing(&last.table, &table) {
            last.router.clone()
        } else {
            self.metrics.router_compilations.inc();
            Arc::new(last.router.recompile(&table))
        };
        let before = Before::of(last);
        let served = router.locations().iter().map(|location| self.serve(location, &pools, &before)).collect();
        let tcp = router.tcp_routes().iter().map(|route| self.serve_tcp(route, &pools, &before)).collect();
        Snapshot { generation: last.generation + 1, table: Arc::new(table), bygone: Arc::default(), router, served, tcp }
    }

    fn serve(&self, location: &Arc<router::Location>, pools: &Pools, before: &Before<'_>) -> Arc<Served> {
        let spec = &location.spec;
        let target = match &spec.action {
            Action::Proxy(proxy) => Some(before.target(&spec.key, &spec.route, &proxy.backends, &proxy.balancing, pools)),
            Action::Static(_) | Action::Redirect(_) | Action::Unavailable => None,
        };
        let same = |served: &&&Arc<Served>| Arc::ptr_eq(&served.location, location) && same_target(served.target.as_ref(), target.as_ref());
        if let Some(served) = before.served.get(&spec.key).and_then(|served| served.iter().find(same)) {
            return Arc::clone(served);
        }
        let metrics = self.metrics.location(&spec.route.namespace, &spec.route.name, &spec.label);
        let secured = spec.proxy().map(|proxy| Secured::new(&proxy.backends, &self.clients)).unwrap_or_default();
        let limited = spec.proxy().zip(target.as_ref());
        let limiter = limited.map(|(proxy, target)| self.balancer.limiter(&spec.key, &spec.route, proxy.limits, target));
        Arc::new(Served { location: location.clone(), target, secured, limiter, metrics })
    }

    fn serve_tcp(&self, route: &Arc<TcpRoute>, pools: &Pools, before: &Before<'_>) -> Arc<ServedTcp> {
        let target = before.target(&route.key, &route.route, &route.backends, &route.balancing, pools);
        let same = |served: &&&Arc<ServedTcp>| served.route == *route && Arc::ptr_eq(&served.target, &target);
        if let Some(served) = before.tcp.get(&route.key).and_then(|served| served.iter().find(same)) {
            return Arc::clone(served);
        }
        let metrics = self.metrics.location(&route.route.namespace, &route.route.name, &route.label);
        let secured = Secured::new(&route.backends, &self.clients);
        let access = router::Access::compile(&route.access);
        let limiter = self.balancer.limiter(&route.key, &route.route, route.limits, &target);
        Arc::new(ServedTcp { route: route.clone(), target, secured, access, limiter, metrics })
    }

    /// Tells each generation after it came into force.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Changes with each snapshot, those included that need no generation of their own.
    pub fn replaced(&self) -> watch::Receiver<()> {
        self.replaced.subscribe()
    }
}

/// Whether two tables differ in their pools at most.
fn same_routing(last: &Table, table: &Table) -> bool {
    let Table { hosts, tcp, pools: _, certs, default_cert } = table;
    last.hosts == *hosts && last.tcp == *tcp && last.certs == *certs && last.default_cert == *default_cert
}

fn same_target(before: Option<&Arc<Target>>, now: Option<&Arc<Target>>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => Arc::ptr_eq(before, now),
        (None, None) => true,
        _ => false,
    }
}

/// What was served before, by identity: several locations of a namespace may share one.
struct Before<'a> {
    served: HashMap<&'a LocationKey, Vec<&'a Arc<Served>>>,
    tcp: HashMap<&'a LocationKey, Vec<&'a Arc<ServedTcp>>>,
    targets: HashMap<(&'a LocationKey, &'a ObjectRef), &'a Arc<Target>>,
}

impl<'a> Before<'a> {
    fn of(last: &'a Snapshot) -> Self {
        let mut before = Self { served: HashMap::new(), tcp: HashMap::new(), targets: HashMap::new() };
        for served in &last.served {
            let spec = &served.location.spec;
            before.served.entry(&spec.key).or_default().push(served);
            if let Some(target) = &served.target {
                before.targets.insert((&spec.key, &spec.route), target);
            }
        }
        for served in &last.tcp {
            before.tcp.entry(&served.route.key).or_default().push(served);
            before.targets.insert((&served.route.key, &served.route.route), &served.target);
        }
        before
    }

    /// The target of a location, on from where its turns were.
    fn target(&self, key: &LocationKey, route: &ObjectRef, backends: &[Backend], balancing: &Balancing, pools: &Pools) -> Arc<Target> {
        Target::build(backends, balancing, pools, self.targets.get(&(key, route)).copied())
    }
}

#[cfg(test)]
mod tests;
