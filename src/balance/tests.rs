use std::{net::SocketAddr, thread};

use super::*;
use crate::model::{
    ObjectRef,
    route::{Backend, Policy},
    upstream::Pod,
};

const POLICY: Policy = Policy::LeastConnections;

fn pool_key(service: &str) -> PoolKey {
    PoolKey::Service { service: ObjectRef::new("default", service), port: "80".into() }
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], u16::try_from(n).unwrap()))
}

/// A table of pools, each with endpoints in these states.
fn table(pools: &[(&str, &[(usize, EndpointState)])]) -> Table {
    let endpoint = |(n, state): &(usize, EndpointState)| EndpointSpec { address: address(*n), state: *state, pod: None };
    let pool = |(service, endpoints): &(&str, &[(usize, EndpointState)])| {
        (pool_key(service), Arc::new(PoolSpec { endpoints: endpoints.iter().map(endpoint).collect() }))
    };
    Table { pools: pools.iter().map(pool).collect(), ..Table::default() }
}

fn ready(count: usize) -> Vec<(usize, EndpointState)> {
    (1..=count).map(|n| (n, EndpointState::Ready)).collect()
}

fn backends(weights: &[(&str, u32)]) -> Vec<Backend> {
    weights.iter().map(|(service, weight)| Backend { pool: pool_key(service), weight: *weight, tls: None }).collect()
}

fn pick(target: &Target) -> Lease {
    target.pick(&Tried::default()).unwrap()
}

fn port(lease: &Lease) -> u16 {
    lease.endpoint().key.address.port()
}

#[test]
fn weights_split_requests_whatever_the_number_of_endpoints() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(1)), ("canary", &ready(20))]));
    let target = Target::build(&backends(&[("app", 9), ("canary", 1)]), POLICY, &pools, None);
    let picked: Vec<_> = (0..50).map(|_| pick(&target).endpoint().key.pool.clone()).collect();
    for round in picked.chunks(10) {
        assert_eq!(round.iter().filter(|pool| **pool == pool_key("canary")).count(), 1);
    }
}

#[test]
fn a_service_without_a_ready_endpoint_gives_its_share_to_the_others() {
    let balancer = Balancer::new();
    let resting = [(1, EndpointState::Draining), (2, EndpointState::NotReady)];
    let pools = balancer.reconcile(&table(&[("app", &resting), ("one", &ready(1)), ("two", &ready(1))]));
    let target = Target::build(&backends(&[("app", 98), ("one", 1), ("two", 1), ("gone", 5)]), POLICY, &pools, None);
    let picked: Vec<_> = (0..10).map(|_| pick(&target).endpoint().key.pool.clone()).collect();
    assert_eq!(picked.iter().filter(|pool| **pool == pool_key("one")).count(), 5);
    assert_eq!(picked.iter().filter(|pool| **pool == pool_key("two")).count(), 5);
}

#[test]
fn the_reason_for_no_endpoint_is_told() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(1)), ("empty", &[])]));
    let build = |weights: &[(&str, u32)]| Target::build(&backends(weights), POLICY, &pools, None);
    let why = |target: &Target, tried: &Tried| target.pick(tried).unwrap_err();
    assert_eq!(why(&build(&[]), &Tried::default()), PickError::NoBackends);
    assert_eq!(why(&build(&[("app", 0)]), &Tried::default()), PickError::NoBackends);
    assert_eq!(why(&build(&[("empty", 1), ("gone", 1), ("app", 0)]), &Tried::default()), PickError::NoReadyEndpoint);
    let target = build(&[("app", 1), ("empty", 1)]);
    let mut tried = Tried::default();
    tried.add(pick(&target).endpoint());
    assert_eq!(why(&target, &tried), PickError::AllTried);
}

#[test]
fn tried_endpoints_are_passed_over_and_other_services_come_last() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(3)), ("other", &ready(2))]));
    for policy in [Policy::LeastConnections, Policy::RoundRobin] {
        let target = Target::build(&backends(&[("other", 1), ("app", 100)]), policy, &pools, None);
        drop(pick(&target));
        let mut tried = Tried::default();
        let mut services = Vec::new();
        for _ in 0..5 {
            let lease = target.pick(&tried).unwrap();
            services.push(lease.endpoint().key.pool.clone());
            tried.add(lease.endpoint());
        }
        let (app, other) = (pool_key("app"), pool_key("other"));
        assert_eq!(services, [app.clone(), app.clone(), app, other.clone(), other]);
        assert_eq!((tried.len(), target.pick(&tried).unwrap_err()), (5, PickError::AllTried));
    }
}

#[test]
fn retries_take_no_turn() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(4)), ("canary", &ready(4))]));
    let target = Target::build(&backends(&[("app", 1), ("canary", 1)]), POLICY, &pools, None);
    for expected in ["app", "canary", "app", "canary"] {
        let mut tried = Tried::default();
        for _ in 0..3 {
            let lease = target.pick(&tried).unwrap();
            assert_eq!(lease.endpoint().key.pool, pool_key(expected));
            tried.add(lease.endpoint());
        }
    }
}

#[test]
fn the_fewest_open_leases_win() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(5))]));
    let target = Target::build(&backends(&[("app", 1)]), POLICY, &pools, None);
    let mut leases: Vec<_> = (0..20).map(|_| pick(&target)).collect();
    assert!(pools[&pool_key("app")].ready().iter().all(|endpoint| endpoint.open() == 4));
    let freed = leases.swap_remove(7).endpoint().clone();
    assert_eq!(freed.open(), 3);
    assert!(Arc::ptr_eq(pick(&target).endpoint(), &freed));
}

#[test]
fn ties_are_broken_at_random() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(4))]));
    let target = Target::build(&backends(&[("app", 1)]), POLICY, &pools, None);
    fastrand::seed(7);
    let mut counts = [0; 4];
    for _ in 0..4000 {
        counts[usize::from(port(&pick(&target))) - 1] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn round_robin_goes_one_after_the_other() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(3))]));
    let target = Target::build(&backends(&[("app", 1)]), Policy::RoundRobin, &pools, None);
    let ports: Vec<_> = (0..6).map(|_| port(&pick(&target))).collect();
    assert_eq!(ports, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn picks_of_many_threads_spread_and_are_split_exactly() {
    const THREADS: usize = 8;
    const EACH: usize = 500;
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(10)), ("canary", &ready(2))]));
    let target = Target::build(&backends(&[("app", 3), ("canary", 1)]), POLICY, &pools, None);
    let leases: Vec<Lease> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| (0..EACH).map(|_| pick(&target)).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let open = |service: &str| pools[&pool_key(service)].ready().iter().map(|endpoint| endpoint.open()).collect::<Vec<_>>();
    assert_eq!(open("app").iter().sum::<u32>(), 3000);
    assert_eq!(open("canary").iter().sum::<u32>(), 1000);
    for (counts, fair) in [(open("app"), 300), (open("canary"), 500)] {
        // Each thread can be overtaken often enough to take an endpoint that is no longer the emptiest, but only then.
        assert!(counts.iter().all(|count| count.abs_diff(fair) <= 8), "{counts:?}");
    }
    drop(leases);
    assert!(open("app").iter().chain(&open("canary")).all(|open| *open == 0));
}

#[test]
fn counters_survive_every_table() {
    let balancer = Balancer::new();
    let before = balancer.reconcile(&table(&[("app", &ready(2))]));
    let target = Target::build(&backends(&[("app", 1)]), POLICY, &before, None);
    let leases = [pick(&target), pick(&target)];
    leases[0].endpoint().failed();
    let after = balancer.reconcile(&table(&[("app", &ready(3))]));
    let ready = after[&pool_key("app")].ready();
    assert_eq!(ready.iter().map(|endpoint| endpoint.open()).collect::<Vec<_>>(), [1, 1, 0]);
    assert_eq!(ready.iter().map(|endpoint| endpoint.failures()).sum::<u64>(), 1);
    assert!(Arc::ptr_eq(&before[&pool_key("app")].ready()[0], &ready[0]));
}

#[test]
fn an_endpoint_that_comes_back_still_has_its_leases() {
    let balancer = Balancer::new();
    let with = table(&[("app", &ready(1))]);
    let pools = balancer.reconcile(&with);
    let lease = pick(&Target::build(&backends(&[("app", 1)]), POLICY, &pools, None));
    drop(pools);
    balancer.reconcile(&table(&[("app", &[])]));
    balancer.reconcile(&Table::default());
    let pools = balancer.reconcile(&with);
    assert!(Arc::ptr_eq(&pools[&pool_key("app")].ready()[0], lease.endpoint()));
    assert_eq!(lease.endpoint().open(), 1);
}

#[test]
fn another_pod_at_the_same_address_is_another_endpoint() {
    let balancer = Balancer::new();
    let of_pod = |pod: &str| {
        let endpoint = EndpointSpec {
            address: address(1),
            state: EndpointState::Ready,
            pod: Some(Arc::new(Pod { name: "app-0".into(), uid: pod.into() })),
        };
        Table { pools: BTreeMap::from([(pool_key("app"), Arc::new(PoolSpec { endpoints: vec![endpoint] }))]), ..Table::default() }
    };
    let lease = pick(&Target::build(&backends(&[("app", 1)]), POLICY, &balancer.reconcile(&of_pod("app-1")), None));
    let pools = balancer.reconcile(&of_pod("app-2"));
    let new = &pools[&pool_key("app")].ready()[0];
    assert_eq!((new.open(), lease.endpoint().open()), (0, 1));
    assert_ne!(new.number, lease.endpoint().number);
}

#[test]
fn a_draining_endpoint_keeps_its_leases_and_takes_nothing_new() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &[(1, EndpointState::Ready)])]));
    let lease = pick(&Target::build(&backends(&[("app", 1)]), POLICY, &pools, None));
    let pools = balancer.reconcile(&table(&[("app", &[(1, EndpointState::Draining), (2, EndpointState::Ready)])]));
    let target = Target::build(&backends(&[("app", 1)]), POLICY, &pools, None);
    assert!((0..20).all(|_| port(&pick(&target)) == 2));
    assert!(pools[&pool_key("app")].endpoints().any(|endpoint| Arc::ptr_eq(endpoint, lease.endpoint())));
}

#[test]
fn numbers_are_given_away_again_only_when_nobody_holds_the_endpoint() {
    let balancer = Balancer::new();
    let numbers = |pools: &Pools| pools.values().flat_map(|pool| pool.ready()).map(|endpoint| endpoint.number).collect::<Vec<_>>();
    let pools = balancer.reconcile(&table(&[("app", &ready(2))]));
    assert_eq!(numbers(&pools), [0, 1]);
    let lease = pick(&Target::build(&backends(&[("app", 1)]), POLICY, &pools, None));
    drop(pools);
    let others: Vec<_> = (11..=12).map(|n| (n, EndpointState::Ready)).collect();
    balancer.reconcile(&Table::default());
    let pools = balancer.reconcile(&table(&[("app", &others)]));
    let mut now = numbers(&pools);
    assert!(!now.contains(&lease.endpoint().number));
    now.push(lease.endpoint().number);
    now.sort_unstable();
    assert_eq!(now, [0, 1, 2]);
}

#[test]
fn turns_go_on_when_endpoints_change_and_a_target_that_means_the_same_is_the_same() {
    let balancer = Balancer::new();
    let split = backends(&[("app", 9), ("canary", 1)]);
    let mut target = Target::build(&split, POLICY, &balancer.reconcile(&table(&[("app", &ready(1)), ("canary", &ready(1))])), None);
    let mut canary = Vec::new();
    for n in 0..40 {
        let pools = balancer.reconcile(&table(&[("app", &ready(1 + n % 3)), ("canary", &ready(1))]));
        target = Target::build(&split, POLICY, &pools, Some(&target));
        assert!(Arc::ptr_eq(&target, &Target::build(&split, POLICY, &pools, Some(&target))));
        if pick(&target).endpoint().key.pool == pool_key("canary") {
            canary.push(n);
        }
    }
    assert_eq!(canary, [9, 19, 29, 39]);
}

#[test]
fn a_lease_is_one_word_and_may_go_anywhere() {
    fn assert_anywhere<T: Send + Sync + 'static>() {}
    assert_anywhere::<Lease>();
    assert_eq!(size_of::<Lease>(), size_of::<usize>());
}
