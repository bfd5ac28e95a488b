//! After endpoints were added: which tunnels of the busiest ones are told to come back, so that the new ones get their share.
//!
//! [`plan`] and [`Levelling`] are pure: they are told what lies where and what time it is. They never touch a tunnel; [`run`], which `app`
//! starts beside the listeners, tells the registry.
//!
//! Why it ends, whatever clients do: only tunnels that are older than the addition may go, so that nobody is moved twice for one; and no more
//! go than there were too many when it was made.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    live::Live,
    model::{
        LocationKey, PoolKey, Table,
        route::{Backend, Rebalance},
        upstream::{EndpointState, Pod},
    },
    tunnel::{Berth, Registry},
};

/// How often somebody is told.
const STEP: Duration = Duration::from_secs(1);
/// A client that was told is counted as on its way for so long: it lies nowhere, and needs a place.
const RETURNING: Duration = Duration::from_secs(30);

/// What the locations of a pool allow; tunnels of others are counted and left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consent(BTreeMap<LocationKey, Rebalance>);

impl Consent {
    /// What these locations allow.
    pub fn new(locations: impl IntoIterator<Item = (LocationKey, Rebalance)>) -> Self {
        Self(locations.into_iter().collect())
    }

    /// Whether a tunnel may go. It must be older than the addition: one that came after it could choose.
    fn lets_go(&self, berth: &Berth, since: Instant, now: Instant) -> bool {
        self.0.get(&berth.location).is_some_and(|rebalance| berth.opened < since && now >= berth.opened + rebalance.min_age)
    }

    /// Whether a tunnel may go, now or later.
    fn concerns(&self, berth: &Berth, since: Instant) -> bool {
        berth.opened < since && self.0.contains_key(&berth.location)
    }

    /// The part of an endpoint's tunnels that may go in a second: the smallest that a location allows.
    fn per_second(&self) -> f64 {
        let percent = self.0.values().map(|rebalance| rebalance.max_percent_per_minute).min().unwrap_or(0);
        f64::from(percent) / 100.0 / 60.0
    }
}

/// How many tunnels each of these endpoints has beyond its fair share of all; `returning` are on their way to some endpoint.
pub fn surplus(ready: &BTreeSet<SocketAddr>, berths: &[Berth], returning: usize) -> BTreeMap<SocketAddr, usize> {
    let mut counts: BTreeMap<SocketAddr, usize> = ready.iter().map(|address| (*address, 0)).collect();
    berths.iter().for_each(|berth| _ = counts.entry(berth.endpoint).and_modify(|count| *count += 1));
    let all = counts.values().sum::<usize>() + returning;
    let Some(fair) = all.checked_div(counts.len()) else { return counts };
    let mut busiest: Vec<_> = counts.into_iter().collect();
    busiest.sort_by_key(|(address, count)| (usize::MAX - count, *address));
    // What does not divide stays with the busiest.
    let one_more = all - fair * busiest.len();
    let share = |rank: usize| fair + usize::from(rank < one_more);
    busiest.into_iter().enumerate().map(|(rank, (address, count))| (address, count.saturating_sub(share(rank)))).collect()
}

/// Who goes: of each endpoint the oldest that may, no more than its surplus, nor than `allowance` says; `most` in all, the larger surplus first.
pub fn plan(
    surplus: &BTreeMap<SocketAddr, usize>,
    berths: &[Berth],
    may_go: impl Fn(&Berth) -> bool,
    allowance: impl Fn(SocketAddr) -> usize,
    most: usize,
) -> Vec<Berth> {
    let mut busiest: Vec<_> = surplus.iter().filter(|(_, surplus)| **surplus > 0).collect();
    busiest.sort_by_key(|(address, surplus)| (usize::MAX - **surplus, **address));
    let oldest_of = |(address, surplus): (&SocketAddr, &usize)| {
        let (address, going) = (*address, (*surplus).min(allowance(*address)));
        let mut theirs: Vec<&Berth> = berths.iter().filter(|berth| berth.endpoint == address && may_go(berth)).collect();
        theirs.sort_by_key(|berth| (berth.opened, berth.id));
        theirs.truncate(going);
        theirs
    };
    busiest.into_iter().flat_map(oldest_of).take(most).cloned().collect()
}

/// One pool that endpoints were added to, until it is even again.
#[derive(Debug)]
pub struct Levelling {
    /// When the last endpoint was added.
    since: Instant,
    /// How many may still go; not known before the first step.
    left: Option<usize>,
    /// By endpoint, how many may go now.
    credit: BTreeMap<SocketAddr, f64>,
    stepped: Instant,
    /// How many were told, and when.
    told: VecDeque<(Instant, usize)>,
    over: bool,
}

impl Levelling {
    /// Begins when an endpoint is added.
    pub fn begin(now: Instant) -> Self {
        Self { since: now, left: None, credit: BTreeMap::new(), stepped: now, told: VecDeque::new(), over: false }
    }

    /// Another endpoint was added: the surplus is another one, and the pace stays.
    pub fn added(&mut self, now: Instant) {
        self.since = now;
        self.left = None;
    }

    /// Whether nobody goes any more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Who goes now, of the tunnels of the pool, the oldest first.
    pub fn step(&mut self, ready: &BTreeSet<SocketAddr>, berths: &[Berth], consent: &Consent, now: Instant) -> Vec<Berth> {
        while self.told.front().is_some_and(|(at, _)| *at + RETURNING <= now) {
            self.told.pop_front();
        }
        let returning = self.told.iter().map(|(_, told)| told).sum();
        let surplus = surplus(ready, berths, returning);
        self.earn(berths, consent, now);
        let left = *self.left.get_or_insert_with(|| surplus.values().sum());
        let allowance = |address| self.credit.get(&address).map_or(0, |credit| *credit as usize);
        let going = plan(&surplus, berths, |berth| consent.lets_go(berth, self.since, now), allowance, left);
        for berth in &going {
            self.credit.entry(berth.endpoint).and_modify(|credit| *credit -= 1.0);
        }
        if !going.is_empty() {
            self.told.push_back((now, going.len()));
        }
        self.left = Some(left - going.len());
        let somebody = berths
            .iter()
            .any(|berth| surplus.get(&berth.endpoint).is_some_and(|surplus| *surplus > 0) && consent.concerns(berth, self.since));
        self.over = left == going.len() || (!somebody && self.told.is_empty());
        going
    }

    /// Each endpoint earns a part of its tunnels for the time that has passed. What is not used is not saved, but for a part of one.
    fn earn(&mut self, berths: &[Berth], consent: &Consent, now: Instant) {
        let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        berths.iter().for_each(|berth| *counts.entry(berth.endpoint).or_default() += 1);
        let passed = now.saturating_duration_since(self.stepped).as_secs_f64();
        self.stepped = now;
        self.credit.retain(|address, _| counts.contains_key(address));
        for (address, count) in counts {
            let earned = count as f64 * consent.per_second() * passed;
            let credit = self.credit.entry(address).or_default();
            *credit = (*credit + earned).min(earned + 1.0);
        }
    }
}

/// Tells tunnels to move for as long as configurations come.
pub async fn run(live: Arc<Live>, registry: Arc<Registry>) {
    let mut generation = live.subscribe();
    let mut pools = Pools::default();
    loop {
        pools.update(&live.load().table, Instant::now());
        tokio::select! {
            changed = generation.changed() => if changed.is_err() { return },
            () = sleep(STEP), if pools.any_uneven() => pools.step(&registry, Instant::now()),
        }
    }
}

/// The pools whose locations want to be rebalanced.
#[derive(Debug, Default)]
struct Pools(BTreeMap<PoolKey, Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// Who takes new tunnels; another Pod at the same address is another endpoint.
    ready: BTreeMap<SocketAddr, Option<Arc<Pod>>>,
    consent: Consent,
    levelling: Option<Levelling>,
}

impl Pools {
    fn update(&mut self, table: &Table, now: Instant) {
        let consents = consents(table);
        self.0.retain(|pool, _| consents.contains_key(pool));
        for (pool, consent) in consents {
            let endpoints = table.pools.get(&pool).map(|spec| spec.endpoints.as_slice()).unwrap_or_default();
            let ready = endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Ready);
            let ready: BTreeMap<_, _> = ready.map(|endpoint| (endpoint.address, endpoint.pod.clone())).collect();
            let known = self.0.contains_key(&pool);
            let watched = self.0.entry(pool).or_default();
            if known && ready.iter().any(|(address, pod)| watched.ready.get(address) != Some(pod)) {
                watched.levelling.get_or_insert_with(|| Levelling::begin(now)).added(now);
            }
            watched.ready = ready;
            watched.consent = consent;
        }
    }

    fn any_uneven(&self) -> bool {
        self.0.values().any(|watched| watched.levelling.is_some())
    }

    fn step(&mut self, registry: &Registry, now: Instant) {
        let uneven = self.0.iter().filter(|(_, watched)| watched.levelling.is_some()).map(|(pool, _)| pool.clone()).collect();
        let berths = registry.berths(&uneven);
        for (pool, watched) in &mut self.0 {
            let Some(levelling) = &mut watched.levelling else { continue };
            let ready = watched.ready.keys().copied().collect();
            let going = levelling.step(&ready, berths.get(pool).map(Vec::as_slice).unwrap_or_default(), &watched.consent, now);
            if !going.is_empty() {
                let told = registry.move_on(&going.iter().map(|berth| berth.id).collect(), STEP);
                tracing::debug!(%pool, tunnels = told, "tunnels of the busiest endpoints are moved");
            }
            if levelling.is_over() {
                watched.levelling = None;
            }
        }
    }
}

/// The pools that a location wants to be rebalanced, and what each of their locations allows.
fn consents(table: &Table) -> BTreeMap<PoolKey, Consent> {
    let mut consents: BTreeMap<PoolKey, Consent> = BTreeMap::new();
    let mut consent = |key: &LocationKey, backends: &[Backend], rebalance: Option<Rebalance>| {
        let Some(rebalance) = rebalance else { return };
        for backend in backends {
            consents.entry(backend.pool.clone()).or_default().0.insert(key.clone(), rebalance);
        }
    };
    for location in table.hosts.iter().flat_map(|host| &host.locations) {
        if let Some(proxy) = location.proxy() {
            consent(&location.key, &proxy.backends, proxy.rebalance);
        }
    }
    for route in table.tcp.values().flatten() {
        consent(&route.key, &route.backends, route.rebalance);
    }
    consents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ObjectRef,
        table::TcpPort,
        tcp::TcpRoute,
        upstream::{EndpointSpec, PoolSpec},
    };

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn location() -> LocationKey {
        LocationKey { namespace: "default".into(), identity: "/ws".into() }
    }

    /// So many tunnels on each endpoint, opened one a second before `now`, in turns, the first the oldest.
    fn berths(counts: &[usize], now: Instant) -> Vec<Berth> {
        let most = counts.iter().copied().max().unwrap_or(0);
        let rounds = (0..most).flat_map(|round| (0..counts.len()).filter(move |endpoint| counts[*endpoint] > round));
        let all = counts.iter().sum::<usize>();
        let berth = |(id, endpoint): (usize, usize)| Berth {
            id: id as u64,
            endpoint: address(endpoint as u8),
            location: location(),
            opened: now - Duration::from_secs((all - id) as u64),
        };
        rounds.enumerate().map(berth).collect()
    }

    fn ready(endpoints: u8) -> BTreeSet<SocketAddr> {
        (0..endpoints).map(address).collect()
    }

    fn consent(percent: u8, min_age: u64) -> Consent {
        Consent::new([(location(), Rebalance { max_percent_per_minute: percent, min_age: Duration::from_secs(min_age) })])
    }

    fn surplus_of(counts: &[usize], returning: usize) -> Vec<usize> {
        let now = Instant::now() + Duration::from_secs(1_000);
        surplus(&ready(counts.len() as u8), &berths(counts, now), returning).into_values().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_surplus_is_what_is_beyond_the_fair_share() {
        assert_eq!(surplus_of(&[50, 50, 0], 0), [16, 17, 0], "what does not divide stays with the busiest");
        assert_eq!(surplus_of(&[4, 4, 2], 0), [0, 1, 0]);
        assert_eq!(surplus_of(&[4, 3, 3], 0), [0, 0, 0]);
        assert_eq!(surplus_of(&[30, 30, 0], 40), [0, 0, 0], "those on their way need a place, too");
        assert_eq!(surplus_of(&[], 3), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_go_and_never_more_than_the_surplus() {
        let now = Instant::now() + Duration::from_secs(1_000);
        let berths = berths(&[9, 3, 0], now);
        let over = surplus(&ready(3), &berths, 0);
        let going = plan(&over, &berths, |_| true, |_| usize::MAX, usize::MAX);
        assert_eq!(going.len(), 5);
        assert!(going.iter().all(|berth| berth.endpoint == address(0)));
        assert!(going.windows(2).all(|pair| pair[0].opened < pair[1].opened));
        assert_eq!(plan(&over, &berths, |_| true, |_| 2, usize::MAX).len(), 2);
        assert_eq!(plan(&over, &berths, |_| true, |_| 9, 3), going[..3]);
        assert_eq!(plan(&over, &berths, |berth| berth.id % 2 == 1, |_| 9, 9).len(), 3, "some may not");
    }

    #[tokio::test(start_paused = true)]
    async fn the_young_stay_and_those_that_came_after_the_addition() {
        let now = Instant::now() + Duration::from_secs(1_000);
        let berths = berths(&[20, 0], now);
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut levelling = Levelling::begin(now - Duration::from_secs(10));
        let going = levelling.step(&ready(2), &berths, &consent(100, 15), after(60));
        assert_eq!(going.len(), 10, "older than the addition, and than 15 s");
        let mut levelling = Levelling::begin(now - Duration::from_secs(18));
        let first = levelling.step(&ready(2), &berths, &consent(100, 0), after(60));
        assert_eq!(first.iter().map(|berth| berth.id).collect::<Vec<_>>(), [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_location_consents_to_is_counted_and_stays() {
        let now = Instant::now() + Duration::from_secs(1_000);
        let mut levelling = Levelling::begin(now);
        assert!(levelling.step(&ready(2), &berths(&[20, 0], now), &Consent::default(), now + STEP).is_empty());
        assert!(levelling.is_over());
    }

    fn table(endpoints: &[(u8, EndpointState)], rebalance: Option<Rebalance>) -> Table {
        let pool = PoolKey::Address("app:80".into());
        let route = TcpRoute {
            key: location(),
            route: ObjectRef::new("default", "edge"),
            backends: vec![Backend { pool: pool.clone(), weight: 1, tls: None }],
            rebalance,
            ..TcpRoute::plain("tcp:9000")
        };
        let endpoint = |(last, state): &(u8, EndpointState)| EndpointSpec::new(address(*last), *state);
        let spec = PoolSpec { endpoints: endpoints.iter().map(endpoint).collect() };
        Table { tcp: [(TcpPort::Number(9000), vec![Arc::new(route)])].into(), pools: [(pool, Arc::new(spec))].into(), ..Table::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_becomes_ready_begins_it_and_nothing_else_does() {
        use EndpointState::{Draining, NotReady, Ready};
        let wanted = Some(Rebalance { max_percent_per_minute: 5, min_age: Duration::ZERO });
        let mut pools = Pools::default();
        let mut after = |endpoints: &[(u8, EndpointState)], rebalance| {
            pools.update(&table(endpoints, rebalance), Instant::now());
            let begun = pools.any_uneven();
            pools.0.values_mut().for_each(|watched| watched.levelling = None);
            begun
        };
        assert!(!after(&[(1, Ready)], wanted), "the first configuration adds nothing");
        assert!(after(&[(1, Ready), (2, Ready)], wanted));
        assert!(!after(&[(1, Ready), (2, Ready)], wanted));
        assert!(!after(&[(1, Ready), (2, NotReady)], wanted));
        assert!(after(&[(1, Ready), (2, Ready)], wanted), "it is back");
        assert!(!after(&[(1, Draining), (2, Ready)], wanted));
        assert!(!after(&[(1, Ready), (2, Ready)], None));
    }
}
