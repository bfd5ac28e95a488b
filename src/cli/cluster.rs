//! The commands that speak to a cluster: which one, and what of it is theirs.
//!
//! Defaults stand here as in `flags`. `app` turns them into the settings of `k8s` and `translate`.

use std::path::PathBuf;

use clap::Args;

use super::{Flags, HostOwnership, ListenerFlag, flags};
use crate::model::ObjectRef;

/// `carrick controller`.
#[derive(Clone, Debug, Args)]
pub struct Controller {
    /// Whose objects are served.
    #[command(flatten)]
    pub cluster: Cluster,
    /// The Service whose addresses are written to statuses: the one in front of Carrick
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = flags::object, env = "CARRICK_PUBLISH_SERVICE")]
    pub publish_service: Option<ObjectRef>,
    /// Addresses, IPs or host names, that are written to statuses instead
    #[arg(
        long = "publish-address",
        value_name = "ADDRESS",
        value_delimiter = ',',
        conflicts_with = "publish_service",
        env = "CARRICK_PUBLISH_ADDRESS"
    )]
    pub publish_addresses: Vec<String>,
    /// Keep a second Service, called as --publish-service with -tcp behind it, with the ports of accepted `tcp` entries
    #[arg(long, requires = "publish_service", env = "CARRICK_MANAGE_TCP_SERVICE")]
    pub manage_tcp_service: bool,
    /// The Lease, in our own namespace, whose holder writes statuses; one a release
    #[arg(long, value_name = "NAME", default_value = "carrick", env = "CARRICK_LEASE_NAME")]
    pub lease_name: String,
    /// A Service that selects every replica, ready or not, with the ops port called `ops`: the leader sums up their sockets [default: this is the only replica]
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = flags::object, env = "CARRICK_PEERS_SERVICE")]
    pub peers_service: Option<ObjectRef>,
    /// Write to backends' Pods how many sockets are open to them, as controller.kubernetes.io/pod-deletion-cost, so that a scale-down takes the emptiest
    #[arg(long, env = "CARRICK_POD_DELETION_COST")]
    pub pod_deletion_cost: bool,
    /// The Secret with the seed of the keys that replicas share, for cookies and session tickets; made where it is not there, read again every minute [default: one made at start]
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = flags::object, conflicts_with = "keys_file", env = "CARRICK_KEYS_SECRET")]
    pub keys_secret: Option<ObjectRef>,
    /// Our zone: endpoints that EndpointSlices mean for it come first [default: the label topology.kubernetes.io/zone of --node-name]
    #[arg(long, value_name = "ZONE", env = "CARRICK_ZONE")]
    pub zone: Option<String>,
    /// The node that we run on, for its zone
    #[arg(long, value_name = "NAME", env = "CARRICK_NODE_NAME")]
    pub node_name: Option<String>,
    /// How it is served.
    #[command(flatten)]
    pub flags: Flags,
}

/// Which cluster, and which of its objects are ours.
#[derive(Clone, Debug, Args)]
pub struct Cluster {
    /// A kubeconfig file [default: KUBECONFIG, then the pod's service account, then ~/.kube/config]
    #[arg(long, value_name = "FILE", env = "CARRICK_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", env = "CARRICK_CONTEXT")]
    pub context: Option<String>,
    /// Watch only these namespaces, with the rights of Roles alone; a class is then known by its name only
    #[arg(long = "watch-namespace", value_name = "NAMESPACE", value_delimiter = ',', env = "CARRICK_WATCH_NAMESPACE")]
    pub watch_namespaces: Vec<String>,
    /// Serve only WsRoutes of this IngressClass [default: every class whose spec.controller is --controller-name; with --watch-namespace: carrick]
    #[arg(long, value_name = "NAME", env = "CARRICK_INGRESS_CLASS")]
    pub ingress_class: Option<String>,
    /// What an IngressClass that is ours says in spec.controller
    #[arg(long, value_name = "DOMAIN/NAME", default_value = "carrick.dev/controller", env = "CARRICK_CONTROLLER_NAME")]
    pub controller_name: String,
    /// Who may use a host: its owner's namespace alone, or any namespace
    #[arg(long, value_enum, default_value_t = HostOwnership::Namespace, env = "CARRICK_HOST_OWNERSHIP")]
    pub host_ownership: HostOwnership,
    /// A namespace may claim only the hosts and TCP ports that its annotations carrick.dev/hosts and carrick.dev/tcp-ports list
    #[arg(long, env = "CARRICK_REQUIRE_GRANTS")]
    pub require_grants: bool,
    /// WsRoutes may name backends by address
    #[arg(long, env = "CARRICK_ALLOW_ADDRESSES")]
    pub allow_addresses: bool,
}

/// `carrick explain`.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// What a client would ask for, such as ws://shop.example.com/chat, or 'POST http://shop.example.com/api'
    #[arg(value_name = "URL", required = true)]
    pub requests: Vec<String>,
    /// A header field of those requests, 'Name: value'; may be repeated
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    pub headers: Vec<String>,
    /// One more pair of ports, as the controller has it: a request whose URL names one of them comes in there; may be repeated
    #[arg(long = "listener", value_name = "NAME=http:PORT[,https:PORT]")]
    pub listeners: Vec<ListenerFlag>,
    /// Whose objects are read.
    #[command(flatten)]
    pub cluster: Cluster,
}
