//! Routes of layer 4, with every default applied.
//!
//! What a WsRoute left out has its value here.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    LocationKey, ObjectRef,
    balancing::Balancing,
    health::HealthCheck,
    limits::{Access, Limits},
    route::{Backend, Drain, Rebalance},
    table::{HostPattern, HostTls},
};

/// One entry of `spec.tcp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcpRoute {
    /// Its identity over edits.
    pub key: LocationKey,
    /// The WsRoute that declares it.
    pub route: ObjectRef,
    /// How metrics and log call it: `tcp:PORT`, with the first host where there are any.
    pub label: Arc<str>,
    /// SNI names; [`HostPattern::Any`] alone where the entry names none.
    pub hosts: Vec<HostPattern>,
    /// Who speaks TLS.
    pub tls: TcpTls,
    /// The pools and how new connections are split between them; empty: connections are closed at once.
    pub backends: Vec<Backend>,
    /// How an endpoint is picked.
    #[serde(flatten)]
    pub balancing: Balancing,
    /// How an endpoint is found to be ill.
    pub health: HealthCheck,
    /// The PROXY header sent to the backend.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// To connect to one endpoint.
    pub connect: Duration,
    /// Without a byte either way; `None` is never.
    pub idle: Option<Duration>,
    /// Which clients it serves.
    #[serde(skip_serializing_if = "Access::is_open")]
    pub access: Access,
    /// How much is let in.
    #[serde(skip_serializing_if = "Limits::is_unlimited")]
    pub limits: Limits,
    /// How its connections are brought to an end.
    #[serde(skip_serializing_if = "Drain::is_default")]
    pub drain: Drain,
    /// How they move to endpoints that were added; `None` is not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,
}

/// Who speaks TLS on a layer-4 route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum TcpTls {
    /// Nobody, as far as we know.
    None,
    /// The backend: the ClientHello is read, not touched.
    Passthrough,
    /// We do. There is nothing to redirect.
    Terminate(HostTls),
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

#[cfg(test)]
impl TcpRoute {
    /// A route without a backend, for tests to fill in: bytes from any client, every default applied.
    pub fn plain(label: &str) -> Self {
        Self {
            key: LocationKey { namespace: "default".into(), identity: label.into() },
            route: ObjectRef::new("default", "edge"),
            label: label.into(),
            hosts: vec![HostPattern::Any],
            tls: TcpTls::None,
            backends: Vec::new(),
            balancing: Balancing::default(),
            health: HealthCheck::default(),
            proxy_protocol: None,
            connect: Duration::from_secs(5),
            idle: None,
            access: Access::default(),
            limits: Limits::default(),
            drain: Drain::default(),
            rebalance: None,
        }
    }
}
