//! What a new configuration means for the tunnels that are open: which of them are to end, and how gently.
//!
//! It never touches a tunnel: it compares two tables and gives orders to the registry. `app` runs [`run`] beside the listeners.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{
    live::{Live, Snapshot},
    model::{
        EndpointKey, LocationKey, PoolKey, Table,
        route::{Drain, OnRemoved},
        upstream::EndpointState,
    },
    tunnel::{Filter, Order, Reason, Registry},
};

/// What a terminating pod has left where nobody knows its deadline.
const UNKNOWN_DEADLINE: Duration = Duration::from_secs(10);
/// A location may be away this long: `kubectl replace`, or a move to another WsRoute.
const RETURN: Duration = Duration::from_secs(30);
/// Tunnels that have no deadline of their own are closed over this time.
const SPREAD: Duration = Duration::from_secs(30);

/// Gives orders for as long as configurations come.
pub async fn run(live: Arc<Live>, registry: Arc<Registry>) {
    let mut generation = live.subscribe();
    let mut last: Option<Arc<Snapshot>> = None;
    let mut away = Away::default();
    loop {
        let next = Arc::clone(&live.load());
        if last.as_ref().is_none_or(|last| last.generation != next.generation) {
            let empty = Table::default();
            let before = Listed::of(last.as_ref().map_or(&empty, |last| &last.table));
            let now = Listed::of(&next.table);
            let orders = before.until(&now);
            away.update(&before, &now, Instant::now());
            give(&registry, orders);
            last = Some(next);
        }
        tokio::select! {
            changed = generation.changed() => if changed.is_err() { return },
            () = away.next() => give(&registry, away.due(Instant::now())),
        }
    }
}

fn give(registry: &Registry, orders: Vec<Order>) {
    for order in orders {
        let told = registry.drain(&order);
        if told > 0 {
            tracing::info!(tunnels = told, reason = order.reason.label(), ?order.filter, "tunnels are drained");
        }
    }
}

/// What the locations of a table have for tunnels.
#[derive(Debug, Default)]
struct Listed<'a> {
    locations: BTreeMap<&'a LocationKey, Declared<'a>>,
    /// The locations that list a pool.
    users: BTreeMap<&'a PoolKey, BTreeSet<&'a LocationKey>>,
    endpoints: BTreeMap<&'a PoolKey, BTreeMap<std::net::SocketAddr, EndpointState>>,
}

/// All locations of one identity together: several WsRoutes of a namespace may declare it.
#[derive(Debug)]
struct Declared<'a> {
    pools: BTreeSet<&'a PoolKey>,
    drain: Drain,
}

impl<'a> Listed<'a> {
    fn of(table: &'a Table) -> Self {
        let mut listed = Self::default();
        for location in table.hosts.iter().flat_map(|host| &host.locations) {
            match location.proxy() {
                Some(proxy) => listed.declare(&location.key, &proxy.backends, proxy.drain),
                None => listed.declare(&location.key, &[], Drain::default()),
            }
        }
        for route in table.tcp.values().flatten() {
            listed.declare(&route.key, &route.backends, route.drain);
        }
        for (pool, spec) in &table.pools {
            listed.endpoints.insert(pool, spec.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.state)).collect());
        }
        listed
    }

    fn declare(&mut self, key: &'a LocationKey, backends: &'a [crate::model::route::Backend], drain: Drain) {
        let declared = self.locations.entry(key).or_insert(Declared { pools: BTreeSet::new(), drain });
        for backend in backends {
            declared.pools.insert(&backend.pool);
            self.users.entry(&backend.pool).or_default().insert(key);
        }
    }

    /// The orders that the step from this table to the next one asks for, but for locations that are gone.
    fn until(&self, next: &Self) -> Vec<Order> {
        self.terminating(next).chain(self.unlisted(next)).chain(self.removed(next)).collect()
    }

    /// Endpoints whose pod was told to go: a turn for each tunnel before it is killed, as its location says.
    fn terminating<'b>(&'b self, next: &'b Self) -> impl Iterator<Item = Order> + 'b {
        let newly = next.endpoints.iter().flat_map(move |(pool, endpoints)| {
            let before = self.endpoints.get(pool);
            let draining = endpoints.iter().filter(|(_, state)| **state == EndpointState::Draining);
            let new = draining.filter(move |(address, _)| before.and_then(|before| before.get(address)) != Some(&EndpointState::Draining));
            new.map(|(address, _)| EndpointKey { pool: (*pool).clone(), address: *address })
        });
        newly.flat_map(move |endpoint| {
            let users = next.users.get(&endpoint.pool).into_iter().flatten();
            users.filter_map(move |location| {
                let drain = &next.locations.get(*location)?.drain;
                let filter = Filter { location: Some((*location).clone()), endpoint: Some(endpoint.clone()), service: None };
                Some(Order::of_terminating(filter, drain, UNKNOWN_DEADLINE))
            })
        })
    }

    /// Services that a location listed and lists no more.
    fn unlisted<'b>(&'b self, next: &'b Self) -> impl Iterator<Item = Order> + 'b {
        self.locations.iter().filter_map(|(key, before)| Some((*key, before, next.locations.get(*key)?))).flat_map(|(key, before, now)| {
            let drains = now.drain.on_backend_removed == OnRemoved::Drain;
            let gone = before.pools.iter().filter(move |pool| drains && !now.pools.iter().any(|known| known.is_same_service(pool)));
            gone.map(move |pool| {
                let filter = Filter { location: Some(key.clone()), endpoint: None, service: Some((*pool).clone()) };
                spread(filter, &now.drain, Reason::BackendRemoved)
            })
        })
    }

    /// Endpoints that are no more among those of a pool that is, and were not terminating.
    fn removed<'b>(&'b self, next: &'b Self) -> impl Iterator<Item = Order> + 'b {
        self.endpoints.iter().filter_map(|(pool, before)| Some((*pool, before, next.endpoints.get(*pool)?))).flat_map(
            move |(pool, before, now)| {
                let gone = before.iter().filter(|(address, state)| **state != EndpointState::Draining && !now.contains_key(address));
                gone.flat_map(move |(address, _)| {
                    let users = next.users.get(pool).into_iter().flatten().filter_map(|key| Some((*key, next.locations.get(*key)?)));
                    users.filter(|(_, declared)| declared.drain.on_endpoint_removed == OnRemoved::Drain).map(|(key, declared)| {
                        let endpoint = EndpointKey { pool: pool.clone(), address: *address };
                        let filter = Filter { location: Some(key.clone()), endpoint: Some(endpoint), service: None };
                        spread(filter, &declared.drain, Reason::EndpointRemoved)
                    })
                })
            },
        )
    }
}

fn spread(filter: Filter, drain: &Drain, reason: Reason) -> Order {
    Order { max_per_second: drain.max_per_second, ..Order::spread(filter, SPREAD, reason) }
}

/// Locations that are gone and may come back.
#[derive(Debug, Default)]
struct Away(HashMap<LocationKey, (Instant, Drain)>);

impl Away {
    fn update(&mut self, before: &Listed<'_>, now: &Listed<'_>, at: Instant) {
        self.0.retain(|key, _| !now.locations.contains_key(key));
        for (key, declared) in before.locations.iter().filter(|(key, _)| !now.locations.contains_key(*key)) {
            if !declared.drain.keep_on_route_removed {
                self.0.insert((*key).clone(), (at + RETURN, declared.drain));
            }
        }
    }

    /// Done when one has been away for too long.
    async fn next(&self) {
        match self.0.values().map(|(due, _)| *due).min() {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    fn due(&mut self, now: Instant) -> Vec<Order> {
        let due = self.0.extract_if(|_, (due, _)| *due <= now);
        due.map(|(key, (_, drain))| spread(Filter { location: Some(key), ..Filter::default() }, &drain, Reason::RouteRemoved)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ObjectRef,
        balancing::Balancing,
        route::{Backend, DrainBy, TcpRoute, TcpTls},
        table::{HostPattern, TcpPort},
        upstream::{EndpointSpec, PoolSpec},
    };

    fn pool(service: &str) -> PoolKey {
        PoolKey::Service { service: ObjectRef::new("default", service), port: "80".into() }
    }

    fn location(name: &str) -> LocationKey {
        LocationKey { namespace: "default".into(), identity: name.into() }
    }

    /// A table of layer 4, whose routes are shorter to write: a location a name, with its services and how they drain.
    fn table(routes: &[(&str, &[&str], Drain)], pools: &[(&str, &[EndpointState])]) -> Table {
        let route = |(position, (name, services, drain)): (usize, &(&str, &[&str], Drain))| {
            let route = TcpRoute {
                key: location(name),
                route: ObjectRef::new("default", "edge"),
                label: (*name).into(),
                hosts: vec![HostPattern::Any],
                tls: TcpTls::None,
                backends: services.iter().map(|service| Backend { pool: pool(service), weight: 1, tls: None }).collect(),
                balancing: Balancing::default(),
                proxy_protocol: None,
                connect: Duration::from_secs(5),
                idle: None,
                access: Default::default(),
                limits: Default::default(),
                drain: *drain,
            };
            (TcpPort::Number(9000 + position as u16), vec![Arc::new(route)])
        };
        let endpoints = |states: &[EndpointState]| {
            let endpoint = |(last, state): (usize, &EndpointState)| EndpointSpec::new(address(last), *state);
            Arc::new(PoolSpec { endpoints: states.iter().enumerate().map(endpoint).collect() })
        };
        Table {
            tcp: routes.iter().enumerate().map(route).collect(),
            pools: pools.iter().map(|(service, states)| (pool(service), endpoints(states))).collect(),
            ..Table::default()
        }
    }

    fn address(last: usize) -> std::net::SocketAddr {
        std::net::SocketAddr::from(([10, 0, 0, last as u8], 80))
    }

    fn endpoint(service: &str, last: usize) -> EndpointKey {
        EndpointKey { pool: pool(service), address: address(last) }
    }

    fn orders(before: &Table, next: &Table) -> Vec<(Reason, Filter)> {
        let orders = Listed::of(before).until(&Listed::of(next));
        orders.into_iter().map(|order| (order.reason, order.filter)).collect()
    }

    const READY: EndpointState = EndpointState::Ready;
    const DRAINING: EndpointState = EndpointState::Draining;

    fn drains() -> Drain {
        Drain { on_endpoint_removed: OnRemoved::Drain, on_backend_removed: OnRemoved::Drain, ..Drain::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminating_endpoint_is_drained_once_for_each_location_as_that_says() {
        let slow = Drain { by: DrainBy::Application, ..Drain::default() };
        let routes: &[(&str, &[&str], Drain)] = &[("a", &["app"], Drain::default()), ("b", &["app", "other"], slow)];
        let before = table(routes, &[("app", &[READY, READY]), ("other", &[READY])]);
        let next = table(routes, &[("app", &[READY, DRAINING]), ("other", &[READY])]);
        let given = Listed::of(&before).until(&Listed::of(&next));
        let of = |name: &str| {
            let filter = Filter { location: Some(location(name)), endpoint: Some(endpoint("app", 1)), service: None };
            given.iter().find(|order| order.filter == filter && order.reason == Reason::Terminating).unwrap()
        };
        assert_eq!(given.len(), 2);
        assert!(of("a").from < of("b").from, "the application closes its own first");
        assert_eq!(orders(&next, &next), [], "told once");
        let gone = table(routes, &[("app", &[READY]), ("other", &[READY])]);
        assert_eq!(orders(&next, &gone), [], "and not again when it ends");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_edited_away_is_kept_unless_the_route_says_otherwise() {
        let pools: &[(&str, &[EndpointState])] = &[("blue", &[READY]), ("green", &[READY])];
        let keep =
            (table(&[("a", &["blue", "green"], Drain::default())], pools), table(&[("a", &["green"], Drain::default())], &pools[1..]));
        assert_eq!(orders(&keep.0, &keep.1), []);
        let drain = (table(&[("a", &["blue", "green"], drains())], pools), table(&[("a", &["green"], drains())], &pools[1..]));
        let filter = Filter { location: Some(location("a")), endpoint: None, service: Some(pool("blue")) };
        assert_eq!(orders(&drain.0, &drain.1), [(Reason::BackendRemoved, filter)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_leaves_while_its_pod_lives_is_kept_unless_the_route_says_otherwise() {
        let with = |drain, states: &[EndpointState]| table(&[("a", &["app"], drain)], &[("app", states)]);
        assert_eq!(orders(&with(Drain::default(), &[READY, READY]), &with(Drain::default(), &[READY])), []);
        let filter = Filter { location: Some(location("a")), endpoint: Some(endpoint("app", 1)), service: None };
        assert_eq!(orders(&with(drains(), &[READY, READY]), &with(drains(), &[READY])), [(Reason::EndpointRemoved, filter)]);
        let not_ready = EndpointState::NotReady;
        assert_eq!(orders(&with(drains(), &[READY, READY]), &with(drains(), &[READY, not_ready])), [], "flapping is no removal");
    }

    #[tokio::test(start_paused = true)]
    async fn a_location_has_half_a_minute_to_come_back() {
        let there = table(&[("a", &["app"], Drain::default())], &[("app", &[READY])]);
        let gone = Table::default();
        let (there, gone) = (Listed::of(&there), Listed::of(&gone));
        let mut away = Away::default();
        away.update(&there, &gone, Instant::now());
        assert!(away.due(Instant::now()).is_empty());
        away.update(&gone, &there, Instant::now());
        tokio::time::advance(RETURN).await;
        assert!(away.due(Instant::now()).is_empty(), "it came back");
        away.update(&there, &gone, Instant::now());
        away.next().await;
        let due = away.due(Instant::now());
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].reason, due[0].filter.location.clone()), (Reason::RouteRemoved, Some(location("a"))));
        let keep = table(&[("a", &["app"], Drain { keep_on_route_removed: true, ..Drain::default() })], &[]);
        away.update(&Listed::of(&keep), &gone, Instant::now());
        tokio::time::advance(RETURN * 2).await;
        assert!(away.due(Instant::now()).is_empty(), "kept");
    }
}
