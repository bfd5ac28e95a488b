//! How a location treats what it serves. `spec.defaults` holds the same fields.
//!
//! It knows no default and no other object. `translate` merges and reads it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, IntOrString, schema::*};

/// The policy fields of a location.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// How an endpoint is picked within a service. [default: policy LeastConnections]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// Sends the same client to the same endpoint. Exactly one of cookie, header, query and sourceIP. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Finds endpoints that do not work, beside what Kubernetes knows. [default: passive]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// How long things may take. 0s is never for response and idle, off for hold, and refused for connect and handshake. [default: those of its fields]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// What holds for WebSockets. [default: that of its fields]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websocket: Option<WebSocket>,
    /// How connections are brought to an end before an endpoint, a backend or the route goes. [default: that of its fields]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Upgrade tokens that are passed on besides websocket, such as SPDY/3.1, as opaque bytes. [default: none]
    #[schemars(length(max = 8), inner(length(min = 1, max = 64), regex(pattern = UPGRADE)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [rule("self.all(u, !u.matches('^(?i)(websocket|h2.*|http/.*)$'))", "websocket is always upgraded, h2c and HTTP/2 never: leave them out")]))]
    pub upgrades: Option<Vec<String>>,
    /// How much is let in; over it 503 or 429, with a Retry-After that spreads who comes back, or 413. [default: no limit]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Which clients are let in, by address. [default: all]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Edits of the request before it goes to a backend: remove, then set, then add. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<HeaderEdits>,
    /// Edits of every answer, that to a handshake included: remove, then set, then add. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<HeaderEdits>,
    /// Changes path and host towards the backend. [default: none; Host is preserved]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
}

/// How an endpoint is picked within a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// LeastConnections: the endpoint with the fewest open tunnels. RoundRobin: one after the other. Random: the emptier of two. [default: LeastConnections]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<LoadBalancingPolicy>,
    /// A new endpoint gets its full share only after this time; 0s is off. [default: 0s]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
    /// So many connections at once to one endpoint, in the whole installation. [default: no limit]
    #[schemars(range(min = 1, max = 10_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections_per_endpoint: Option<u32>,
    /// Moves tunnels to endpoints that were added: their clients are told to come back. [default: none are moved]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,
}

/// How an endpoint is picked within a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum LoadBalancingPolicy {
    /// The one with the fewest open tunnels.
    LeastConnections,
    /// One after the other.
    RoundRobin,
    /// The emptier of two.
    Random,
}

/// Moves tunnels from the busiest endpoints to those that were added: the surplus, oldest first, never below the fair share, each once. Each replica moves its own. LeastConnections brings them to the new endpoints; with other policies and with affinity some come back to where they were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    /// At most this part of an endpoint's tunnels in a minute. [default: 5]
    #[schemars(range(min = 1, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_percent_per_minute: Option<u8>,
    /// Only tunnels older than this. [default: 1m]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_age: Option<Duration>,
}

/// Sends the same client to the same endpoint. Exactly one of cookie, header, query and sourceIP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("[has(self.cookie), has(self.header), has(self.query), has(self.sourceIP)].exists_one(x, x)", "exactly one of cookie, header, query and sourceIP is needed")]))]
pub struct Affinity {
    /// A cookie that we set pins the endpoint while it exists, whatever is added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<CookieAffinity>,
    /// Name of the header field whose value decides, the same on all replicas and after restarts.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Name of the query parameter whose value decides, the same on all replicas and after restarts.
    #[schemars(length(min = 1, max = 256))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The client's address decides, the same on all replicas and after restarts.
    #[serde(rename = "sourceIP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<SourceIp>,
}

/// The cookie that pins an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.sameSite) || self.sameSite != 'None' || !has(self.secure) || self.secure", "sameSite None needs secure")]))]
pub struct CookieAffinity {
    /// Its name. [default: carrick]
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How long the browser keeps it; 0s is until the browser ends. [default: 0s]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// Its Path. [default: the location's path, if that is a Prefix, else /]
    #[schemars(length(min = 1, max = 1024), regex(pattern = PATH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its SameSite. [default: Lax]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_site: Option<SameSite>,
    /// Whether it is Secure. [default: as the request came, by TLS or not]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,
}

/// SameSite of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum SameSite {
    /// Only to requests from the same site.
    Strict,
    /// Also to navigations from other sites.
    Lax,
    /// To all; the cookie must be Secure.
    None,
}

/// Affinity by the client's address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceIp {
    /// How many bits of an IPv6 address count. [default: 64]
    #[schemars(range(min = 1, max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_prefix: Option<u8>,
}

/// Finds endpoints that do not work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Asks every endpoint at intervals. Locations that share a Service share what is found. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveHealthCheck>,
    /// Counts the failures of connections and handshakes. Of locations that share a Service the strictest counts. [default: 3 failures, 10s]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveHealthCheck>,
}

/// Asks every endpoint at intervals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.path) || (has(self.type) && self.type != 'TCP')", "path is for type WebSocket and HTTP"), rule("!has(self.ping) || !self.ping || (has(self.type) && self.type == 'WebSocket')", "ping is for type WebSocket")]))]
pub struct ActiveHealthCheck {
    /// WebSocket: a handshake gets 101. HTTP: a GET gets 2xx or 3xx. TCP: the connection opens. [default: TCP]
    #[serde(rename = "type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_: Option<HealthCheckType>,
    /// The path of WebSocket and HTTP. [default: /]
    #[schemars(length(min = 1, max = 1024), regex(pattern = PATH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// WebSocket: after its 101 the endpoint is sent a Ping, and must answer with its Pong. [default: false]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<bool>,
    /// The time from one check to the next, at least 1s. [default: 10s]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [more_than_zero()]))]
    pub interval: Option<Duration>,
    /// The time an answer may take, more than 0s. [default: 5s]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [more_than_zero()]))]
    pub timeout: Option<Duration>,
    /// So many successes in a row bring an endpoint back. [default: 1]
    #[schemars(range(min = 1, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<u32>,
    /// So many failures in a row take an endpoint out; where all are out, all serve. [default: 3]
    #[schemars(range(min = 1, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<u32>,
}

/// What an active health check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum HealthCheckType {
    /// A handshake gets 101.
    WebSocket,
    /// A GET gets 2xx or 3xx.
    #[serde(rename = "HTTP")]
    Http,
    /// The connection opens.
    #[serde(rename = "TCP")]
    Tcp,
}

/// Counts the failures of connections and handshakes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PassiveHealthCheck {
    /// So many failures within failTimeout, not outnumbered by successes since the first of them, rest an endpoint; never more than half of them rest; 0 is off. [default: 3]
    #[schemars(range(min = 0, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fails: Option<u32>,
    /// How long failures count, and how long an endpoint rests before one request tries it; more than 0s. [default: 10s]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [more_than_zero()]))]
    pub fail_timeout: Option<Duration>,
}

/// How long things may take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// To connect to one endpoint, more than 0s; then the next one is tried. [default: 5s]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [more_than_zero()]))]
    pub connect: Option<Duration>,
    /// From a WebSocket handshake's request to its 101, more than 0s. [default: 15s]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [more_than_zero()]))]
    pub handshake: Option<Duration>,
    /// Plain HTTP: from the last byte of the request to the first of the answer; 0s is never. [default: 60s]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Duration>,
    /// A tunnel without a byte in either direction is closed; 0s is never. [default: 1h]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// How long a handshake waits while no endpoint is ready, before 503; 0s is off. [default: 0s]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Duration>,
}

/// What holds for WebSockets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebSocket {
    /// Asks silent peers whether they live. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<Ping>,
    /// No tunnel gets older; each draws its own age within jitterPercent; 0s is never. [default: 0s]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// How far an age may lie below maxAge, 0 to 100. [default: 20]
    #[schemars(range(min = 0, max = 100))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_percent: Option<u8>,
    /// Limits on messages from clients. [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<MessageLimits>,
    /// Only these subprotocols are passed on of what a client offers. [default: all]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256), regex(pattern = TOKEN)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subprotocols: Option<Vec<String>>,
    /// An Origin must be one of these, else 403; a handshake without Origin is let in. SameHost is the request's own scheme, host and port; a host may be a wildcard and have scheme and port; * is any. [default: any]
    #[schemars(length(max = 32), inner(length(min = 1, max = 280), regex(pattern = ORIGIN)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origins: Option<Vec<String>>,
    /// The Close code that tells a client to come back: 1001, 1012, 1013 or 4000 to 4999. [default: 1012]
    #[schemars(range(min = 1001, max = 4999))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [rule("self in [1001, 1012, 1013] || self >= 4000", "reconnectCode must be 1001, 1012, 1013 or 4000 to 4999")]))]
    pub reconnect_code: Option<u16>,
}

/// Asks silent peers whether they live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ping {
    /// A Ping after so long a silence; 0s is off. [default: 0s]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Without a Pong within this time the tunnel ends; more than 0s. [default: 10s]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [more_than_zero()]))]
    pub timeout: Option<Duration>,
    /// Who is asked: Client, Backend or Both. [default: Client]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<PingTo>,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum PingTo {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// Both.
    Both,
}

/// Limits on messages from clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.burst) || has(self.perSecond)", "burst needs perSecond")]))]
pub struct MessageLimits {
    /// The largest message, in bytes or as a quantity such as 1Mi; a larger one: Close 1009. [default: no limit]
    #[schemars(extend("minimum" = 0, "maxLength" = 32, "pattern" = QUANTITY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<IntOrString>,
    /// So many messages a second; more: Close 1008. [default: no limit]
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
    /// So many at once above perSecond. [default: perSecond]
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// How connections are brought to an end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Who closes the tunnels of a terminating pod. Proxy: we do, evenly until its deadline. Application: it does, and we only what is left shortly before. [default: Proxy]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<DrainBy>,
    /// When we begin, after the pod's termination. [default: at once if at most 60s are left, else 60s before the deadline]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Duration>,
    /// At most so many closes a second. [default: no limit]
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_second: Option<u32>,
    /// Clients of a backend that vanished are told at random moments within this time instead of at once; what they send meanwhile is lost. A drain or the end of Carrick cuts it short. At layer 4, where the end of a backend looks like any other, every FIN of a backend that comes before the client's is passed on so late. [default: 0s]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_spread: Option<Duration>,
    /// What becomes of tunnels when their endpoint leaves the Service while its pod lives. [default: Keep]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_endpoint_removed: Option<OnRemoved>,
    /// What becomes of tunnels when the route no longer lists their Service. [default: Keep]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_backend_removed: Option<OnRemoved>,
    /// What becomes of tunnels when their location is gone for 30s. [default: Drain]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_route_removed: Option<OnRemoved>,
}

/// Who closes the tunnels of a terminating pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum DrainBy {
    /// We do.
    Proxy,
    /// It does.
    Application,
}

/// What becomes of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = undescribed)]
pub enum OnRemoved {
    /// They stay.
    Keep,
    /// They are drained.
    Drain,
}

/// How much is let in; what is open stays, whatever becomes of a limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.burst) || has(self.handshakesPerSecond)", "burst needs handshakesPerSecond")]))]
pub struct Limits {
    /// So many tunnels at once, of layer 4 connections, in the whole installation; over it 503. [default: no limit]
    #[schemars(range(min = 1, max = 100_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// So many of one client at once, by address, IPv6 by /64, at each replica; over it 429. [default: no limit]
    #[schemars(range(min = 1, max = 100_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_client: Option<u32>,
    /// So many handshakes a second, of layer 4 connections, in the whole installation; over it 429. [default: no limit]
    #[schemars(range(min = 1, max = 10_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes_per_second: Option<u32>,
    /// So many may come at once, if fewer came before. [default: handshakesPerSecond]
    #[schemars(range(min = 1, max = 10_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// The largest body of a plain request, in bytes or as a quantity such as 10Mi; a larger one: 413. [default: no limit]
    #[schemars(extend("minimum" = 0, "maxLength" = 32, "pattern" = QUANTITY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_body: Option<IntOrString>,
}

/// Which clients are let in, by address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Only addresses in these blocks, such as 10.0.0.0/8 or 2001:db8::/32. [default: all]
    #[schemars(length(max = 64), inner(length(min = 2, max = 49), regex(pattern = CIDR)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// No addresses in these blocks, even if allow has them. [default: none]
    #[schemars(length(max = 64), inner(length(min = 2, max = 49), regex(pattern = CIDR)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<String>>,
}

/// Edits of header fields: remove, then set, then add.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderEdits {
    /// Puts one field in the place of all of that name. [default: none]
    #[schemars(length(max = 32))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<Vec<HeaderValue>>,
    /// Adds a field to those of that name. [default: none]
    #[schemars(length(max = 32))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add: Option<Vec<HeaderValue>>,
    /// Takes all fields of these names away. [default: none]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256), regex(pattern = TOKEN)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [none_ours()]))]
    pub remove: Option<Vec<String>>,
}

/// A header field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderValue {
    /// Its name, in any case. Required.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    #[schemars(extend("x-kubernetes-validations" = [not_ours()]))]
    pub name: String,
    /// Its value. Required.
    #[schemars(length(max = 4096), regex(pattern = FIELD_VALUE))]
    pub value: String,
}

/// Changes path and host towards the backend. At most one of prefix and regex.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!(has(self.prefix) && has(self.regex))", "at most one of prefix and regex may be given"), rule("has(self.regex) == has(self.replacement)", "regex and replacement need each other"), rule("!has(self.regex) || type(''.matches(self.regex)) == bool", "regex must be a regular expression")]))]
pub struct Rewrite {
    /// What replaces the location's path, which must be a Prefix.
    #[schemars(length(min = 1, max = 1024), regex(pattern = PATH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// What it matches in the path becomes replacement.
    #[schemars(length(min = 1, max = 512))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Replaces each match of regex; $1 and ${name} are its groups.
    #[schemars(length(max = 512))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
    /// The Host towards the backend. [default: the client's]
    #[schemars(length(min = 1, max = 259), regex(pattern = AUTHORITY))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}
