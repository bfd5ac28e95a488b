#![deny(clippy::unwrap_used, clippy::expect_used)]
//! Bytes after the handshake: the two sockets of a connection joined until both have said goodbye.
//!
//! It never knows routes, snapshots or HTTP: a tunnel holds names, its lease and its counters. `proxy` opens tunnels, `app` and `admin` reach
//! them through the [`Registry`].

pub mod clock;
pub mod close;
pub mod drain;
mod entry;
mod features;
pub mod frame;
mod gate;
mod io;
mod registry;
mod relay;
mod scratch;
pub mod sight;
mod splice;

use std::{any::Any, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

pub use close::Reason;
pub use drain::{Filter, Order};
pub use io::Socket;
pub use registry::{Berth, Registry};

use crate::{
    balance::{Lease, Slot},
    model::{LocationKey, ObjectRef, route::Frames},
    telemetry::LocationMetrics,
};

/// What the bytes of a tunnel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// WebSocket frames, RFC 6455: followed from the first byte, closed by a Close.
    WebSocket {
        /// The Close code that tells a client to come back.
        reconnect_code: u16,
        /// The two ends agreed on an extension, which may use the reserved bits of frames.
        extensions: bool,
    },
    /// Another protocol after an upgrade.
    Opaque,
    /// Layer 4.
    Tcp,
}

/// Counts a client's connection as open until it is dropped: a tunnel keeps it to its end.
pub type Permit = Arc<dyn Any + Send + Sync>;

/// What a tunnel is called and counted by, from its handshake to its end.
#[derive(Debug)]
pub struct Identity {
    /// The location it came by.
    pub location: LocationKey,
    /// The WsRoute that declared it.
    pub route: ObjectRef,
    /// How metrics and log call the location.
    pub label: Arc<str>,
    /// Counts it as open on its endpoint.
    pub lease: Lease,
    /// Counts it as open at its location.
    pub slot: Slot,
    /// Who opened it.
    pub client: SocketAddr,
    /// Counts the client's connection as open.
    pub permit: Permit,
    /// The counters of its location.
    pub metrics: Arc<LocationMetrics>,
    /// What the access log says of its handshake ([`crate::telemetry::AccessLog::handshake`]); `None` where it is off.
    pub log: Option<Box<str>>,
}

/// What a tunnel is opened with.
#[derive(Debug)]
pub struct Opening {
    /// Whose it is.
    pub identity: Identity,
    /// When its handshake, or its connection, was begun: an order that was given later is none for it.
    pub began: Instant,
    /// What its bytes are.
    pub kind: Kind,
    /// Without a byte either way for this long it is closed; `None` is never.
    pub idle: Option<Duration>,
    /// It is closed at this age; `None` is never.
    pub max_age: Option<Duration>,
    /// How long after a backend that vanishes its client is told; each client has its own.
    pub client_delay: Duration,
    /// What is asked of its frames; `None` is nothing.
    pub frames: Option<Arc<Frames>>,
    /// Read from the client already, not yet sent to the backend.
    pub from_client: Bytes,
    /// Read from the backend already, not yet sent to the client.
    pub from_backend: Bytes,
}

/// Registers a tunnel and starts the task that joins the two sockets. Returns at once.
#[expect(clippy::disallowed_methods, reason = "a tunnel is a task of its own; the registry knows it and waits for it")]
pub fn open(registry: &Arc<Registry>, opening: Opening, client: Socket, backend: Socket) {
    tokio::spawn(relay::run(relay::Relay::new(registry, opening, client, backend)));
}

/// Bytes of memory that a tunnel holds at rest, sockets included but for what tokio and the kernel keep of them: its task, and its entry.
pub fn footprint() -> usize {
    fn size_of_output<I, O>(_: impl FnOnce(I) -> O) -> usize {
        size_of::<O>()
    }
    size_of_output(relay::run) + size_of::<entry::Entry>()
}
