//! Every metric of the process, and who holds its counters.
//!
//! It never knows routes or tunnels: what is counted elsewhere (open tunnels, certificates, pools) is handed in at the scrape as
//! [`Observed`]. `live` asks for a location's counters once per configuration, the data path adds to them, `admin` exposes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    counter::{Counter, Gauge, Histogram, Tally},
    retries::Retries,
    watch::WatchMetrics,
};

/// Series of a removed location are still exposed this long, so that the last scrape gets their last values.
const FORGET_AFTER: Duration = Duration::from_secs(600);

const fn millis<const N: usize>(bounds: [u64; N]) -> [Duration; N] {
    let mut durations = [Duration::ZERO; N];
    let mut i = 0;
    while i < N {
        durations[i] = Duration::from_millis(bounds[i]);
        i += 1;
    }
    durations
}

/// An answer or a handshake: 1 ms to 30 s.
static ANSWER: [Duration; 12] = millis([1, 3, 5, 10, 30, 100, 300, 1_000, 3_000, 5_000, 10_000, 30_000]);
/// A tunnel's life: a second to a week.
static AGE: [Duration; 10] = millis([1_000, 10_000, 60_000, 300_000, 900_000, 3_600_000, 10_800_000, 43_200_000, 86_400_000, 604_800_000]);

/// From a change to what is served of it: the hold-off is 50 to 500 ms of it.
static APPLY: [Duration; 10] = millis([10, 25, 50, 75, 100, 250, 500, 1_000, 2_500, 5_000]);

/// Everything that is counted. Built once, shared by both halves.
#[derive(Debug, Default)]
pub struct Metrics {
    locations: Mutex<HashMap<LocationLabels, Known>>,
    watches: Mutex<BTreeMap<WatchLabels, Arc<WatchMetrics>>>,
    /// Requests that no location took: their refusals, statuses and times, under empty labels.
    pub unrouted: Arc<LocationMetrics>,
    /// Client connections accepted.
    pub connections_accepted: Counter,
    /// Client connections open now.
    pub connections_open: Gauge,
    /// `--max-connections`.
    pub connections_limit: Gauge,
    /// Client connections closed before a request: by reason (`tls_handshake`, `first_byte_timeout`, `per_client_limit`…).
    pub connections_refused: Tally,
    /// Times accepting stopped, by reason (`descriptors`, `max_connections`, `error`).
    pub accept_pauses: Tally,
    /// Endpoints that were taken out of the picks because they are ill, by what was the last straw (`refused`, `server_error`, `check`…).
    pub endpoint_ejections: Tally,
    /// Active health checks by what they found (`well`, `refused`, `status`…).
    pub health_checks: Tally,
    /// Lines of the access log that were dropped because nobody took them in time.
    pub access_log_dropped: Counter,
    /// Names of sessions that were read from answers, and where those are.
    pub learned_sessions: Gauge,
    /// `--max-learned-sessions`.
    pub learned_sessions_limit: Gauge,
    /// Sessions that were forgotten because there were more.
    pub learned_sessions_evicted: Counter,
    /// Configurations published since the start; 0 before the first.
    pub generation: Gauge,
    /// WsRoutes that are not served as they ask for, now.
    pub config_errors: Gauge,
    /// Router compilations: a change of endpoints alone makes none.
    pub router_compilations: Counter,
    /// 1 while this replica holds the Lease and writes statuses.
    pub leader: Gauge,
    /// Times that this replica began or ceased to lead.
    pub leader_transitions: Counter,
    /// Writes of statuses by what came of them (`written`, `conflict`, `gone`, `failed`).
    pub status_writes: Tally,
    /// Statuses that are not yet as they should be.
    pub status_pending: Gauge,
    /// Events by what came of them (`written`, `dropped`, `failed`).
    pub events: Tally,
    /// Writes of what it costs to delete a Pod, by what came of them (`written`, `gone`, `failed`).
    pub deletion_cost_writes: Tally,
    /// When what is still open is cut, in seconds since the Unix epoch; 0 as long as nobody has told this replica to end.
    pub replica_drain_deadline: Gauge,
    /// From the first change to the configuration that has it, where locations, hosts or certificates were translated.
    pub routes_applied: Applied,
    /// The same, where endpoints alone had changed.
    pub endpoints_applied: Applied,
}

/// How long changes took to be served.
#[derive(Debug)]
pub struct Applied(pub Histogram<10>);

impl Default for Applied {
    fn default() -> Self {
        Self(Histogram::new(&APPLY))
    }
}

/// The labels of a watch: kind and namespace, which is empty for all of them.
type WatchLabels = (&'static str, Box<str>);

/// The labels of a location's series.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocationLabels {
    /// Namespace of the WsRoute.
    pub route_namespace: Box<str>,
    /// Its name.
    pub route: Box<str>,
    /// The location's label.
    pub location: Box<str>,
}

#[derive(Debug)]
struct Known {
    metrics: Arc<LocationMetrics>,
    /// Since when nobody else holds it.
    unused_since: Option<Instant>,
}

/// The counters of one location or layer-4 route. Resolved once per configuration; they survive swaps.
#[derive(Debug)]
pub struct LocationMetrics {
    /// Answers by class of their status: 1xx (only 101) to 5xx.
    pub requests: ByStatusClass,
    /// Answers of our own that refuse, by the token of `X-Carrick-Reason`.
    pub refusals: Tally,
    /// From the head of a handshake to its 101.
    pub handshake_seconds: Histogram<12>,
    /// From a Ping of ours to its Pong.
    pub ping_rtt_seconds: Histogram<12>,
    /// From the head of a plain request to the head of its answer.
    pub response_seconds: Histogram<12>,
    /// Life of a tunnel, counted at its end.
    pub tunnel_age_seconds: Histogram<10>,
    /// Close frames by code, side and initiator.
    pub closes: Closes,
    /// Tunnels that ended, by why (`close`, `client_gone`, `idle`, `pod_terminating`…): the `reason` of the access log.
    pub tunnel_ends: Tally,
    /// Tunnels that ended without a closing handshake, by reason (`mid_frame`, `client_gone`, `close_timeout`…).
    pub unclean_ends: Tally,
    /// Frames from the client to the backend.
    pub frames_to_backend: ByOpcode,
    /// Frames from the backend to the client.
    pub frames_to_client: ByOpcode,
    /// Payload bytes from the client to the backend.
    pub bytes_to_backend: ByOpcode,
    /// Payload bytes from the backend to the client.
    pub bytes_to_client: ByOpcode,
    /// Endpoints that could not be connected to or answered badly, by reason (`refused`, `timeout`, `bad_handshake`…).
    pub endpoint_failures: Tally,
    /// What was tried again.
    pub retries: Retries,
    /// Handshakes that wait for an endpoint now.
    pub handshakes_held: Gauge,
}

impl Default for LocationMetrics {
    fn default() -> Self {
        Self {
            requests: ByStatusClass::default(),
            refusals: Tally::default(),
            handshake_seconds: Histogram::new(&ANSWER),
            ping_rtt_seconds: Histogram::new(&ANSWER),
            response_seconds: Histogram::new(&ANSWER),
            tunnel_age_seconds: Histogram::new(&AGE),
            closes: Closes::default(),
            tunnel_ends: Tally::default(),
            unclean_ends: Tally::default(),
            frames_to_backend: ByOpcode::default(),
            frames_to_client: ByOpcode::default(),
            bytes_to_backend: ByOpcode::default(),
            bytes_to_client: ByOpcode::default(),
            endpoint_failures: Tally::default(),
            retries: Retries::default(),
            handshakes_held: Gauge::default(),
        }
    }
}

/// Counts by the class of a status code.
#[derive(Debug, Default)]
pub struct ByStatusClass([Counter; 5]);

impl ByStatusClass {
    /// Counts an answer with this status.
    pub fn inc(&self, status: u16) {
        if let Some(counter) = (status / 100).checked_sub(1).and_then(|class| self.0.get(usize::from(class))) {
            counter.inc();
        }
    }

    /// How many answers were of this class: 1 to 5.
    pub fn get(&self, class: u16) -> u64 {
        class.checked_sub(1).and_then(|class| self.0.get(usize::from(class))).map_or(0, Counter::get)
    }
}

/// Counts by the opcode of a frame.
#[derive(Debug, Default)]
pub struct ByOpcode([Counter; 7]);

/// What a frame, or a byte, belongs to. Opcodes of RFC 6455 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// 0x0
    Continuation,
    /// 0x1
    Text,
    /// 0x2
    Binary,
    /// 0x8
    Close,
    /// 0x9
    Ping,
    /// 0xA
    Pong,
    /// No frames are followed: layer 4, an opaque upgrade, a reserved opcode, a stream whose tracker is lost.
    Opaque,
}

impl Opcode {
    /// All, in the order of their counters.
    pub const ALL: [Opcode; 7] =
        [Opcode::Continuation, Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong, Opcode::Opaque];

    /// The opcode of a frame header's low four bits.
    pub fn of(bits: u8) -> Self {
        match bits {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xA => Opcode::Pong,
            _ => Opcode::Opaque,
        }
    }

    /// The value of the label `opcode`.
    pub fn label(self) -> &'static str {
        match self {
            Opcode::Continuation => "continuation",
            Opcode::Text => "text",
            Opcode::Binary => "binary",
            Opcode::Close => "close",
            Opcode::Ping => "ping",
            Opcode::Pong => "pong",
            Opcode::Opaque => "opaque",
        }
    }
}

impl ByOpcode {
    /// Adds `count` under `opcode`.
    pub fn add(&self, opcode: Opcode, count: u64) {
        self.0[opcode as usize].add(count);
    }

    /// What was counted under `opcode`.
    pub fn get(&self, opcode: Opcode) -> u64 {
        self.0[opcode as usize].get()
    }
}

/// An end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one in front.
    Client,
    /// The one behind.
    Backend,
}

/// Who began to end a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The client, by a Close, FIN or reset.
    Client,
    /// The backend, by the same.
    Backend,
    /// We: shutdown, idle, drain.
    Proxy,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Client, Side::Backend];

    /// The value of the label `side`.
    pub fn label(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Backend => "backend",
        }
    }
}

impl Initiator {
    /// All.
    pub const ALL: [Initiator; 3] = [Initiator::Client, Initiator::Backend, Initiator::Proxy];

    /// The value of the label `initiator`.
    pub fn label(self) -> &'static str {
        match self {
            Initiator::Client => "client",
            Initiator::Backend => "backend",
            Initiator::Proxy => "proxy",
        }
    }
}

/// 1000 to 1015 one by one; then `none` (a Close without code), `3xxx`, `4xxx` and `other`, so that no peer can make series.
const CODES: usize = 20;
const CODE_NAMES: [&str; CODES] = [
    "1000", "1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008", "1009", "1010", "1011", "1012", "1013", "1014", "1015", "none",
    "3xxx", "4xxx", "other",
];

/// Close frames by code, the side that saw it, and who began.
#[derive(Debug)]
pub struct Closes([Counter; CODES * Side::ALL.len() * Initiator::ALL.len()]);

impl Default for Closes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Closes {
    /// Counts a Close that was sent to `side`. `None` is a Close without a code.
    pub fn inc(&self, code: Option<u16>, side: Side, initiator: Initiator) {
        self.0[Self::index(Self::class(code), side, initiator)].inc();
    }

    /// How many with this code were counted; codes that share a class share their count.
    pub fn get(&self, code: Option<u16>, side: Side, initiator: Initiator) -> u64 {
        self.0[Self::index(Self::class(code), side, initiator)].get()
    }

    /// All that are not zero: label of the code, side, initiator, count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Side, Initiator, u64)> {
        let cells = (0..CODES).flat_map(|code| Side::ALL.into_iter().map(move |side| (code, side)));
        let cells = cells.flat_map(|(code, side)| Initiator::ALL.into_iter().map(move |initiator| (code, side, initiator)));
        cells
            .map(|(code, side, initiator)| (CODE_NAMES[code], side, initiator, self.0[Self::index(code, side, initiator)].get()))
            .filter(|(.., count)| *count > 0)
    }

    fn class(code: Option<u16>) -> usize {
        match code {
            Some(code @ 1000..=1015) => usize::from(code - 1000),
            None => 16,
            Some(3000..=3999) => 17,
            Some(4000..=4999) => 18,
            Some(_) => 19,
        }
    }

    fn index(class: usize, side: Side, initiator: Initiator) -> usize {
        (class * Side::ALL.len() + side as usize) * Initiator::ALL.len() + initiator as usize
    }
}

impl Metrics {
    /// The counters of a location, the same ones whenever it is asked for under the same names.
    pub fn location(&self, route_namespace: &str, route: &str, location: &str) -> Arc<LocationMetrics> {
        let labels = LocationLabels { route_namespace: route_namespace.into(), route: route.into(), location: location.into() };
        let mut locations = self.locations.lock();
        let known = locations.entry(labels).or_insert_with(|| Known { metrics: Arc::default(), unused_since: None });
        known.unused_since = None;
        known.metrics.clone()
    }

    /// The counters of the watch of a kind in a namespace, or in all where it is empty.
    pub fn watch(&self, kind: &'static str, namespace: &str) -> Arc<WatchMetrics> {
        self.watches.lock().entry((kind, namespace.into())).or_default().clone()
    }

    /// The watches that somebody holds.
    pub fn watches(&self) -> Vec<(WatchLabels, Arc<WatchMetrics>)> {
        let watches = self.watches.lock();
        let held = watches.iter().filter(|(_, metrics)| Arc::strong_count(metrics) > 1);
        held.map(|(labels, metrics)| (labels.clone(), metrics.clone())).collect()
    }

    /// Every location that is in use or was lately, by name; forgets those unused for long.
    pub fn locations(&self) -> Vec<(LocationLabels, Arc<LocationMetrics>)> {
        let now = Instant::now();
        let mut locations = self.locations.lock();
        locations.retain(|_, known| known.keep(now));
        let mut all: Vec<_> = locations.iter().map(|(labels, known)| (labels.clone(), known.metrics.clone())).collect();
        drop(locations);
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

impl Known {
    fn keep(&mut self, now: Instant) -> bool {
        if Arc::strong_count(&self.metrics) > 1 {
            self.unused_since = None;
            return true;
        }
        now.duration_since(*self.unused_since.get_or_insert(now)) < FORGET_AFTER
    }
}

/// What is counted elsewhere and read when a scrape comes.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Open tunnels of the registry, by where they come from and go to.
    pub tunnels: Vec<OpenTunnels>,
    /// Tunnels that were ordered to close and have not had their turn, by reason.
    pub drains_pending: BTreeMap<&'static str, u64>,
    /// Tunnels that a fault of ours ended, since the start.
    pub tunnel_panics: u64,
    /// Certificates served.
    pub certificates: Vec<CertificateExpiry>,
    /// Endpoints of each pool.
    pub pools: Vec<PoolSize>,
    /// What a replica may open to an endpoint of each location that has such a limit.
    pub endpoint_limits: Vec<(LocationLabels, u64)>,
}

/// How finely open tunnels are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// By Service.
    Service,
    /// By Pod.
    #[default]
    Endpoint,
}

/// A number of tunnels with the same labels.
#[derive(Clone, Debug)]
pub struct OpenTunnels {
    /// Where they come from and go to.
    pub labels: TunnelLabels,
    /// How many.
    pub count: u64,
}

/// The labels of `carrick_tunnels_open`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelLabels {
    /// The location they came by.
    pub location: LocationLabels,
    /// Namespace of the Service; empty for an address.
    pub service_namespace: Box<str>,
    /// Name of the Service, or the address.
    pub service: Box<str>,
    /// The Pod, or the endpoint's address where there is none; none where endpoints are not told apart.
    pub endpoint_pod: Option<Box<str>>,
}

/// A certificate and its end.
#[derive(Clone, Debug)]
pub struct CertificateExpiry {
    /// Namespace of the Secret.
    pub namespace: Box<str>,
    /// Its name.
    pub secret: Box<str>,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
}

/// Endpoints of a pool by state.
#[derive(Clone, Debug)]
pub struct PoolSize {
    /// `namespace/service:port`, or the address.
    pub pool: Box<str>,
    /// Take new requests.
    pub ready: u64,
    /// Keep what they have.
    pub draining: u64,
    /// Take nothing.
    pub not_ready: u64,
    /// Of those that are ready: rest after failures of requests.
    pub resting: u64,
    /// Of those that are ready: fail an active health check.
    pub failing: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counters_survive_a_swap_and_a_removed_location_is_forgotten_later() {
        let metrics = Metrics::default();
        let before = metrics.location("default", "chat", "/ws");
        before.requests.inc(200);
        let after = metrics.location("default", "chat", "/ws");
        assert!(Arc::ptr_eq(&before, &after));
        drop((before, after));
        assert_eq!(metrics.locations().len(), 1, "its last values are still there to be scraped");
        tokio::time::advance(FORGET_AFTER / 2).await;
        assert_eq!(metrics.location("default", "chat", "/ws").requests.get(2), 1, "it came back in time");
        assert_eq!(metrics.locations().len(), 1);
        tokio::time::advance(FORGET_AFTER).await;
        assert_eq!(metrics.locations().len(), 0);
    }

    #[test]
    fn no_close_code_of_a_peer_makes_a_series_of_its_own() {
        let closes = Closes::default();
        (0..=u16::MAX).for_each(|code| closes.inc(Some(code), Side::Backend, Initiator::Client));
        closes.inc(None, Side::Backend, Initiator::Client);
        assert_eq!(closes.iter().count(), CODES);
        assert_eq!(closes.iter().map(|(.., count)| count).sum::<u64>(), 65_537);
        assert_eq!(closes.get(Some(1001), Side::Backend, Initiator::Client), 1);
    }

    #[test]
    fn each_opcode_has_its_own_counter() {
        let counts = ByOpcode::default();
        (0..16).for_each(|bits| counts.add(Opcode::of(bits), 1));
        assert_eq!(Opcode::ALL.map(|opcode| counts.get(opcode)), [1, 1, 1, 1, 1, 1, 10]);
    }
}
