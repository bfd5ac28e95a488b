//! `spec.locations[]`: which requests a location takes and what it does with them.
//!
//! It knows no default and no other object. `translate` reads it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{IntOrString, ObjectName, Policy, schema::*};

/// One location: a path, what else must hold, and what it does. Exactly one of backends, static and redirect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("[has(self.backends), has(self.static), has(self.redirect)].exists_one(x, x)", "exactly one of backends, static and redirect is needed"), rule(r"!has(self.path) || (has(self.pathType) && self.pathType == 'RegularExpression') || self.path.matches('^/[^?#;\\s]*$')", "path must start with / and have no ?, #, ; or space"), rule("!has(self.path) || (has(self.pathType) && self.pathType == 'RegularExpression') || !self.path.matches('//|/[.]{1,2}(/|$)')", "path must have no //, no element . and no element .."), rule("!has(self.path) || !has(self.pathType) || self.pathType != 'RegularExpression' || (size(self.path) <= 512 && type(''.matches(self.path)) == bool)", "path must be a regular expression of at most 512 bytes"), rule("!has(self.pathType) || self.pathType != 'RegularExpression' || has(self.path)", "pathType RegularExpression needs a path"), rule("!has(self.rewrite) || !has(self.rewrite.prefix) || !has(self.pathType) || self.pathType == 'Prefix'", "rewrite.prefix needs pathType Prefix"), rule("!has(self.redirect) || !has(self.redirect.prefix) || !has(self.pathType) || self.pathType == 'Prefix'", "redirect.prefix needs pathType Prefix"), rule("!has(self.static) || !has(self.pathType) || self.pathType != 'RegularExpression'", "static needs pathType Prefix or Exact")]))]
pub struct Location {
    /// A name, unique in the namespace: its identity in metrics, status and drains, and over edits. [default: hosts, pathType, path and match are its identity]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The path it takes: with Prefix and Exact one that starts with /, with RegularExpression an expression of at most 512 bytes that matches the whole path. [default: /]
    #[schemars(length(min = 1, max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Prefix takes whole elements: /ws takes /ws and /ws/a, not /wsx. Exact takes the path alone. RegularExpression matches in linear time, anchored at both ends. [default: Prefix]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_type: Option<PathType>,
    /// What else must hold; all of it. [default: nothing]
    #[serde(rename = "match")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<Match>,
    /// Where its requests go, WebSocket handshakes and plain HTTP alike. Weights split new requests between services; one without a ready endpoint gives its share to the others.
    #[schemars(length(min = 1, max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends: Option<Vec<Backend>>,
    /// Answers with files.
    #[serde(rename = "static")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub static_: Option<Static>,
    /// Answers with a redirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// How it does it.
    #[serde(flatten)]
    pub policy: Policy,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum PathType {
    /// Whole elements.
    Prefix,
    /// The path alone.
    Exact,
    /// An expression that matches the whole path.
    RegularExpression,
}

/// Conditions beside the path; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.subprotocols) || !has(self.upgrade) || self.upgrade != 'None'", "subprotocols are offered by WebSocket handshakes only, which upgrade None does not take")]))]
pub struct Match {
    /// The method is one of these, in upper case. [default: any]
    #[schemars(length(max = 16), inner(length(min = 1, max = 32), regex(pattern = METHOD)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// The request has all of these header fields. [default: none]
    #[schemars(length(max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<ValueMatch>>,
    /// The query has all of these parameters. [default: none]
    #[schemars(length(max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<Vec<ValueMatch>>,
    /// The request has all of these cookies. [default: none]
    #[schemars(length(max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookies: Option<Vec<ValueMatch>>,
    /// The client offers one of these WebSocket subprotocols. [default: any or none]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256), regex(pattern = TOKEN)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subprotocols: Option<Vec<String>>,
    /// WebSocket: only handshakes. None: only requests that are none. So one URL can have two services. [default: both]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeMatch>,
}

/// A name with the value it must have. Exactly one of value and regex.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("[has(self.value), has(self.regex)].exists_one(x, x)", "exactly one of value and regex is needed"), rule("!has(self.regex) || type(''.matches(self.regex)) == bool", "regex must be a regular expression")]))]
pub struct ValueMatch {
    /// Name of the header field (in any case), parameter or cookie. Required.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// The value, byte by byte.
    #[schemars(length(max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// An expression that matches the whole value, of at most 512 bytes.
    #[schemars(length(min = 1, max = 512))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// Whether requests that ask to be upgraded to `websocket` are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum UpgradeMatch {
    /// Only they.
    WebSocket,
    /// Only the others.
    None,
}

/// Where requests or connections go. Exactly one of service and address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("[has(self.service), has(self.address)].exists_one(x, x)", "exactly one of service and address is needed"), rule("has(self.service) == has(self.port)", "service needs port, address has its own"), rule("has(self.service) || !has(self.__namespace__)", "namespace is that of service")]))]
pub struct Backend {
    /// Name of a Service; its ready endpoints are used directly. Needs port.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Number or name of the Service's port.
    #[schemars(extend("minimum" = 1, "maximum" = 65535, "maxLength" = 15, "pattern" = PORT_NAME))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<IntOrString>,
    /// The Service's namespace; another one needs a ReferenceGrant there. [default: the route's]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// A host:port outside of Kubernetes, its name resolved again and again. Needs --allow-addresses: on in standalone, off in the controller.
    #[schemars(length(max = 260), regex(pattern = ADDRESS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its share of new requests among the backends, 0 to 10000. All 0: 503. [default: 1]
    #[schemars(range(min = 0, max = 10000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Speaks TLS to the backend. [default: TLS where the Service's appProtocol is https or kubernetes.io/wss, else plain; in tcp plain]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
}

/// TLS to a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!(has(self.caSecret) && has(self.caConfigMap))", "at most one of caSecret and caConfigMap may be given"), rule("!has(self.mode) || self.mode != 'Insecure' || (!has(self.caSecret) && !has(self.caConfigMap))", "mode Insecure verifies nothing: leave caSecret and caConfigMap out")]))]
pub struct BackendTls {
    /// Verify: the backend's certificate must be valid for serverName. Insecure: any certificate will do. [default: Verify]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<BackendTlsMode>,
    /// A Secret whose ca.crt holds the certificate authorities. At most one of caSecret and caConfigMap. [default: the system's]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<ObjectName>,
    /// A ConfigMap whose ca.crt holds the certificate authorities. At most one of caSecret and caConfigMap. [default: the system's]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_config_map: Option<ObjectName>,
    /// The name asked for (SNI) and verified. [default: SERVICE.NAMESPACE.svc, or the host of address]
    #[schemars(length(min = 1, max = 253), regex(pattern = HOST))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// A Secret of type kubernetes.io/tls with the certificate that we show. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<ObjectName>,
}

/// Whether a backend's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum BackendTlsMode {
    /// It is.
    Verify,
    /// Any will do.
    Insecure,
}

/// Files to answer with: what follows the location's path names the file. Exactly one of configMap and directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("[has(self.configMap), has(self.directory)].exists_one(x, x)", "exactly one of configMap and directory is needed")]))]
pub struct Static {
    /// The keys of a ConfigMap are the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapFiles>,
    /// A folder, relative to the controller's --static-root/NAMESPACE (standalone: to --static-root).
    #[schemars(length(min = 1, max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [rule("self == '.' || !self.matches('(^|/)[.]{0,2}(/|$)')", "directory must be relative, without empty elements, . and ..")]))]
    pub directory: Option<String>,
    /// The file of a folder. [default: index.html]
    #[schemars(length(min = 1, max = 255))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [rule("!self.contains('/') && self != '.' && self != '..'", "index must be the name of a file")]))]
    pub index: Option<String>,
    /// The file that is served with 200 where there is none, for applications that route in the browser. [default: none, 404]
    #[schemars(length(min = 1, max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [rule("!self.matches('(^|/)[.]{0,2}(/|$)')", "fallback must be relative, without empty elements, . and ..")]))]
    pub fallback: Option<String>,
    /// Value of Cache-Control. [default: none]
    #[schemars(length(min = 1, max = 1024), regex(pattern = FIELD_VALUE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
}

/// A ConfigMap whose keys are files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapFiles {
    /// Its name. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
    /// Its namespace; another one needs a ReferenceGrant there. [default: the route's]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only these keys, at these paths. [default: every key, at the path that is its name]
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<ConfigMapItem>>,
}

/// A key of a ConfigMap and where it appears.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapItem {
    /// The key. Required.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Its path below the location. Required.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(extend("x-kubernetes-validations" = [rule("!self.matches('(^|/)[.]{0,2}(/|$)')", "path must be relative, without empty elements, . and ..")]))]
    pub path: String,
}

/// An answer that sends the client elsewhere. What is absent stays as in the request; the query is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!(has(self.path) && has(self.prefix))", "at most one of path and prefix may be given"), rule("has(self.scheme) || has(self.host) || has(self.port) || has(self.path) || has(self.prefix)", "one of scheme, host, port, path and prefix is needed")]))]
pub struct Redirect {
    /// http or https. [default: the request's]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// A host name. [default: the request's]
    #[schemars(length(min = 1, max = 253), regex(pattern = HOST))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A port; left out of the Location where it is the scheme's own. [default: the listener's public port of the scheme]
    #[schemars(range(min = 1, max = 65535))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The whole path, perhaps with a query, which the request's follows. At most one of path and prefix. [default: the request's]
    #[schemars(length(min = 1, max = 1024), regex(pattern = TARGET))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What replaces the location's path, which must be a Prefix. At most one of path and prefix. [default: the location's path]
    #[schemars(length(min = 1, max = 1024), regex(pattern = PATH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// 301, 302, 303, 307 or 308. [default: 308]
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// The scheme of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(transform = undescribed)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}
