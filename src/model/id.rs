//! Names that outlive a configuration: of objects, locations, pools and endpoints.
//!
//! They are cheap to clone and never carry anything but the name. Everyone uses them.

use std::{fmt, net::SocketAddr, sync::Arc};

/// `namespace/name` of a Kubernetes object, whose kind the context tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// The namespace; `default` where a manifest names none.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// Names an object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Identity of a location over edits: its namespace, and its name or else its host, path type, path and match.
///
/// A tunnel carries it, so that a location that moved to another WsRoute of the namespace is still the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocationKey {
    /// The namespace of the WsRoutes that declare it.
    pub namespace: Arc<str>,
    /// `name`, or a canonical spelling of hosts, path type, path and match; for layer 4 the port and hosts.
    pub identity: Arc<str>,
}

impl fmt::Display for LocationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.identity)
    }
}

/// What a pool of endpoints is made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolKey {
    /// A port of a Service, as the WsRoute spells it: its number or its name.
    Service {
        /// The Service.
        service: ObjectRef,
        /// Number or name of the Service's port.
        port: Arc<str>,
    },
    /// `host:port`, resolved by DNS where the host is a name.
    Address(Arc<str>),
}

impl PoolKey {
    /// Whether both are ports of one Service, or the same address.
    pub fn is_same_service(&self, other: &Self) -> bool {
        match (self, other) {
            (PoolKey::Service { service, .. }, PoolKey::Service { service: other, .. }) => service == other,
            (PoolKey::Address(address), PoolKey::Address(other)) => address == other,
            _ => false,
        }
    }
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolKey::Service { service, port } => write!(f, "{service}:{port}"),
            PoolKey::Address(address) => f.write_str(address),
        }
    }
}

/// One endpoint of one pool: the unit that leases, counters and failures are kept for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// The pool it belongs to.
    pub pool: PoolKey,
    /// Where to connect to.
    pub address: SocketAddr,
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.pool, self.address)
    }
}

/// Shown to people and used as keys of JSON objects, so the spelling of `Display` is the serialised one.
macro_rules! serialize_as_display {
    ($($name:ty),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
pub(super) use serialize_as_display;

serialize_as_display!(ObjectRef, LocationKey, PoolKey, EndpointKey);
