//! Layer 4: a connection joined to an endpoint as it is, or without the TLS that we ended.
//!
//! It never knows HTTP, nor what the bytes mean. `conn` hands it connections of layer-4 routes; from there on `tunnel` owns them.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, timeout_at},
};

use super::{
    Proxy, affinity,
    conn::ClientInfo,
    proxy_protocol,
    refuse::Refusal,
    search::{Search, Unreached},
};
use crate::{
    balance::{Ask, Lease, Over, Proof, Purpose, Slot},
    dial::{self, DialError},
    live::ServedTcp,
    model::EndpointKey,
    telemetry::access::Handshake,
    tunnel::{self, Identity, Kind, Opening, Socket},
};

/// Whether a client may come in; the slot is its connection's. `None`: it was counted, and is to be closed.
pub fn admit(served: &ServedTcp, client: &ClientInfo) -> Option<Slot> {
    let address = client.peer.ip();
    let token = match served.access.admits(address).then(|| served.limiter.enter(address, Instant::now())) {
        Some(Ok(slot)) => return Some(slot),
        None => "access_denied",
        Some(Err(Over::Connections)) => "connection_limit",
        Some(Err(Over::PerClient)) => "client_limit",
        Some(Err(Over::Rate(_))) => "rate_limit",
    };
    served.metrics.refusals.inc(token);
    tracing::debug!(route = %served.route.route, location = %served.route.label, client = %client.peer, token, "connection refused");
    None
}

/// Joins a connection to an endpoint of the route; `read` came from the client already. Without one the connection is closed.
pub async fn serve(proxy: &Proxy, served: &ServedTcp, client: ClientInfo, slot: Slot, socket: Socket, read: Bytes) {
    let began = Instant::now();
    match connect(served, &client).await {
        Ok((lease, backend)) => {
            let opening = opening(proxy, served, client, slot, lease, began, read);
            tunnel::open(&proxy.registry, opening, socket, backend);
        }
        Err(unreached) => {
            served.metrics.refusals.inc(token(&unreached));
            tracing::info!(route = %served.route.route, location = %served.route.label, client = %client.peer, "connection closed: {unreached}");
            close(socket).await;
        }
    }
}

/// An endpoint that answered, with our PROXY header already sent to it.
async fn connect(served: &ServedTcp, client: &ClientInfo) -> Result<(Lease, Socket), Unreached> {
    let wish = affinity::of_connection(&served.route.balancing, client.peer.ip());
    let ask = Ask { now: Instant::now(), wish, purpose: Purpose::Lasting };
    let mut search = Search::new(&served.target, ask, &served.metrics);
    loop {
        let mut attempt = search.pick()?;
        match reach(served, client, &attempt.endpoint().key).await {
            Ok(backend) => {
                // Of layer 4 nothing more is known.
                attempt.succeeded(Proof::Answered);
                return Ok((attempt.into_lease(), backend));
            }
            Err(error) => search.pass_over(attempt, error)?,
        }
    }
}

/// The label of metrics: the one that layer 7 has for the same event.
fn token(unreached: &Unreached) -> &'static str {
    match unreached {
        Unreached::NoBackends => "no_backends",
        Unreached::NoReadyEndpoint => "no_ready_endpoint",
        Unreached::Full => "endpoints_full",
        Unreached::ConnectFailed | Unreached::ConnectTimeout => "connect_failed",
        Unreached::Tls(fault) => Refusal::BackendTls(*fault).token(),
        Unreached::Exhausted(_) => "exhausted",
    }
}

/// Connects, says who the client is if the route wants that, and speaks TLS if it does, all in `timeouts.connect`.
async fn reach(served: &ServedTcp, client: &ClientInfo, endpoint: &EndpointKey) -> Result<Socket, DialError> {
    let (address, within) = (endpoint.address, served.route.connect);
    let by = Instant::now() + within;
    let mut backend = dial::connect(address, within).await?;
    if let Some(version) = served.route.proxy_protocol {
        let header = proxy_protocol::print(version, client.peer, client.local);
        match timeout_at(by, backend.write_all(&header)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(DialError::Io(address, error)),
            Err(_) => return Err(DialError::Timeout(address)),
        }
    }
    match served.secured.client(&endpoint.pool) {
        Some(client) => Ok(Socket::BackendTls(client.shake(backend, address, by).await?)),
        None => Ok(Socket::Tcp(backend)),
    }
}

fn opening(proxy: &Proxy, served: &ServedTcp, client: ClientInfo, slot: Slot, lease: Lease, began: Instant, from_client: Bytes) -> Opening {
    let route = &served.route;
    let host = client.sni.as_deref().unwrap_or_default();
    let scheme = if client.sni.is_some() || client.secure { "tls" } else { "tcp" };
    let handshake = Handshake { request_id: b"", scheme, host: host.as_bytes(), target: b"" };
    let identity = Identity {
        location: route.key.clone(),
        route: route.route.clone(),
        label: Arc::clone(&route.label),
        lease,
        slot,
        client: client.peer,
        permit: client.permit,
        metrics: Arc::clone(&served.metrics),
        log: proxy.access.handshake(&handshake),
    };
    Opening {
        identity,
        began,
        kind: Kind::Tcp,
        idle: route.idle,
        max_age: None,
        client_delay: route.drain.client_delay(fastrand::f64()),
        frames: None,
        from_client,
        from_backend: Bytes::new(),
    }
}

/// Over TLS the client is told that this is the end; a bare socket says so by being closed.
async fn close(mut socket: Socket) {
    if socket.is_tls() {
        let _ = socket.shutdown().await;
    }
}
