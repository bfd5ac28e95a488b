//! What a table means for one request: which host, which location, which certificate. Compiled once a configuration, pure, no allocation a request.
//!
//! It never knows sockets, endpoints or time. `live` compiles it, `proxy` and `carrick check` ask it.

pub mod location;
pub mod path;
pub mod tls;

use std::sync::Arc;

use http::{HeaderMap, Method};
use rustls::sign::CertifiedKey;

pub use location::Location;
pub use path::{NormalPath, PathError};
pub use tls::CompiledTls;

use crate::model::{
    Table,
    table::{HostPattern, TcpPort},
};

/// What is asked of a request to decide where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The name of the listener that it came in by.
    pub listener: &'a str,
    /// The host it is for: lower case, without port and trailing dot. `None` where HTTP/1.0 named none.
    pub host: Option<&'a str>,
    /// Its path.
    pub path: &'a NormalPath<'a>,
    /// What follows `?`, as it came.
    pub query: Option<&'a str>,
    /// Its method.
    pub method: &'a Method,
    /// Its header section.
    pub headers: &'a HeaderMap,
    /// Whether it asks to be upgraded to `websocket`.
    pub websocket: bool,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// To this location: an index into [`Router::locations`], and into the `served` of the snapshot.
    Location(usize),
    /// No host, or no location of the host, takes it.
    NotFound,
}

/// A compiled table.
pub struct Router {
    locations: Box<[Arc<Location>]>,
}

impl Router {
    /// Compiles a table.
    pub fn compile(_table: &Table) -> Self {
        Self { locations: Box::default() }
    }

    /// Every location once, however many hosts it serves. [`Decision::Location`] points here.
    pub fn locations(&self) -> &[Arc<Location>] {
        &self.locations
    }

    /// Where a request goes: first its host (exact, longest wildcard, any), then the first of that host's locations that takes it.
    pub fn decide(&self, _head: &Head<'_>) -> Decision {
        Decision::NotFound
    }

    /// The host that a name selects on a listener.
    pub fn host(&self, _listener: &str, _host: Option<&str>) -> Option<&HostPattern> {
        None
    }

    /// TLS of the host that a name (Host or SNI) selects on a listener; `None` where it asks for none.
    pub fn host_tls(&self, _listener: &str, _host: Option<&str>) -> Option<&CompiledTls> {
        None
    }

    /// The certificate for a name on a listener: of its host, else the default one. `None`: the one made at start is to be used.
    pub fn certificate(&self, _listener: &str, _sni: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        None
    }

    /// The layer-4 route of a port and a name: an index into [`Router::tcp_routes`], and into the `tcp` of the snapshot.
    ///
    /// On the HTTPS port of a listener, a terminated host that is more specific wins over it.
    pub fn tcp(&self, _port: &TcpPort, _sni: Option<&str>) -> Option<usize> {
        None
    }

    /// Whether the ClientHello must be read before [`Router::tcp`] can be asked.
    pub fn tcp_needs_sni(&self, _port: &TcpPort) -> bool {
        false
    }

    /// TLS of a layer-4 route that we terminate.
    pub fn tcp_tls(&self, _route: usize) -> Option<&CompiledTls> {
        None
    }
}
