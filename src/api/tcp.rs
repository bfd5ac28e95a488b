//! `spec.tcp[]`: connections passed on as they are, without HTTP.
//!
//! It knows no default and no other object. `translate` reads it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Access, Backend, CertificateRef, ClientAuth, Drain, Duration, HealthCheck, IntOrString, Limits, LoadBalancing, SourceIp, schema::*,
};

/// Connections of one port, or of some of its TLS names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.hosts) || size(self.hosts) == 0 || has(self.tls)", "hosts need tls: they are the names of TLS"), rule("type(self.port) == int || (has(self.hosts) && size(self.hosts) > 0)", "port https needs hosts: the others are terminated there"), rule("type(self.port) == int || !has(self.tls) || !has(self.tls.mode) || self.tls.mode == 'Passthrough'", "port https passes TLS through; to end it there, use locations"), rule("!has(self.limits) || !has(self.limits.requestBody)", "limits.requestBody is for HTTP")]))]
pub struct TcpRoute {
    /// A port, one of the controller's --tcp-ports; or https: the HTTPS port, for TLS names that are passed through beside the terminated hosts. Required.
    #[schemars(extend("minimum" = 1, "maximum" = 65535, "maxLength" = 5, "pattern" = "^https$"))]
    pub port: IntOrString,
    /// TLS names (SNI) that it takes, wildcards as in spec.hosts; needs tls. One port can serve many. [default: all connections of the port]
    #[schemars(length(max = 32), inner(length(max = 253), regex(pattern = HOST_PATTERN)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// Who speaks TLS. [default: nobody, the bytes are passed on unread]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TcpTls>,
    /// Where its connections go. Required.
    #[schemars(length(min = 1, max = 16))]
    pub backends: Vec<Backend>,
    /// How an endpoint is picked within a service. [default: policy LeastConnections]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// Sends the same client to the same endpoint. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<TcpAffinity>,
    /// Finds endpoints that do not work, beside what Kubernetes knows. [default: passive]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// How much is let in; what is over it is closed at once. [default: no limit]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Which clients are let in, by address. [default: all]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How connections are brought to an end before an endpoint, a backend or the route goes. [default: that of its fields]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Tells the backend the client's address in a PROXY header: V1 in text, V2 in binary. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How long things may take. [default: those of its fields]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TcpTimeouts>,
}

/// Who speaks TLS with the client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("(has(self.mode) && self.mode == 'Terminate') == has(self.certificates)", "mode Terminate needs certificates, Passthrough takes none"), rule("!has(self.clientAuth) || (has(self.mode) && self.mode == 'Terminate')", "clientAuth needs mode Terminate")]))]
pub struct TcpTls {
    /// Passthrough: the backend does; the client's first message is read for its name, not touched. Terminate: we do, and need certificates. [default: Passthrough]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<TcpTlsMode>,
    /// Certificates with their keys, for Terminate, chosen by SNI.
    #[schemars(length(min = 1, max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Vec<CertificateRef>>,
    /// Certificates that clients must or may show, for Terminate. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
}

/// Who speaks TLS with the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum TcpTlsMode {
    /// The backend.
    Passthrough,
    /// We.
    Terminate,
}

/// Sends the same client to the same endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpAffinity {
    /// The client's address decides, the same on all replicas and after restarts.
    #[serde(rename = "sourceIP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<SourceIp>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// How long things may take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpTimeouts {
    /// To connect to one endpoint, more than 0s; then the next one is tried. [default: 5s]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [more_than_zero()]))]
    pub connect: Option<Duration>,
    /// A connection without a byte in either direction is closed; 0s is never. [default: 1h]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
}
