//! Upgrades: a handshake carried to a backend, its 101 verified, and both sockets handed to a tunnel.
//!
//! It never knows frames. `http` calls [`upgrade`] while hyper owns the client's socket, and [`Switch::open`] once it has it back.

pub mod handshake;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_EXTENSIONS, UPGRADE},
};
use tokio::time::{Instant, timeout_at};

use super::{
    backend::{Answer, Connection, Fault, head},
    body::Body,
    forward::{Route, closed, find, search, streamed},
    headers::hop,
    refuse::Refusal,
};
use crate::{
    balance::{Endpoint, Lease, Slot, limit::Account},
    live::Served,
    model::route::Proxy as Spec,
    telemetry::retries::{Retried, Retry},
    tunnel::{self, Identity, Kind, Opening, Permit, Registry, Socket},
};
use handshake::Expected;

/// How often a handshake is tried again that was cut before any byte of its answer.
const MOST_RETRIES: u32 = 2;

/// A handshake whose location is decided, ready to go.
pub struct Outgoing {
    /// Its method: GET for a WebSocket.
    pub method: Method,
    /// The request line and Host, printed.
    pub head: Vec<u8>,
    /// Its header section, hop-by-hop fields taken off and ours put in.
    pub headers: HeaderMap,
    /// What the backend must answer.
    pub expected: Expected,
    /// The end of `timeouts.handshake`.
    pub by: Instant,
}

/// A backend that has answered 101, waiting for the client's socket.
pub struct Switch {
    kind: Kind,
    lease: Lease,
    backend: Connection,
}

/// What became of a handshake.
pub enum Outcome {
    /// The backend's 101; once it is written, the sockets are to be joined.
    Switched(Response<Body>, Switch),
    /// Another answer: plain HTTP, the last one on this connection.
    Answered(Response<Body>),
}

/// What the tunnel of a switched connection is told about where it comes from.
pub struct Tunnelled<'a> {
    /// The location.
    pub served: &'a Served,
    /// Who opened it.
    pub client: SocketAddr,
    /// When its handshake was begun.
    pub began: Instant,
    /// Read from the client already.
    pub from_client: Bytes,
    /// Counts its connection as open.
    pub permit: Permit,
    /// Counts it as open at its location.
    pub slot: Slot,
    /// What the access log says of the handshake.
    pub log: Option<Box<str>>,
}

/// Carries a handshake to an endpoint. `endpoint` is told as soon as there is one; retries are paid for by `account`.
pub async fn upgrade(
    route: &Route<'_>,
    spec: &Spec,
    account: &Account,
    outgoing: Outgoing,
    endpoint: &mut Option<Arc<Endpoint>>,
) -> Result<Outcome, Refusal> {
    let by = outgoing.by;
    match timeout_at(by, carry(route, spec, account, outgoing, endpoint)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            route.metrics.endpoint_failures.inc("handshake_timeout");
            Err(Refusal::HandshakeTimeout)
        }
    }
}

async fn carry(
    route: &Route<'_>,
    spec: &Spec,
    account: &Account,
    outgoing: Outgoing,
    endpoint: &mut Option<Arc<Endpoint>>,
) -> Result<Outcome, Refusal> {
    let Outgoing { method, mut head, headers, expected, .. } = outgoing;
    head::fields(&mut head, &headers);
    drop(headers);
    head::field(&mut head, "Upgrade", expected.token());
    head::field(&mut head, "Connection", "Upgrade");
    head::framing(&mut head, &method, super::backend::Framing::None);
    head::end(&mut head);
    let (lease, connection, answer) = ask(route, account, &head, endpoint).await?;
    drop(head);
    if answer.status != StatusCode::SWITCHING_PROTOCOLS {
        let endpoint = Arc::clone(lease.endpoint());
        let answered = streamed(&method, answer, connection, lease, None).map_err(|fault| failed(route, &endpoint, &fault))?;
        return Ok(Outcome::Answered(answered));
    }
    if let Err(lacking) = expected.verify(&answer) {
        tracing::info!(endpoint = %lease.endpoint().key, lacking, "101 refused");
        route.metrics.endpoint_failures.inc("bad_handshake");
        lease.endpoint().failed();
        return Err(Refusal::HandshakeInvalid);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    let headers = response.headers_mut();
    hop::strip_response(StatusCode::SWITCHING_PROTOCOLS, headers);
    headers.insert(UPGRADE, HeaderValue::from_str(expected.token()).map_err(|_| Refusal::Internal)?);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let kind = match expected.is_websocket() {
        true => Kind::WebSocket {
            reconnect_code: spec.websocket.reconnect_code,
            extensions: response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS),
        },
        false => Kind::Opaque,
    };
    Ok(Outcome::Switched(response, Switch { kind, lease, backend: connection }))
}

/// The answer to a handshake. Of endpoints that end the connection before a byte of one, as one does that is about to go, the next is asked:
/// nobody has served it then.
async fn ask(
    route: &Route<'_>,
    account: &Account,
    head: &[u8],
    endpoint: &mut Option<Arc<Endpoint>>,
) -> Result<(Lease, Connection, Answer), Refusal> {
    let retries = &route.metrics.retries;
    let mut search = search(route);
    let (mut cut, mut left) = (None, MOST_RETRIES);
    loop {
        // A handshake never goes over a connection that has carried something else.
        let found = find(route, None, &mut search).await;
        if cut.is_some() && found.is_err() {
            retries.inc(Retried::Cut, Retry::Failed);
        }
        // Where there is no other one, what is told is why the last one failed.
        let (lease, mut connection) = found.map_err(|refusal| cut.unwrap_or(refusal))?;
        *endpoint = Some(Arc::clone(lease.endpoint()));
        let answer = match connection.write(head).await {
            Ok(()) => connection.read_final_head().await,
            Err(error) => Err(Fault::Closed(error)),
        };
        if cut.is_some() {
            retries.inc(Retried::Cut, Retry::of(&answer));
        }
        let refusal = match answer {
            Ok(answer) => return Ok((lease, connection, answer)),
            Err(fault) => failed(route, lease.endpoint(), &fault),
        };
        if refusal != Refusal::BackendClosed || !connection.is_silent() || left == 0 {
            return Err(refusal);
        }
        if !account.may_retry(Instant::now()) {
            retries.inc(Retried::Cut, Retry::OverBudget);
            return Err(refusal);
        }
        search.leave(&lease);
        (cut, left) = (Some(refusal), left - 1);
    }
}

fn failed(route: &Route<'_>, endpoint: &Endpoint, fault: &Fault) -> Refusal {
    tracing::info!(endpoint = %endpoint.key, %fault, "handshake failed");
    endpoint.failed();
    match fault {
        Fault::Closed(error) => {
            let (token, refusal) = closed(error);
            route.metrics.endpoint_failures.inc(token);
            refusal
        }
        Fault::Invalid(_) => {
            route.metrics.endpoint_failures.inc("invalid_answer");
            Refusal::BackendInvalid
        }
    }
}

impl Switch {
    /// Joins the client's socket, whose 101 is written, with the backend's.
    pub fn open(self, registry: &Arc<Registry>, tunnelled: Tunnelled<'_>, client: Socket) {
        let (backend, from_backend) = self.backend.into_parts();
        let location = &tunnelled.served.location.spec;
        let spec = location.proxy();
        let websocket = spec.map(|spec| &spec.websocket);
        let identity = Identity {
            location: location.key.clone(),
            route: location.route.clone(),
            label: Arc::clone(&location.label),
            lease: self.lease,
            slot: tunnelled.slot,
            client: tunnelled.client,
            permit: tunnelled.permit,
            metrics: Arc::clone(&tunnelled.served.metrics),
            log: tunnelled.log,
        };
        let opening = Opening {
            identity,
            began: tunnelled.began,
            kind: self.kind,
            idle: spec.and_then(|spec| spec.timeouts.idle),
            max_age: websocket.and_then(|websocket| websocket.max_age).map(|limit| limit.draw(fastrand::f64())),
            client_delay: spec.map_or(Duration::ZERO, |spec| spec.drain.client_delay(fastrand::f64())),
            frames: websocket.and_then(|websocket| websocket.frames.clone()),
            from_client: tunnelled.from_client,
            from_backend,
        };
        tunnel::open(registry, opening, client, backend);
    }
}
