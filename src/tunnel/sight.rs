//! Which of the open tunnels somebody means, in which order, and how each of them looks.
//!
//! It holds no lock while it compares, and builds rows only for the page that is asked for: with 100,000 tunnels it walks over references.
//! `admin` asks; nothing on the data path does.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    Filter, Identity, Order, Registry,
    clock::Tick,
    close::Reason,
    entry::{self, Entry},
};
use crate::{
    model::{
        ObjectRef, PoolKey,
        sight::{Page, Row, Sort, State},
    },
    telemetry::metrics::Side,
};

/// Which tunnels: all that every given field holds for. `Default` is all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Those that came by this WsRoute.
    pub route: Option<ObjectRef>,
    /// Those that came by a WsRoute of this namespace.
    pub namespace: Option<String>,
    /// Those that came by locations with this label.
    pub location: Option<String>,
    /// Those to this Service, or to this address that stands for one.
    pub service: Option<ServiceName>,
    /// Those to this endpoint.
    pub endpoint: Option<Place>,
    /// Those from this address or network.
    pub client: Option<IpNet>,
    /// Those that stand so.
    pub state: Option<State>,
    /// Those that are to be closed for this.
    pub reason: Option<Reason>,
    /// Those of this age and above.
    pub min_age: Duration,
    /// Those without a byte for this long.
    pub min_idle: Duration,
    /// Those that moved so many bytes, both directions together.
    pub min_bytes: u64,
}

/// A Service as people write it: `name` or `namespace/name`, and `:port` behind it where that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName(pub String);

impl ServiceName {
    fn is(&self, pool: &PoolKey) -> bool {
        match pool {
            PoolKey::Address(address) => **address == *self.0,
            PoolKey::Service { service, port } => {
                let (named, wanted_port) = self.0.split_once(':').map_or((&*self.0, None), |(name, port)| (name, Some(port)));
                let (namespace, name) = named.split_once('/').map_or((None, named), |(namespace, name)| (Some(namespace), name));
                name == &*service.name
                    && namespace.is_none_or(|namespace| namespace == &*service.namespace)
                    && wanted_port.is_none_or(|wanted| wanted == &**port)
            }
        }
    }
}

/// An endpoint as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `10.0.0.7:8080`
    Port(SocketAddr),
    /// `10.0.0.7`, whatever the port.
    Host(IpAddr),
    /// The name of a Pod.
    Pod(String),
}

impl Place {
    /// Whatever is no address is a Pod.
    pub fn of(text: &str) -> Self {
        let address = text.parse().map(Place::Port).or_else(|_| text.parse().map(Place::Host));
        address.unwrap_or_else(|_| Place::Pod(text.into()))
    }

    fn is(&self, address: SocketAddr, pod: Option<&str>) -> bool {
        match self {
            Place::Port(wanted) => *wanted == address,
            Place::Host(wanted) => *wanted == address.ip(),
            Place::Pod(wanted) => pod == Some(wanted),
        }
    }
}

/// How much a tunnel has of what is asked for.
fn rank(sort: Sort, entry: &Entry) -> u64 {
    let both = |of: fn(&Entry, Side) -> u64| Side::ALL.into_iter().map(|side| of(entry, side)).sum();
    match sort {
        Sort::Age => u64::MAX - entry.id,
        Sort::Bytes => both(Entry::bytes),
        Sort::Idle => u64::from(u32::MAX - entry.active().0),
        Sort::Frames => both(Entry::frames),
        Sort::Rtt => entry.rtt().map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
    }
}

/// The place of a tunnel in an order, which a page ends with and the next one begins after. By age it means the same whatever opens and ends
/// meanwhile; by what moves, a tunnel that overtakes the reader may be missed or seen again, and no other is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    rank: Reverse<u64>,
    id: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.rank.0, self.id)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (rank, id) = text.split_once('.').ok_or(())?;
        Ok(Self { rank: Reverse(rank.parse().map_err(drop)?), id: id.parse().map_err(drop)? })
    }
}

impl Registry {
    /// At most `limit` of the tunnels that are meant, the first of them behind `after`.
    pub fn page(&self, selection: &Selection, sort: Sort, after: Option<Position>, limit: usize) -> Page {
        let now = self.now();
        let (mut open, mut matching) = (0, 0);
        let mut first: BTreeMap<Position, Arc<Entry>> = BTreeMap::new();
        let mut more = false;
        self.each(|entry| {
            open += 1;
            if !selection.takes(&entry, now) {
                return;
            }
            matching += 1;
            let at = Position { rank: Reverse(rank(sort, &entry)), id: entry.id };
            if after.is_some_and(|after| at <= after) {
                return;
            }
            first.insert(at, entry);
            if first.len() > limit {
                first.pop_last();
                more = true;
            }
        });
        let next = first.last_key_value().filter(|_| more).map(|(at, _)| at.to_string());
        Page { open, matching, next, tunnels: first.values().map(|entry| row(entry, now)).collect() }
    }

    /// Marks the tunnels that are meant to be closed evenly over a time, the oldest first, and wakes them. Returns how many there are.
    pub fn close(&self, selection: &Selection, over: Duration, reason: Reason) -> usize {
        let now = self.now();
        let mut meant = Vec::new();
        self.each(|entry| {
            if selection.takes(&entry, now) {
                meant.push(entry);
            }
        });
        self.give_turns(&Order::spread(Filter::default(), over, reason), meant)
    }

    /// Every open tunnel, in the order they were opened.
    #[cfg(test)]
    pub(super) fn list(&self) -> Vec<Row> {
        self.page(&Selection::default(), Sort::Age, None, usize::MAX).tunnels
    }
}

impl Selection {
    fn takes(&self, entry: &Entry, now: Tick) -> bool {
        let Identity { route, label, lease, client, .. } = &entry.identity;
        let endpoint = lease.endpoint();
        let pod = || endpoint.pod.as_deref().map(|pod| &*pod.name);
        self.route.as_ref().is_none_or(|wanted| wanted == route)
            && self.namespace.as_deref().is_none_or(|wanted| wanted == &*route.namespace)
            && self.location.as_deref().is_none_or(|wanted| wanted == &**label)
            && self.service.as_ref().is_none_or(|wanted| wanted.is(&endpoint.key.pool))
            && self.endpoint.as_ref().is_none_or(|wanted| wanted.is(endpoint.key.address, pod()))
            && self.client.is_none_or(|wanted| wanted.contains(&client.ip().to_canonical()))
            && self.state.is_none_or(|wanted| wanted == state(entry))
            && self.reason.is_none_or(|wanted| ordered(entry).is_some_and(|(_, reason)| reason == wanted))
            && now.since(entry.opened) >= self.min_age
            && now.since(entry.active()) >= self.min_idle
            && (self.min_bytes == 0 || rank(Sort::Bytes, entry) >= self.min_bytes)
    }
}

fn state(entry: &Entry) -> State {
    match entry.state() {
        entry::State::Closing => State::Closing,
        entry::State::Open if ordered(entry).is_some() => State::Ordered,
        entry::State::Open => State::Open,
    }
}

/// When it is to be closed by us, and why.
fn ordered(entry: &Entry) -> Option<(Tick, Reason)> {
    Some((entry.slot(), entry.ordered().reason)).filter(|(slot, _)| *slot != Tick::NEVER)
}

fn row(entry: &Entry, now: Tick) -> Row {
    let Identity { route, label, lease, client, .. } = &entry.identity;
    let endpoint = lease.endpoint();
    let state = state(entry);
    let ordered = ordered(entry);
    Row {
        id: entry.id,
        route: route.to_string(),
        location: String::from(&**label),
        service: endpoint.key.pool.to_string(),
        endpoint: endpoint.key.address,
        pod: endpoint.pod.as_deref().map(|pod| String::from(&*pod.name)),
        client: *client,
        age_seconds: now.since(entry.opened).as_secs_f64(),
        idle_seconds: now.since(entry.active()).as_secs_f64(),
        bytes_received: entry.bytes(Side::Client),
        bytes_sent: entry.bytes(Side::Backend),
        frames_received: entry.frames(Side::Client),
        frames_sent: entry.frames(Side::Backend),
        rtt_seconds: entry.rtt().map(|rtt| rtt.as_secs_f64()),
        state,
        reason: ordered.map(|(_, reason)| reason.label().into()),
        closes_in_seconds: ordered.filter(|_| state == State::Ordered).map(|(slot, _)| slot.since(now).as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::{
        balance::Lease,
        model::{EndpointKey, LocationKey},
        telemetry::AccessLog,
        tunnel::frame::Tally,
    };

    /// A registry with tunnels and no tasks.
    struct Crowd {
        registry: Arc<Registry>,
        entries: Vec<Arc<Entry>>,
    }

    impl Crowd {
        fn new() -> Self {
            Self { registry: Registry::new(AccessLog::off()), entries: Vec::new() }
        }

        fn open(&mut self, route: &str, last: u8) {
            let service = PoolKey::Service { service: ObjectRef::new("default", "chat"), port: "ws".into() };
            let identity = Identity {
                location: LocationKey { namespace: "default".into(), identity: "/ws".into() },
                route: ObjectRef::new("default", route),
                label: "/ws".into(),
                lease: Lease::detached(EndpointKey { pool: service, address: SocketAddr::from(([10, 0, 0, last], 80)) }),
                client: SocketAddr::from(([192, 0, 2, last], 5000)),
                slot: crate::balance::Slot::detached(),
                permit: Arc::new(()),
                metrics: Arc::default(),
                log: None,
            };
            self.entries.push(self.registry.enter(identity, Instant::now()));
        }

        fn moved(&self, index: usize, bytes: usize) {
            self.entries[index].meter(Side::Client, bytes, &Tally::default(), self.registry.now());
        }

        fn ids(&self, selection: &Selection, sort: Sort) -> Vec<u64> {
            self.registry.page(selection, sort, None, 100).tunnels.iter().map(|row| row.id).collect()
        }
    }

    fn all() -> Selection {
        Selection::default()
    }

    #[tokio::test(start_paused = true)]
    async fn every_filter_lets_through_what_it_names() {
        let mut crowd = Crowd::new();
        crowd.open("chat", 1);
        advance(Duration::from_secs(10)).await;
        crowd.open("shop", 2);
        crowd.open("chat", 3);
        advance(Duration::from_secs(10)).await;
        crowd.moved(0, 500);
        crowd.registry.close(&Selection { endpoint: Some(Place::of("10.0.0.3:80")), ..all() }, Duration::ZERO, Reason::Operator);
        for (selection, expected) in [
            (all(), &[1, 2, 3][..]),
            (Selection { route: Some(ObjectRef::new("default", "chat")), ..all() }, &[1, 3]),
            (Selection { namespace: Some("shop".into()), ..all() }, &[]),
            (Selection { location: Some("/ws".into()), ..all() }, &[1, 2, 3]),
            (Selection { service: Some(ServiceName("chat".into())), ..all() }, &[1, 2, 3]),
            (Selection { service: Some(ServiceName("default/chat:80".into())), ..all() }, &[]),
            (Selection { endpoint: Some(Place::of("10.0.0.2")), ..all() }, &[2]),
            (Selection { endpoint: Some(Place::of("chat-0")), ..all() }, &[]),
            (Selection { client: Some("192.0.2.2/31".parse().unwrap()), ..all() }, &[2, 3]),
            (Selection { state: Some(State::Open), ..all() }, &[1, 2]),
            (Selection { state: Some(State::Ordered), ..all() }, &[3]),
            (Selection { reason: Some(Reason::Operator), ..all() }, &[3]),
            (Selection { reason: Some(Reason::Shutdown), ..all() }, &[]),
            (Selection { min_age: Duration::from_secs(15), ..all() }, &[1]),
            (Selection { min_idle: Duration::from_secs(5), ..all() }, &[2, 3]),
            (Selection { min_bytes: 500, ..all() }, &[1]),
        ] {
            assert_eq!(crowd.ids(&selection, Sort::Age), expected, "{selection:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_row_has_most_of_what_is_asked_for() {
        let mut crowd = Crowd::new();
        (1..=3).for_each(|last| crowd.open("chat", last));
        advance(Duration::from_secs(1)).await;
        crowd.moved(1, 7);
        crowd.moved(2, 9);
        crowd.entries[1].answered(Duration::from_millis(3));
        assert_eq!(crowd.ids(&all(), Sort::Age), [1, 2, 3]);
        assert_eq!(crowd.ids(&all(), Sort::Bytes), [3, 2, 1]);
        assert_eq!(crowd.ids(&all(), Sort::Idle), [1, 2, 3]);
        assert_eq!(crowd.ids(&all(), Sort::Rtt), [2, 1, 3]);
        let rtts: Vec<_> = crowd.registry.list().iter().map(|row| row.rtt_seconds).collect();
        assert_eq!(rtts, [None, Some(0.003), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_says_what_its_tunnel_waits_for() {
        let mut crowd = Crowd::new();
        (1..=2).for_each(|last| crowd.open("chat", last));
        crowd.registry.close(&all(), Duration::from_secs(20), Reason::Operator);
        let rows = crowd.registry.list();
        let told: Vec<_> = rows.iter().map(|row| (row.state, row.reason.as_deref(), row.closes_in_seconds)).collect();
        assert_eq!(told, [(State::Ordered, Some("operator"), Some(0.0)), (State::Ordered, Some("operator"), Some(10.0))]);
        crowd.entries[0].closes(crowd.registry.now());
        let first = crowd.registry.list().swap_remove(0);
        assert_eq!((first.state, first.reason.as_deref(), first.closes_in_seconds), (State::Closing, Some("operator"), None));
    }

    #[tokio::test(start_paused = true)]
    async fn pages_neither_overlap_nor_miss_anybody_while_others_come_and_go() {
        let mut crowd = Crowd::new();
        (0..9).for_each(|last| crowd.open("chat", last));
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = crowd.registry.page(&all(), Sort::Age, after, 4);
            seen.extend(page.tunnels.iter().map(|row| row.id));
            crowd.registry.leave(&crowd.entries[0], None);
            crowd.open("chat", 100);
            match page.next {
                Some(next) if seen.len() < 9 => after = Some(next.parse().unwrap()),
                _ => break,
            }
        }
        assert_eq!(seen[..9], [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let last = crowd.registry.page(&all(), Sort::Bytes, None, 100);
        assert_eq!((last.next, last.open, last.matching), (None, 11, 11));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_hundred_thousand_only_the_page_is_built() {
        let mut crowd = Crowd::new();
        for index in 0..100_000_u32 {
            crowd.open(if index % 2 == 0 { "chat" } else { "shop" }, index as u8);
        }
        let shop = Selection { route: Some(ObjectRef::new("default", "shop")), ..all() };
        let page = crowd.registry.page(&shop, Sort::Age, None, 3);
        assert_eq!((page.open, page.matching, page.tunnels.len()), (100_000, 50_000, 3));
        assert_eq!(crowd.registry.close(&shop, Duration::from_secs(100), Reason::Operator), 50_000);
        let ordered = Selection { state: Some(State::Ordered), ..all() };
        let page = crowd.registry.page(&ordered, Sort::Age, None, 0);
        assert_eq!((page.matching, page.tunnels.len(), page.next), (50_000, 0, None));
    }
}
