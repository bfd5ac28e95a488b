//! The kind itself: `spec` without its locations, and `status`.
//!
//! It knows no default and no other object. `translate` reads the spec and makes the status, `k8s` and `manifests` read the whole.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, Location, Policy, TcpRoute, schema::*};

/// What a WsRoute asks for.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "carrick.dev",
    version = "v1alpha1",
    kind = "WsRoute",
    plural = "wsroutes",
    shortname = "wsr",
    category = "carrick",
    namespaced,
    status = "WsRouteStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Hosts", "type": "string", "jsonPath": ".spec.hosts"}"#,
    printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".status.loadBalancer.ingress[*]['ip','hostname']"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    doc = "A WsRoute says where WebSockets, the HTTP beside them and raw TCP connections go."
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.defaults) || !has(self.defaults.rewrite) || !has(self.defaults.rewrite.prefix) || !has(self.locations) || self.locations.all(l, !has(l.pathType) || l.pathType == 'Prefix')", "defaults.rewrite.prefix needs every location to be of pathType Prefix")]))]
pub struct WsRouteSpec {
    /// The IngressClass whose controller serves this route. [default: the default IngressClass at the time the route is first seen, kept in status]
    #[schemars(length(max = 253), regex(pattern = NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_class_name: Option<String>,
    /// The hosts it is for, in lower case and without port: names such as shop.example.com, or wildcards such as *.example.com, which take one or more labels and never example.com itself. A host belongs to the namespace of its oldest route. [default: any host]
    #[schemars(length(max = 32), inner(length(max = 253), regex(pattern = HOST_PATTERN)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// TLS for the hosts. It belongs to the host, not to a location: the oldest route of the owner that has it decides for all. [default: HTTPS answers with the controller's default certificate, HTTP is not redirected]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The listeners it is served on, by the names given to the controller with --listener. [default: the listener called default]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63), regex(pattern = LABEL)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listeners: Option<Vec<String>>,
    /// Other namespaces that may use these hosts. [default: none]
    #[schemars(length(max = 32))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegate: Option<Vec<Delegate>>,
    /// Any policy field of a location, for all locations that do not say otherwise. Merged one level down: a location that sets timeouts.idle keeps timeouts.connect from here. Scalars and lists are replaced. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Policy>,
    /// What is served below which paths. The most specific one takes a request: Exact, then RegularExpression, then the longest Prefix, then the one with more match conditions. At most 64. [default: none]
    #[schemars(length(max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [rule("self.all(l, !has(l.name) || self.exists_one(m, has(m.name) && m.name == l.name))", "names of locations must be unique")]))]
    pub locations: Option<Vec<Location>>,
    /// Ports for connections that are passed on as they are, without HTTP. At most 16. [default: none]
    #[schemars(length(max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [rule("self.all(a, has(a.hosts) || self.exists_one(b, b.port == a.port && !has(b.hosts)))", "a port without hosts may be given once")]))]
    pub tcp: Option<Vec<TcpRoute>>,
}

/// TLS for the hosts of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Certificates with their keys, chosen by the name that the client asks for (SNI). [default: the controller's default certificate]
    #[schemars(length(max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Vec<CertificateRef>>,
    /// Whether plain HTTP is answered with a 308 to https, once a certificate is served and never below /.well-known/acme-challenge/. [default: true]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<bool>,
    /// The lowest version of TLS that is accepted. [default: "1.2"]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_version: Option<MinTlsVersion>,
    /// Certificates that clients must or may show. Backends are told of them in X-Client-Cert-Subject, -SAN, -Fingerprint, -Verified and Client-Cert. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
}

/// A certificate with its key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRef {
    /// Name of a Secret of type kubernetes.io/tls. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub secret_name: String,
    /// Its namespace; another one needs a ReferenceGrant there. [default: the route's]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// The lowest version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum MinTlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Which client certificates are let in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("[has(self.caSecret), has(self.caConfigMap)].exists_one(x, x)", "exactly one of caSecret and caConfigMap is needed")]))]
pub struct ClientAuth {
    /// A Secret whose ca.crt holds the certificate authorities. Exactly one of caSecret and caConfigMap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<ObjectName>,
    /// A ConfigMap whose ca.crt holds the certificate authorities. Exactly one of caSecret and caConfigMap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_config_map: Option<ObjectName>,
    /// Require: without a valid certificate the handshake fails. Optional: a client may show none, but not a wrong one. [default: Require]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ClientAuthMode>,
}

/// Whether a client certificate must be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum ClientAuthMode {
    /// It must.
    Require,
    /// It may.
    Optional,
}

/// Names an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectName {
    /// Its name. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
    /// Its namespace; another one needs a ReferenceGrant there. [default: the route's]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Lets other namespaces use the hosts of this route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("has(self.namespaces) || has(self.selector)", "at least one of namespaces and selector is needed")]))]
pub struct Delegate {
    /// These namespaces. At least one of namespaces and selector.
    #[schemars(length(max = 32), inner(length(min = 1, max = 63), regex(pattern = LABEL)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// The namespaces whose labels it selects. At least one of namespaces and selector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Only below these path prefixes, by whole elements. [default: everywhere]
    #[schemars(length(max = 32), inner(length(max = 1024), regex(pattern = PATH)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
}

/// Selects by labels; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with the value they must have.
    #[schemars(extend("maxProperties" = 16), inner(length(max = 63)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Requirements on labels.
    #[schemars(length(max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<LabelSelectorRequirement>>,
}

/// A requirement on a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)", "In and NotIn need values, Exists and DoesNotExist take none")]))]
pub struct LabelSelectorRequirement {
    /// The label's key. Required.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the value is compared. Required.
    pub operator: LabelSelectorOperator,
    /// Values for In and NotIn; none for Exists and DoesNotExist.
    #[schemars(length(max = 16), inner(length(max = 63)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum LabelSelectorOperator {
    /// Its value is one of the values.
    In,
    /// It is absent, or its value is none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

/// What became of a WsRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WsRouteStatus {
    /// The metadata.generation that this status was computed from.
    #[schemars(range(min = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The controller that serves the route.
    #[schemars(length(max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// The IngressClass in force; where spec names none, the default one at the time the route was first seen.
    #[schemars(length(max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_class_name: Option<String>,
    /// Accepted, ResolvedRefs, Programmed, Conflicted and Ready. Wait for Ready.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Where clients reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerStatus>,
    /// The locations that are not served, and why.
    #[schemars(length(max = 80))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locations: Option<Vec<LocationStatus>>,
}

/// Where clients reach a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerStatus {
    /// Addresses, from --publish-service or --publish-address.
    #[schemars(length(max = 32))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<LoadBalancerIngress>>,
}

/// One address: an ip or a hostname.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    /// An IP address.
    #[schemars(length(max = 45))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// A host name.
    #[schemars(length(max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// A location, or a TCP route, that is not served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocationStatus {
    /// Its name, or else its path; tcp:PORT for layer 4.
    #[schemars(length(max = 1100))]
    pub name: String,
    /// The cause in one CamelCase word.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// The cause in words, and what to do.
    #[schemars(length(max = 4096))]
    pub message: String,
}
