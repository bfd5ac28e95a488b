//! Which references may leave their namespace: those that a ReferenceGrant where they lead to permits.
//!
//! It never knows whether an object is there: what is not permitted says the same either way. `references` asks it before it looks.

use std::{collections::BTreeSet, fmt};

use super::{Index, objects::ReferenceGrant, status::Problem};
use crate::{api::Reason, model::ObjectRef};

/// Who refers, in the words of a ReferenceGrant.
const GROUP: &str = "carrick.dev";
const KIND: &str = "WsRoute";

/// A kind that a reference may lead to, all of them of the core group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Service,
    Secret,
    ConfigMap,
}

impl fmt::Display for Target {
    /// As ReferenceGrants spell it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A ReferenceGrant, as far as it is about WsRoutes.
#[derive(Debug, PartialEq)]
pub(super) struct Grant {
    from: BTreeSet<Box<str>>,
    to: Vec<(Target, Option<Box<str>>)>,
}

impl Grant {
    /// `None` where it permits no WsRoute anything.
    pub(super) fn new(object: ReferenceGrant) -> Option<Self> {
        let from = object.spec.from.into_iter().filter(|from| from.group == GROUP && from.kind == KIND);
        let target =
            |kind: &str| [Target::Service, Target::Secret, Target::ConfigMap].into_iter().find(|target| target.to_string() == kind);
        let to = object.spec.to.into_iter().filter(|to| to.group.is_empty());
        let grant = Self {
            from: from.map(|from| from.namespace.into()).collect(),
            to: to.filter_map(|to| Some((target(&to.kind)?, to.name.map(Into::into)))).collect(),
        };
        (!grant.from.is_empty() && !grant.to.is_empty()).then_some(grant)
    }

    fn permits(&self, from: &str, target: Target, name: &str) -> bool {
        let is_meant = |to: &(Target, Option<Box<str>>)| to.0 == target && to.1.as_deref().is_none_or(|only| only == name);
        self.from.contains(from) && self.to.iter().any(is_meant)
    }
}

/// Whether a WsRoute of a namespace may name an object: one of its own namespace, or one that is granted.
pub(super) fn permitted(index: &Index, from: &str, target: Target, object: &ObjectRef) -> Result<(), Problem> {
    if *object.namespace == *from || index.grants(&object.namespace).any(|grant| grant.permits(from, target, &object.name)) {
        return Ok(());
    }
    let (to, name) = (&object.namespace, &object.name);
    let what = target.to_string().to_lowercase();
    Err(Problem::new(
        Reason::RefNotPermitted,
        format!(
            "{what} {object} is in another namespace, which does not permit it: create a ReferenceGrant in namespace {to}, \
             from group {GROUP}, kind {KIND}, namespace {from}, to group \"\", kind {target}, name {name}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn grant(from: Value, to: Value) -> Option<Grant> {
        Grant::new(serde_json::from_value(json!({"metadata": {"name": "g"}, "spec": {"from": from, "to": to}})).unwrap())
    }

    #[test]
    fn a_grant_permits_what_it_names_to_whom_it_names() {
        let from = json!([{"group": "carrick.dev", "kind": "WsRoute", "namespace": "web"}]);
        let all = grant(from.clone(), json!([{"group": "", "kind": "Service"}])).unwrap();
        assert!(all.permits("web", Target::Service, "chat"));
        assert!(!all.permits("other", Target::Service, "chat") && !all.permits("web", Target::Secret, "chat"));
        let one = grant(from, json!([{"group": "", "kind": "Secret", "name": "shop"}, {"group": "", "kind": "ConfigMap"}])).unwrap();
        assert!(one.permits("web", Target::Secret, "shop") && one.permits("web", Target::ConfigMap, "page"));
        assert!(!one.permits("web", Target::Secret, "other"));
    }

    #[test]
    fn a_grant_to_other_kinds_is_none_of_ours() {
        let service = json!([{"group": "", "kind": "Service"}]);
        assert_eq!(grant(json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "web"}]), service), None);
        let from = json!([{"group": "carrick.dev", "kind": "WsRoute", "namespace": "web"}]);
        assert_eq!(grant(from, json!([{"group": "apps", "kind": "Service"}, {"group": "", "kind": "Pod"}])), None);
    }
}
