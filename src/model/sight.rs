//! Tunnels as people see them: what `/debug/tunnels` answers, and `carrick tunnels` reads again.
//!
//! It never knows how a tunnel is found or asked for. `tunnel` makes the rows, `admin` prints them, `sight` merges those of all replicas.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One open tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Unique in its replica for as long as that runs; grows in the order of opening.
    pub id: u64,
    /// `namespace/name` of the WsRoute.
    pub route: String,
    /// The location's label.
    pub location: String,
    /// `namespace/name:port` of the Service, or the address that stands for one.
    pub service: String,
    /// Where it goes.
    pub endpoint: SocketAddr,
    /// The Pod there.
    pub pod: Option<String>,
    /// Who opened it.
    pub client: SocketAddr,
    /// Since its handshake.
    pub age_seconds: f64,
    /// Since its last byte.
    pub idle_seconds: f64,
    /// Client to backend, on the wire.
    pub bytes_received: u64,
    /// Backend to client, on the wire.
    pub bytes_sent: u64,
    /// Client to backend.
    pub frames_received: u64,
    /// Backend to client.
    pub frames_sent: u64,
    /// From the last Ping of ours to its Pong; none where its route asks for no Pings.
    pub rtt_seconds: Option<f64>,
    /// How it stands.
    pub state: State,
    /// Why it is to be closed by us, where it is: the `reason` of the access log.
    pub reason: Option<String>,
    /// Until its turn to be closed.
    pub closes_in_seconds: Option<f64>,
}

/// How a tunnel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing is to become of it.
    Open,
    /// It waits for its turn to be closed by us.
    Ordered,
    /// The closing handshake runs.
    Closing,
}

impl State {
    /// All.
    pub const ALL: [State; 3] = [State::Open, State::Ordered, State::Closing];

    /// As it is written in answers and filters.
    pub fn label(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Ordered => "ordered",
            State::Closing => "closing",
        }
    }

    /// The state of this label.
    pub fn of(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.label() == label)
    }
}

/// What the first row has most of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Time since its handshake.
    #[default]
    Age,
    /// Bytes, both directions together.
    Bytes,
    /// Time since its last byte.
    Idle,
    /// Frames, both directions together.
    Frames,
    /// From Ping to Pong; tunnels without one come last.
    Rtt,
}

impl Sort {
    /// All.
    pub const ALL: [Sort; 5] = [Sort::Age, Sort::Bytes, Sort::Idle, Sort::Frames, Sort::Rtt];

    /// As it is written in queries.
    pub fn label(self) -> &'static str {
        match self {
            Sort::Age => "age",
            Sort::Bytes => "bytes",
            Sort::Idle => "idle",
            Sort::Frames => "frames",
            Sort::Rtt => "rtt",
        }
    }

    /// The order of this label.
    pub fn of(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.label() == label)
    }
}

/// A part of the tunnels of one replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// Tunnels open.
    pub open: u64,
    /// Of them, those that the filters let through.
    pub matching: u64,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
    /// In the order that was asked for.
    pub tunnels: Vec<Row>,
}

/// How many tunnels of one replica are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// So many.
    pub closing: u64,
}
