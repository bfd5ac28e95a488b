//! The endpoints behind a Service port or an address, as the cluster or the manifests tell them.
//!
//! No counters: those outlive every table and live in `balance`.

use std::{net::SocketAddr, sync::Arc};

use serde::Serialize;

/// The endpoints of one pool, sorted by address, each address once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolSpec {
    /// The endpoints, ready or not.
    pub endpoints: Vec<EndpointSpec>,
}

/// One endpoint of an EndpointSlice, or one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointSpec {
    /// Where to connect to.
    pub address: SocketAddr,
    /// What it may be given.
    pub state: EndpointState,
    /// The Pod behind it, where there is one.
    pub pod: Option<Arc<Pod>>,
    /// While it drains: whether it still answers (`serving`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub serving: bool,
    /// It is meant for clients of another zone than ours (`hints.forZones`), and every zone has its own: taken only where those of ours fail.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
}

impl EndpointSpec {
    /// An endpoint at an address, of which nothing more is known.
    pub fn new(address: SocketAddr, state: EndpointState) -> Self {
        Self { address, state, pod: None, serving: false, elsewhere: false }
    }
}

/// The Pod behind an endpoint (`targetRef`); it is in the namespace of the Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Pod {
    /// Its name, which a StatefulSet gives again.
    pub name: Arc<str>,
    /// What tells it from an earlier one of the name; empty where the slice does not say.
    pub uid: Arc<str>,
}

/// EndpointSlice conditions, reduced to what a proxy does with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EndpointState {
    /// `ready`: takes new requests.
    Ready,
    /// `terminating`: takes nothing new, and what it has is closed before it ends.
    Draining,
    /// Neither: takes nothing new, keeps what it has.
    NotReady,
}
