//! One WsRoute as the Index keeps it: what the translation reads, and what its schema would have refused.
//!
//! It never knows other objects. `index` makes it once, when the WsRoute is applied.

use jiff::Timestamp;

use super::objects::{Named, ReadRoute};
use crate::{
    api::{self, Fault, WsRouteSpec},
    model::ObjectRef,
};

impl Named for ReadRoute {
    fn object_ref(&self) -> ObjectRef {
        let metadata = &self.route.metadata;
        ObjectRef::new(metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref().unwrap_or_default())
    }
}

/// A WsRoute without what does not matter to its meaning: its own status, managed fields, resource version.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Route {
    pub(super) id: ObjectRef,
    created: Option<Timestamp>,
    pub(super) generation: Option<i64>,
    /// `spec.ingressClassName`, else the one kept in the status.
    pub(super) class: Option<String>,
    pub(super) spec: WsRouteSpec,
    /// What no API server would have let in. Manifest files never met one.
    faults: Vec<Fault>,
}

impl Route {
    pub(super) fn new(object: ReadRoute) -> Self {
        let id = object.object_ref();
        let object = object.route;
        let faults = serde_json::to_value(&object.spec).map(|spec| api::validate(&spec)).unwrap_or_default();
        let kept = object.status.and_then(|status| status.ingress_class_name);
        Self {
            id,
            created: object.metadata.creation_timestamp.map(|time| time.0),
            generation: object.metadata.generation,
            class: object.spec.ingress_class_name.clone().or(kept),
            spec: object.spec,
            faults,
        }
    }

    /// Sorts the oldest first, then by namespace and name. A route without creationTimestamp counts as old.
    pub(super) fn age(&self) -> (Option<Timestamp>, &ObjectRef) {
        (self.created, &self.id)
    }

    /// What the schema refuses at or below a path of `spec`, in words.
    pub(super) fn faults_below<'a>(&'a self, path: &'a [&'a str]) -> impl Iterator<Item = &'a Fault> + 'a {
        self.faults
            .iter()
            .filter(move |fault| fault.path.len() > path.len() && fault.path[1..].iter().zip(path).all(|(step, wanted)| step == wanted))
    }

    /// What the schema refuses in no element of `hosts`, `locations` and `tcp`: it concerns the whole of the route.
    pub(super) fn faults_of_the_whole(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|fault| {
            let in_element = fault.path.len() > 2 && matches!(fault.path[1].as_str(), "hosts" | "locations" | "tcp");
            !in_element
        })
    }
}
