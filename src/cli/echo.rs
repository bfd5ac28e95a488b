//! The flags of `carrick echo`.

use std::net::SocketAddr;

use clap::Args;

use crate::api::Duration;

/// `carrick echo`.
#[derive(Clone, Debug, Args)]
pub struct Echo {
    /// Where it listens
    #[arg(long, value_name = "IP:PORT", default_value = "[::]:8080", env = "CARRICK_ECHO_BIND")]
    pub bind: SocketAddr,
    /// What it calls itself [default: the host name, in a pod the pod's]
    #[arg(long, value_name = "NAME", env = "CARRICK_ECHO_NAME")]
    pub name: Option<String>,
    /// Be a chat room: everybody gets what anybody sends
    #[arg(long, env = "CARRICK_ECHO_CHAT")]
    pub chat: bool,
    /// After SIGTERM, serve on for so long; 0s ends at once. Applications of both kinds exist; a second signal always ends it
    #[arg(long, value_name = "DURATION", default_value = "0s", env = "CARRICK_ECHO_LINGER")]
    pub linger: Duration,
}
