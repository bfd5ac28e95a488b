#![deny(clippy::unwrap_used, clippy::expect_used)]
//! The data side: from an accepted connection to its answer.
//!
//! It never knows Kubernetes, nor how a configuration came to be. `app` makes a [`Proxy`] from [`Settings`] and a [`Live`], and starts it
//! with [`listen::start`].

pub mod affinity;
pub mod backend;
pub mod body;
pub mod client_auth;
pub mod client_cert;
pub mod conn;
mod decide;
pub mod files;
pub mod forward;
pub mod gate;
pub mod guarded;
pub mod headers;
pub mod hello;
mod hold;
pub mod http;
pub mod keys;
pub mod listen;
#[cfg(test)]
mod peers;
pub mod proxy_protocol;
pub mod rebalance;
pub mod refuse;
pub mod retire;
mod search;
mod sent;
pub mod tcp;
mod tickets;
pub mod tls;
pub mod upgrade;

use std::{
    net::IpAddr,
    ops::RangeInclusive,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use ipnet::IpNet;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::{
    live::Live,
    telemetry::{AccessLog, Metrics},
    tunnel::Registry,
};

/// What the command line says about the data side. Never changed once started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of every listener and layer-4 port. `[::]` takes both families, and falls back to `0.0.0.0`.
    pub bind: IpAddr,
    /// The named listeners; the first is `default`.
    pub listeners: Vec<ListenerSettings>,
    /// The ports that `spec.tcp` may name; `None` is none.
    pub tcp_ports: Option<RangeInclusive<u16>>,
    /// From the first byte of a request to the end of its head, and from accept to the first byte.
    pub header_timeout: Duration,
    /// A request body that stalls.
    pub body_timeout: Duration,
    /// A reader that stalls.
    pub send_timeout: Duration,
    /// A connection between two requests.
    pub keepalive_timeout: Duration,
    /// From the first byte to the end of the TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// Where `static.directory` is looked for.
    pub static_root: Option<PathBuf>,
    /// How the static root is divided.
    pub static_layout: files::Layout,
    /// Whose X-Forwarded-* and PROXY header count.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// A load balancer in front ends TLS: every request counts as https.
    pub tls_terminated_upstream: bool,
    /// Answered for any host, 200 until [`Proxy::leave`].
    pub lb_health_path: Option<Box<str>>,
    /// Whether refusals carry `X-Carrick-Reason`.
    pub refusal_header: bool,
    /// Whether requests carry `Forwarded` to the backend.
    pub forwarded: bool,
    /// Names of sessions that are read from answers and kept.
    pub max_learned_sessions: usize,
    /// Client connections open at a time; accepting pauses there.
    pub max_connections: usize,
    /// The same for one client address, IPv6 by /64; 0 is any number.
    pub max_connections_per_client: u32,
    /// Handshakes of one location that wait while no endpoint is ready; more are refused at once.
    pub max_held_handshakes: u32,
}

/// A pair of ports that hosts are served on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// What `spec.listeners` calls it.
    pub name: Arc<str>,
    /// The port of plain HTTP; 0 is any free one.
    pub http: Option<u16>,
    /// The port of HTTPS; 0 is any free one.
    pub https: Option<u16>,
    /// What Location and X-Forwarded-Port say for HTTP; the bound port where absent.
    pub public_http_port: Option<u16>,
    /// The same for HTTPS.
    pub public_https_port: Option<u16>,
}

/// Whether connections of trusted proxies begin with a PROXY header. From others it closes the connection, except with `Off`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// It is not looked for.
    #[default]
    Off,
    /// It may.
    Optional,
    /// It must; a peer that is not trusted can't connect.
    Required,
}

impl Default for Settings {
    /// The defaults of the flags, on any free port of loopback.
    fn default() -> Self {
        Self {
            bind: IpAddr::from([127, 0, 0, 1]),
            listeners: vec![ListenerSettings {
                name: "default".into(),
                http: Some(0),
                https: Some(0),
                public_http_port: None,
                public_https_port: None,
            }],
            tcp_ports: None,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(75),
            tls_handshake_timeout: Duration::from_secs(10),
            static_root: None,
            static_layout: files::Layout::Shared,
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
            tls_terminated_upstream: false,
            lb_health_path: None,
            refusal_header: true,
            forwarded: false,
            max_learned_sessions: 100_000,
            max_connections: 10_000,
            max_connections_per_client: 0,
            max_held_handshakes: 4096,
        }
    }
}

impl Settings {
    /// Whether what this peer says about the client counts.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}

/// What everything on the data side shares.
pub struct Proxy {
    /// What the command line said.
    pub settings: Settings,
    /// What is served.
    pub live: Arc<Live>,
    /// The open tunnels.
    pub registry: Arc<Registry>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// One line a request.
    pub access: AccessLog,
    /// Answers with files.
    pub files: files::Files,
    /// Connections to backends that wait for their next request.
    pub pool: Arc<backend::Pool>,
    /// Keys that replicas share.
    pub keys: Arc<keys::Keyring>,
    /// Where sessions are whose names servers made up.
    pub sessions: Arc<affinity::sessions::Sessions>,
    leaving: AtomicBool,
    shutting_down: AtomicBool,
    parting: AtomicBool,
    told: Notify,
    /// Tells those who are held while no endpoint is ready.
    released: Notify,
    /// The HTTP connections that have sent something.
    serving: TaskTracker,
    /// Those of them that are not between two requests.
    busy: TaskTracker,
}

impl Proxy {
    /// Joins what the data side needs.
    pub fn new(settings: Settings, live: Arc<Live>, registry: Arc<Registry>, metrics: Arc<Metrics>, access: AccessLog) -> Arc<Self> {
        let files = files::Files::new(settings.static_root.clone(), settings.static_layout);
        let sessions = affinity::sessions::Sessions::new(settings.max_learned_sessions, Arc::clone(&metrics));
        Arc::new(Self {
            settings,
            live,
            registry,
            metrics,
            access,
            files,
            pool: backend::Pool::new(),
            keys: Arc::default(),
            sessions: Arc::new(sessions),
            leaving: AtomicBool::new(false),
            shutting_down: AtomicBool::new(false),
            parting: AtomicBool::new(false),
            told: Notify::new(),
            released: Notify::new(),
            serving: TaskTracker::new(),
            busy: TaskTracker::new(),
        })
    }

    /// From now on the health path of load balancers fails; everything else is served as before.
    pub fn leave(&self) {
        self.leaving.store(true, SeqCst);
    }

    /// Whether load balancers are to send new connections elsewhere.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(SeqCst)
    }

    /// From now on answers end their connection. One that is idle stays: its client may have sent a request that is not here yet.
    pub fn shut_down(&self) {
        self.leave();
        self.shutting_down.store(true, SeqCst);
        self.released.notify_waiters();
    }

    /// Done once [`Proxy::shut_down`] was called.
    pub async fn shutting_down(&self) {
        let released = self.released.notified();
        if !self.is_shutting_down() {
            released.await;
        }
    }

    /// Whether [`Proxy::shut_down`] was called.
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(SeqCst)
    }

    /// Idle connections end now, with a FIN: the last word to clients that had nothing to ask.
    pub fn part(&self) {
        self.shut_down();
        self.parting.store(true, SeqCst);
        self.told.notify_waiters();
    }

    /// Done once [`Proxy::part`] was called.
    pub async fn parting(&self) {
        let told = self.told.notified();
        if !self.parting.load(SeqCst) {
            told.await;
        }
    }

    /// Done when every request that had begun is answered.
    pub async fn answered(&self) {
        self.busy.close();
        self.busy.wait().await;
    }

    /// Whether no request is under way.
    pub fn is_answered(&self) -> bool {
        self.busy.is_empty()
    }

    /// Done when every HTTP connection has ended. Those that never sent anything are not waited for.
    pub async fn closed(&self) {
        self.serving.close();
        self.serving.wait().await;
    }
}
