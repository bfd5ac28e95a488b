//! The kinds that manifests may hold, as one type, and how they become Changes.
//!
//! It never knows files. `document` reads them, `folder` compares and sends them.

use std::{collections::BTreeMap, fmt};

use crate::{
    api::WsRoute,
    translate::{
        Change, Event, Kind,
        objects::{ConfigMap, EndpointSlice, Ingress, IngressClass, Metadata, Namespace, ReferenceGrant, Secret, Service},
    },
};

/// The kind of a name in an API group, if manifests may hold it.
pub(super) fn kind_of(group: &str, name: &str) -> Option<Kind> {
    Some(match (group, name) {
        ("carrick.dev", "WsRoute") => Kind::WsRoute,
        ("", "Service") => Kind::Service,
        ("discovery.k8s.io", "EndpointSlice") => Kind::EndpointSlice,
        ("", "Secret") => Kind::Secret,
        ("", "ConfigMap") => Kind::ConfigMap,
        ("gateway.networking.k8s.io", "ReferenceGrant") => Kind::ReferenceGrant,
        ("networking.k8s.io", "IngressClass") => Kind::IngressClass,
        ("", "Namespace") => Kind::Namespace,
        ("networking.k8s.io", "Ingress") => Kind::Ingress,
        _ => return None,
    })
}

/// One object of one kind. Prints as `service default/chat`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    kind: Kind,
    namespace: String,
    name: String,
}

impl Key {
    /// The object of a kind that metadata name.
    pub(super) fn new(kind: Kind, metadata: &Metadata) -> Self {
        let namespace = match kind {
            Kind::Namespace | Kind::IngressClass => "",
            _ => metadata.namespace.as_deref().unwrap_or("default"),
        };
        Self { kind, namespace: namespace.to_owned(), name: metadata.name.clone() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = format!("{:?}", self.kind).to_lowercase();
        match self.namespace.as_str() {
            "" => write!(f, "{kind} {}", self.name),
            namespace => write!(f, "{kind} {namespace}/{}", self.name),
        }
    }
}

/// An object of one of the kinds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    WsRoute(Box<WsRoute>),
    Service(Service),
    EndpointSlice(EndpointSlice),
    Secret(Secret),
    ConfigMap(ConfigMap),
    ReferenceGrant(ReferenceGrant),
    IngressClass(IngressClass),
    Namespace(Namespace),
    Ingress(Ingress),
}

/// The objects of all files.
pub(super) type Objects = BTreeMap<Key, Object>;

/// A list of each kind that differs; of every kind where nothing was sent before.
pub(super) fn changes(before: Option<&Objects>, now: &Objects) -> Vec<Change> {
    let of = |objects: &Objects, kind: Kind| -> Vec<Object> {
        objects.iter().filter(|(key, _)| key.kind == kind).map(|(_, object)| object.clone()).collect()
    };
    let differs = |kind: &Kind| before.is_none_or(|before| of(before, *kind) != of(now, *kind));
    Kind::ALL.into_iter().filter(differs).map(|kind| reset(kind, of(now, kind))).collect()
}

fn reset(kind: Kind, objects: Vec<Object>) -> Change {
    macro_rules! all {
        ($variant:ident) => {
            Change::$variant(Event::Reset(
                objects.into_iter().filter_map(|object| if let Object::$variant(object) = object { Some(object) } else { None }).collect(),
            ))
        };
    }
    match kind {
        Kind::WsRoute => {
            let routes = objects.into_iter().filter_map(|object| if let Object::WsRoute(route) = object { Some(*route) } else { None });
            Change::WsRoute(Event::Reset(routes.map(Into::into).collect()))
        }
        Kind::Service => all!(Service),
        Kind::EndpointSlice => all!(EndpointSlice),
        Kind::Secret => all!(Secret),
        Kind::ConfigMap => all!(ConfigMap),
        Kind::ReferenceGrant => all!(ReferenceGrant),
        Kind::IngressClass => all!(IngressClass),
        Kind::Namespace => all!(Namespace),
        Kind::Ingress => all!(Ingress),
    }
}
