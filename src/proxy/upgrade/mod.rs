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
    balance::{Attempt, Endpoint, Lease, Proof, Slot, Symptom, limit::Account},
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
    let Outgoing { method, mut head, headers, expected, by } = outgoing;
    head::fields(&mut head, &headers);
    drop(headers);
    head::field(&mut head, "Upgrade", expected.token());
    head::field(&mut head, "Connection", "Upgrade");
    head::framing(&mut head, &method, super::backend::Framing::None);
    head::end(&mut head);
    let (mut attempt, connection, answer) = ask(route, account, &head, by, endpoint).await?;
    drop(head);
    judge(route, &mut attempt, &expected, &answer)?;
    let lease = attempt.into_lease();
    if answer.status != StatusCode::SWITCHING_PROTOCOLS {
        let endpoint = Arc::clone(lease.endpoint());
        let answered = streamed(&method, answer, connection, lease, None).map_err(|fault| failed(route, &endpoint, &fault).1)?;
        return Ok(Outcome::Answered(answered));
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
    by: Instant,
    endpoint: &mut Option<Arc<Endpoint>>,
) -> Result<(Attempt, Connection, Answer), Refusal> {
    let retries = &route.metrics.retries;
    let mut search = search(route);
    let (mut cut, mut left) = (None, MOST_RETRIES);
    loop {
        // A handshake never goes over a connection that has carried something else.
        let found = timeout_at(by, find(route, None, &mut search)).await.map_err(|_| timed_out(route))?;
        if cut.is_some() && found.is_err() {
            retries.inc(Retried::Cut, Retry::Failed);
        }
        // Where there is no other one, what is told is why the last one failed.
        let (mut attempt, mut connection) = found.map_err(|refusal| cut.unwrap_or(refusal))?;
        *endpoint = Some(Arc::clone(attempt.endpoint()));
        let Ok(answer) = timeout_at(by, exchange(&mut connection, head)).await else {
            attempt.failed(Symptom::Handshake, "handshake_timeout");
            return Err(timed_out(route));
        };
        if cut.is_some() {
            retries.inc(Retried::Cut, Retry::of(&answer));
        }
        let refusal = match answer {
            Ok(answer) => return Ok((attempt, connection, answer)),
            Err(fault) => {
                let (token, refusal) = failed(route, attempt.endpoint(), &fault);
                attempt.failed(Symptom::Handshake, token);
                refusal
            }
        };
        if refusal != Refusal::BackendClosed || !connection.is_silent() || left == 0 {
            return Err(refusal);
        }
        if !account.may_retry(Instant::now()) {
            retries.inc(Retried::Cut, Retry::OverBudget);
            return Err(refusal);
        }
        search.leave(attempt.endpoint());
        (cut, left) = (Some(refusal), left - 1);
    }
}

/// Sends the handshake and reads the head of its final answer.
async fn exchange(connection: &mut Connection, handshake: &[u8]) -> Result<Answer, Fault> {
    connection.write(handshake).await.map_err(Fault::Closed)?;
    connection.read_final_head().await
}

fn timed_out(route: &Route<'_>) -> Refusal {
    route.metrics.endpoint_failures.inc("handshake_timeout");
    Refusal::HandshakeTimeout
}

/// What the answer says of the endpoint. One that refuses is well, unless it says itself that it is not; a 101 must be the one that was asked for.
fn judge(route: &Route<'_>, attempt: &mut Attempt, expected: &Expected, answer: &Answer) -> Result<(), Refusal> {
    if answer.status.is_server_error() {
        route.metrics.endpoint_failures.inc("server_error");
        attempt.failed(Symptom::Handshake, "server_error");
        return Ok(());
    }
    if answer.status == StatusCode::SWITCHING_PROTOCOLS
        && let Err(lacking) = expected.verify(answer)
    {
        tracing::info!(endpoint = %attempt.endpoint().key, lacking, "101 refused");
        route.metrics.endpoint_failures.inc("bad_handshake");
        attempt.failed(Symptom::Handshake, "bad_handshake");
        return Err(Refusal::HandshakeInvalid);
    }
    attempt.succeeded(Proof::Answered);
    Ok(())
}

/// Counts and names what went wrong before there was an answer, or in it.
fn failed(route: &Route<'_>, endpoint: &Endpoint, fault: &Fault) -> (&'static str, Refusal) {
    tracing::info!(endpoint = %endpoint.key, %fault, "handshake failed");
    let (token, refusal) = match fault {
        Fault::Closed(error) => closed(error),
        Fault::Invalid(_) => ("invalid_answer", Refusal::BackendInvalid),
    };
    route.metrics.endpoint_failures.inc(token);
    (token, refusal)
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
