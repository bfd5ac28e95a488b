//! What a source of objects tells: which kinds there are, and what became of their objects.
//!
//! It never knows where a source has its objects from. `k8s` and `manifests` speak it, `control` passes it on, `index` keeps what it says.

use std::{net::SocketAddr, sync::Arc};

use super::objects;
use crate::model::ObjectRef;

/// News of one kind of object, or of an address.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the variants are the kinds")]
#[allow(clippy::large_enum_variant, reason = "a change is moved from a channel into the Index and is gone")]
pub enum Change {
    WsRoute(Event<objects::ReadRoute>),
    Service(Event<objects::Service>),
    EndpointSlice(Event<objects::EndpointSlice>),
    Secret(Event<objects::Secret>),
    /// A Secret of another type than `kubernetes.io/tls` that [`Translated::wanted`](super::Translated) names: it is there, or not.
    OtherSecret(Event<objects::Secret>),
    ConfigMap(Event<objects::ConfigMap>),
    ReferenceGrant(Event<objects::ReferenceGrant>),
    IngressClass(Event<objects::IngressClass>),
    Namespace(Event<objects::Namespace>),
    Ingress(Event<objects::Ingress>),
    /// What DNS says about a `host:port` of [`Translated::names`](super::Translated).
    Address {
        host_port: Arc<str>,
        addresses: Vec<SocketAddr>,
    },
    /// The zone that we are in; endpoints that are meant for it come first.
    Zone(Arc<str>),
}

/// What happened to objects of one kind.
#[derive(Clone, Debug)]
pub enum Event<T> {
    /// The object is there, new or changed.
    Apply(T),
    /// The object is gone.
    Delete(ObjectRef),
    /// These are all there are.
    Reset(Vec<T>),
}

/// A kind of object that is watched, in the order in which a source tells of them: what routes name before the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variants are the kinds")]
pub enum Kind {
    Namespace,
    IngressClass,
    ReferenceGrant,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    Ingress,
    WsRoute,
}

impl Kind {
    /// Every one of them, in order.
    pub const ALL: [Kind; 9] = [
        Kind::Namespace,
        Kind::IngressClass,
        Kind::ReferenceGrant,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Secret,
        Kind::ConfigMap,
        Kind::Ingress,
        Kind::WsRoute,
    ];
}

impl Change {
    /// The kind whose objects it lists, all of them; `None` where it tells of a single one, or of an address.
    pub fn listed(&self) -> Option<Kind> {
        match self {
            Change::Namespace(Event::Reset(_)) => Some(Kind::Namespace),
            Change::IngressClass(Event::Reset(_)) => Some(Kind::IngressClass),
            Change::ReferenceGrant(Event::Reset(_)) => Some(Kind::ReferenceGrant),
            Change::Service(Event::Reset(_)) => Some(Kind::Service),
            Change::EndpointSlice(Event::Reset(_)) => Some(Kind::EndpointSlice),
            Change::Secret(Event::Reset(_)) => Some(Kind::Secret),
            Change::ConfigMap(Event::Reset(_)) => Some(Kind::ConfigMap),
            Change::Ingress(Event::Reset(_)) => Some(Kind::Ingress),
            Change::WsRoute(Event::Reset(_)) => Some(Kind::WsRoute),
            _ => None,
        }
    }
}
