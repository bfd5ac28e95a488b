//! One WsRoute as the Index keeps it: what the translation reads, and what its schema would have refused.
//!
//! It never knows other objects. `index` makes it once, when the WsRoute is applied.

use std::sync::Arc;

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

/// A WsRoute without what does not matter to its meaning: conditions, managed fields, resource version.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Route {
    pub(super) id: ObjectRef,
    created: Option<Timestamp>,
    pub(super) generation: Option<i64>,
    /// What tells it from one of the same name that was there before.
    pub(super) uid: Option<Arc<str>>,
    /// Who wrote its status, where somebody did.
    pub(super) written: Option<Written>,
    pub(super) spec: WsRouteSpec,
    /// Why its spec could not be read; it is empty then, and claims nothing.
    pub(super) unreadable: Option<String>,
    /// What no API server would have let in. Manifest files never met one.
    faults: Vec<Fault>,
}

/// What a status says of its writer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Written {
    /// `--controller-name` of the writer.
    pub(super) controller: Option<String>,
    /// The class in force for it.
    pub(super) class: Option<String>,
}

impl Route {
    pub(super) fn new(object: ReadRoute) -> Self {
        let id = object.object_ref();
        let ReadRoute { route: object, unreadable } = object;
        let faults = serde_json::to_value(&object.spec).map(|spec| api::validate(&spec)).unwrap_or_default();
        let written = object.status.map(|status| Written { controller: status.controller, class: status.ingress_class_name });
        let written = written.filter(|written| written.controller.is_some() || written.class.is_some());
        Self {
            id,
            created: object.metadata.creation_timestamp.map(|time| time.0),
            generation: object.metadata.generation,
            uid: object.metadata.uid.map(Arc::from),
            written,
            spec: object.spec,
            unreadable,
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
