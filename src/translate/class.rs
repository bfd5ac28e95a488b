//! Whose a WsRoute is, by its class: ours, another controller's, or no longer ours.
//!
//! It never knows what a route serves. `build` asks it about WsRoutes, `acme` about Ingresses.

use std::{cmp::Reverse, sync::Arc};

use super::{ClassFilter, Index, objects::IngressClass, route::Route};

/// Whose a route is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Ours, by this class.
    Ours(Option<Arc<str>>),
    /// Another's, or nobody's; its status still says that it is ours.
    Departed,
    /// Another's, or nobody's.
    Foreign,
}

/// The classes of the cluster, as one controller sees them.
pub(super) struct Classes<'a> {
    index: &'a Index,
    filter: &'a ClassFilter,
    default: Option<&'a IngressClass>,
}

impl<'a> Classes<'a> {
    pub(super) fn new(index: &'a Index, filter: &'a ClassFilter) -> Self {
        // Of several default classes Kubernetes gives the newest to an Ingress without one, then the first by name: two controllers
        // whose classes both are the default agree on it.
        let default = index.classes().filter(|class| class.is_default());
        let default = default.min_by_key(|class| (Reverse(class.metadata.creation_timestamp), &class.metadata.name));
        Self { index, filter, default }
    }

    /// Whose a WsRoute is.
    pub(super) fn whose(&self, route: &Route) -> Whose {
        let class = match route.spec.ingress_class_name.as_deref().or_else(|| self.kept(route)) {
            Some(name) => self.takes(name).then(|| Some(Arc::from(name))),
            None => self.without_class(),
        };
        match class {
            Some(class) => Whose::Ours(class),
            None if self.is_written_by_us(route) => Whose::Departed,
            None => Whose::Foreign,
        }
    }

    /// Whether objects of a class are ours.
    pub(super) fn takes(&self, name: &str) -> bool {
        let controller = self.index.class(name).map(|class| class.spec.controller.as_deref().unwrap_or_default());
        match self.filter {
            ClassFilter::All => true,
            ClassFilter::Named(ours) => name == &**ours,
            ClassFilter::Class { name: ours, controller: us } => name == &**ours && controller.is_none_or(|them| them == &**us),
            ClassFilter::Controller(us) => controller == Some(us),
        }
    }

    /// The class of objects that name none, if those are ours: the default one.
    pub(super) fn without_class(&self) -> Option<Option<Arc<str>>> {
        match self.default {
            Some(class) => self.takes(&class.metadata.name).then(|| Some(class.metadata.name.as_str().into())),
            None => (*self.filter == ClassFilter::All).then_some(None),
        }
    }

    /// The class in the status: that of the default when the route was first seen. What another controller wrote counts as long as
    /// the class is there; a controller that is gone, its class with it, keeps no route.
    fn kept<'r>(&self, route: &'r Route) -> Option<&'r str> {
        let written = route.written.as_ref()?;
        let name = written.class.as_deref()?;
        (self.us() == written.controller.as_deref() || self.index.class(name).is_some()).then_some(name)
    }

    /// Two releases may have one controller name: each knows its own status by the class beside it.
    fn is_written_by_us(&self, route: &Route) -> bool {
        let Some(written) = route.written.as_ref().filter(|written| self.us().is_some() && written.controller.as_deref() == self.us())
        else {
            return false;
        };
        match self.filter {
            ClassFilter::Class { name, .. } => written.class.as_deref() == Some(name),
            _ => true,
        }
    }

    fn us(&self) -> Option<&str> {
        match self.filter {
            ClassFilter::All | ClassFilter::Named(_) => None,
            ClassFilter::Class { controller, .. } | ClassFilter::Controller(controller) => Some(controller),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::WsRoute,
        model::ObjectRef,
        translate::{Change, Event, Options, objects::ReadRoute},
    };

    fn class(name: &str, controller: &str) -> Change {
        Change::IngressClass(Event::Apply(
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"controller": controller}})).unwrap(),
        ))
    }

    fn route(spec: Value, status: Value) -> ReadRoute {
        let object =
            json!({"apiVersion": "carrick.dev/v1alpha1", "kind": "WsRoute", "metadata": {"name": "shop"}, "spec": spec, "status": status});
        serde_json::from_value::<WsRoute>(object).unwrap().into()
    }

    /// Whether the route is ours, and whether it has departed.
    fn whose(changes: &[Change], route: ReadRoute, class: &ClassFilter) -> (bool, bool) {
        let mut index = Index::default();
        changes.iter().cloned().chain([Change::WsRoute(Event::Apply(route))]).for_each(|change| _ = index.apply(change));
        let translated = index.translate(&Options { class: class.clone(), ..Options::default() });
        let shop = ObjectRef::new("default", "shop");
        (translated.statuses.contains_key(&shop), translated.departed.contains(&shop))
    }

    #[test]
    fn a_class_that_can_not_be_seen_is_known_by_its_name() {
        let ours = ClassFilter::Class { name: "carrick".into(), controller: "carrick.dev/controller".into() };
        let named = |name: &str| route(json!({"ingressClassName": name}), Value::Null);
        assert_eq!(whose(&[], named("carrick"), &ours), (true, false));
        assert_eq!(whose(&[], named("other"), &ours), (false, false));
        assert_eq!(whose(&[], route(json!({}), Value::Null), &ours), (false, false), "no default class");
        assert_eq!(whose(&[class("carrick", "example.com/other")], named("carrick"), &ours), (false, false), "seen, and another's");
    }

    #[test]
    fn a_class_that_is_taken_away_takes_its_routes_along() {
        let ours = ClassFilter::Controller("carrick.dev/controller".into());
        let written = json!({"controller": "carrick.dev/controller", "ingressClassName": "carrick"});
        let shop = || route(json!({"ingressClassName": "carrick"}), written.clone());
        assert_eq!(whose(&[class("carrick", "carrick.dev/controller")], shop(), &ours), (true, false));
        assert_eq!(whose(&[class("carrick", "example.com/other")], shop(), &ours), (false, true));
        assert_eq!(whose(&[], shop(), &ours), (false, true));
    }

    #[test]
    fn what_can_not_be_read_has_its_class_still_and_claims_nothing() {
        let ours = ClassFilter::Controller("carrick.dev/controller".into());
        let unreadable = |class: &str| ReadRoute {
            unreadable: Some("spec.locations[0].pathType is unknown".to_owned()),
            ..route(json!({"ingressClassName": class}), Value::Null)
        };
        let classes = [class("carrick", "carrick.dev/controller"), class("nginx", "k8s.io/ingress-nginx")];
        assert_eq!(whose(&classes, unreadable("nginx"), &ours), (false, false));
        let mut index = Index::default();
        classes.into_iter().for_each(|class| _ = index.apply(class));
        index.apply(Change::WsRoute(Event::Apply(unreadable("carrick"))));
        let translated = index.translate(&Options { class: ours, ..Options::default() });
        let status = &translated.statuses[&ObjectRef::new("default", "shop")];
        assert_eq!((&*status.conditions[0].reason, status.served), ("Invalid", false));
        assert!(status.conditions[0].message.contains("pathType is unknown"));
        assert_eq!(translated.table.hosts, []);
    }
}
