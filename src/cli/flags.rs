//! The flags of both servers and the forms their values have.
//!
//! Defaults stand here and nowhere else, but those that depend on the machine or on other flags. `app` turns them into the settings of the
//! modules.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use clap::Args;
use ipnet::IpNet;

use crate::{
    api::Duration,
    model::{ObjectRef, PoolKey},
    telemetry::log::Format,
};

/// Of `--http-port`. This and the next three are no defaults of clap: `carrick demo` takes free ports where they are taken.
pub const HTTP_PORT: u16 = 8080;
/// Of `--https-port`.
pub const HTTPS_PORT: u16 = 8443;
/// Of `--ops-bind`: probes and Prometheus come from other machines.
pub const OPS_BIND: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 9180);
/// Of `--admin-bind`: who may forward a port to loopback may look.
pub const ADMIN_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9181);

/// What every server understands.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// Address that HTTP, HTTPS and TCP ports are bound to
    #[arg(long, value_name = "IP", default_value = "[::]", value_parser = address, env = "CARRICK_BIND")]
    pub bind: IpAddr,
    /// Port of plain HTTP; 0 is any free one, `off` is none [default: 8080; demo: any free one if that is taken]
    #[arg(long, value_name = "PORT", env = "CARRICK_HTTP_PORT")]
    pub http_port: Option<Port>,
    /// Port of HTTPS; 0 is any free one, `off` is none [default: 8443; demo: off]
    #[arg(long, value_name = "PORT", env = "CARRICK_HTTPS_PORT")]
    pub https_port: Option<Port>,
    /// One more pair of ports, which WsRoutes choose by `listeners: [NAME]`; may be repeated
    #[arg(long = "listener", value_name = "NAME=http:PORT[,https:PORT]", value_delimiter = ';', env = "CARRICK_LISTENER")]
    pub listeners: Vec<ListenerFlag>,
    /// Port of plain HTTP as clients see it, for Location and X-Forwarded-Port [default: the bound one; controller: 80]
    #[arg(long, value_name = "PORT", env = "CARRICK_PUBLIC_HTTP_PORT")]
    pub public_http_port: Option<u16>,
    /// Port of HTTPS as clients see it, for Location and X-Forwarded-Port [default: the bound one; controller: 443]
    #[arg(long, value_name = "PORT", env = "CARRICK_PUBLIC_HTTPS_PORT")]
    pub public_https_port: Option<u16>,
    /// Where /livez, /readyz, /metrics and /pods are; `off` is nowhere [default: [::]:9180; demo: of loopback]
    #[arg(long, value_name = "IP:PORT", env = "CARRICK_OPS_BIND")]
    pub ops_bind: Option<Publish>,
    /// Where /debug is: an address that only operators reach; `off` is nowhere [default: 127.0.0.1:9181]
    #[arg(long, value_name = "IP:PORT", env = "CARRICK_ADMIN_BIND")]
    pub admin_bind: Option<Publish>,
    /// Tell open tunnels apart by Pod in /metrics; `false` is one series for each location and Service, however many Pods there are
    #[arg(long, value_name = "true|false", default_value_t = true, action = clap::ArgAction::Set, env = "CARRICK_METRICS_PER_ENDPOINT")]
    pub metrics_per_endpoint: bool,
    /// TCP ports that WsRoutes may ask for, never our own; `off` is none [default: 1024-65535; controller: off]
    #[arg(long, value_name = "FROM-TO", env = "CARRICK_TCP_PORTS")]
    pub tcp_ports: Option<TcpPorts>,
    /// Threads that serve connections [default: the CPU limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), env = "CARRICK_WORKERS")]
    pub workers: Option<u16>,
    /// A client's first byte, and then its whole header section, must be here by then
    #[arg(long, value_name = "DURATION", default_value = "15s", env = "CARRICK_HEADER_TIMEOUT")]
    pub header_timeout: Duration,
    /// A request's body may stall this long
    #[arg(long, value_name = "DURATION", default_value = "60s", env = "CARRICK_BODY_TIMEOUT")]
    pub body_timeout: Duration,
    /// A client may take no byte of its answer this long
    #[arg(long, value_name = "DURATION", default_value = "60s", env = "CARRICK_SEND_TIMEOUT")]
    pub send_timeout: Duration,
    /// A connection may be idle this long between requests
    #[arg(long, value_name = "DURATION", default_value = "75s", env = "CARRICK_KEEPALIVE_TIMEOUT")]
    pub keepalive_timeout: Duration,
    /// A TLS handshake must be done by then
    #[arg(long, value_name = "DURATION", default_value = "10s", env = "CARRICK_TLS_HANDSHAKE_TIMEOUT")]
    pub tls_handshake_timeout: Duration,
    /// Folder that `static.directory` is below, in the controller with a folder for each namespace [default: the manifests' folder; controller: none]
    #[arg(long, value_name = "DIR", env = "CARRICK_STATIC_ROOT")]
    pub static_root: Option<PathBuf>,
    /// At shutdown, how long open WebSockets and requests may take to end
    #[arg(long, value_name = "DURATION", default_value = "30s", env = "CARRICK_DRAIN_TIMEOUT")]
    pub drain_timeout: Duration,
    /// At shutdown, how long to wait before that [default: 0s; controller: 5s]
    #[arg(long, value_name = "DURATION", env = "CARRICK_SHUTDOWN_DELAY")]
    pub shutdown_delay: Option<Duration>,
    /// Networks whose X-Forwarded-*, Forwarded and PROXY header count
    #[arg(long, value_name = "CIDR", value_delimiter = ',', env = "CARRICK_TRUSTED_PROXIES")]
    pub trusted_proxies: Vec<IpNet>,
    /// The PROXY header of `--trusted-proxies`; from others it closes the connection
    #[arg(long, value_enum, ignore_case = true, default_value_t = ProxyProtocol::Off, env = "CARRICK_PROXY_PROTOCOL")]
    pub proxy_protocol: ProxyProtocol,
    /// A load balancer in front ends TLS: requests without X-Forwarded-Proto count as https
    #[arg(long, env = "CARRICK_TLS_TERMINATED_UPSTREAM")]
    pub tls_terminated_upstream: bool,
    /// Send `Forwarded` (RFC 7239) beside X-Forwarded-*
    #[arg(long, env = "CARRICK_FORWARDED")]
    pub forwarded: bool,
    /// A path that answers 200 for any host, and fails from SIGTERM on
    #[arg(long, value_name = "PATH", env = "CARRICK_LB_HEALTH_PATH")]
    pub lb_health_path: Option<String>,
    /// X-Carrick-Reason on refusals
    #[arg(long, value_enum, default_value_t = Switch::On, env = "CARRICK_REFUSAL_HEADER")]
    pub refusal_header: Switch,
    /// Open connections from clients; more wait [default: half of the file descriptors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), env = "CARRICK_MAX_CONNECTIONS")]
    pub max_connections: Option<u64>,
    /// Open connections from one client address, IPv6 by /64; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 0, env = "CARRICK_MAX_CONNECTIONS_PER_CLIENT")]
    pub max_connections_per_client: u32,
    /// Handshakes of one location that wait while no endpoint is ready (timeouts.hold); more get 503 at once
    #[arg(long, value_name = "N", default_value_t = 4096, env = "CARRICK_MAX_HELD_HANDSHAKES")]
    pub max_held_handshakes: u32,
    /// Sessions of Engine.IO and SignalR that are remembered for affinity by query; of more, those that nobody asks for are forgotten
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), env = "CARRICK_MAX_LEARNED_SESSIONS")]
    pub max_learned_sessions: u32,
    /// A file with the seed of the keys for cookies and session tickets: 32 bytes in base64, and that of before in a second line; read again every minute [default: one made at start; controller: --keys-secret]
    #[arg(long, value_name = "FILE", env = "CARRICK_KEYS_FILE")]
    pub keys_file: Option<PathBuf>,
    /// The Secret whose certificate answers where no other does [default: one made at start]
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = object, env = "CARRICK_DEFAULT_TLS_SECRET")]
    pub default_tls_secret: Option<ObjectRef>,
    /// What is logged: error, warn, info, debug, trace, or directives such as `info,carrick::proxy=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "CARRICK_LOG")]
    pub log: String,
    /// How log and access log are written
    #[arg(long, value_name = "text|json", default_value = "text", env = "CARRICK_LOG_FORMAT")]
    pub log_format: Format,
    /// Write a line to standard output for each request and each tunnel that ended
    #[arg(long, env = "CARRICK_ACCESS_LOG")]
    pub access_log: bool,
}

/// A port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// None.
    Off,
    /// This one; 0 is any free one.
    Number(u16),
}

impl Port {
    /// The number, if it is on.
    pub fn number(self) -> Option<u16> {
        match self {
            Port::Off => None,
            Port::Number(port) => Some(port),
        }
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Port::Off),
            _ => text.parse().map(Port::Number).map_err(|_| "expected a port from 0 to 65535, or off".into()),
        }
    }
}

/// An address to publish something on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// Nowhere.
    Off,
    /// Here; port 0 is any free one.
    On(SocketAddr),
}

impl Publish {
    /// The address, if it is on.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Publish::Off => None,
            Publish::On(address) => Some(address),
        }
    }
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Publish::Off),
            _ => text.parse().map(Publish::On).map_err(|_| "expected IP:PORT, such as 127.0.0.1:9181 or [::]:9180, or off".into()),
        }
    }
}

/// `--listener`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFlag {
    /// What WsRoutes call it.
    pub name: String,
    /// Its port of plain HTTP.
    pub http: Option<u16>,
    /// Its port of HTTPS.
    pub https: Option<u16>,
}

impl FromStr for ListenerFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected NAME=http:PORT[,https:PORT], not {text:?}");
        let (name, ports) = text.split_once('=').ok_or_else(expected)?;
        let mut flag = ListenerFlag { name: name.into(), http: None, https: None };
        for part in ports.split(',') {
            let slot = match part.split_once(':') {
                Some(("http", port)) => (&mut flag.http, port),
                Some(("https", port)) => (&mut flag.https, port),
                _ => return Err(expected()),
            };
            *slot.0 = Some(slot.1.parse().map_err(|_| expected())?);
        }
        if name.is_empty() || name == "default" {
            return Err("a listener needs a name of its own; `default` is --http-port and --https-port".into());
        }
        Ok(flag)
    }
}

/// Ports that layer 4 may use; `Default` is what manifests may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpPorts(pub Option<std::ops::RangeInclusive<u16>>);

impl Default for TcpPorts {
    fn default() -> Self {
        Self(Some(1024..=65535))
    }
}

impl FromStr for TcpPorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(TcpPorts(None));
        }
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (from.parse::<u16>(), to.parse::<u16>()) {
            (Ok(from), Ok(to)) if 0 < from && from <= to => Ok(TcpPorts(Some(from..=to))),
            _ => Err("expected a port, a range such as 9000-9100, or off".into()),
        }
    }
}

/// `--proxy-protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum ProxyProtocol {
    /// Not understood: its bytes are a bad request.
    Off,
    /// Understood where it is sent.
    Optional,
    /// Connections without it are closed.
    Required,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// `--backend`: an address that stands in for the endpoints of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendFlag {
    /// Whose endpoints it replaces.
    pub pool: PoolKey,
    /// `host:port`.
    pub address: Arc<str>,
}

impl FromStr for BackendFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (pool, address) = text.split_once('=')?;
            let (service, port) = pool.rsplit_once(':')?;
            let (host, number) = address.rsplit_once(':')?;
            number.parse::<u16>().ok()?;
            let named = !host.is_empty() && !port.is_empty();
            named.then_some(Self { pool: PoolKey::Service { service: object(service).ok()?, port: port.into() }, address: address.into() })
        };
        parse().ok_or_else(|| "expected NAMESPACE/SERVICE:PORT=HOST:PORT, such as default/chat:80=127.0.0.1:3000".into())
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| "expected an IP address, such as 127.0.0.1 or [::]".into())
}

pub(super) fn object(text: &str) -> Result<ObjectRef, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(ObjectRef::new(namespace, name)),
        _ => Err("expected NAMESPACE/NAME".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_has_a_name_and_one_or_two_ports() {
        let flag: ListenerFlag = "internal=http:8081,https:0".parse().unwrap();
        assert_eq!(flag, ListenerFlag { name: "internal".into(), http: Some(8081), https: Some(0) });
        assert_eq!("edge=https:8444".parse::<ListenerFlag>().unwrap().http, None);
        for bad in ["internal", "=http:1", "default=http:1", "a=http", "a=tcp:1", "a=http:70000", "a="] {
            assert!(bad.parse::<ListenerFlag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tcp_ports_are_a_range_or_off() {
        assert_eq!("9000-9010".parse(), Ok(TcpPorts(Some(9000..=9010))));
        assert_eq!("9000".parse(), Ok(TcpPorts(Some(9000..=9000))));
        assert_eq!("off".parse(), Ok(TcpPorts(None)));
        for bad in ["0-9", "9-8", "a-b", "-", ""] {
            assert!(bad.parse::<TcpPorts>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_backend_replaces_a_port_of_a_service() {
        let flag: BackendFlag = "default/chat:ws=[::1]:3000".parse().unwrap();
        let service = ObjectRef::new("default", "chat");
        assert_eq!(flag, BackendFlag { pool: PoolKey::Service { service, port: "ws".into() }, address: "[::1]:3000".into() });
        for bad in ["", "chat:80=a:1", "default/chat=a:1", "default/chat:80=a", "default/chat:80=a:x", "default/chat:80=:1"] {
            assert!(bad.parse::<BackendFlag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_may_stand_in_brackets() {
        assert_eq!(address("[::]"), Ok("::".parse().unwrap()));
        assert_eq!(address("::1"), Ok("::1".parse().unwrap()));
        assert_eq!(address("127.0.0.1"), Ok("127.0.0.1".parse().unwrap()));
        assert!(address("[127.0.0.1").is_err());
    }
}
