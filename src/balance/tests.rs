use std::{net::SocketAddr, thread};

use super::*;
use crate::model::{
    ObjectRef,
    balancing::{Balancing, Policy},
    route::Backend,
    upstream::Pod,
};

const POLICY: Balancing = by(Policy::LeastConnections);

const fn by(policy: Policy) -> Balancing {
    Balancing { policy, slow_start: None, max_connections_per_endpoint: None, affinity: None }
}

fn ask() -> Ask {
    Ask::anyone(Instant::now(), Purpose::Request)
}

fn pool_key(service: &str) -> PoolKey {
    PoolKey::Service { service: ObjectRef::new("default", service), port: "80".into() }
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], u16::try_from(n).unwrap()))
}

/// A table of pools, each with endpoints in these states.
fn table(pools: &[(&str, &[(usize, EndpointState)])]) -> Table {
    let endpoint = |(n, state): &(usize, EndpointState)| EndpointSpec::new(address(*n), *state);
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
    target.pick(&ask(), &Tried::default()).unwrap()
}

fn port(lease: &Lease) -> u16 {
    lease.endpoint().key.address.port()
}

#[test]
fn weights_split_requests_whatever_the_number_of_endpoints() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(1)), ("canary", &ready(20))]));
    let target = Target::build(&backends(&[("app", 9), ("canary", 1)]), &POLICY, &pools, None);
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
    let target = Target::build(&backends(&[("app", 98), ("one", 1), ("two", 1), ("gone", 5)]), &POLICY, &pools, None);
    let picked: Vec<_> = (0..10).map(|_| pick(&target).endpoint().key.pool.clone()).collect();
    assert_eq!(picked.iter().filter(|pool| **pool == pool_key("one")).count(), 5);
    assert_eq!(picked.iter().filter(|pool| **pool == pool_key("two")).count(), 5);
}

#[test]
fn the_reason_for_no_endpoint_is_told() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(1)), ("empty", &[])]));
    let build = |weights: &[(&str, u32)]| Target::build(&backends(weights), &POLICY, &pools, None);
    let why = |target: &Target, tried: &Tried| target.pick(&ask(), tried).unwrap_err();
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
        let target = Target::build(&backends(&[("other", 1), ("app", 100)]), &by(policy), &pools, None);
        drop(pick(&target));
        let mut tried = Tried::default();
        let mut services = Vec::new();
        for _ in 0..5 {
            let lease = target.pick(&ask(), &tried).unwrap();
            services.push(lease.endpoint().key.pool.clone());
            tried.add(lease.endpoint());
        }
        let (app, other) = (pool_key("app"), pool_key("other"));
        assert_eq!(services, [app.clone(), app.clone(), app, other.clone(), other]);
        assert_eq!((tried.len(), target.pick(&ask(), &tried).unwrap_err()), (5, PickError::AllTried));
    }
}

#[test]
fn retries_take_no_turn() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(4)), ("canary", &ready(4))]));
    let target = Target::build(&backends(&[("app", 1), ("canary", 1)]), &POLICY, &pools, None);
    for expected in ["app", "canary", "app", "canary"] {
        let mut tried = Tried::default();
        for _ in 0..3 {
            let lease = target.pick(&ask(), &tried).unwrap();
            assert_eq!(lease.endpoint().key.pool, pool_key(expected));
            tried.add(lease.endpoint());
        }
    }
}

#[test]
fn the_fewest_open_leases_win() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(5))]));
    let target = Target::build(&backends(&[("app", 1)]), &POLICY, &pools, None);
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
    let target = Target::build(&backends(&[("app", 1)]), &POLICY, &pools, None);
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
    let target = Target::build(&backends(&[("app", 1)]), &by(Policy::RoundRobin), &pools, None);
    let ports: Vec<_> = (0..6).map(|_| port(&pick(&target))).collect();
    assert_eq!(ports, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn picks_of_many_threads_spread_and_are_split_exactly() {
    const THREADS: usize = 8;
    const EACH: usize = 500;
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(10)), ("canary", &ready(2))]));
    let target = Target::build(&backends(&[("app", 3), ("canary", 1)]), &POLICY, &pools, None);
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
    let target = Target::build(&backends(&[("app", 1)]), &POLICY, &before, None);
    let _leases = [pick(&target), pick(&target)];
    let after = balancer.reconcile(&table(&[("app", &ready(3))]));
    let ready = after[&pool_key("app")].ready();
    assert_eq!(ready.iter().map(|endpoint| endpoint.open()).collect::<Vec<_>>(), [1, 1, 0]);
    assert!(Arc::ptr_eq(&before[&pool_key("app")].ready()[0], &ready[0]));
}

#[test]
fn an_endpoint_that_comes_back_still_has_its_leases() {
    let balancer = Balancer::new();
    let with = table(&[("app", &ready(1))]);
    let pools = balancer.reconcile(&with);
    let lease = pick(&Target::build(&backends(&[("app", 1)]), &POLICY, &pools, None));
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
        let pod = Some(Arc::new(Pod { name: "app-0".into(), uid: pod.into() }));
        let endpoint = EndpointSpec { pod, ..EndpointSpec::new(address(1), EndpointState::Ready) };
        Table { pools: BTreeMap::from([(pool_key("app"), Arc::new(PoolSpec { endpoints: vec![endpoint] }))]), ..Table::default() }
    };
    let lease = pick(&Target::build(&backends(&[("app", 1)]), &POLICY, &balancer.reconcile(&of_pod("app-1")), None));
    let pools = balancer.reconcile(&of_pod("app-2"));
    let new = &pools[&pool_key("app")].ready()[0];
    assert_eq!((new.open(), lease.endpoint().open()), (0, 1));
    assert_ne!(new.number, lease.endpoint().number);
}

#[test]
fn a_draining_endpoint_keeps_its_leases_and_takes_nothing_new() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &[(1, EndpointState::Ready)])]));
    let lease = pick(&Target::build(&backends(&[("app", 1)]), &POLICY, &pools, None));
    let pools = balancer.reconcile(&table(&[("app", &[(1, EndpointState::Draining), (2, EndpointState::Ready)])]));
    let target = Target::build(&backends(&[("app", 1)]), &POLICY, &pools, None);
    assert!((0..20).all(|_| port(&pick(&target)) == 2));
    assert!(pools[&pool_key("app")].endpoints().any(|endpoint| Arc::ptr_eq(endpoint, lease.endpoint())));
}

#[test]
fn numbers_are_given_away_again_only_when_nobody_holds_the_endpoint() {
    let balancer = Balancer::new();
    let numbers = |pools: &Pools| pools.values().flat_map(|pool| pool.ready()).map(|endpoint| endpoint.number).collect::<Vec<_>>();
    let pools = balancer.reconcile(&table(&[("app", &ready(2))]));
    assert_eq!(numbers(&pools), [0, 1]);
    let lease = pick(&Target::build(&backends(&[("app", 1)]), &POLICY, &pools, None));
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
    let mut target = Target::build(&split, &POLICY, &balancer.reconcile(&table(&[("app", &ready(1)), ("canary", &ready(1))])), None);
    let mut canary = Vec::new();
    for n in 0..40 {
        let pools = balancer.reconcile(&table(&[("app", &ready(1 + n % 3)), ("canary", &ready(1))]));
        target = Target::build(&split, &POLICY, &pools, Some(&target));
        assert!(Arc::ptr_eq(&target, &Target::build(&split, &POLICY, &pools, Some(&target))));
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

const ALL: [Policy; 3] = [Policy::LeastConnections, Policy::RoundRobin, Policy::Random];

#[test]
fn random_takes_the_emptier_of_two() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(20))]));
    let target = Target::build(&backends(&[("app", 1)]), &by(Policy::Random), &pools, None);
    fastrand::seed(7);
    let leases: Vec<_> = (0..20_000).map(|_| pick(&target)).collect();
    let counts: Vec<_> = pools[&pool_key("app")].ready().iter().map(|endpoint| endpoint.open()).collect();
    // One choice would be off by about a hundred.
    assert!(counts.iter().all(|count| count.abs_diff(1000) <= 8), "{counts:?}");
    drop(leases);
}

#[test]
fn of_many_endpoints_the_best_of_a_few_keeps_them_even() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(500))]));
    let target = Target::build(&backends(&[("app", 1)]), &POLICY, &pools, None);
    let leases: Vec<_> = (0..10_000).map(|_| pick(&target)).collect();
    let counts: Vec<_> = pools[&pool_key("app")].ready().iter().map(|endpoint| endpoint.open()).collect();
    assert!(counts.iter().all(|count| count.abs_diff(20) <= 4), "{counts:?}");
    drop(leases);
}

#[test]
fn an_endpoint_has_never_more_leases_than_it_may_and_the_others_take_what_spills() {
    const LIMIT: u32 = 50;
    for policy in ALL {
        let balancer = Balancer::new();
        let pools = balancer.reconcile(&table(&[("app", &ready(3)), ("other", &ready(1))]));
        let balancing = Balancing { max_connections_per_endpoint: LIMIT.try_into().ok(), ..by(policy) };
        let target = Target::build(&backends(&[("app", 9), ("other", 1)]), &balancing, &pools, None);
        let picked: Vec<Result<Lease, PickError>> = thread::scope(|scope| {
            let many = || (0..100).map(|_| target.pick(&ask(), &Tried::default())).collect::<Vec<_>>();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(many)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(pools.values().flat_map(|pool| pool.ready()).all(|endpoint| endpoint.open() == LIMIT), "{policy:?}");
        let (leases, refused): (Vec<_>, Vec<_>) = picked.into_iter().partition(Result::is_ok);
        assert_eq!(leases.len(), 4 * LIMIT as usize);
        assert!(refused.into_iter().all(|refused| refused.unwrap_err() == PickError::Full));
        drop(leases);
        assert!(target.pick(&ask(), &Tried::default()).is_ok());
    }
}

#[test]
fn a_limit_is_shared_by_the_replicas() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(1))]));
    let balancing = Balancing { max_connections_per_endpoint: 10.try_into().ok(), ..POLICY };
    let target = Target::build(&backends(&[("app", 1)]), &balancing, &pools, None);
    balancer.share().set_replicas(3);
    assert_eq!(target.endpoint_limit(), Some(4));
    let leases: Vec<_> = std::iter::from_fn(|| target.pick(&ask(), &Tried::default()).ok()).collect();
    assert_eq!(leases.len(), 4);
    balancer.share().set_replicas(2);
    assert!(target.pick(&ask(), &Tried::default()).is_ok(), "the part of a replica that is gone is taken over");
}

#[test]
fn an_ejected_endpoint_gets_nothing_while_another_can() {
    let balancer = Balancer::new();
    let pools = balancer.reconcile(&table(&[("app", &ready(4))]));
    let pool = &pools[&pool_key("app")];
    let [one, two, ..] = pool.ready() else { panic!() };
    one.slot.eject();
    two.slot.eject();
    for policy in ALL {
        let target = Target::build(&backends(&[("app", 1)]), &by(policy), &pools, None);
        assert!((0..200).all(|_| port(&pick(&target)) > 2), "{policy:?}");
        let keyed = |n: u64| target.pick(&Ask { wish: Wish::Key(n), ..ask() }, &Tried::default()).unwrap();
        assert!((0..200).all(|n| port(&keyed(n)) > 2));
        let mut tried = Tried::default();
        pool.ready().iter().skip(2).for_each(|endpoint| tried.add(endpoint));
        assert!(port(&target.pick(&ask(), &tried).unwrap()) <= 2, "better an ejected one than none");
    }
    let later = balancer.reconcile(&table(&[("app", &ready(5))]));
    let target = Target::build(&backends(&[("app", 1)]), &POLICY, &later, None);
    assert!((0..200).all(|_| port(&pick(&target)) > 2), "it stays so in the next table");
    one.slot.admit(0, 0);
    assert!((0..200).any(|_| port(&pick(&target)) == 1));
}

#[test]
fn endpoints_of_our_zone_come_first_and_those_elsewhere_before_none() {
    let balancer = Balancer::new();
    let endpoint = |n| EndpointSpec { elsewhere: n > 2, ..EndpointSpec::new(address(n), EndpointState::Ready) };
    let spec = Arc::new(PoolSpec { endpoints: (1..=6).map(endpoint).collect() });
    let pools = balancer.reconcile(&Table { pools: BTreeMap::from([(pool_key("app"), spec)]), ..Table::default() });
    for policy in ALL {
        let balancing = Balancing { max_connections_per_endpoint: 10.try_into().ok(), ..by(policy) };
        let target = Target::build(&backends(&[("app", 1)]), &balancing, &pools, None);
        let leases: Vec<_> = (0..20).map(|_| pick(&target)).collect();
        assert!(leases.iter().all(|lease| port(lease) <= 2), "{policy:?}");
        assert!(port(&pick(&target)) > 2, "{policy:?}: ours are full");
    }
}

mod affinity_of_requests {
    use super::*;

    fn keyed(target: &Target, key: u64) -> Lease {
        target.pick(&Ask { wish: Wish::Key(key), ..ask() }, &Tried::default()).unwrap()
    }

    fn pinned(target: &Target, pin: Pin, purpose: Purpose) -> Lease {
        target.pick(&Ask { now: Instant::now(), wish: Wish::Pin(pin), purpose }, &Tried::default()).unwrap()
    }

    fn pin(lease: &Lease, client: u64) -> Pin {
        Pin::to(lease.endpoint(), client)
    }

    #[test]
    fn replicas_agree_and_only_the_keys_of_the_gone_move() {
        let all = table(&[("app", &ready(10)), ("canary", &ready(3))]);
        let weights = backends(&[("app", 9), ("canary", 1)]);
        let one = Target::build(&weights, &POLICY, &Balancer::new().reconcile(&all), None);
        let other = Target::build(&weights, &POLICY, &Balancer::new().reconcile(&all), None);
        let left = table(&[("app", &ready(9)), ("canary", &ready(3))]);
        let left = Target::build(&weights, &POLICY, &Balancer::new().reconcile(&left), None);
        let (mut moved, mut canary) = (0, 0);
        for n in 0..10_000u64 {
            let key = affinity::key(&n.to_le_bytes());
            let before = keyed(&one, key).endpoint().key.clone();
            assert_eq!(before, keyed(&other, key).endpoint().key);
            canary += u32::from(before.pool == pool_key("canary"));
            if keyed(&left, key).endpoint().key != before {
                assert_eq!(before.address, address(10));
                moved += 1;
            }
        }
        assert!(moved <= 1200, "{moved}");
        assert!((900..1100).contains(&canary), "{canary}");
    }

    #[test]
    fn a_pin_holds_while_its_endpoint_exists_whatever_is_added() {
        let balancer = Balancer::new();
        let build = |pools: &Pools, weights: &[(&str, u32)]| Target::build(&backends(weights), &POLICY, pools, None);
        let target = build(&balancer.reconcile(&table(&[("app", &ready(2)), ("canary", &ready(1))])), &[("app", 1), ("canary", 1)]);
        let pins: Vec<Pin> = (0..50).map(|client| pin(&pick(&target), client)).collect();
        let more = balancer.reconcile(&table(&[("app", &ready(9)), ("canary", &ready(9))]));
        for weights in [[("app", 1), ("canary", 1)], [("app", 0), ("canary", 5)]] {
            let target = build(&more, &weights);
            assert!(pins.iter().all(|pin| pinned(&target, *pin, Purpose::Lasting).endpoint().identity == pin.endpoint));
            assert!(pins.iter().all(|pin| target.keeps(pin)));
        }
    }

    #[test]
    fn a_pin_whose_endpoint_is_gone_moves_on_within_its_service_by_client() {
        let balancer = Balancer::new();
        let canary: Vec<_> = (11..=14).map(|n| (n, EndpointState::Ready)).collect();
        let target = |pools: &Pools| Target::build(&backends(&[("app", 1), ("canary", 1)]), &POLICY, pools, None);
        let pools = balancer.reconcile(&table(&[("app", &ready(1)), ("canary", &canary)]));
        let lease = loop {
            let lease = pick(&target(&pools));
            if lease.endpoint().key.pool == pool_key("app") {
                break lease;
            }
        };
        let others: Vec<_> = (2..=4).map(|n| (n, EndpointState::Ready)).collect();
        let pools = balancer.reconcile(&table(&[("app", &others), ("canary", &canary)]));
        let target = target(&pools);
        let mut taken = [0; 5];
        for client in 0..300 {
            let next = pinned(&target, pin(&lease, affinity::key(&[client as u8, (client >> 8) as u8])), Purpose::Request);
            assert_eq!(next.endpoint().key.pool, pool_key("app"));
            taken[usize::from(port(&next))] += 1;
        }
        assert!(taken[2..].iter().all(|count| *count > 50), "{taken:?}");
        assert!(!target.keeps(&pin(&lease, 1)));
    }

    #[test]
    fn a_terminating_endpoint_that_serves_keeps_its_plain_http_and_no_more() {
        let balancer = Balancer::new();
        let draining = |serving| {
            let going = EndpointSpec { serving, ..EndpointSpec::new(address(1), EndpointState::Draining) };
            let spec = PoolSpec { endpoints: vec![going, EndpointSpec::new(address(2), EndpointState::Ready)] };
            Table { pools: BTreeMap::from([(pool_key("app"), Arc::new(spec))]), ..Table::default() }
        };
        let target = |pools: &Pools| Target::build(&backends(&[("app", 1)]), &POLICY, pools, None);
        let pin = pin(&pick(&target(&balancer.reconcile(&table(&[("app", &ready(1))])))), 7);
        let serving = target(&balancer.reconcile(&draining(true)));
        assert_eq!(port(&pinned(&serving, pin, Purpose::Request)), 1);
        assert_eq!(port(&pinned(&serving, pin, Purpose::Lasting)), 2);
        assert_eq!(port(&pick(&serving)), 2);
        assert!(!serving.keeps(&pin));
        let ended = target(&balancer.reconcile(&draining(false)));
        assert_eq!(port(&pinned(&ended, pin, Purpose::Request)), 2);
    }

    #[test]
    fn a_pin_to_another_service_is_none() {
        let balancer = Balancer::new();
        let pools = balancer.reconcile(&table(&[("app", &ready(3))]));
        let target = Target::build(&backends(&[("app", 1)]), &by(Policy::RoundRobin), &pools, None);
        let strange = Pin { endpoint: 1, pool: 2, client: 3 };
        let ports: Vec<_> = (0..3).map(|_| port(&pinned(&target, strange, Purpose::Lasting))).collect();
        assert_eq!(ports, [1, 2, 3]);
    }
}

/// Newcomers, by a clock that stands still but where it is moved on.
mod simulation {
    use std::{collections::VecDeque, time::Duration};

    use tokio::time::advance;

    use super::*;

    const OLD: usize = 3;
    const BUSY: usize = 300;

    /// Three endpoints with 300 leases each, and a fourth that has just come.
    async fn grown(balancing: &Balancing) -> (Arc<Target>, VecDeque<Lease>, Arc<Endpoint>) {
        let balancer = Balancer::new();
        let pools = balancer.reconcile(&table(&[("app", &ready(OLD))]));
        let target = Target::build(&backends(&[("app", 1)]), balancing, &pools, None);
        let leases = (0..OLD * BUSY).map(|_| pick(&target)).collect();
        advance(Duration::from_secs(60)).await;
        let pools = balancer.reconcile(&table(&[("app", &ready(OLD + 1))]));
        let target = Target::build(&backends(&[("app", 1)]), balancing, &pools, Some(&target));
        let new = pools[&pool_key("app")].ready()[OLD].clone();
        (target, leases, new)
    }

    /// Lets the oldest clients come back for a time, 100 a second. The new endpoint's leases at the end of each second.
    async fn reconnects(target: &Target, leases: &mut VecDeque<Lease>, new: &Endpoint, seconds: u32) -> Vec<u32> {
        let mut counts = Vec::new();
        for _ in 0..seconds {
            for _ in 0..100 {
                leases.pop_front();
                leases.push_back(pick(target));
                advance(Duration::from_millis(10)).await;
            }
            counts.push(new.open());
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_does_not_get_every_client_that_comes_back() {
        let (target, mut leases, new) = grown(&POLICY).await;
        let first: Vec<_> = (0..20).map(|_| pick(&target)).collect();
        assert!((10..=15).contains(&new.open()), "ten less than the mean, and its part of the rest: {}", new.open());
        drop(first);
        let counts = reconnects(&target, &mut leases, &new, 15).await;
        let fair = 225;
        assert!(counts[0] < 60, "{counts:?}");
        assert!(counts[4] < 150, "{counts:?}");
        assert!(counts[14].abs_diff(fair) <= 22, "within a tenth of even: {counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_start_ramps_the_leases_of_a_newcomer() {
        for policy in [Policy::LeastConnections, Policy::Random] {
            let slow_start = Some(Duration::from_secs(20));
            let (target, mut leases, new) = grown(&Balancing { slow_start, ..by(policy) }).await;
            let counts = reconnects(&target, &mut leases, &new, 30).await;
            for (second, count) in (1..).zip(&counts) {
                let ramp = (225.0 * f64::from(second) / 20.0).min(225.0);
                // Its ramp is a share of what the others have, which is more than even until it is done.
                assert!(f64::from(*count) <= ramp * 1.35 + 8.0, "{policy:?} second {second}: {counts:?}");
            }
            assert!(counts[29].abs_diff(225) <= 22, "{policy:?} {counts:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_start_ramps_the_turns_of_a_newcomer() {
        fastrand::seed(7);
        let (target, _leases, new) = grown(&Balancing { slow_start: Some(Duration::from_secs(10)), ..by(Policy::RoundRobin) }).await;
        for share in [0.01, 0.25, 0.5, 0.75, 1.0, 1.0] {
            let picks: Vec<_> = (0..4000).map(|_| pick(&target)).collect();
            let got = picks.iter().filter(|lease| Arc::ptr_eq(lease.endpoint(), &new)).count() as f64;
            // Of three full shares and its own.
            let expected = 4000.0 * share / (3.0 + share);
            assert!((got - expected).abs() < 90.0, "{share}: {got} instead of {expected}");
            advance(Duration::from_millis(2500)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_endpoints_that_start_slowly_get_something() {
        fastrand::seed(7);
        let balancer = Balancer::new();
        balancer.reconcile(&table(&[("app", &ready(3))]));
        advance(Duration::from_secs(60)).await;
        let pools = balancer.reconcile(&table(&[("app", &ready(4))]));
        for policy in [Policy::LeastConnections, Policy::Random] {
            let balancing = Balancing { slow_start: Some(Duration::from_secs(60)), ..by(policy) };
            let target = Target::build(&backends(&[("app", 1)]), &balancing, &pools, None);
            let got = (0..4000).filter(|_| port(&pick(&target)) == 4).count();
            assert!((1..200).contains(&got), "{policy:?}: {got}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_was_not_ready_starts_slowly_again() {
        let balancing = Balancing { slow_start: Some(Duration::from_secs(10)), ..by(Policy::RoundRobin) };
        let balancer = Balancer::new();
        balancer.reconcile(&table(&[("app", &ready(2))]));
        advance(Duration::from_secs(60)).await;
        balancer.reconcile(&table(&[("app", &[(1, EndpointState::Ready), (2, EndpointState::NotReady)])]));
        let pools = balancer.reconcile(&table(&[("app", &ready(2))]));
        let target = Target::build(&backends(&[("app", 1)]), &balancing, &pools, None);
        let got = (0..1000).filter(|_| port(&pick(&target)) == 2).count();
        assert!(got < 50, "{got}");
    }
}
