//! One running Carrick: the data side on its runtime, the control side on its own, and the order in which they end.

use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    addresses::Addresses,
    controlling::{self, Controlling, Leader, Seen},
    keys, settings,
    threads::Threads,
};
use crate::{
    admin,
    balance::{self, Balancer},
    cli::{ADMIN_BIND, Controller, Flags, OPS_BIND, Publish, Translation},
    live::Live,
    proxy::{
        Proxy,
        files::Layout,
        listen::{self, Listening},
        rebalance, retire,
    },
    telemetry::{AccessLog, Metrics, metrics::Detail},
    tunnel::{Order, Reason, Registry},
};

/// How long the tunnels may take to answer once we are told to go at once.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a connection between two requests is left open for one more, whose answer tells it to end. What is in use is used again
/// within this time; after it a request hardly ever crosses the FIN.
const KEEP_ALIVE_GRACE: Duration = Duration::from_secs(2);

/// How long connections that are still there at the drain timeout have to see their FIN.
const FAREWELL: Duration = Duration::from_millis(500);

/// Where the objects come from.
pub enum Source {
    /// Files, reloaded when they change.
    Manifests {
        /// Files and folders.
        paths: Vec<PathBuf>,
        /// Which objects are accepted.
        translation: Translation,
    },
    /// A text that never changes.
    Text(String),
    /// A cluster.
    Cluster(Box<Controller>),
}

/// A running Carrick. Dropping it ends it at once; [`Server::shut_down`] ends it as SIGTERM does.
pub struct Server {
    addresses: Addresses,
    live: Arc<Live>,
    registry: Arc<Registry>,
    proxy: Arc<Proxy>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    listening: Listening,
    flags: Flags,
    written: CancellationToken,
    writing: Option<JoinHandle<()>>,
    leaving: Leaving,
    leader: Option<Leader>,
    // The order of the fields is the order of their end.
    _control: Threads,
    data: Threads,
}

impl Server {
    /// Binds every port and starts both halves. What is served follows as soon as it is read.
    pub fn start(flags: &Flags, source: Source) -> anyhow::Result<Self> {
        let workers = flags.workers.map_or_else(|| available_parallelism().map_or(1, usize::from), usize::from);
        let data = Threads::start("data", workers).context("the data runtime could not be started")?;
        let control = Threads::start("control", 1).context("the control runtime could not be started")?;

        let metrics = Arc::<Metrics>::default();
        let written = CancellationToken::new();
        let (access, writing) = start_access_log(flags, &metrics, &control, &written);
        let balancer = Balancer::with(Arc::clone(&metrics));
        let share = Arc::clone(balancer.share());
        let live = Live::new(Arc::clone(&balancer), Arc::clone(&metrics));
        control.handle().spawn(balance::health::probe::run(balancer, Arc::clone(&metrics)));
        let registry = Registry::new(access.clone());
        let settings = settings::proxy(flags, static_root(&source), layout(&source));
        let proxy = Proxy::new(settings, Arc::clone(&live), Arc::clone(&registry), Arc::clone(&metrics), access);
        let listening = data.block_on({
            let proxy = Arc::clone(&proxy);
            async move { listen::start(&proxy).await }
        })?;
        let ready = Arc::new(AtomicBool::new(true));
        let state =
            admin::State::new(Arc::clone(&live), Arc::clone(&registry), Arc::clone(&metrics), Arc::clone(&ready), data.handle().clone())
                .with_detail(if flags.metrics_per_endpoint { Detail::Endpoint } else { Detail::Service });
        let bind = |flag: Option<Publish>, default| flag.map_or(Some(default), Publish::address);
        let ops = bind(flags.ops_bind, OPS_BIND).map(|at| start_admin(&control, at, state.clone(), admin::Role::Ops)).transpose()?;
        let admin = bind(flags.admin_bind, ADMIN_BIND).map(|at| start_admin(&control, at, state, admin::Role::Admin)).transpose()?;
        let addresses = Addresses { bound: listening.bound().to_vec(), ops, admin };

        if let Some(file) = &flags.keys_file {
            keys::use_file(control.handle(), file, Arc::clone(&proxy.keys))?;
        }
        let leaving = Leaving::of(&source);
        let keys = Arc::clone(&proxy.keys);
        let seen = Seen { live: Arc::clone(&live), registry: Arc::clone(&registry), share, keys, metrics: Arc::clone(&metrics) };
        let Controlling { leader, ask } = controlling::start(&control, flags, source, &addresses, seen)?;
        data.handle().spawn(retire::run(Arc::clone(&live), Arc::clone(&registry), ask));
        data.handle().spawn(rebalance::run(Arc::clone(&live), Arc::clone(&registry)));
        Ok(Self {
            addresses,
            live,
            registry,
            proxy,
            metrics,
            ready,
            listening,
            flags: flags.clone(),
            written,
            writing,
            leaving,
            leader,
            _control: control,
            data,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What it serves.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Blocks until the first configuration is in force.
    pub fn wait_until_serving(&self) {
        let mut generation = self.live.subscribe();
        // An error is a server that ended meanwhile.
        let _ = self.data.block_on(async move { generation.wait_for(|generation| *generation > 0).await.map(|_| ()) });
    }

    /// Ends as SIGTERM asks for: not ready, every tunnel told, every answer finished; `now` or the drain timeout cuts it short.
    ///
    /// The ports stay open until the end: closing a listener resets those who wait in its queue.
    pub async fn shut_down(mut self, now: impl Future<Output = ()>) {
        let leader = self.leader.take();
        // kube-proxy falls back to endpoints that serve and terminate, and load balancers send new connections long after.
        self.ready.store(self.leaving == Leaving::Cluster, Ordering::Relaxed);
        self.proxy.leave();
        let (delay, left) = (self.flags.shutdown_delay.map_or(Duration::ZERO, |delay| delay.0), self.flags.drain_timeout.0);
        self.metrics.replica_drain_deadline.set(unix_time_in(delay + left));
        let drained = async {
            sleep(delay).await;
            self.proxy.shut_down();
            let idle_until = Instant::now() + self.leaving.keep_alive_grace();
            let order = match self.leaving {
                Leaving::Demo => Order::all_at_once(Reason::Shutdown),
                Leaving::Standalone | Leaving::Cluster => Order::of_shutdown(left),
            };
            let told = self.registry.drain(&order);
            tracing::info!(tunnels = told, "shutting down: every open tunnel is told, one after the other");
            if timeout(left, self.ended(idle_until)).await.is_err() {
                tracing::warn!(tunnels = self.registry.len(), "the drain timeout is over: what is still open is cut");
                self.proxy.part();
                // Nothing but idle connections can end in this time.
                let _ = timeout(FAREWELL, self.proxy.closed()).await;
            }
        };
        let drained = async {
            tokio::select! {
                () = drained => {}
                () = now => {
                    tracing::warn!("told again: what is still open is told at once, and cut");
                    self.metrics.replica_drain_deadline.set(unix_time_in(LAST_WORDS));
                    self.proxy.shut_down();
                    self.registry.drain(&Order::all_at_once(Reason::Shutdown));
                    // Whoever does not answer in time is cut below.
                    let _ = timeout(LAST_WORDS, self.ended(Instant::now())).await;
                }
            }
        };
        // Draining takes minutes; statuses are for a replica that stays.
        let resigned = async {
            if let Some(leader) = leader {
                leader.resign().await;
            }
        };
        tokio::join!(drained, resigned);
        self.ready.store(false, Ordering::Relaxed);
        let Self { listening, data, written, writing, .. } = self;
        let closed = data.handle().spawn(listening.close());
        if closed.await.is_err() {
            tracing::error!("the listeners did not end well");
        }
        drop(data); // the last lines come from what is cut here
        written.cancel();
        if let Some(writing) = writing {
            // A panic of the writer has been reported by its runtime.
            let _ = writing.await;
        }
    }
}

impl Server {
    /// Done when there is no tunnel, no request, and then, at `idle_until` or before, no connection between two requests.
    async fn ended(&self, idle_until: Instant) {
        self.finished().await;
        if timeout_at(idle_until, self.proxy.closed()).await.is_err() {
            self.proxy.part();
            self.proxy.closed().await;
        }
        self.finished().await;
    }

    /// Done when there is no tunnel and no request, at the same time: the ports are open, and one may become the other.
    async fn finished(&self) {
        while !(self.registry.is_empty() && self.proxy.is_answered()) {
            tokio::join!(self.registry.emptied(), self.proxy.answered());
        }
    }
}

/// In seconds since the Unix epoch, for people: nothing waits by it.
fn unix_time_in(time: Duration) -> i64 {
    Timestamp::now().as_second().saturating_add(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

fn start_admin(control: &Threads, at: SocketAddr, state: admin::State, role: admin::Role) -> anyhow::Result<SocketAddr> {
    control
        .block_on(async move { admin::serve(listen::bind(at)?, state, role) })
        .with_context(|| format!("{at} can not be listened on; choose another with --ops-bind or --admin-bind"))
}

/// The access log, and the task that writes it until `written` is cancelled.
fn start_access_log(
    flags: &Flags,
    metrics: &Arc<Metrics>,
    threads: &Threads,
    written: &CancellationToken,
) -> (AccessLog, Option<JoinHandle<()>>) {
    if !flags.access_log {
        return (AccessLog::off(), None);
    }
    let (access, writer) = AccessLog::new(flags.log_format, Arc::clone(metrics));
    (access, Some(threads.handle().spawn(writer.run(tokio::io::stdout(), written.clone().cancelled_owned()))))
}

/// How a shutdown looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// Nobody else is there to take over: at once.
    Demo,
    /// Spread over the drain timeout, and not ready from the first moment.
    Standalone,
    /// Spread over the drain timeout, and ready to its end.
    Cluster,
}

impl Leaving {
    /// How long idle connections are left open for one more request.
    fn keep_alive_grace(self) -> Duration {
        match self {
            Leaving::Demo => Duration::ZERO,
            Leaving::Standalone | Leaving::Cluster => KEEP_ALIVE_GRACE,
        }
    }

    fn of(source: &Source) -> Self {
        match source {
            Source::Text(_) => Leaving::Demo,
            Source::Manifests { .. } => Leaving::Standalone,
            Source::Cluster(_) => Leaving::Cluster,
        }
    }
}

/// Files of a cluster's namespaces lie apart.
fn layout(source: &Source) -> Layout {
    match source {
        Source::Cluster(_) => Layout::Namespaced,
        _ => Layout::Shared,
    }
}

/// The folder of the first manifest.
fn static_root(source: &Source) -> Option<PathBuf> {
    let Source::Manifests { paths, .. } = source else { return None };
    let first = paths.first()?;
    Some(if first.is_dir() {
        first.clone()
    } else {
        first.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
    })
}
