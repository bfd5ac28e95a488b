use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::*;
use crate::{
    balance::{Ask, Purpose, Tried},
    model::{
        PoolKey,
        balancing::Balancing,
        route::{self, Drain, Match, PathPattern, Proxy, Timeouts, WebSocket},
        table::{Host, HostPattern, TcpPort},
        upstream::{EndpointSpec, EndpointState, PoolSpec},
    },
};

fn pool(service: &str) -> PoolKey {
    PoolKey::Service { service: ObjectRef::new("default", service), port: "80".into() }
}

fn location(name: &str, weights: &[(&str, u32)]) -> Arc<route::Location> {
    let proxy = Proxy {
        backends: weights.iter().map(|(service, weight)| Backend { pool: pool(service), weight: *weight, tls: None }).collect(),
        balancing: Balancing::default(),
        health: Default::default(),
        rewrite: None,
        host: None,
        timeouts: Timeouts { connect: Duration::from_secs(5), handshake: Duration::from_secs(15), response: None, idle: None, hold: None },
        websocket: WebSocket { subprotocols: Vec::new(), origins: Vec::new(), reconnect_code: 1012, max_age: None, frames: None },
        upgrades: Vec::new(),
        limits: Default::default(),
        drain: Drain::default(),
        rebalance: None,
    };
    Arc::new(route::Location {
        key: LocationKey { namespace: "default".into(), identity: name.into() },
        route: ObjectRef::new("default", "shop"),
        label: name.into(),
        path: PathPattern::Prefix(format!("/{name}").into()),
        matching: Match::default(),
        action: Action::Proxy(Box::new(proxy)),
        request_headers: route::HeaderEdits::default(),
        response_headers: route::HeaderEdits::default(),
        access: Default::default(),
    })
}

/// Services with this many endpoints each.
fn pools(services: &[(&str, u16)]) -> BTreeMap<PoolKey, Arc<PoolSpec>> {
    let endpoint = |port| EndpointSpec::new(([10, 0, 0, 1], port).into(), EndpointState::Ready);
    services
        .iter()
        .map(|(service, count)| (pool(service), Arc::new(PoolSpec { endpoints: (1..=*count).map(endpoint).collect() })))
        .collect()
}

fn table(locations: Vec<Arc<route::Location>>, services: &[(&str, u16)]) -> Table {
    let host = Host { listener: "default".into(), host: HostPattern::Any, tls: None, locations };
    Table { hosts: vec![host], pools: pools(services), ..Table::default() }
}

fn live() -> (Arc<Live>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    (Live::new(Balancer::new(), metrics.clone()), metrics)
}

/// The location of this name.
fn served(live: &Live, name: &str) -> Arc<Served> {
    live.load().served.iter().find(|served| *served.location.spec.label == *name).unwrap().clone()
}

#[test]
fn the_generation_moves_only_when_the_meaning_does() {
    let (live, metrics) = live();
    let generation = live.subscribe();
    assert_eq!((live.load().generation, *generation.borrow()), (0, 0));
    let one = || table(vec![location("a", &[("app", 1)])], &[("app", 2)]);
    assert_eq!(live.publish(one()), Some(1));
    let before = live.load().clone();
    assert_eq!(live.publish(one()), None);
    assert!(Arc::ptr_eq(&before, &live.load()));
    assert_eq!(live.publish(table(vec![location("b", &[("app", 1)])], &[("app", 2)])), Some(2));
    assert_eq!((live.load().generation, *generation.borrow(), metrics.router_compilations.get()), (2, 2, 2));
}

#[test]
fn the_first_table_is_published_even_if_it_serves_nothing() {
    let (live, _) = live();
    assert_eq!((live.publish(Table::default()), live.publish(Table::default())), (Some(1), None));
}

#[test]
fn what_stands_beside_the_table_needs_no_generation() {
    let (live, metrics) = live();
    let one = || table(vec![location("a", &[("app", 1)])], &[("app", 2)]);
    live.publish(one());
    let (before, mut generation, mut replaced) = (live.load().clone(), live.subscribe(), live.replaced());
    generation.mark_unchanged();
    replaced.mark_unchanged();
    let bygone = || Bygone { pools: pools(&[("old", 1)]), ..Bygone::default() };
    assert_eq!(live.publish_beside(one(), bygone()), None);
    assert!(!generation.has_changed().unwrap() && replaced.has_changed().unwrap());
    replaced.mark_unchanged();
    assert_eq!(live.publish_beside(one(), bygone()), None);
    assert!(!replaced.has_changed().unwrap(), "nothing is different");
    let now = live.load().clone();
    assert_eq!(*now.bygone, bygone());
    assert!(Arc::ptr_eq(&before.router, &now.router) && Arc::ptr_eq(&before.served[0], &now.served[0]));
    assert_eq!(metrics.router_compilations.get(), 1);
    let lease = now.served[0].target.as_ref().unwrap().pick(&Ask::anyone(Instant::now(), Purpose::Request), &Tried::default()).unwrap();
    assert_eq!(live.held(), [pool("app")].into());
    drop(lease);
    assert_eq!(live.held(), [].into());
}

#[test]
fn a_change_of_endpoints_alone_keeps_the_router_and_what_it_does_not_concern() {
    let (live, metrics) = live();
    let locations = || vec![location("a", &[("app", 1)]), location("b", &[("other", 1)])];
    live.publish(table(locations(), &[("app", 1), ("other", 1)]));
    let (before, a, b) = (live.load().clone(), served(&live, "a"), served(&live, "b"));
    assert_eq!(live.publish(table(locations(), &[("app", 2), ("other", 1)])), Some(2));
    assert!(Arc::ptr_eq(&before.router, &live.load().router));
    assert_eq!(metrics.router_compilations.get(), 1);
    assert!(Arc::ptr_eq(&b, &served(&live, "b")));
    let now = served(&live, "a");
    assert!(!Arc::ptr_eq(&a, &now) && Arc::ptr_eq(&a.location, &now.location) && Arc::ptr_eq(&a.metrics, &now.metrics));
}

#[test]
fn a_change_of_one_location_keeps_the_others_and_its_counters() {
    let (live, metrics) = live();
    let services = [("app", 1), ("other", 1)];
    live.publish(table(vec![location("a", &[("app", 1)]), location("b", &[("other", 1)])], &services));
    let (a, b) = (served(&live, "a"), served(&live, "b"));
    let lease = a.target.as_ref().unwrap().pick(&Ask::anyone(Instant::now(), Purpose::Request), &Tried::default()).unwrap();
    live.publish(table(vec![location("b", &[("other", 1)]), location("a", &[("other", 1), ("app", 1)])], &services));
    assert_eq!(metrics.router_compilations.get(), 2);
    assert!(Arc::ptr_eq(&b, &served(&live, "b")));
    let now = served(&live, "a");
    assert!(Arc::ptr_eq(&a.metrics, &now.metrics));
    let open: u32 = now.target.as_ref().unwrap().pools().flat_map(|(_, pool)| pool.unwrap().ready()).map(|endpoint| endpoint.open()).sum();
    assert_eq!((open, lease.endpoint().open()), (1, 1));
}

#[test]
fn turns_go_on_over_every_swap() {
    let (live, _) = live();
    let split = location("a", &[("app", 3), ("canary", 1)]);
    let mut canary = Vec::new();
    for n in 0..12 {
        let other = location("b", &[("app", n)]);
        live.publish(table(vec![split.clone(), other], &[("app", 1 + u16::try_from(n).unwrap() % 2), ("canary", 1)]));
        let lease =
            served(&live, "a").target.as_ref().unwrap().pick(&Ask::anyone(Instant::now(), Purpose::Request), &Tried::default()).unwrap();
        if lease.endpoint().key.pool == pool("canary") {
            canary.push(n);
        }
    }
    assert_eq!(canary, [3, 7, 11]);
}

#[test]
fn layer_four_is_served_by_the_index_of_the_router() {
    let (live, _) = live();
    let route = |name: &str, service: &str| {
        Arc::new(TcpRoute {
            route: ObjectRef::new("default", "db"),
            backends: vec![Backend { pool: pool(service), weight: 1, tls: None }],
            ..TcpRoute::plain(name)
        })
    };
    let (one, two) = (TcpPort::Number(9000), TcpPort::Number(9001));
    let tcp = BTreeMap::from([(one.clone(), vec![route("one", "app")]), (two.clone(), vec![route("two", "other")])]);
    live.publish(Table { tcp: tcp.clone(), pools: pools(&[("app", 1), ("other", 1)]), ..Table::default() });
    let before = live.load().clone();
    assert_eq!(*before.tcp[before.router.tcp(&two, None).unwrap()].route.label, *"two");
    live.publish(Table { tcp, pools: pools(&[("app", 1), ("other", 2)]), ..Table::default() });
    let now = live.load().clone();
    let same =
        |port: &TcpPort| Arc::ptr_eq(&before.tcp[before.router.tcp(port, None).unwrap()], &now.tcp[now.router.tcp(port, None).unwrap()]);
    assert!(same(&one) && !same(&two));
}
