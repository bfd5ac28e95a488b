//! The ports: bound, accepted from, and for layer 4 opened and closed as the configuration says.
//!
//! It never knows what is said on a connection. `app` starts it and ends it last; it starts a task of `conn` for each client.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use rustix::io::Errno;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Proxy,
    conn::{self, Entrance, Speaks},
    gate::Gate,
    tls::{Place, Tls, TlsError},
};
use crate::{dial, model::table::TcpPort};

/// Connections that the kernel keeps for us while all workers are busy. It cuts this to net.core.somaxconn, 4096 by default.
const BACKLOG: i32 = 16_384;
/// How long accepting rests when descriptors ran out and none of ours is closed meanwhile.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// How long it rests after an error that nobody knows a cause of.
const UNKNOWN: Duration = Duration::from_secs(1);
/// How often the log says that accepting pauses for one reason. /metrics counts them all.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// How long a layer-4 port that could not be bound is left alone.
const RETRY: Duration = Duration::from_secs(2);

/// Why the data side could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port of a listener is not to be had.
    #[error(
        "listener {listener} can not listen on {address}; give it another port (--http-port, --https-port, --listener) or address (--bind)"
    )]
    Bind {
        /// The listener's name.
        listener: Arc<str>,
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A listener's port that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The listener's name.
    pub listener: Arc<str>,
    /// Whether it is the HTTPS one.
    pub https: bool,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The open ports. Dropped, it leaves them open.
#[derive(Debug)]
pub struct Listening {
    bound: Vec<Bound>,
    tcp_ports: watch::Receiver<BTreeSet<u16>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Listening {
    /// The ports of the listeners, in the order of the settings, HTTP before HTTPS.
    pub fn bound(&self) -> &[Bound] {
        &self.bound
    }

    /// The layer-4 ports that are open, as they change.
    pub fn tcp_ports(&self) -> watch::Receiver<BTreeSet<u16>> {
        self.tcp_ports.clone()
    }

    /// Closes the ports: the last act of a process, for whoever waits in a queue then gets a FIN and no answer. Connections live on.
    pub async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Opens all ports. Called on the runtime that is to serve them.
pub async fn start(proxy: &Arc<Proxy>) -> Result<Listening, StartError> {
    let settings = &proxy.settings;
    let shared = Arc::new(Shared {
        gate: Gate::new(settings.max_connections, settings.max_connections_per_client, Arc::clone(&proxy.metrics)),
        proxy: Arc::clone(proxy),
        tls: Tls::new(Arc::clone(&proxy.keys))?,
    });
    let doors = shared.doors()?;
    let bound = doors.iter().map(|door| door.bound.clone()).collect();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    for Door { listener, entrance, .. } in doors {
        tasks.spawn(Arc::clone(&shared).accept(listener, Arc::new(entrance), stop.child_token()));
    }
    let (ports, tcp_ports) = watch::channel(BTreeSet::new());
    tasks.spawn(TcpPorts { shared, ports, open: BTreeMap::new() }.follow(stop.clone()));
    Ok(Listening { bound, tcp_ports, stop, tasks })
}

/// What all accept loops share.
struct Shared {
    proxy: Arc<Proxy>,
    gate: Arc<Gate>,
    tls: Tls,
}

/// A port of a listener, open and not yet accepted from.
struct Door {
    bound: Bound,
    listener: TcpListener,
    entrance: Entrance,
}

impl Shared {
    /// Binds the ports of all listeners, and only then says what clients are told of them: a port of 0 has its number by then.
    fn doors(&self) -> Result<Vec<Door>, StartError> {
        let mut doors = Vec::new();
        for settings in &self.proxy.settings.listeners {
            let open = |port: Option<u16>| port.map(|port| self.bind(&settings.name, port)).transpose();
            let (http, https) = (open(settings.http)?, open(settings.https)?);
            let public_http_port = http.as_ref().map(|(_, address)| settings.public_http_port.unwrap_or(address.port()));
            let public_https_port = https.as_ref().map(|(_, address)| settings.public_https_port.unwrap_or(address.port()));
            let door = |https: bool, speaks: Speaks, (listener, address): (TcpListener, SocketAddr)| {
                let public = if https { public_https_port } else { public_http_port };
                Door {
                    bound: Bound { listener: Arc::clone(&settings.name), https, address },
                    listener,
                    entrance: Entrance {
                        listener: Arc::clone(&settings.name),
                        speaks,
                        public_port: public.unwrap_or(address.port()),
                        public_http_port,
                        public_https_port,
                    },
                }
            };
            doors.extend(http.map(|open| door(false, Speaks::Http, open)));
            if let Some(open) = https {
                let terminator = self.tls.terminator(Arc::clone(&self.proxy.live), Place::Listener(Arc::clone(&settings.name)))?;
                doors.push(door(true, Speaks::Https(terminator), open));
            }
        }
        Ok(doors)
    }

    fn bind(&self, name: &Arc<str>, port: u16) -> Result<(TcpListener, SocketAddr), StartError> {
        let asked = SocketAddr::new(self.proxy.settings.bind, port);
        let open = || {
            let listener = bind(asked)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        open().map_err(|source| StartError::Bind { listener: Arc::clone(name), address: asked, source })
    }

    /// Accepts until told to stop, then says goodbye to those who wait in the queue.
    async fn accept(self: Arc<Self>, listener: TcpListener, entrance: Arc<Entrance>, stop: CancellationToken) {
        let stopped = stop.clone();
        let mut stopped = pin!(stopped.cancelled());
        let mut pause = Pause::default();
        loop {
            let rest = if self.gate.is_full() {
                Some(Rest::Full)
            } else {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((socket, peer)) => {
                            self.serve(Arc::clone(&entrance), socket, peer);
                            None
                        }
                        Err(error) => Rest::after(error),
                    },
                    () = &mut stopped => break,
                }
            };
            pause.note(rest.as_ref(), &self.proxy, &entrance);
            if let Some(rest) = rest {
                tokio::select! {
                    () = rest.take(&self.gate) => {}
                    () = &mut stopped => break,
                }
            }
        }
        dismiss(listener);
    }

    #[allow(clippy::disallowed_methods, reason = "a client's task: it ends with the connection, or hands it to a tunnel")]
    fn serve(&self, entrance: Arc<Entrance>, socket: TcpStream, peer: SocketAddr) {
        tokio::spawn(conn::serve(Arc::clone(&self.proxy), entrance, socket, peer, self.gate.enter()));
    }
}

/// Why accepting rests.
#[derive(Debug)]
enum Rest {
    /// `--max-connections` are open.
    Full,
    /// Descriptors or memory ran out.
    Exhausted(io::Error),
    /// Nobody knows.
    Unknown(io::Error),
}

impl Rest {
    /// What an error of accept asks for. Most belong to the one connection that was to be accepted (accept(2), "Error handling").
    fn after(error: io::Error) -> Option<Self> {
        let of_the_connection = [
            Errno::CONNABORTED,
            Errno::CONNRESET,
            Errno::INTR,
            Errno::PERM,
            Errno::PROTO,
            Errno::NOPROTOOPT,
            Errno::OPNOTSUPP,
            Errno::TIMEDOUT,
            Errno::NETDOWN,
            Errno::NETUNREACH,
            Errno::NONET,
            Errno::HOSTDOWN,
            Errno::HOSTUNREACH,
        ];
        match Errno::from_io_error(&error) {
            Some(errno) if of_the_connection.contains(&errno) => None,
            _ if dial::is_exhaustion(&error) => Some(Rest::Exhausted(error)),
            _ => Some(Rest::Unknown(error)),
        }
    }

    fn token(&self) -> &'static str {
        match self {
            Rest::Full => "max_connections",
            Rest::Exhausted(_) => "descriptors",
            Rest::Unknown(_) => "error",
        }
    }

    async fn take(&self, gate: &Gate) {
        match self {
            Rest::Full | Rest::Exhausted(_) => gate.freed(EXHAUSTED).await,
            Rest::Unknown(_) => sleep(UNKNOWN).await,
        }
    }
}

/// Whether an accept loop rests, so that a pause is counted once, however many turns it takes. At the limit a pause follows every connection:
/// it is told once in [`TOLD_EVERY`].
#[derive(Debug, Default)]
struct Pause {
    reason: Option<&'static str>,
    told: Option<(&'static str, Instant)>,
}

impl Pause {
    fn note(&mut self, rest: Option<&Rest>, proxy: &Proxy, entrance: &Entrance) {
        let reason = rest.map(Rest::token);
        if reason == self.reason {
            return;
        }
        self.reason = reason;
        let Some(rest) = rest else { return };
        proxy.metrics.accept_pauses.inc(rest.token());
        if self.told.is_some_and(|(reason, at)| reason == rest.token() && at.elapsed() < TOLD_EVERY) {
            return;
        }
        self.told = Some((rest.token(), Instant::now()));
        let port = entrance.public_port;
        match rest {
            Rest::Full => tracing::warn!(port, "accepting pauses: --max-connections {} are open", proxy.settings.max_connections),
            Rest::Exhausted(error) => tracing::warn!(port, "accepting pauses: {error}; raise the limit of descriptors"),
            Rest::Unknown(error) => tracing::error!(port, "accepting failed: {error}"),
        }
    }
}

/// Takes the rest of the queue and says goodbye: closing a listener resets what waits in it.
fn dismiss(listener: TcpListener) {
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((socket, _)) = listener.accept() {
        // Gone already, if this fails.
        let _ = socket.shutdown(Shutdown::Write);
    }
}

/// Binds `[::]` for both families; where there is no IPv6, `0.0.0.0`.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match bind_one(address) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_ipv6(&error) => {
            bind_one(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))
        }
        bound => bound,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Six calls a connection are saved: what is accepted inherits them.
    dial::tune(SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The ports of layer 4, as the configuration has them.
struct TcpPorts {
    shared: Arc<Shared>,
    ports: watch::Sender<BTreeSet<u16>>,
    open: BTreeMap<u16, OpenPort>,
}

struct OpenPort {
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

impl TcpPorts {
    async fn follow(mut self, stop: CancellationToken) {
        let mut generations = self.shared.proxy.live.subscribe();
        let mut failed = BTreeMap::new();
        loop {
            generations.mark_unchanged();
            let wanted = self.wanted();
            self.close_unwanted(&wanted).await;
            self.open_wanted(&wanted, &mut failed);
            tokio::select! {
                changed = generations.changed() => if changed.is_err() { break },
                () = sleep(RETRY), if !failed.is_empty() => {}
                () = stop.cancelled() => break,
            }
        }
        stop.cancelled().await;
        self.close_unwanted(&BTreeSet::new()).await;
    }

    fn wanted(&self) -> BTreeSet<u16> {
        let allowed = self.shared.proxy.settings.tcp_ports.as_ref();
        let snapshot = self.shared.proxy.live.load();
        let ports = snapshot.table.tcp.keys().filter_map(|port| match port {
            TcpPort::Number(number) => Some(*number),
            TcpPort::Https(_) => None,
        });
        ports.filter(|port| allowed.is_some_and(|allowed| allowed.contains(port))).collect()
    }

    /// Connections that came by a port live on when it is closed.
    async fn close_unwanted(&mut self, wanted: &BTreeSet<u16>) {
        let unwanted: Vec<_> = self.open.extract_if(.., |port, _| !wanted.contains(port)).collect();
        for (port, OpenPort { stop, accepting }) in unwanted {
            stop.cancel();
            // Waited for, so that the port is free when a later configuration has it again.
            if accepting.await.is_err() {
                tracing::error!(port, "accepting on a layer-4 port had panicked");
            }
            tracing::info!(port, "layer-4 port closed");
            self.ports.send_modify(|ports| _ = ports.remove(&port));
        }
    }

    /// A port that can't be had harms nobody else; it is tried again.
    fn open_wanted(&mut self, wanted: &BTreeSet<u16>, failed: &mut BTreeMap<u16, String>) {
        failed.retain(|port, _| wanted.contains(port));
        for port in wanted {
            if self.open.contains_key(port) {
                continue;
            }
            match self.open(*port) {
                Ok(open) => {
                    tracing::info!(port, "layer-4 port open");
                    self.open.insert(*port, open);
                    failed.remove(port);
                    self.ports.send_modify(|ports| _ = ports.insert(*port));
                }
                Err(error) => {
                    let error = error.to_string();
                    if failed.get(port) != Some(&error) {
                        tracing::warn!(port, "layer-4 port can not be opened, trying again: {error}");
                    }
                    failed.insert(*port, error);
                }
            }
        }
    }

    #[allow(clippy::disallowed_methods, reason = "an accept loop of its own for each port, ended by its token")]
    fn open(&self, port: u16) -> Result<OpenPort, PortError> {
        let shared = &self.shared;
        let terminator = shared.tls.terminator(Arc::clone(&shared.proxy.live), Place::Port(port))?;
        let listener = bind(SocketAddr::new(shared.proxy.settings.bind, port))?;
        let entrance = Entrance {
            listener: "".into(),
            speaks: Speaks::Tcp(port, terminator),
            public_port: port,
            public_http_port: None,
            public_https_port: None,
        };
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(Arc::clone(shared).accept(listener, Arc::new(entrance), stop.clone()));
        Ok(OpenPort { stop, accepting })
    }
}

/// Why a layer-4 port is not open.
#[derive(Debug, thiserror::Error)]
enum PortError {
    #[error(transparent)]
    Bind(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

#[cfg(test)]
mod tests;
