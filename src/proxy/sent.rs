//! The last of a request: its answer on the way out, counted, and the line of the access log when it has ended.
//!
//! It never knows what is answered. `http` wraps every answer in it; hyper's server polls it.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Uri};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::{
    Proxy,
    body::{Body, BodyError},
    guarded::{Phase, PhaseHandle},
};
use crate::{live::Served, telemetry::access};

/// The body of an answer, on its way.
pub(super) struct Sent {
    body: Body,
    phase: PhaseHandle,
    next: Phase,
    entry: Option<Box<Entry>>,
}

/// What the access log will say; only made where it is on.
pub(super) struct Entry {
    pub proxy: Arc<Proxy>,
    pub client: SocketAddr,
    pub secure: bool,
    pub websocket: bool,
    pub started: Instant,
    pub id: HeaderValue,
    pub method: Method,
    pub uri: Uri,
    pub host: Option<HeaderValue>,
    pub user_agent: Option<HeaderValue>,
    pub referer: Option<HeaderValue>,
    pub status: u16,
    pub refusal: Option<&'static str>,
    pub served: Option<Arc<Served>>,
    pub endpoint: Option<SocketAddr>,
    pub received: u64,
    pub sent: u64,
}

impl Sent {
    /// Wraps the body of an answer. When it is dropped, the connection is in its next phase.
    pub fn new(body: Body, phase: PhaseHandle, next: Phase, entry: Option<Box<Entry>>) -> Self {
        Self { body, phase, next, entry }
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(entry), Some(Ok(frame))) = (&mut self.entry, &frame) {
            entry.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.phase.set(self.next);
        if let Some(entry) = self.entry.take() {
            entry.write();
        }
    }
}

impl Entry {
    /// `http`, `https`, `ws` or `wss`.
    fn scheme(&self) -> &'static str {
        match (self.websocket, self.secure) {
            (false, false) => "http",
            (false, true) => "https",
            (true, false) => "ws",
            (true, true) => "wss",
        }
    }

    fn host(&self) -> &[u8] {
        match self.uri.authority() {
            Some(authority) => authority.as_str().as_bytes(),
            None => self.host.as_ref().map(HeaderValue::as_bytes).unwrap_or_default(),
        }
    }

    fn target(&self) -> &[u8] {
        self.uri.path_and_query().map_or("*", http::uri::PathAndQuery::as_str).as_bytes()
    }

    /// What a tunnel keeps for its own line.
    pub fn handshake(&self) -> Option<Box<str>> {
        let handshake =
            access::Handshake { request_id: self.id.as_bytes(), scheme: self.scheme(), host: self.host(), target: self.target() };
        self.proxy.access.handshake(&handshake)
    }

    fn write(&self) {
        let location = self.served.as_ref().map(|served| (&served.location.spec.route, &*served.location.spec.label));
        self.proxy.access.request(&access::Request {
            client: self.client,
            request_id: self.id.as_bytes(),
            method: self.method.as_str(),
            scheme: self.scheme(),
            host: self.host(),
            target: self.target(),
            status: self.status,
            refusal: self.refusal,
            location,
            endpoint: self.endpoint,
            received: self.received,
            sent: self.sent,
            took: self.started.elapsed(),
            user_agent: self.user_agent.as_ref().map(HeaderValue::as_bytes),
            referer: self.referer.as_ref().map(HeaderValue::as_bytes),
        });
    }
}
