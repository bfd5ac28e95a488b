//! The access log: one line for each request, one at the end of each tunnel.
//!
//! It never waits for the disk or pipe that takes the lines: the data path appends to a bounded buffer, a writer task empties it, and
//! what does not fit is dropped and counted. `proxy` and `tunnel` write lines, `app` runs the [`Writer`].

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    log::Format,
    metrics::{Initiator, Metrics},
};
use crate::model::ObjectRef;

/// A request that was answered; all of it is escaped here, so hand in what the client sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asked.
    pub client: SocketAddr,
    /// `X-Request-Id` as sent on.
    pub request_id: &'a [u8],
    /// Method as sent by the client.
    pub method: &'a str,
    /// `http`, `https`, `ws` or `wss`.
    pub scheme: &'a str,
    /// The Host as sent by the client.
    pub host: &'a [u8],
    /// Path and query as sent by the client.
    pub target: &'a [u8],
    /// Status of the answer.
    pub status: u16,
    /// Why it was refused: the token of `X-Carrick-Reason`.
    pub refusal: Option<&'static str>,
    /// The WsRoute and the location's label.
    pub location: Option<(&'a ObjectRef, &'a str)>,
    /// Where it went.
    pub endpoint: Option<SocketAddr>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// From the head of the request to the end of the answer.
    pub took: Duration,
    /// `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// `Referer`.
    pub referer: Option<&'a [u8]>,
}

/// What is known of a tunnel at its handshake and should be said at its end.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    /// `X-Request-Id` as sent on.
    pub request_id: &'a [u8],
    /// `ws` or `wss`; `tcp` or `tls` at layer 4.
    pub scheme: &'a str,
    /// The Host, or the SNI name.
    pub host: &'a [u8],
    /// Path and query as sent by the client; cut where it does not fit.
    pub target: &'a [u8],
}

/// A tunnel that ended.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel<'a> {
    /// What [`AccessLog::handshake`] gave.
    pub handshake: &'a str,
    /// Who opened it.
    pub client: SocketAddr,
    /// The WsRoute.
    pub route: &'a ObjectRef,
    /// The location's label.
    pub location: &'a str,
    /// Where it went.
    pub endpoint: SocketAddr,
    /// From the 101 to the end.
    pub age: Duration,
    /// Bytes client to backend, as on the wire.
    pub received: u64,
    /// Bytes backend to client, as on the wire.
    pub sent: u64,
    /// Frames client to backend.
    pub frames_received: u64,
    /// Frames backend to client.
    pub frames_sent: u64,
    /// Code of the Close that ended it, if one did.
    pub close_code: Option<u16>,
    /// Who ended it.
    pub ended_by: Initiator,
    /// Why it ended: `close`, `idle`, `shutdown`, `reset`…
    pub reason: &'static str,
}

/// Longest text that a tunnel keeps for its last line.
pub const HANDSHAKE_MAX: usize = 256;

/// Where lines go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    format: Format,
    metrics: Arc<Metrics>,
}

/// The other end: takes lines out and writes them.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

impl AccessLog {
    /// A log that takes no lines.
    pub fn off() -> Self {
        Self { shared: None }
    }

    /// A log in this format, and its other end. Drops are counted in `metrics.access_log_dropped`.
    pub fn new(format: Format, metrics: Arc<Metrics>) -> (Self, Writer) {
        let shared = Arc::new(Shared { format, metrics });
        (Self { shared: Some(shared.clone()) }, Writer { shared })
    }

    /// Whether lines are written at all: what only the log needs can be left out otherwise.
    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// One line for a request.
    pub fn request(&self, _request: &Request<'_>) {}

    /// What a tunnel keeps for its last line: at most [`HANDSHAKE_MAX`] bytes. `None` where the log is off.
    pub fn handshake(&self, _handshake: &Handshake<'_>) -> Option<Box<str>> {
        None
    }

    /// One line for a tunnel that ended.
    pub fn tunnel(&self, _tunnel: &Tunnel<'_>) {}
}

impl Writer {
    /// Writes lines until `stop` is done, then what is left, and returns.
    pub async fn run(self, mut sink: impl tokio::io::AsyncWrite + Unpin, stop: impl Future<Output = ()>) {
        let _ = (&self.shared.format, &self.shared.metrics, &mut sink);
        stop.await;
    }
}
