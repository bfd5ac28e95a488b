//! Who rests, for how long, and how one comes back: by single steps, and by simulation over many seeds with time that nobody waits for.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;

use super::{
    roster::{Change, Turn},
    *,
};
use crate::{
    balance::{Ask, Balancer, Pool, Purpose, Target, Tried, Wish},
    model::{
        LocationKey, ObjectRef, Table,
        balancing::Balancing,
        health::{HealthCheck, Question},
        route::Backend,
        table::TcpPort,
        tcp::TcpRoute,
        upstream::{EndpointSpec, EndpointState, Pod, PoolSpec},
    },
};

const FAIL_TIMEOUT: u64 = 10_000;

fn passive(max_fails: u32) -> Rules {
    Rules { passive: rules_of(max_fails, Duration::from_millis(FAIL_TIMEOUT)), checks: Arc::default() }
}

fn rules_of(max_fails: u32, fail_timeout: Duration) -> Option<Passive> {
    Some(Passive { max_fails: NonZeroU32::new(max_fails).unwrap(), fail_timeout })
}

fn check(healthy: u32, unhealthy: u32) -> Arc<Check> {
    let active = Active {
        question: Question::Tcp,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        healthy: NonZeroU32::new(healthy).unwrap(),
        unhealthy: NonZeroU32::new(unhealthy).unwrap(),
    };
    Arc::new(Check { active: Arc::new(active), tls: None })
}

fn members(rules: Rules, ready: u32) -> Roster {
    let mut members = Roster::default();
    members.arrange(rules, &(0..ready).collect());
    members
}

fn out(members: &Roster) -> Vec<u32> {
    members.iter().filter(|(_, member)| member.account.is_out()).map(|(number, _)| number).collect()
}

fn fail(members: &mut Roster, number: u32, now: u64, times: u32) {
    (0..times).for_each(|_| members.failed(number, now, Symptom::Connect, false));
}

#[test]
fn so_many_failures_in_so_short_a_time_rest_an_endpoint() {
    let mut members = members(passive(3), 4);
    fail(&mut members, 1, 0, 2);
    // The first two are too old by then.
    fail(&mut members, 1, FAIL_TIMEOUT + 1, 2);
    assert_eq!(out(&members), [0u32; 0]);
    fail(&mut members, 1, FAIL_TIMEOUT + 2, 1);
    assert_eq!(out(&members), [1]);
    assert_eq!(members.changes(), [Change { number: 1, turn: Turn::Out }]);
    assert_eq!(members.due(), 2 * FAIL_TIMEOUT + 2);
}

#[test]
fn one_that_answers_most_requests_does_not_rest() {
    let mut members = members(passive(3), 2);
    for now in 0..100 {
        members.failed(0, now, Symptom::Handshake, false);
        members.succeeded(0, now, Proof::Answered, false);
        members.succeeded(0, now, Proof::Answered, false);
    }
    assert_eq!(out(&members), [0u32; 0]);
    // That connections open says nothing of handshakes.
    for now in 0..2 {
        members.failed(0, now, Symptom::Handshake, false);
        (0..5).for_each(|_| members.succeeded(0, now, Proof::Connected, false));
    }
    members.failed(0, 2, Symptom::Handshake, false);
    assert_eq!(out(&members), [0]);
}

#[test]
fn a_101_that_ends_at_once_was_no_success() {
    let mut members = members(passive(3), 2);
    for now in 0..3 {
        members.succeeded(0, now, Proof::Answered, false);
        members.failed(0, now, Symptom::Tunnel, false);
    }
    assert_eq!(out(&members), [0]);
}

#[test]
fn one_request_tries_it_and_decides() {
    let mut members = members(passive(1), 2);
    fail(&mut members, 0, 0, 1);
    assert!(!members.claim(0, FAIL_TIMEOUT - 1), "it rests");
    assert!(members.claim(0, FAIL_TIMEOUT));
    assert!(!members.claim(0, FAIL_TIMEOUT), "one at a time");
    // Requests that began before it rested are no trial.
    members.succeeded(0, FAIL_TIMEOUT, Proof::Answered, false);
    members.failed(0, FAIL_TIMEOUT, Symptom::Connect, false);
    assert_eq!((out(&members), members.due()), (vec![0], u64::MAX));
    members.failed(0, FAIL_TIMEOUT + 5, Symptom::Connect, true);
    assert_eq!(members.due(), 2 * FAIL_TIMEOUT + 5);
    assert!(members.claim(0, 3 * FAIL_TIMEOUT));
    members.abandoned(0, 3 * FAIL_TIMEOUT);
    assert!(members.claim(0, 3 * FAIL_TIMEOUT), "nobody knows how the other one went");
    members.succeeded(0, 3 * FAIL_TIMEOUT, Proof::Answered, true);
    assert_eq!(out(&members), [0u32; 0]);
    let turns: Vec<_> = members.changes().into_iter().map(|change| change.turn).collect();
    assert_eq!(turns, [Turn::Out, Turn::OutAgain, Turn::In]);
}

#[test]
fn a_trial_that_only_connects_lets_one_failure_be_enough() {
    let mut members = members(passive(3), 2);
    for now in 0..3 {
        members.failed(0, now, Symptom::Handshake, false);
    }
    assert!(members.claim(0, FAIL_TIMEOUT + 3));
    members.succeeded(0, FAIL_TIMEOUT + 3, Proof::Connected, true);
    assert_eq!(out(&members), [0u32; 0]);
    members.failed(0, FAIL_TIMEOUT + 4, Symptom::Handshake, false);
    assert_eq!(out(&members), [0]);
}

#[test]
fn never_more_than_half_rests() {
    for (ready, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (7, 3)] {
        let mut members = members(passive(1), ready);
        (0..ready).for_each(|number| fail(&mut members, number, 0, 3));
        assert_eq!(out(&members).len(), most, "of {ready}");
    }
    // Those that are left may be less than those that rest.
    let mut members = members(passive(1), 4);
    fail(&mut members, 0, 0, 1);
    fail(&mut members, 1, 1, 1);
    members.arrange(passive(1), &BTreeSet::from([0, 1, 2]));
    assert_eq!(out(&members), [1], "the one that has rested longest comes back");
    members.arrange(passive(1), &BTreeSet::from([0, 1]));
    assert_eq!(out(&members), [1]);
    members.forget(0);
    assert_eq!(out(&members), [0u32; 0]);
}

#[test]
fn checks_take_out_and_bring_back_as_often_as_they_say() {
    let asked = check(2, 3);
    let rules = Rules { checks: Arc::new([asked.clone()]), ..passive(1) };
    let mut members = members(rules.clone(), 2);
    let mut results = |results: &[bool]| {
        results.iter().for_each(|well| members.checked(0, &asked, *well));
        out(&members)
    };
    assert_eq!(results(&[false, false, true, false, false]), [0u32; 0]);
    assert_eq!(results(&[false]), [0]);
    assert_eq!(results(&[true, false, true]), [0]);
    assert_eq!(results(&[true]), [0u32; 0]);
    // What is known of a check outlives a configuration that still has it.
    assert_eq!(results(&[false, false]), [0u32; 0]);
    members.arrange(rules, &BTreeSet::from([0, 1]));
    members.checked(0, &asked, false);
    assert_eq!(out(&members), [0]);
    members.arrange(passive(1), &BTreeSet::from([0, 1]));
    assert_eq!(out(&members), [0u32; 0], "nobody asks any more");
}

#[test]
fn checks_may_take_out_all_and_nobody_rests_beside_them() {
    let asked = check(1, 1);
    let mut members = members(Rules { checks: Arc::new([asked.clone()]), ..passive(1) }, 4);
    fail(&mut members, 0, 0, 1);
    fail(&mut members, 1, 1, 1);
    assert_eq!(out(&members), [0, 1]);
    members.checked(2, &asked, false);
    assert_eq!(out(&members), [1, 2], "half is out: the one that has rested longest comes back");
    (0..4).for_each(|number| members.checked(number, &asked, false));
    assert_eq!(out(&members), [0, 1, 2, 3]);
    assert_eq!(members.due(), u64::MAX, "a client's request tries none that a check has found ill");
    let view = PoolView::of(&members, 0, |_| Some(([127, 0, 0, 1], 80).into()));
    assert!(view.panic && view.failing == 4 && view.ready == 4, "{view:?}");
}

/// One pool of so many endpoints, on this Pod, for a layer-4 route with these rules.
fn table(endpoints: u8, passive: Option<Passive>, pod: Option<&str>) -> Table {
    let pod = pod.map(|uid| Arc::new(Pod { name: "app-0".into(), uid: uid.into() }));
    let of = |n| EndpointSpec { pod: pod.clone(), ..EndpointSpec::new(([10, 0, 0, n], 80).into(), EndpointState::Ready) };
    let route = TcpRoute {
        key: LocationKey { namespace: "default".into(), identity: "tcp:9000".into() },
        route: ObjectRef::new("default", "app"),
        backends: vec![Backend { pool: key(), weight: 1, tls: None }],
        health: HealthCheck { passive, active: None },
        ..TcpRoute::plain("tcp:9000")
    };
    Table {
        tcp: BTreeMap::from([(TcpPort::Number(9000), vec![Arc::new(route)])]),
        pools: BTreeMap::from([(key(), Arc::new(PoolSpec { endpoints: (1..=endpoints).map(of).collect() }))]),
        ..Table::default()
    }
}

/// Four endpoints, watched by these rules.
fn pool(balancer: &Balancer, rules: &Rules) -> Arc<Pool> {
    balancer.reconcile(&table(4, rules.passive, None)).remove(&key()).unwrap()
}

fn key() -> PoolKey {
    PoolKey::Address("app:80".into())
}

fn target(pool: &Arc<Pool>) -> Arc<Target> {
    let backends = [Backend { pool: key(), weight: 1, tls: None }];
    Target::build(&backends, &Balancing::default(), &BTreeMap::from([(key(), pool.clone())]), None)
}

fn attempt(target: &Target, wish: Wish) -> Attempt {
    target.attempt(&Ask { now: Instant::now(), wish, purpose: Purpose::Lasting }, &Tried::default()).unwrap()
}

/// Has whoever gets the endpoint fail until it rests.
fn make_rest(target: &Target) -> Arc<Endpoint> {
    loop {
        let mut ill = attempt(target, Wish::Anyone);
        ill.failed(Symptom::Handshake, "server_error");
        if ill.endpoint().is_ejected() {
            return ill.endpoint().clone();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_rests_gets_nothing_until_one_request_tries_it() {
    let metrics = Arc::<Metrics>::default();
    let balancer = Balancer::with(metrics.clone());
    let pool = pool(&balancer, &passive(3));
    let target = target(&pool);
    let ill = make_rest(&target);
    assert_eq!(metrics.endpoint_ejections.get("server_error"), 1);
    assert!((0..100).all(|_| !Arc::ptr_eq(attempt(&target, Wish::Anyone).endpoint(), &ill)));
    tokio::time::advance(Duration::from_millis(FAIL_TIMEOUT)).await;
    let mut trial = attempt(&target, Wish::Anyone);
    assert!(Arc::ptr_eq(trial.endpoint(), &ill));
    assert!((0..100).all(|_| !Arc::ptr_eq(attempt(&target, Wish::Anyone).endpoint(), &ill)), "one at a time");
    trial.succeeded(Proof::Answered);
    drop(trial);
    assert!(!ill.is_ejected());
    assert!((0..100).any(|_| Arc::ptr_eq(attempt(&target, Wish::Anyone).endpoint(), &ill)));
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_nobody_waits_for_is_the_next_requests() {
    let balancer = Balancer::new();
    let pool = pool(&balancer, &passive(1));
    let target = target(&pool);
    let ill = make_rest(&target);
    tokio::time::advance(Duration::from_millis(FAIL_TIMEOUT)).await;
    drop(attempt(&target, Wish::Anyone));
    let again = attempt(&target, Wish::Anyone);
    assert!(Arc::ptr_eq(again.endpoint(), &ill) && ill.is_ejected());
    assert!(balancer.health()[&key()].endpoints[0].on_trial);
}

#[tokio::test(start_paused = true)]
async fn only_a_request_that_belongs_there_tries_it() {
    let balancer = Balancer::new();
    let pool = pool(&balancer, &passive(1));
    let target = target(&pool);
    let at = |n: u64| attempt(&target, Wish::Key(n)).endpoint().clone();
    let homes: Vec<_> = (0..50).map(at).collect();
    let ill = make_rest(&target);
    tokio::time::advance(Duration::from_millis(FAIL_TIMEOUT)).await;
    for (n, home) in (0..).zip(&homes) {
        let belongs = Arc::ptr_eq(home, &ill);
        assert_eq!(Arc::ptr_eq(&at(n), &ill), belongs, "each one goes home, and the trial is given back");
    }
    assert!(homes.iter().any(|home| Arc::ptr_eq(home, &ill)));
}

#[tokio::test(start_paused = true)]
async fn rest_outlives_tables_and_a_new_pod_at_the_address_begins_well() {
    let balancer = Balancer::new();
    let pool = pool(&balancer, &passive(1));
    let target = target(&pool);
    let ill = make_rest(&target);
    let rules = passive(1).passive;
    let reconcile = |endpoints, pod: Option<&str>| {
        let pools = balancer.reconcile(&table(endpoints, rules, pod));
        pools[&key()].ready().iter().find(|endpoint| endpoint.key == ill.key).unwrap().clone()
    };
    let same = reconcile(5, None);
    assert!(Arc::ptr_eq(&same, &ill) && same.is_ejected());
    let new = reconcile(5, Some("1"));
    assert!(!Arc::ptr_eq(&new, &ill) && !new.is_ejected());
    assert!(!balancer.health()[&key()].panic);
}

#[test]
fn the_strictest_location_of_a_pool_counts_and_every_check_is_made() {
    let mut table = table(1, rules_of(5, Duration::from_secs(20)), None);
    let add = |table: &mut Table, port, health| {
        let first = table.tcp[&TcpPort::Number(9000)][0].clone();
        table.tcp.insert(TcpPort::Number(port), vec![Arc::new(TcpRoute { health, ..(*first).clone() })]);
    };
    let (asked, other) = (check(1, 1), check(2, 2));
    add(&mut table, 9001, HealthCheck { passive: rules_of(7, Duration::from_secs(30)), active: Some(asked.active.clone()) });
    add(&mut table, 9002, HealthCheck { passive: None, active: Some(asked.active.clone()) });
    add(&mut table, 9003, HealthCheck { passive: None, active: Some(other.active.clone()) });
    let rules = rules::of(&table).remove(&key()).unwrap();
    assert_eq!(rules.passive, rules_of(5, Duration::from_secs(30)));
    assert_eq!(*rules.checks, [asked, other]);
}

#[test]
fn trials_are_one_at_a_time_under_many_threads() {
    let balancer = Balancer::new();
    let rules = Rules { passive: rules_of(1, Duration::from_millis(1)), ..Rules::default() };
    let pool = pool(&balancer, &rules);
    let target = target(&pool);
    let ill = make_rest(&target);
    let trying = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let mut attempt = attempt(&target, Wish::Anyone);
                    if Arc::ptr_eq(attempt.endpoint(), &ill) {
                        assert_eq!(trying.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                        std::thread::yield_now();
                        trying.fetch_sub(1, Ordering::SeqCst);
                        attempt.failed(Symptom::Connect, "refused");
                    }
                }
            });
        }
    });
    assert!(ill.is_ejected());
}

/// A pool of endpoints that fall ill and recover, under requests and checks that come as they like.
#[test]
fn simulation_of_many_pools() {
    (0..300).for_each(simulate);
}

struct Simulated {
    rng: Rng,
    members: Roster,
    /// What becomes of a request.
    ill: BTreeMap<u32, bool>,
    /// When requests failed.
    fails: BTreeMap<u32, Vec<u64>>,
    trials: BTreeSet<u32>,
    out: BTreeSet<u32>,
    max_fails: u32,
    asked: Option<Arc<Check>>,
    now: u64,
}

fn simulate(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let (endpoints, max_fails) = (rng.u32(1..8), rng.u32(1..5));
    let asked = rng.bool().then(|| check(rng.u32(1..3), rng.u32(1..3)));
    let rules = Rules { checks: asked.iter().cloned().collect(), ..passive(max_fails) };
    let mut pool = Simulated {
        members: members(rules.clone(), endpoints),
        ill: (0..endpoints).map(|number| (number, false)).collect(),
        fails: BTreeMap::new(),
        trials: BTreeSet::new(),
        out: BTreeSet::new(),
        max_fails,
        asked,
        now: 0,
        rng,
    };
    for _ in 0..2_000 {
        pool.step(&rules);
        pool.verify(seed);
    }
    // All are well in the end: each comes back by checks and one trial.
    pool.members.arrange(rules, &(0..endpoints).collect());
    pool.ill.values_mut().for_each(|ill| *ill = false);
    for number in std::mem::take(&mut pool.trials) {
        pool.members.succeeded(number, pool.now, Proof::Answered, true);
    }
    for _ in 0..5 {
        pool.now += FAIL_TIMEOUT;
        for number in 0..endpoints {
            if let Some(asked) = &pool.asked {
                pool.members.checked(number, asked, true);
            }
            if pool.members.claim(number, pool.now) {
                pool.members.succeeded(number, pool.now, Proof::Answered, true);
            }
        }
    }
    assert_eq!(out(&pool.members), [0u32; 0], "seed {seed}");
}

impl Simulated {
    fn step(&mut self, rules: &Rules) {
        self.now += self.rng.u64(0..800);
        let endpoints = u32::try_from(self.ill.len()).unwrap();
        let number = self.rng.u32(0..endpoints);
        match self.rng.u32(0..100) {
            0..2 => {
                self.ill.entry(number).and_modify(|ill| *ill = !*ill);
            }
            2..4 => {
                let ready = (0..endpoints).filter(|_| self.rng.u32(0..4) > 0).collect();
                self.members.arrange(rules.clone(), &ready);
            }
            4..25 => {
                if let Some(asked) = self.asked.clone() {
                    self.members.checked(number, &asked, !self.ill[&number]);
                }
            }
            25..30 if self.trials.remove(&number) => self.members.abandoned(number, self.now),
            25..50 if self.trials.remove(&number) => self.tell(number, true),
            25..50 => {
                if self.members.claim(number, self.now) {
                    assert!(self.trials.insert(number), "two trials at once");
                }
            }
            _ => self.tell(number, false),
        }
    }

    fn tell(&mut self, number: u32, on_trial: bool) {
        if self.ill[&number] {
            self.fails.entry(number).or_default().push(self.now);
            let symptom = [Symptom::Connect, Symptom::Handshake, Symptom::Tunnel][self.rng.usize(0..3)];
            self.members.failed(number, self.now, symptom, on_trial);
        } else {
            let proof = if self.rng.bool() { Proof::Connected } else { Proof::Answered };
            self.members.succeeded(number, self.now, proof, on_trial);
        }
    }

    fn verify(&mut self, seed: u64) {
        let (ready, out) = self.members.counts();
        let rests = |member: &roster::Member| member.ready && member.account.is_out() && !member.account.is_failing();
        let resting = self.members.iter().filter(|(_, member)| rests(member)).count();
        assert!(resting == 0 || out * 2 <= ready, "seed {seed} at {}: {out} of {ready} are out", self.now);
        for Change { number, turn } in self.members.changes() {
            let is_new = match turn {
                Turn::Out => self.out.insert(number),
                Turn::OutAgain => self.out.contains(&number),
                Turn::In => self.out.remove(&number),
            };
            assert!(is_new, "seed {seed} at {}: {number} is told {turn:?} twice", self.now);
            let member = self.members.get(number).unwrap();
            if turn == Turn::Out && !member.account.is_failing() {
                let recent = self.fails[&number].iter().filter(|at| **at + FAIL_TIMEOUT >= self.now).count();
                // One that came back by a connection alone has all but one standing against it.
                assert!(recent >= 1 && (recent >= self.max_fails as usize || member.account.fails() >= self.max_fails as usize));
            }
        }
        let told: BTreeSet<u32> = self.members.iter().filter(|(_, member)| member.account.is_out()).map(|(number, _)| number).collect();
        assert_eq!(self.out, told, "seed {seed} at {}: every change was told", self.now);
    }
}
