//! The flags of `carrick tunnels`: whom to ask, which tunnels are meant, how they are shown.
//!
//! The filters are those of the admin port, and mean the same. `app` asks.

use std::path::PathBuf;

use clap::{
    Args, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser as _},
};

use super::flags;
use crate::{
    api::Duration,
    model::{
        ObjectRef,
        sight::{Sort, State},
    },
};

/// `carrick tunnels`.
#[derive(Debug, Subcommand)]
pub enum Tunnels {
    /// List open tunnels, those of all replicas together
    List(List),
    /// Show the busiest tunnels again and again, until Ctrl-C
    Top(Top),
    /// Close tunnels gently: each client gets a Close that tells it to come back, and what was said before it arrives
    Drain(Drain),
    /// Cut tunnels at once: nobody is told
    Kill(Ended),
}

/// Which replicas are asked.
#[derive(Debug, Args)]
pub struct Reach {
    /// Where Carrick's pods are [default: all namespaces, or that of the context where you may not list pods in all]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// What Carrick's pods are known by
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "app.kubernetes.io/name=carrick")]
    pub selector: String,
    /// A kubeconfig file [default: KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE", env = "CARRICK_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", env = "CARRICK_CONTEXT")]
    pub context: Option<String>,
    /// Ask this admin port and no cluster: of `carrick standalone`, or one that was forwarded
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["namespace", "selector"])]
    pub admin: Option<String>,
}

/// Which tunnels: all that every given filter holds for.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct Which {
    /// Those that came by this WsRoute
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = flags::object)]
    pub route: Option<ObjectRef>,
    /// Those that came by WsRoutes of this namespace
    #[arg(long, value_name = "NAME")]
    pub route_namespace: Option<String>,
    /// Those that came by locations of this name, or path where there is no name
    #[arg(long, value_name = "LABEL")]
    pub location: Option<String>,
    /// Those to this Service
    #[arg(long, value_name = "[NAMESPACE/]NAME[:PORT]")]
    pub service: Option<String>,
    /// Those to this Pod or address
    #[arg(long, value_name = "POD|IP[:PORT]")]
    pub endpoint: Option<String>,
    /// Those from this address or network
    #[arg(long, value_name = "IP|CIDR")]
    pub client: Option<String>,
    /// Those that stand so; `ordered` waits for its turn to be closed
    #[arg(long, value_name = "STATE", value_parser = state())]
    pub state: Option<State>,
    /// Those that are to be closed for this, such as pod_terminating
    #[arg(long, value_name = "WORD")]
    pub reason: Option<String>,
    /// Those at least so old
    #[arg(long, value_name = "DURATION")]
    pub min_age: Option<Duration>,
    /// Those without a byte for so long
    #[arg(long, value_name = "DURATION")]
    pub min_idle: Option<Duration>,
    /// Those that moved so many bytes, both directions together
    #[arg(long, value_name = "N")]
    pub min_bytes: Option<u64>,
}

/// Whose tunnels, and which of them.
#[derive(Debug, Args)]
pub struct Meant {
    /// Whom.
    #[command(flatten)]
    pub reach: Reach,
    /// Which.
    #[command(flatten)]
    pub which: Which,
}

/// `carrick tunnels list`.
#[derive(Debug, Args)]
pub struct List {
    /// Whom, and which.
    #[command(flatten)]
    pub meant: Meant,
    /// What the first one has most of
    #[arg(long, value_name = "WHAT", default_value = "age", value_parser = sort())]
    pub sort: Sort,
    /// At most so many; 0 is all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: usize,
    /// How they are shown
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// `carrick tunnels top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Whom, and which.
    #[command(flatten)]
    pub meant: Meant,
    /// What the first one has most of
    #[arg(long, value_name = "WHAT", default_value = "bytes", value_parser = sort())]
    pub sort: Sort,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// From one look to the next
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub interval: Duration,
    /// Look so many times [default: until Ctrl-C; once where the output is no terminal]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub times: Option<u32>,
}

/// `carrick tunnels drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// What comes to an end.
    #[command(flatten)]
    pub ended: Ended,
    /// Close them one after the other over this time: they come back as slowly
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub over: Duration,
}

/// `carrick tunnels kill`, and what `drain` has in common with it.
#[derive(Debug, Args)]
pub struct Ended {
    /// Whom, and which.
    #[command(flatten)]
    pub meant: Meant,
    /// Mean every tunnel, where no filter is given
    #[arg(long)]
    pub all: bool,
    /// How the numbers are shown
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For people with wide screens: ids, Services, addresses, frames, round trips.
    Wide,
    /// For programs: everything, with plain numbers.
    Json,
}

fn sort() -> impl clap::builder::TypedValueParser<Value = Sort> {
    PossibleValuesParser::new(Sort::ALL.map(Sort::label)).try_map(|text| Sort::of(&text).ok_or("no such order"))
}

fn state() -> impl clap::builder::TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::ALL.map(State::label)).try_map(|text| State::of(&text).ok_or("no such state"))
}
