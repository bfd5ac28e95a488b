//! The built-in kinds, trimmed to the fields that we read, so that nothing else of them is parsed or kept.
//!
//! It never knows what a field means to a WsRoute. `k8s` and `manifests` deserialise them, `translate` reads them.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use crate::{api::WsRoute, model::ObjectRef};

/// The label of an EndpointSlice that names its Service (`discovery.k8s.io`).
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The annotation of the IngressClass that routes without a class belong to.
pub const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// What every object is indexed by.
pub trait Named {
    /// Namespace and name; the namespace is empty for kinds of the cluster.
    fn object_ref(&self) -> ObjectRef;
}

/// `metadata`, as far as we read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The object's name.
    pub name: String,
    /// Its namespace; `default` where a manifest names none.
    pub namespace: Option<String>,
    /// Labels.
    #[serde(deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// When it was created; absent in manifests.
    pub creation_timestamp: Option<Timestamp>,
    /// What a watch goes on from. Two objects that differ in nothing else are the same to us: a source takes it out.
    pub resource_version: Option<String>,
}

impl Metadata {
    fn namespaced(&self) -> ObjectRef {
        ObjectRef::new(self.namespace.as_deref().unwrap_or("default"), self.name.as_str())
    }
}

macro_rules! named {
    ($($kind:ty => $scope:ident),*) => {$(
        impl Named for $kind {
            fn object_ref(&self) -> ObjectRef {
                named!(@$scope self.metadata)
            }
        }
    )*};
    (@namespaced $metadata:expr) => { $metadata.namespaced() };
    (@cluster $metadata:expr) => { ObjectRef::new("", $metadata.name.as_str()) };
}

named!(
    Service => namespaced, EndpointSlice => namespaced, Secret => namespaced, ConfigMap => namespaced,
    ReferenceGrant => namespaced, Ingress => namespaced, IngressClass => cluster, Namespace => cluster
);

/// `v1.Service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its spec.
    #[serde(default)]
    pub spec: ServiceSpec,
}

/// `v1.ServiceSpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// The ports, at most one without a name.
    #[serde(deserialize_with = "null_is_empty")]
    pub ports: Vec<ServicePort>,
    /// `IPv4` and `IPv6`, the first family first.
    #[serde(deserialize_with = "null_is_empty")]
    pub ip_families: Vec<String>,
}

/// `v1.ServicePort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name, which the ports of EndpointSlices carry too; a Service of one port may leave it out.
    pub name: Option<String>,
    /// The port of the Service.
    pub port: u16,
    /// `TCP` [default], `UDP` or `SCTP`.
    pub protocol: Option<String>,
    /// What is spoken there, such as `https`.
    pub app_protocol: Option<String>,
}

/// `discovery.k8s.io/v1.EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Its metadata; [`SERVICE_NAME_LABEL`] names its Service.
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// The endpoints.
    #[serde(deserialize_with = "null_is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// The ports of each endpoint.
    #[serde(deserialize_with = "null_is_empty")]
    pub ports: Vec<EndpointPort>,
}

/// `discovery.k8s.io/v1.Endpoint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Interchangeable addresses; consumers use the first (Kubernetes API).
    #[serde(deserialize_with = "null_is_empty")]
    pub addresses: Vec<String>,
    /// Its conditions.
    #[serde(deserialize_with = "null_is_empty")]
    pub conditions: EndpointConditions,
    /// The Pod behind it.
    pub target_ref: Option<TargetRef>,
    /// Whom it is meant for.
    pub hints: Option<EndpointHints>,
}

/// `discovery.k8s.io/v1.EndpointHints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// Clients of these zones.
    #[serde(deserialize_with = "null_is_empty")]
    pub for_zones: Vec<ForZone>,
}

/// `discovery.k8s.io/v1.ForZone`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ForZone {
    /// `topology.kubernetes.io/zone` of their nodes.
    pub name: String,
}

/// `discovery.k8s.io/v1.EndpointConditions`. An absent `ready` is true, an absent `serving` is `ready`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Takes new connections.
    pub ready: Option<bool>,
    /// Answers, ready or not.
    pub serving: Option<bool>,
    /// Has been told to go.
    pub terminating: Option<bool>,
}

/// `v1.ObjectReference` of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// `Pod`, as a rule.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// `discovery.k8s.io/v1.EndpointPort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    /// The name of the Service's port; absent where that has none.
    pub name: Option<String>,
    /// The port of the Pod.
    pub port: Option<u16>,
}

/// `v1.Secret`. Prints as its name only.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// Its metadata.
    pub metadata: Metadata,
    /// `kubernetes.io/tls` for those that we read; absent is `Opaque`.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// Values in base64.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub data: BTreeMap<String, String>,
    /// Values as they are; the API server turns them into `data`, manifests still have them. They win.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub string_data: BTreeMap<String, String>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("metadata", &self.metadata).field("type", &self.type_).finish_non_exhaustive()
    }
}

/// `v1.ConfigMap`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    /// Its metadata.
    pub metadata: Metadata,
    /// Text by key.
    #[serde(deserialize_with = "null_is_empty")]
    pub data: BTreeMap<String, String>,
    /// Bytes by key, in base64.
    #[serde(deserialize_with = "null_is_empty")]
    pub binary_data: BTreeMap<String, String>,
}

/// `gateway.networking.k8s.io` `ReferenceGrant`, of v1beta1 and v1 alike: objects of its namespace that others may name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ReferenceGrant {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its spec.
    #[serde(default)]
    pub spec: ReferenceGrantSpec,
}

/// `ReferenceGrantSpec`: any of `from` may name any of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantSpec {
    /// Who may.
    #[serde(deserialize_with = "null_is_empty")]
    pub from: Vec<ReferenceGrantFrom>,
    /// What they may name.
    #[serde(deserialize_with = "null_is_empty")]
    pub to: Vec<ReferenceGrantTo>,
}

/// `ReferenceGrantFrom`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantFrom {
    /// The API group of those who may.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their namespace.
    pub namespace: String,
}

/// `ReferenceGrantTo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantTo {
    /// The API group of what may be named; empty is the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// This object alone; absent is every one of the kind.
    pub name: Option<String>,
}

/// `networking.k8s.io/v1.IngressClass`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct IngressClass {
    /// Its metadata; [`DEFAULT_CLASS_ANNOTATION`] makes it the default.
    pub metadata: Metadata,
    /// Its spec.
    #[serde(default)]
    pub spec: IngressClassSpec,
}

impl IngressClass {
    /// Whether routes without a class belong to it.
    pub fn is_default(&self) -> bool {
        self.metadata.annotations.get(DEFAULT_CLASS_ANNOTATION).is_some_and(|value| value == "true")
    }
}

/// `networking.k8s.io/v1.IngressClassSpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngressClassSpec {
    /// Who implements the class.
    pub controller: Option<String>,
}

/// `networking.k8s.io/v1.Ingress`, of which only the solvers of ACME's HTTP-01 challenge are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Ingress {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its spec.
    #[serde(default)]
    pub spec: IngressSpec,
}

/// `networking.k8s.io/v1.IngressSpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressSpec {
    /// Its class; an annotation said so before.
    pub ingress_class_name: Option<String>,
    /// What it serves.
    #[serde(deserialize_with = "null_is_empty")]
    pub rules: Vec<IngressRule>,
}

/// `networking.k8s.io/v1.IngressRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngressRule {
    /// The host; absent is any.
    pub host: Option<String>,
    /// Its paths.
    #[serde(deserialize_with = "null_is_empty")]
    pub http: IngressPaths,
}

/// `networking.k8s.io/v1.HTTPIngressRuleValue`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngressPaths {
    /// The paths.
    #[serde(deserialize_with = "null_is_empty")]
    pub paths: Vec<IngressPath>,
}

/// `networking.k8s.io/v1.HTTPIngressPath`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressPath {
    /// The path.
    pub path: Option<String>,
    /// `Exact`, `Prefix` or `ImplementationSpecific`.
    pub path_type: Option<String>,
    /// Where its requests go.
    #[serde(deserialize_with = "null_is_empty")]
    pub backend: IngressBackend,
}

/// `networking.k8s.io/v1.IngressBackend`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngressBackend {
    /// A Service; absent where the backend is some other resource.
    pub service: Option<IngressService>,
}

/// `networking.k8s.io/v1.IngressServiceBackend`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngressService {
    /// Its name, in the Ingress's namespace.
    pub name: String,
    /// One of its ports.
    #[serde(deserialize_with = "null_is_empty")]
    pub port: IngressServicePort,
}

/// `networking.k8s.io/v1.ServiceBackendPort`: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngressServicePort {
    /// By its name.
    pub name: Option<String>,
    /// By its number.
    pub number: Option<u16>,
}

/// A WsRoute as a source read it.
#[derive(Clone, Debug)]
pub struct ReadRoute {
    /// The object; its spec is empty but for the class where it could not be read.
    pub route: WsRoute,
    /// Why its spec could not be read: a newer version of the kind has values that this one does not know.
    pub unreadable: Option<String>,
}

impl From<WsRoute> for ReadRoute {
    fn from(route: WsRoute) -> Self {
        Self { route, unreadable: None }
    }
}

/// `v1.Namespace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// Its metadata; `delegate` selects by its labels.
    pub metadata: Metadata,
}

/// `data:` with nothing after it is null in YAML, and means the same as absent to the API server.
fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
