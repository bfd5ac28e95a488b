//! The custom resource as users write it: what a WsRoute may say, and its schema.
//!
//! It knows nothing of other objects, of defaults in force or of time: every field that may be left out is an `Option`,
//! and what is absent means is decided in `translate` alone. `translate`, `manifests`, `k8s` and `cli` use it.

mod conditions;
mod duration;
mod location;
mod policy;
mod reference;
mod schema;
mod tcp;
mod validate;
mod wsroute;

pub use conditions::{Condition, ConditionType, Reason, Status};
pub use duration::{Duration, DurationError};
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
pub use location::{
    Backend, BackendTls, BackendTlsMode, ConfigMapFiles, ConfigMapItem, Location, Match, PathType, Redirect, Scheme, Static, UpgradeMatch,
    ValueMatch,
};
pub use policy::{
    Access, ActiveHealthCheck, Affinity, CookieAffinity, Drain, DrainBy, HeaderEdits, HeaderValue, HealthCheck, HealthCheckType, Limits,
    LoadBalancing, LoadBalancingPolicy, MessageLimits, OnRemoved, PassiveHealthCheck, Ping, PingTo, Policy, Rebalance, Rewrite, SameSite,
    SourceIp, Timeouts, WebSocket,
};
pub use reference::reference_markdown;
pub use schema::crd_yaml;
pub use tcp::{ProxyProtocol, TcpAffinity, TcpRoute, TcpTimeouts, TcpTls, TcpTlsMode};
pub use validate::{Fault, FaultKind, validate};
pub use wsroute::{
    CertificateRef, ClientAuth, ClientAuthMode, Delegate, LabelSelector, LabelSelectorOperator, LabelSelectorRequirement,
    LoadBalancerIngress, LoadBalancerStatus, LocationStatus, MinTlsVersion, ObjectName, Tls, WsRoute, WsRouteSpec, WsRouteStatus,
};
