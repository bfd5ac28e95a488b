//! The kinds that are read: where the API server has them, and what of each object is kept.
//!
//! It never asks for one. `list_watch` and `fetch` read objects by it; what is left out here is neither kept nor compared.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    api::{self, FaultKind, WsRoute, WsRouteSpec},
    model::ObjectRef,
    translate::{
        Change, Event,
        objects::{
            ConfigMap, EndpointSlice, Ingress, IngressClass, Metadata, Named, Namespace, ReadRoute, ReferenceGrant, SERVICE_NAME_LABEL,
            Secret, Service,
        },
    },
};

/// kubectl's copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Where the API server has a kind.
#[derive(Debug)]
pub(super) struct Resource {
    /// Its name, which is also the value of the label `kind`.
    pub(super) kind: &'static str,
    /// Group and version, as the path has them.
    pub(super) group: &'static str,
    /// The last part of the path.
    pub(super) plural: &'static str,
    /// Whose it is.
    pub(super) owner: Owner,
    /// The field selector.
    pub(super) fields: Option<&'static str>,
    /// What it means that it can't be had.
    pub(super) need: Need,
}

/// Whose the objects of a kind are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A namespace's.
    Namespace,
    /// The cluster's: Roles can't give a right to it.
    Cluster,
}

/// What a kind means to us that the API server does not serve, or does not let us read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// There are none of it.
    Optional,
    /// Nothing is served without it.
    Required,
    /// Nothing is served without it, and this command brings it.
    Installed(&'static str),
}

impl Resource {
    /// The path of its objects in one namespace, or in all.
    pub(super) fn path(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) => format!("/{}/namespaces/{namespace}/{}", self.group, self.plural),
            None => format!("/{}/{}", self.group, self.plural),
        }
    }

    /// As RBAC and kubectl call it: `wsroutes.carrick.dev`.
    pub(super) fn full_name(&self) -> String {
        match self.group.split('/').collect::<Vec<_>>()[..] {
            [_, group, _] => format!("{}.{group}", self.plural),
            _ => self.plural.to_owned(),
        }
    }
}

/// A kind whose objects are listed and watched.
pub(super) trait Watched: Named + Sized + Send + 'static {
    /// As it comes.
    type Wire: DeserializeOwned + Send;
    /// Where it is.
    const RESOURCE: &'static Resource;
    /// What is kept of it, and where a watch goes on after it.
    fn read(wire: Self::Wire) -> (Self, Option<String>);
    /// What `control` is told.
    fn change(event: Event<Self>) -> Change;
}

macro_rules! watched {
    ($($kind:ident: $group:literal $plural:literal $owner:ident $need:ident, $fields:expr, keeps $keeps:expr;)*) => {$(
        impl Watched for $kind {
            type Wire = Self;
            const RESOURCE: &'static Resource = &Resource {
                kind: stringify!($kind),
                group: $group,
                plural: $plural,
                owner: Owner::$owner,
                fields: $fields,
                need: Need::$need,
            };

            fn read(mut wire: Self) -> (Self, Option<String>) {
                let version = wire.metadata.resource_version.take();
                $keeps(&mut wire.metadata);
                (wire, version)
            }

            fn change(event: Event<Self>) -> Change {
                Change::$kind(event)
            }
        }
    )*};
}

watched! {
    Service: "api/v1" "services" Namespace Required, None, keeps name;
    EndpointSlice: "apis/discovery.k8s.io/v1" "endpointslices" Namespace Required, None, keeps name_of_service;
    Secret: "api/v1" "secrets" Namespace Required, Some("type=kubernetes.io/tls"), keeps name;
    ConfigMap: "api/v1" "configmaps" Namespace Required, None, keeps name;
    ReferenceGrant: "apis/gateway.networking.k8s.io/v1beta1" "referencegrants" Namespace Optional, None, keeps name;
    IngressClass: "apis/networking.k8s.io/v1" "ingressclasses" Cluster Required, None, keeps labels_and_annotations;
    Namespace: "api/v1" "namespaces" Cluster Required, None, keeps labels_and_annotations;
    Ingress: "apis/networking.k8s.io/v1" "ingresses" Namespace Optional, None, keeps labels_and_annotations;
}

fn name(metadata: &mut Metadata) {
    metadata.labels.clear();
    metadata.annotations.clear();
}

/// The annotations of a slice change with every endpoint, and say when.
fn name_of_service(metadata: &mut Metadata) {
    metadata.labels.retain(|label, _| label == SERVICE_NAME_LABEL);
    metadata.annotations.clear();
}

fn labels_and_annotations(metadata: &mut Metadata) {
    metadata.annotations.remove(LAST_APPLIED);
}

/// Secrets that are no certificates: looked up by name, never listed whole.
pub(super) const OTHER_SECRETS: &Resource = &Resource { kind: "OtherSecret", fields: Some("type!=kubernetes.io/tls"), ..*Secret::RESOURCE };

impl Watched for ReadRoute {
    type Wire = RouteObject;
    const RESOURCE: &'static Resource = &Resource {
        kind: "WsRoute",
        group: "apis/carrick.dev/v1alpha1",
        plural: "wsroutes",
        owner: Owner::Namespace,
        fields: None,
        need: Need::Installed("carrick crd | kubectl apply --server-side -f -"),
    };

    fn read(wire: RouteObject) -> (Self, Option<String>) {
        let (spec, unreadable) = match read_spec(&wire.spec) {
            Ok(spec) => (spec, None),
            Err(why) => (class_alone(&wire.spec), Some(why)),
        };
        let RouteMetadata { name, namespace, uid, generation, creation_timestamp, deletion_timestamp, resource_version } = wire.metadata;
        let metadata = ObjectMeta { name, namespace, uid, generation, creation_timestamp, deletion_timestamp, ..ObjectMeta::default() };
        // A status that can't be read is written anew.
        let status = serde_json::from_value(wire.status).unwrap_or_default();
        (ReadRoute { route: WsRoute { metadata, spec, status }, unreadable }, resource_version)
    }

    fn change(event: Event<Self>) -> Change {
        Change::WsRoute(event)
    }
}

/// A WsRoute whose spec may be of a version that is yet to come.
#[derive(Deserialize)]
pub(super) struct RouteObject {
    metadata: RouteMetadata,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    resource_version: Option<String>,
}

/// The spec, or which of its values are not known.
fn read_spec(spec: &Value) -> Result<WsRouteSpec, String> {
    if spec.is_null() {
        return Ok(WsRouteSpec::default());
    }
    WsRouteSpec::deserialize(spec).map_err(|error| {
        let faults = api::validate(spec).into_iter().filter(|fault| matches!(fault.kind, FaultKind::Value(_)));
        let named = faults.map(|fault| fault.to_string()).collect::<Vec<_>>().join("; ");
        if named.is_empty() { error.to_string() } else { named }
    })
}

/// Whose a route is can be told though the rest can't be read: without its class it would be the default one's.
fn class_alone(spec: &Value) -> WsRouteSpec {
    WsRouteSpec { ingress_class_name: spec["ingressClassName"].as_str().map(str::to_owned), ..WsRouteSpec::default() }
}

/// An object of any kind, of which only the name and the version are read.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Tag {
    metadata: Metadata,
}

impl Tag {
    /// What it names, and in which version.
    pub(super) fn split(self) -> (ObjectRef, Option<String>) {
        let Metadata { name, namespace, resource_version, .. } = self.metadata;
        (ObjectRef::new(namespace.unwrap_or_default(), name), resource_version)
    }
}

/// An object as it was read: one that is not as its kind should be costs only itself.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Read<T> {
    /// As it should be.
    Whole(T),
    /// Only this could be read.
    Torn(Tag),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T: Watched>(object: Value) -> T {
        T::read(serde_json::from_value(object).unwrap()).0
    }

    #[test]
    fn an_object_that_differs_only_in_what_nobody_reads_is_the_same() {
        let slice = |version: &str, changed: &str| {
            read::<EndpointSlice>(json!({
                "metadata": {"name": "a-1", "namespace": "default", "resourceVersion": version,
                    "labels": {"kubernetes.io/service-name": "a", "endpointslice.kubernetes.io/managed-by": "x"},
                    "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": changed}},
                "addressType": "IPv4", "endpoints": [], "ports": [],
            }))
        };
        assert_eq!(slice("1", "10:00"), slice("2", "11:00"));
        assert_eq!(slice("1", "10:00").metadata.labels.len(), 1);
    }

    #[test]
    fn a_spec_that_is_not_known_is_empty_but_for_its_class_and_says_where() {
        let route: ReadRoute = read(json!({
            "metadata": {"name": "shop", "namespace": "default", "generation": 3},
            "spec": {"ingressClassName": "other", "locations": [{"path": "/", "pathType": "Telepathy"}]},
            "status": {"ingressClassName": "carrick"},
        }));
        let why = route.unreadable.unwrap();
        assert!(why.starts_with("spec.locations[0].pathType"), "{why}");
        assert_eq!(route.route.spec, WsRouteSpec { ingress_class_name: Some("other".to_owned()), ..WsRouteSpec::default() });
        assert_eq!(route.route.metadata.generation, Some(3));
        assert_eq!(route.route.status.unwrap().ingress_class_name.as_deref(), Some("carrick"));
    }

    #[test]
    fn an_object_that_can_not_be_read_has_a_name_still() {
        let object = json!({"metadata": {"name": "odd", "namespace": "default"}, "spec": {"ports": "none"}});
        let Read::Torn(tag) = serde_json::from_value::<Read<Service>>(object).unwrap() else { panic!("no Service") };
        assert_eq!(tag.split().0, ObjectRef::new("default", "odd"));
    }

    #[test]
    fn paths_are_those_of_the_api() {
        assert_eq!(Service::RESOURCE.path(None), "/api/v1/services");
        assert_eq!(ReadRoute::RESOURCE.path(Some("shop")), "/apis/carrick.dev/v1alpha1/namespaces/shop/wsroutes");
        assert_eq!((Service::RESOURCE.full_name(), ReadRoute::RESOURCE.full_name()), ("services".into(), "wsroutes.carrick.dev".into()));
    }
}
