//! Flags as the settings of the modules that serve.
//!
//! The only place that knows both sides; no default is chosen here but those that depend on other flags.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use super::addresses::Addresses;
use crate::{
    cli::{self, Check, Cluster, Controller, Explain, Flags, ListenerFlag, Switch, TcpPorts, Translation},
    k8s,
    model::PoolKey,
    proxy::{self, ListenerSettings, Settings, files::Layout, gate},
    translate::{ClassFilter, HasHttps, HostOwnership, Lookup, Options},
};

/// What the command line calls the listener of `--http-port` and `--https-port`.
const DEFAULT_LISTENER: &str = "default";

/// The IngressClass of a controller that sees none.
const DEFAULT_CLASS: &str = "carrick";

/// The data side. `root` is the static root where the flags name none.
pub fn proxy(flags: &Flags, root: Option<PathBuf>, static_layout: Layout) -> Settings {
    let port = |flag: Option<cli::Port>, default| flag.map_or(Some(default), cli::Port::number);
    let default = ListenerSettings {
        name: DEFAULT_LISTENER.into(),
        http: port(flags.http_port, cli::HTTP_PORT),
        https: port(flags.https_port, cli::HTTPS_PORT),
        public_http_port: flags.public_http_port,
        public_https_port: flags.public_https_port,
    };
    let named = flags.listeners.iter().map(|listener| ListenerSettings {
        name: listener.name.as_str().into(),
        http: listener.http,
        https: listener.https,
        public_http_port: None,
        public_https_port: None,
    });
    Settings {
        bind: flags.bind,
        listeners: std::iter::once(default).chain(named).collect(),
        tcp_ports: flags.tcp_ports.clone().unwrap_or_default().0,
        header_timeout: flags.header_timeout.0,
        body_timeout: flags.body_timeout.0,
        send_timeout: flags.send_timeout.0,
        keepalive_timeout: flags.keepalive_timeout.0,
        tls_handshake_timeout: flags.tls_handshake_timeout.0,
        static_root: flags.static_root.clone().or(root),
        static_layout,
        trusted_proxies: flags.trusted_proxies.clone(),
        proxy_protocol: match flags.proxy_protocol {
            cli::ProxyProtocol::Off => proxy::ProxyProtocol::Off,
            cli::ProxyProtocol::Optional => proxy::ProxyProtocol::Optional,
            cli::ProxyProtocol::Required => proxy::ProxyProtocol::Required,
        },
        tls_terminated_upstream: flags.tls_terminated_upstream,
        lb_health_path: flags.lb_health_path.as_deref().map(Into::into),
        refusal_header: flags.refusal_header == Switch::On,
        forwarded: flags.forwarded,
        max_learned_sessions: flags.max_learned_sessions as usize,
        max_connections: max_connections(flags.max_connections),
        max_connections_per_client: flags.max_connections_per_client,
        max_held_handshakes: flags.max_held_handshakes,
    }
}

/// The limit of descriptors is lifted whatever is asked for. More than it carries is served as long as it lasts, and said.
fn max_connections(asked: Option<u64>) -> usize {
    let descriptors = gate::raise_descriptor_limit();
    let Some(asked) = asked else { return gate::default_max_connections(descriptors) };
    let needed = gate::descriptors_for(asked);
    if descriptors < needed {
        tracing::warn!(
            "--max-connections {asked} may need {needed} descriptors and the limit is {descriptors}: raise it, or leave out the flag"
        );
    }
    usize::try_from(asked).unwrap_or(usize::MAX)
}

/// The translation for a server that listens at these addresses.
pub fn server_options(flags: &Flags, translation: &Translation, addresses: &Addresses) -> Options {
    let listeners = addresses.listeners().map(|(name, https)| (name.clone(), if https { HasHttps::Yes } else { HasHttps::No }));
    Options {
        own_ports: addresses.ports(),
        default_tls_secret: flags.default_tls_secret.clone(),
        ..options(translation, flags.tcp_ports.clone().unwrap_or_default(), listeners.collect())
    }
}

/// The translation of `carrick controller`.
pub fn controller_options(flags: &Flags, cluster: &Cluster, addresses: &Addresses) -> Options {
    let options = server_options(flags, &cluster_translation(cluster), addresses);
    Options { allow_directories: flags.static_root.is_some(), ..of_cluster(cluster, options) }
}

/// The translation for `carrick explain`, which knows only those flags of the controller that it has itself.
pub fn explain_options(explain: &Explain) -> Options {
    let cluster = &explain.cluster;
    of_cluster(cluster, options(&cluster_translation(cluster), TcpPorts::default(), listeners(&explain.listeners)))
}

/// What a command knows of listeners that does not listen. Of the default one it takes every port that no other has.
fn listeners(flags: &[ListenerFlag]) -> BTreeMap<Arc<str>, HasHttps> {
    let named = flags.iter().map(|flag| (flag.name.as_str().into(), if flag.https.is_some() { HasHttps::Yes } else { HasHttps::No }));
    named.chain([(DEFAULT_LISTENER.into(), HasHttps::Yes)]).collect()
}

/// Which listener a request comes in on, by the port of its URL.
pub fn listener_of_port(flags: &[ListenerFlag]) -> BTreeMap<u16, Arc<str>> {
    let ports = |flag: &ListenerFlag| {
        [flag.http, flag.https].into_iter().flatten().map(|port| (port, flag.name.as_str().into())).collect::<Vec<_>>()
    };
    flags.iter().flat_map(ports).collect()
}

fn cluster_translation(cluster: &Cluster) -> Translation {
    Translation {
        ingress_class: cluster.ingress_class.clone(),
        backends: Vec::new(),
        allow_addresses: Some(cluster.allow_addresses),
        host_ownership: cluster.host_ownership,
    }
}

fn of_cluster(cluster: &Cluster, options: Options) -> Options {
    let controller: Arc<str> = cluster.controller_name.as_str().into();
    // Roles can't read IngressClasses: without a name nothing would be ours.
    let by_name = (!cluster.watch_namespaces.is_empty()).then_some(DEFAULT_CLASS);
    let class = match cluster.ingress_class.as_deref().or(by_name) {
        Some(name) => ClassFilter::Class { name: name.into(), controller },
        None => ClassFilter::Controller(controller),
    };
    Options { class, require_grants: cluster.require_grants, lookup: Lookup::OnDemand, ..options }
}

/// The way to the API server.
pub fn access(cluster: &Cluster) -> k8s::Access {
    k8s::Access { kubeconfig: cluster.kubeconfig.clone(), context: cluster.context.clone() }
}

/// Which objects are watched.
pub fn scope(cluster: &Cluster) -> k8s::watch::Scope {
    k8s::watch::Scope { namespaces: cluster.watch_namespaces.clone() }
}

/// Who we are among our replicas.
pub fn lease(controller: &Controller) -> k8s::lease::Settings {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    k8s::lease::Settings { name: controller.lease_name.clone(), identity: format!("{host}_{:08x}", fastrand::u32(..)) }
}

/// What the leader writes.
pub fn leader(controller: &Controller) -> k8s::leader::Settings {
    let publish = match &controller.publish_service {
        Some(service) => k8s::leader::Publish::Service(service.clone()),
        None if controller.publish_addresses.is_empty() => k8s::leader::Publish::Nothing,
        None => k8s::leader::Publish::Addresses(controller.publish_addresses.clone()),
    };
    k8s::leader::Settings {
        controller: controller.cluster.controller_name.clone(),
        publish,
        manage_tcp_service: controller.manage_tcp_service,
        pod_deletion_cost: controller.pod_deletion_cost,
        namespaces: controller.cluster.watch_namespaces.clone(),
    }
}

/// The translation for `carrick check`.
pub fn check_options(check: &Check) -> Options {
    options(&check.translation, check.tcp_ports.clone(), listeners(&check.listeners))
}

fn options(translation: &Translation, tcp_ports: TcpPorts, listeners: BTreeMap<Arc<str>, HasHttps>) -> Options {
    let mut backends: BTreeMap<PoolKey, Vec<Arc<str>>> = BTreeMap::new();
    for flag in &translation.backends {
        backends.entry(flag.pool.clone()).or_default().push(flag.address.clone());
    }
    Options {
        class: translation.ingress_class.as_deref().map_or(ClassFilter::All, |name| ClassFilter::Named(name.into())),
        host_ownership: match translation.host_ownership {
            cli::HostOwnership::Namespace => HostOwnership::Namespace,
            cli::HostOwnership::Shared => HostOwnership::Shared,
        },
        allow_addresses: translation.allow_addresses.unwrap_or(true),
        allow_directories: true,
        tcp_ports: tcp_ports.0,
        own_ports: BTreeSet::new(),
        listeners,
        backends,
        default_tls_secret: None,
        require_grants: false,
        lookup: Lookup::Told,
    }
}
