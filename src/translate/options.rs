//! What the command line says that bears on the translation.
//!
//! Plain data; `app` and `check` fill it in, `translate` reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

use crate::model::{ObjectRef, PoolKey};

/// Flags that the translation depends on. `Default` is what `carrick standalone` does without flags.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Which WsRoutes are ours.
    pub class: ClassFilter,
    /// Whether a host belongs to one namespace.
    pub host_ownership: HostOwnership,
    /// `backends[].address` may be used.
    pub allow_addresses: bool,
    /// `static.directory` may be used: there is a static root.
    pub allow_directories: bool,
    /// Ports that `spec.tcp` may ask for; `None` is `off`.
    pub tcp_ports: Option<RangeInclusive<u16>>,
    /// Ports that are ours (HTTP, HTTPS, ops, admin), never a route's.
    pub own_ports: BTreeSet<u16>,
    /// Names of the listeners, and whether each has an HTTPS port.
    pub listeners: BTreeMap<Arc<str>, HasHttps>,
    /// `--backend NS/SERVICE:PORT=HOST:PORT`: addresses that stand in for a Service's endpoints.
    pub backends: BTreeMap<PoolKey, Vec<Arc<str>>>,
    /// `--default-tls-secret`.
    pub default_tls_secret: Option<ObjectRef>,
    /// `--require-grants`: a namespace may claim only the hosts and TCP ports that its annotations list.
    pub require_grants: bool,
    /// Whether the source tells of every ConfigMap and Secret, or of those that are wanted.
    pub lookup: Lookup,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            class: ClassFilter::All,
            host_ownership: HostOwnership::Namespace,
            allow_addresses: true,
            allow_directories: true,
            tcp_ports: Some(1024..=65535),
            own_ports: BTreeSet::new(),
            listeners: BTreeMap::from([("default".into(), HasHttps::Yes)]),
            backends: BTreeMap::new(),
            default_tls_secret: None,
            require_grants: false,
            lookup: Lookup::Told,
        }
    }
}

/// Which WsRoutes are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClassFilter {
    /// Every one.
    All,
    /// Those of the class of this name, whoever implements it; those without a class, if it is the default one.
    Named(Arc<str>),
    /// Those of the class of this name, unless its IngressClass can be seen and is another controller's; those without a class, if it
    /// is the default one.
    Class {
        /// `--ingress-class`.
        name: Arc<str>,
        /// `--controller-name`.
        controller: Arc<str>,
    },
    /// Those of a class whose `spec.controller` is this; those without a class, if one of these is the default.
    Controller(Arc<str>),
}

/// What is known of a ConfigMap or Secret that the source has not told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is not there: the source tells of all there are.
    Told,
    /// Nothing: the source looks up what [`Translated::wanted`](super::Translated) names, one by one.
    OnDemand,
}

/// `--host-ownership`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostOwnership {
    /// A host belongs to the namespace of its oldest route.
    #[default]
    Namespace,
    /// Every namespace may use every host.
    Shared,
}

/// Whether a listener has an HTTPS port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HasHttps {
    /// It has.
    Yes,
    /// It has none.
    No,
}
