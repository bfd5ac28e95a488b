//! The command line: every command and flag, each flag also an environment variable `CARRICK_…`.
//!
//! It never does any of the work: it parses, and `app` runs. Only `main` and the tests call it.

mod cluster;
mod echo;
mod flags;
mod tunnels;

pub use cluster::{Cluster, Controller, Explain};
pub use echo::Echo;
pub use flags::{
    ADMIN_BIND, BackendFlag, Flags, HTTP_PORT, HTTPS_PORT, ListenerFlag, OPS_BIND, Port, ProxyProtocol, Publish, Switch, TcpPorts,
};

pub use tunnels::{Drain, Ended, List, Output, Reach, Top, Tunnels, Which};

use std::{
    env,
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// A WebSocket-first ingress controller that never drops a connection it does not have to.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the WsRoutes of a cluster, and write their statuses
    Controller(Box<Controller>),
    /// Serve WsRoutes, Services and EndpointSlices from manifest files, reloaded when they change
    Standalone(Box<Standalone>),
    /// Run the recipe with everything embedded: four WebSocket servers, a page, and the proxy in front of them
    Demo(Box<Demo>),
    /// Run one WebSocket server that says who it is: a backend to try routes with
    ///
    /// Every message goes back as it came. A plain GET, be it of / or /healthz or any path, is answered 200 with the server's name, and every
    /// answer, that to the handshake too, has it in its header field Server. A client that offers the subprotocol demo.carrick.dev gets JSON
    /// with the name in each message, as the page of `carrick demo` does, and may send {"do":"close"} or {"do":"vanish"} to see its socket end.
    Echo(Echo),
    /// Translate manifests, print every condition that a cluster would set, and explain what a request would get
    Check(Check),
    /// Translate the objects of a cluster as its controller does, and explain what a request would get
    Explain(Box<Explain>),
    /// See, drain and kill the open tunnels of every replica
    ///
    /// Each pod of Carrick is reached by port-forward, with your own kubeconfig: who may get pods and forward ports may look. A pod that can't be
    /// reached is named, and the others are shown. Linked as kubectl-carrick, this binary is `kubectl carrick`.
    #[command(subcommand)]
    Tunnels(Box<Tunnels>),
    /// Ask a URL until it answers: for tests and health checks in an image without a shell
    ///
    /// Ends well at the first HTTP answer below 500, which it prints.
    Probe(Probe),
    /// Print the custom resource definition of WsRoute
    Crd(Crd),
}

/// What a plugin of kubectl is called.
const PLUGIN: &str = "kubectl-carrick";

/// The command line of this process. Help and errors call the program what its user called it.
pub fn parse() -> Cli {
    let called = env::args_os().next().unwrap_or_default();
    let matches = named_after(Path::new(&called)).get_matches();
    // What clap has matched by the same definition can be read.
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn named_after(program: &Path) -> clap::Command {
    let command = Cli::command();
    match program.file_name().is_some_and(|name| name == PLUGIN) {
        true => command.bin_name("kubectl carrick"),
        false => command,
    }
}

/// `carrick standalone`.
#[derive(Debug, Args)]
pub struct Standalone {
    /// Where the objects come from.
    #[command(flatten)]
    pub manifests: Manifests,
    /// How they are served.
    #[command(flatten)]
    pub flags: Flags,
}

/// Objects from files, for `standalone` and `check`.
#[derive(Debug, Args)]
pub struct Manifests {
    /// Files, and folders of *.yaml, *.yml and *.json, with Services, EndpointSlices, Secrets, ConfigMaps and WsRoutes
    #[arg(long = "manifests", value_name = "PATH", required = true, num_args = 1.., value_delimiter = ',', env = "CARRICK_MANIFESTS")]
    pub paths: Vec<PathBuf>,
    /// How they are translated.
    #[command(flatten)]
    pub translation: Translation,
}

/// What decides which objects are accepted.
#[derive(Debug, Default, Args)]
pub struct Translation {
    /// Serve only WsRoutes of this IngressClass; every WsRoute where it is not given
    #[arg(long, value_name = "NAME", env = "CARRICK_INGRESS_CLASS")]
    pub ingress_class: Option<String>,
    /// Send what is meant for this port of a Service to HOST:PORT instead; may be repeated
    #[arg(long = "backend", value_name = "NS/SERVICE:PORT=HOST:PORT", value_delimiter = ',', env = "CARRICK_BACKEND")]
    pub backends: Vec<BackendFlag>,
    /// WsRoutes may name backends by address [default: true]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "CARRICK_ALLOW_ADDRESSES")]
    pub allow_addresses: Option<bool>,
    /// Who may use a host: its owner's namespace alone, or any namespace
    #[arg(long, value_enum, default_value_t = HostOwnership::Namespace, env = "CARRICK_HOST_OWNERSHIP")]
    pub host_ownership: HostOwnership,
}

/// `--host-ownership`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum HostOwnership {
    /// A host belongs to the namespace of its oldest WsRoute.
    #[default]
    Namespace,
    /// Every namespace may add locations to every host.
    Shared,
}

/// `carrick demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// How it is served.
    #[command(flatten)]
    pub flags: Flags,
}

/// `carrick check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Files and folders of manifests
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Explain what this request would get, such as 'GET ws://shop.example.com/chat'; may be repeated
    #[arg(long = "request", value_name = "METHOD URL")]
    pub requests: Vec<String>,
    /// A header field of those requests, 'Name: value'; may be repeated
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    pub headers: Vec<String>,
    /// How they are translated.
    #[command(flatten)]
    pub translation: Translation,
    /// TCP ports that WsRoutes may ask for
    #[arg(long, value_name = "FROM-TO", default_value = "1024-65535")]
    pub tcp_ports: TcpPorts,
    /// One more pair of ports, as the server has it: a request whose URL names one of them comes in there; may be repeated
    #[arg(long = "listener", value_name = "NAME=http:PORT[,https:PORT]")]
    pub listeners: Vec<ListenerFlag>,
}

/// `carrick probe`.
#[derive(Clone, Debug, Args)]
pub struct Probe {
    /// What is asked, such as http://localhost:9180/readyz
    #[arg(value_name = "URL")]
    pub url: http::Uri,
    /// How long no answer, or one of 500 and above, is asked again
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub within: crate::api::Duration,
}

/// `carrick crd`.
#[derive(Debug, Args)]
pub struct Crd {
    /// Print the reference of every field as Markdown instead
    #[arg(long)]
    pub reference: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_plugin_of_kubectl_it_is_called_so() {
        let help = |program: &str, words: &[&str]| {
            let words = [program].into_iter().chain(words.iter().copied()).chain(["--help"]);
            named_after(Path::new(program)).try_get_matches_from(words).unwrap_err().to_string()
        };
        assert!(help("/usr/bin/kubectl-carrick", &[]).contains("Usage: kubectl carrick <COMMAND>"));
        assert!(help("kubectl-carrick", &["tunnels", "list"]).contains("Usage: kubectl carrick tunnels list"));
        assert!(help("/usr/bin/carrick", &["tunnels", "list"]).contains("Usage: carrick tunnels list"));
    }
}
