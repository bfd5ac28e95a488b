//! Peers for the tests of `proxy`: a gateway that serves one table on a real socket, clients and backends that speak raw bytes.
#![allow(clippy::disallowed_methods, reason = "peers of a test live as long as its runtime")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{
    Proxy, Settings,
    conn::ClientInfo,
    guarded::{Deadlines, Guarded},
    http::serve,
};
use crate::{
    balance::Balancer,
    live::Live,
    model::{
        LocationKey, ObjectRef, PoolKey, Table,
        balancing::{Balancing, Policy},
        route::{self, Action, Backend, HeaderEdits, Location, Match, PathPattern, Timeouts, WebSocket},
        table::{Host, HostPattern},
        upstream::{EndpointSpec, EndpointState, PoolSpec},
    },
    telemetry::{AccessLog, Metrics},
    tunnel::{Registry, Socket},
};

/// A proxied location at `/` with deadlines that a test need not wait for, to be changed as a test needs it.
pub fn proxied() -> route::Proxy {
    route::Proxy {
        backends: vec![Backend { pool: pool(), weight: 1, tls: None }],
        balancing: Balancing { policy: Policy::RoundRobin, ..Balancing::default() },
        health: Default::default(),
        rewrite: None,
        host: None,
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(15),
            response: Some(Duration::from_secs(60)),
            idle: None,
            hold: None,
        },
        websocket: WebSocket { subprotocols: Vec::new(), origins: Vec::new(), reconnect_code: 1012, max_age: None, frames: None },
        upgrades: Vec::new(),
        limits: Default::default(),
        drain: route::Drain::default(),
        rebalance: None,
    }
}

fn pool() -> PoolKey {
    PoolKey::Address("backend".into())
}

/// One location at `/` of any host.
pub fn location(action: Action) -> Location {
    Location {
        key: LocationKey { namespace: "default".into(), identity: "/".into() },
        route: ObjectRef::new("default", "test"),
        label: "/".into(),
        path: PathPattern::Prefix("".into()),
        matching: Match::default(),
        action,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        access: Default::default(),
    }
}

/// A running proxy.
pub struct Gateway {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its insides.
    pub proxy: Arc<Proxy>,
}

/// Serves `location` with these endpoints behind it.
pub async fn gateway_with(location: Location, endpoints: &[SocketAddr], settings: Settings) -> Gateway {
    let metrics = Arc::new(Metrics::default());
    let live = Live::new(Balancer::new(), metrics.clone());
    let mut endpoints: Vec<_> = endpoints.iter().map(|&address| EndpointSpec::new(address, EndpointState::Ready)).collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    live.publish(Table {
        hosts: vec![Host { listener: "default".into(), host: HostPattern::Any, tls: None, locations: vec![Arc::new(location)] }],
        pools: [(pool(), Arc::new(PoolSpec { endpoints }))].into(),
        ..Table::default()
    });
    let registry = Registry::new(AccessLog::off());
    let proxy = Proxy::new(settings, live, registry, metrics, AccessLog::off());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = proxy.clone();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let local = stream.local_addr().unwrap();
            let client = ClientInfo {
                peer,
                socket_peer: peer,
                local,
                listener: "default".into(),
                public_port: local.port(),
                public_http_port: Some(local.port()),
                public_https_port: None,
                secure: false,
                sni: None,
                verified: None,
                permit: Arc::new(()),
            };
            let settings = &accepting.settings;
            let deadlines = Deadlines {
                head: settings.header_timeout,
                body: settings.body_timeout,
                send: settings.send_timeout,
                idle: settings.keepalive_timeout,
                late_head: b"",
            };
            let socket = Guarded::new(Socket::Tcp(stream), Bytes::new(), deadlines);
            tokio::spawn(serve(accepting.clone(), client, socket));
        }
    });
    Gateway { address, proxy }
}

/// Serves a proxied location at `/` with one endpoint.
pub async fn gateway(spec: route::Proxy, endpoint: SocketAddr) -> Gateway {
    gateway_with(location(Action::Proxy(Box::new(spec))), &[endpoint], Settings::default()).await
}

impl Gateway {
    /// A client that has connected.
    pub async fn client(&self) -> Peer {
        Peer(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends these bytes on a connection of their own and reads until the end.
    pub async fn ask(&self, bytes: &str) -> String {
        let mut client = self.client().await;
        client.send(bytes).await;
        client.rest().await
    }

    /// How often a refusal was counted, at the location and outside of any.
    pub fn refused(&self, token: &str) -> u64 {
        let located: u64 = self.proxy.metrics.locations().iter().map(|(_, metrics)| metrics.refusals.get(token)).sum();
        located + self.proxy.metrics.unrouted.refusals.get(token)
    }
}

/// One end of a raw connection.
pub struct Peer(pub TcpStream);

impl Peer {
    /// Sends these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until what was read ends with this.
    pub async fn until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            let mut byte = [0];
            let n = self.0.read(&mut byte).await.unwrap();
            assert_eq!(n, 1, "it ended before {end:?}: {:?}", String::from_utf8_lossy(&read));
            read.push(byte[0]);
        }
        String::from_utf8(read).unwrap()
    }

    /// Reads a head.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads until the end.
    pub async fn rest(&mut self) -> String {
        let mut read = Vec::new();
        self.0.read_to_end(&mut read).await.unwrap();
        String::from_utf8(read).unwrap()
    }

    /// Reads until the end, however it comes.
    pub async fn until_cut(&mut self) -> String {
        let mut read = Vec::new();
        let _ = self.0.read_to_end(&mut read).await;
        String::from_utf8(read).unwrap()
    }
}

/// A backend whose connections the test drives itself.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    accepted: mpsc::UnboundedReceiver<TcpStream>,
}

impl Upstream {
    /// Listens.
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (send, accepted) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if send.send(stream).is_err() {
                    return;
                }
            }
        });
        Self { address, accepted }
    }

    /// The next connection.
    pub async fn next(&mut self) -> Peer {
        Peer(self.accepted.recv().await.unwrap())
    }

    /// Whether nobody has connected.
    pub fn is_untouched(&mut self) -> bool {
        self.accepted.try_recv().is_err()
    }
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
