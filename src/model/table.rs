//! The whole of what is served, as one value: what `translate` produces and `live` publishes.
//!
//! Two equal tables mean the same service, so that an equal table is never published again.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::{Cert, ObjectRef, PoolKey, id::serialize_as_display, route::Location, tcp::TcpRoute, tls::ClientAuth, upstream::PoolSpec};

/// Everything that is served. `Default` serves nothing: every request gets 404.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Virtual hosts of layer 7, in no meaningful order; at most one a pair of listener and host.
    pub hosts: Vec<Host>,
    /// Routes of layer 4, by port; several share a port only by distinct SNI names.
    pub tcp: BTreeMap<TcpPort, Vec<Arc<TcpRoute>>>,
    /// The pools that locations and TCP routes name. Every named pool is here, be it empty.
    pub pools: BTreeMap<PoolKey, Arc<PoolSpec>>,
    /// The certificates that hosts and TCP routes name, by their Secret. A named one may be missing.
    pub certs: BTreeMap<ObjectRef, Arc<Cert>>,
    /// The Secret of `--default-tls-secret`, if its certificate is served.
    pub default_cert: Option<ObjectRef>,
}

/// One virtual host on one listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The name of the listener (`--listener`, or `default`).
    pub listener: Arc<str>,
    /// Which hosts it is.
    pub host: HostPattern,
    /// TLS of the host; without it HTTPS answers with the default certificate.
    pub tls: Option<HostTls>,
    /// Its locations in order of precedence: the first one that matches a request serves it.
    pub locations: Vec<Arc<Location>>,
}

/// Which host names a virtual host answers to. Lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This name.
    Exact(Arc<str>),
    /// `*.suffix`: one label or more in front of the suffix, never the suffix itself. Held without `*.`.
    Wildcard(Arc<str>),
    /// Every host, and a request without one.
    Any,
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Wildcard(suffix) => write!(f, "*.{suffix}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

/// TLS as the owner of a host asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostTls {
    /// Secrets, in the order of the route. Chosen by SNI; the first that covers the name wins, else the first.
    pub certificates: Vec<ObjectRef>,
    /// Plain HTTP is sent to https with 308, as long as a certificate is served.
    pub redirect: bool,
    /// The lowest version accepted.
    pub min_version: TlsVersion,
    /// What is asked of clients' certificates; nothing where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<Arc<ClientAuth>>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    /// TLS 1.2, RFC 5246.
    #[default]
    V1_2,
    /// TLS 1.3, RFC 8446.
    V1_3,
}

/// A port of layer 4.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TcpPort {
    /// A port of its own.
    Number(u16),
    /// Beside the terminated hosts on the HTTPS port of this listener, told apart by SNI.
    Https(Arc<str>),
}

impl std::fmt::Display for TcpPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TcpPort::Number(port) => write!(f, "{port}"),
            TcpPort::Https(listener) => write!(f, "https on {listener}"),
        }
    }
}

serialize_as_display!(HostPattern, TcpPort);
