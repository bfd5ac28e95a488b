//! Pods on their way out: what is asked about them, and what is told of their tunnels.
//!
//! It never knows who asks. `proxy::retire` asks `k8s` by way of `app`; replicas tell one another what they have left on a Pod.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{PoolKey, upstream::Pod};

/// One Pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What tells it from another one of the name; empty where nobody said.
    pub uid: Arc<str>,
}

impl PodRef {
    /// The Pod behind an endpoint: it is in the namespace of the Service.
    pub fn of(pool: &PoolKey, pod: &Pod) -> Option<Self> {
        let PoolKey::Service { service, .. } = pool else { return None };
        Some(Self { namespace: service.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() })
    }
}

/// What its object says of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nobody has asked it to end.
    Lives,
    /// It will be killed when this time is over.
    Ends(Duration),
    /// It is no more, or its containers have ended.
    Gone,
}

/// The tunnels that one replica has to a Pod: an element of `GET /pods` on the ops port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodTunnels {
    /// The Pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its UID; empty where the EndpointSlice has none.
    pub uid: String,
    /// How many are open.
    pub open: u64,
    /// How it goes, once it was told to go; kept for a minute after its last tunnel.
    pub departure: Option<Departure>,
}

/// How a Pod goes, as one replica saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Departure {
    /// Seconds since this replica learned of it.
    pub age_seconds: f64,
    /// Tunnels that were open then.
    pub tunnels: u64,
    /// Tunnels that the Pod cut without a Close while they waited for theirs.
    pub cut: u64,
    /// Seconds from the beginning to the first cut.
    pub first_cut_seconds: Option<f64>,
}

/// What came of asking a replica for its tunnels.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// It has these.
    Tunnels(Vec<PodTunnels>),
    /// It is this replica, which has no need to ask itself.
    Ourselves,
    /// Nobody listens there: it has not begun, or has ended.
    Nobody,
    /// It is there, and does not say; for this reason.
    Silence(String),
}
