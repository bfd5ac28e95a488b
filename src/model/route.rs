//! Locations of layer 7, with every default applied, and what routes of layer 4 have in common with them.
//!
//! What a WsRoute left out has its value here; what could not be served is [`Action::Unavailable`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;

use super::{
    LocationKey, ObjectRef, PoolKey,
    balancing::Balancing,
    health::HealthCheck,
    limits::{Access, Limits},
    table::HostPattern,
    tls::BackendTls,
};

/// One location: which requests it takes, and what it does with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// Its identity over edits.
    pub key: LocationKey,
    /// The WsRoute that declares it.
    pub route: ObjectRef,
    /// How metrics, log and status call it: its name, else its path.
    pub label: Arc<str>,
    /// Which paths it takes.
    pub path: PathPattern,
    /// What else must hold.
    pub matching: Match,
    /// What it does.
    pub action: Action,
    /// Which clients it serves.
    #[serde(skip_serializing_if = "Access::is_open")]
    pub access: Access,
    /// Applied to the request before it goes to a backend.
    pub request_headers: HeaderEdits,
    /// Applied to every answer of the location, the backend's and our own, the 101 included.
    pub response_headers: HeaderEdits,
}

impl Location {
    /// How requests are handed to a backend, where they are.
    pub fn proxy(&self) -> Option<&Proxy> {
        match &self.action {
            Action::Proxy(proxy) => Some(proxy),
            _ => None,
        }
    }
}

/// Which normalised paths a location takes (see [`super::path`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum PathPattern {
    /// This path alone.
    Exact(Arc<str>),
    /// Matches the whole path; syntax of the regex crate, known to compile.
    RegularExpression(Arc<str>),
    /// Whole elements: `/ws` takes `/ws`, `/ws/` and `/ws/a`, not `/wsx`. Held without trailing slash, `/` as the empty string.
    Prefix(Arc<str>),
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PathPattern::Exact(path) => write!(f, "={path}"),
            PathPattern::RegularExpression(regex) => write!(f, "~{regex}"),
            PathPattern::Prefix(path) if path.is_empty() => f.write_str("/"),
            PathPattern::Prefix(path) => f.write_str(path),
        }
    }
}

/// Conditions beside the path; all must hold, an empty list holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Match {
    /// Any of these methods.
    pub methods: Vec<Arc<str>>,
    /// All of these; the name in lower case.
    pub headers: Vec<ValueMatch>,
    /// All of these, compared after percent-decoding; the first parameter of the name counts.
    pub query: Vec<ValueMatch>,
    /// All of these.
    pub cookies: Vec<ValueMatch>,
    /// Any of these is among the client's `Sec-WebSocket-Protocol` offers.
    pub subprotocols: Vec<Arc<str>>,
    /// Upgrade or not.
    pub upgrade: UpgradeMatch,
}

/// A name with the value it must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ValueMatch {
    /// Of the header, parameter or cookie.
    pub name: Arc<str>,
    /// What its value must be.
    pub value: ValuePattern,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum ValuePattern {
    /// This, byte by byte.
    Exact(Arc<str>),
    /// Matched as a whole by this expression, known to compile.
    Regex(Arc<str>),
}

/// Whether a location takes WebSocket handshakes, other requests, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum UpgradeMatch {
    /// Both.
    #[default]
    Either,
    /// Only requests that ask to be upgraded to `websocket`.
    WebSocket,
    /// Only requests that do not.
    None,
}

/// What a location does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Hands the request to a backend.
    Proxy(Box<Proxy>),
    /// Answers with a file.
    Static(Static),
    /// Answers with a Location.
    Redirect(Redirect),
    /// Declared, but can't be served: 503. The status of the route says why.
    Unavailable,
}

/// How a request is handed to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proxy {
    /// The pools and how new requests are split between them.
    pub backends: Vec<Backend>,
    /// How an endpoint is picked.
    #[serde(flatten)]
    pub balancing: Balancing,
    /// Changes of the path.
    pub rewrite: Option<Rewrite>,
    /// The Host sent on; the client's where absent.
    pub host: Option<Arc<str>>,
    /// How an endpoint is found to be ill.
    pub health: HealthCheck,
    /// Deadlines; `None` is never.
    pub timeouts: Timeouts,
    /// What holds for WebSockets.
    pub websocket: WebSocket,
    /// Upgrade tokens besides `websocket` that pass as opaque bytes; lower case.
    pub upgrades: Vec<Arc<str>>,
    /// How much is let in.
    #[serde(skip_serializing_if = "Limits::is_unlimited")]
    pub limits: Limits,
    /// How its tunnels are brought to an end.
    #[serde(skip_serializing_if = "Drain::is_default")]
    pub drain: Drain,
    /// How its tunnels move to endpoints that were added; `None` is not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,
}

/// How tunnels are brought to an end by us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drain {
    /// Who closes the tunnels of a terminating pod.
    pub by: DrainBy,
    /// When we begin, after its termination; `None` is at once if it has at most a minute left, else a minute before its deadline.
    pub start: Option<Duration>,
    /// At most so many closes a second.
    pub max_per_second: Option<u32>,
    /// Clients of a backend that vanished are told within this time; `None` is at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_spread: Option<Duration>,
    /// What becomes of tunnels whose endpoint leaves its Service while its pod lives.
    pub on_endpoint_removed: OnRemoved,
    /// What becomes of tunnels whose Service the route no longer lists.
    pub on_backend_removed: OnRemoved,
    /// What becomes of tunnels whose location is gone: they are kept only if the route says so.
    pub keep_on_route_removed: bool,
}

impl Drain {
    /// How long after its backend one client is told; `share`, 0 to 1, says where within the spread.
    pub fn client_delay(&self, share: f64) -> Duration {
        self.client_spread.map_or(Duration::ZERO, |spread| spread.mul_f64(share.clamp(0.0, 1.0)))
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Who closes the tunnels of a terminating pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum DrainBy {
    /// We, evenly until its deadline.
    #[default]
    Proxy,
    /// It, and we only what is left shortly before.
    Application,
}

/// What becomes of tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum OnRemoved {
    /// They stay.
    #[default]
    Keep,
    /// They are closed by us.
    Drain,
}

/// How tunnels move to endpoints that were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rebalance {
    /// At most this part of an endpoint's tunnels in a minute, 1 to 100.
    pub max_percent_per_minute: u8,
    /// Only those that are older.
    pub min_age: Duration,
}

/// A share of the new requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Backend {
    /// Who gets it.
    pub pool: PoolKey,
    /// Its part of the sum of weights, 0 to 10000.
    pub weight: u32,
    /// TLS to its endpoints; plain where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<BackendTls>>,
}

/// How the path towards the backend differs from the client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Rewrite {
    /// What the Prefix location matched is replaced by this.
    Prefix(Arc<str>),
    /// Every match in the path is replaced; `$1` and `${name}` refer to groups.
    Regex {
        /// Known to compile.
        regex: Arc<str>,
        /// The replacement.
        replacement: Arc<str>,
    },
}

/// Deadlines of a proxied location; `None` is never.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// To connect to one endpoint.
    pub connect: Duration,
    /// From the request to the 101.
    pub handshake: Duration,
    /// Plain HTTP: from the last byte of the request sent to the first of the answer.
    pub response: Option<Duration>,
    /// A tunnel without a byte either way.
    pub idle: Option<Duration>,
    /// A handshake while no endpoint is ready; `None` does not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Duration>,
}

/// What holds for the WebSockets of a location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WebSocket {
    /// If not empty: offers outside this list are not passed on.
    pub subprotocols: Vec<Arc<str>>,
    /// If not empty: an Origin must be one of these; a handshake without Origin is let in.
    pub origins: Vec<OriginPattern>,
    /// The Close code that tells a client to come back.
    pub reconnect_code: u16,
    /// How old a tunnel becomes; `None` is any age.
    pub max_age: Option<MaxAge>,
    /// What is asked of the frames; `None` is nothing.
    pub frames: Option<Arc<Frames>>,
}

/// How old a tunnel becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MaxAge {
    /// In the mean.
    pub age: Duration,
    /// Each tunnel draws its own age, up to so many percent older or younger.
    pub jitter_percent: u8,
}

impl MaxAge {
    /// The age of one tunnel; `share`, 0 to 1, says where within the jitter.
    pub fn draw(&self, share: f64) -> Duration {
        let jitter = f64::from(self.jitter_percent) / 100.0;
        self.age.mul_f64(1.0 + jitter * (2.0 * share - 1.0))
    }
}

/// What is asked of the frames of a WebSocket beyond passing them on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Frames {
    /// Pings of our own.
    pub ping: Option<Ping>,
    /// Limits on what clients send.
    pub messages: MessageLimits,
}

/// Asks silent peers whether they live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ping {
    /// After so long a silence.
    pub interval: Duration,
    /// A Pong, or anything else, must have come by then.
    pub timeout: Duration,
    /// Who is asked.
    pub to: PingTo,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum PingTo {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// Both.
    Both,
}

impl Ping {
    /// Whether the client, else the backend, is asked.
    pub fn asks(&self, client: bool) -> bool {
        match self.to {
            PingTo::Client => client,
            PingTo::Backend => !client,
            PingTo::Both => true,
        }
    }
}

/// Limits on the messages of a client, as they are on the wire: with permessage-deflate, compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MessageLimits {
    /// Bytes of the largest message, in all its fragments.
    pub max_size: Option<u64>,
    /// How many.
    pub rate: Option<Rate>,
}

/// A rate of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// In the mean.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// An Origin that may open a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum OriginPattern {
    /// Its scheme, host and port are those of the request.
    SameHost,
    /// Its host, whatever scheme and port; with scheme and port where the pattern has them.
    Host {
        /// `http` or `https`, if given.
        scheme: Option<Arc<str>>,
        /// The host or wildcard.
        host: HostPattern,
        /// The port, if given.
        port: Option<u16>,
    },
    /// Every Origin.
    Any,
}

/// Files to answer with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Static {
    /// Where they are.
    pub source: StaticSource,
    /// The file of a folder.
    pub index: Arc<str>,
    /// The file served with 200 where there is none, for applications that route in the browser.
    pub fallback: Option<Arc<str>>,
    /// Value of Cache-Control.
    pub cache_control: Option<Arc<str>>,
}

/// Where static files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum StaticSource {
    /// A folder below the static root, relative, `/`-separated, in its normal form; `.` is the root itself.
    Directory(Arc<str>),
    /// The content of a ConfigMap, by path below the location.
    Files(Arc<BTreeMap<Arc<str>, StaticFile>>),
}

/// A file held in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticFile(pub Bytes);

impl std::fmt::Debug for StaticFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for StaticFile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

/// An answer that sends the client elsewhere. What is absent stays as in the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// Host name.
    pub host: Option<Arc<str>>,
    /// Port; left out of the Location where it is the scheme's own.
    pub port: Option<u16>,
    /// What becomes of the path.
    pub path: RedirectPath,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What becomes of the path in a redirect. The query is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum RedirectPath {
    /// It stays.
    Keep,
    /// This one instead.
    Full(Arc<str>),
    /// What the Prefix location matched is replaced by this.
    Prefix(Arc<str>),
}

/// Edits of a header section: first `remove`, then `set`, then `add`. Names in lower case, known to be valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderEdits {
    /// Replaces every field of the name.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Adds one more field.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Removes every field of the name.
    pub remove: Vec<Arc<str>>,
}
