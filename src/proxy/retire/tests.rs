use std::net::SocketAddr;

use super::*;
use crate::{
    balance::Lease,
    model::{
        EndpointKey, ObjectRef, PoolKey, Table,
        bygone::{Bygone, Refused},
        route::{Backend, DrainBy},
        table::TcpPort,
        tcp::TcpRoute,
        upstream::{EndpointSpec, EndpointState, Pod, PoolSpec},
    },
};

const READY: EndpointState = EndpointState::Ready;
const DRAINING: EndpointState = EndpointState::Draining;
const SECOND: Duration = Duration::from_secs(1);

fn pool(service: &str) -> PoolKey {
    PoolKey::Service { service: ObjectRef::new("default", service), port: "80".into() }
}

fn location(name: &str) -> LocationKey {
    LocationKey { namespace: "default".into(), identity: name.into() }
}

fn address(last: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last as u8], 80))
}

fn endpoint(service: &str, last: usize) -> EndpointKey {
    EndpointKey { pool: pool(service), address: address(last) }
}

fn pod(name: &str, uid: &str) -> Arc<Pod> {
    Arc::new(Pod { name: name.into(), uid: uid.into() })
}

/// The Pods that are to be asked about, by their names.
fn names(pods: &[PodRef]) -> Vec<&str> {
    pods.iter().map(|pod| &*pod.name).collect()
}

/// The endpoints of a Service: the state and the Pod of each.
type Endpoints<'a> = &'a [(EndpointState, &'a str)];

fn specs(pools: &[(&str, Endpoints<'_>)]) -> std::collections::BTreeMap<PoolKey, Arc<PoolSpec>> {
    let endpoint = |(last, (state, name)): (usize, &(EndpointState, &str))| EndpointSpec {
        pod: (!name.is_empty()).then(|| pod(name, "1")),
        ..EndpointSpec::new(address(last), *state)
    };
    let spec = |endpoints: Endpoints<'_>| Arc::new(PoolSpec { endpoints: endpoints.iter().enumerate().map(endpoint).collect() });
    pools.iter().map(|(service, endpoints)| (pool(service), spec(endpoints))).collect()
}

/// A location with its services and how they drain.
type Route<'a> = (&'a str, &'a [&'a str], Drain);

/// A table of layer 4, whose routes are shorter to write.
fn table(routes: &[Route<'_>], pools: &[(&str, Endpoints<'_>)]) -> Table {
    let route = |(position, (name, services, drain)): (usize, &Route<'_>)| {
        let route = TcpRoute {
            key: location(name),
            route: ObjectRef::new("default", "edge"),
            backends: services.iter().map(|service| Backend { pool: pool(service), weight: 1, tls: None }).collect(),
            drain: *drain,
            ..TcpRoute::plain(name)
        };
        (TcpPort::Number(9000 + position as u16), vec![Arc::new(route)])
    };
    Table { tcp: routes.iter().enumerate().map(route).collect(), pools: specs(pools), ..Table::default() }
}

/// One data plane: what it serves, and who has tunnels where.
#[derive(Default)]
struct Bench {
    retiring: Retiring,
    table: Table,
    bygone: Bygone,
    holders: Vec<(LocationKey, Arc<Endpoint>)>,
    can_ask: bool,
}

impl Bench {
    fn new(routes: &[Route<'_>], pools: &[(&str, Endpoints<'_>)]) -> Self {
        Self { table: table(routes, pools), ..Self::default() }
    }

    /// A tunnel of a location to an endpoint of a Pod.
    fn open(&mut self, name: &str, to: EndpointKey, pod: &Arc<Pod>) {
        self.holders.push((location(name), Arc::clone(Lease::detached_of(to, pod.clone()).endpoint())));
    }

    fn step(&mut self, routes: &[Route<'_>], pools: &[(&str, Endpoints<'_>)]) -> Decided {
        self.step_beside(routes, pools, Bygone::default())
    }

    fn step_beside(&mut self, routes: &[Route<'_>], pools: &[(&str, Endpoints<'_>)], bygone: Bygone) -> Decided {
        let next = table(routes, pools);
        let holders = || Holders(self.holders.clone());
        let (before, now) = (Listed::new(&self.table, &self.bygone), Listed::new(&next, &bygone));
        let decided = self.retiring.step(&before, &now, holders, self.can_ask, Instant::now());
        (self.table, self.bygone) = (next, bygone);
        decided
    }

    fn answer(&mut self, name: &str, fate: Option<Fate>) -> Decided {
        let answer = (PodRef { namespace: "default".into(), name: name.into(), uid: "1".into() }, fate);
        let now = Listed::new(&self.table, &self.bygone);
        self.retiring.answered(&[answer], &now, &Holders(self.holders.clone()), Instant::now())
    }

    async fn wait(&mut self) -> Decided {
        sleep_until(self.retiring.next_due().expect("something to wait for")).await;
        let now = Listed::new(&self.table, &self.bygone);
        self.retiring.time_passed(&now, &Holders(self.holders.clone()), Instant::now())
    }
}

fn refused(refused: Refused) -> Bygone {
    Bygone { refused: Arc::new([refused].into()), ..Bygone::default() }
}

/// Whom the orders are for.
fn told(decided: &Decided) -> Vec<(Reason, String)> {
    decided.orders.iter().map(|order| (order.reason, order.filter.location.as_ref().unwrap().identity.to_string())).collect()
}

fn drains() -> Drain {
    Drain { on_endpoint_removed: OnRemoved::Drain, on_backend_removed: OnRemoved::Drain, ..Drain::default() }
}

#[tokio::test(start_paused = true)]
async fn a_terminating_endpoint_is_drained_once_for_each_location_as_that_says() {
    let slow = Drain { by: DrainBy::Application, ..Drain::default() };
    let routes: &[Route<'_>] = &[("a", &["app"], Drain::default()), ("b", &["app", "other"], slow)];
    let other: (&str, Endpoints<'_>) = ("other", &[(READY, "")]);
    let mut bench = Bench::new(routes, &[("app", &[(READY, ""), (READY, "")]), other]);
    let decided = bench.step(routes, &[("app", &[(READY, ""), (DRAINING, "")]), other]);
    let of = |name: &str| {
        let filter = Filter { location: Some(location(name)), endpoint: Some(endpoint("app", 1)), ..Filter::default() };
        decided.orders.iter().find(|order| order.filter == filter && order.reason == Reason::Terminating).unwrap()
    };
    assert_eq!(decided.orders.len(), 2);
    assert!(of("a").from < of("b").from, "the application closes its own first");
    assert_eq!(told(&bench.step(routes, &[("app", &[(READY, ""), (DRAINING, "")]), other])), [], "told once");
    assert_eq!(told(&bench.step(routes, &[("app", &[(READY, "")]), other])), [], "and not again when it ends");
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_tunnels_is_asked_and_all_its_endpoints_wait_for_the_answer() {
    let routes: &[Route<'_>] = &[("a", &["app"], Drain::default()), ("b", &["http"], Drain::default())];
    let all = |state| -> [(EndpointState, &str); 1] { [(state, "app-0")] };
    let mut bench = Bench { can_ask: true, ..Bench::new(routes, &[("app", &all(READY)), ("http", &all(READY))]) };
    bench.open("a", endpoint("app", 0), &pod("app-0", "1"));
    let began = Instant::now();
    let decided = bench.step(routes, &[("app", &all(DRAINING)), ("http", &all(DRAINING))]);
    assert_eq!((names(&decided.ask), names(&decided.depart)), (vec!["app-0"], vec!["app-0", "app-0"]));
    assert_eq!(told(&decided), []);
    let decided = bench.answer("app-0", Some(Fate::Ends(SECOND * 30)));
    assert_eq!(told(&decided), [(Reason::Terminating, "a".into()), (Reason::Terminating, "b".into())]);
    assert!(decided.orders.iter().all(|order| order.until == began + SECOND * 27));
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_tunnels_here_is_not_asked() {
    let routes: &[Route<'_>] = &[("a", &["app"], Drain::default())];
    let mut bench = Bench { can_ask: true, ..Bench::new(routes, &[("app", &[(READY, "app-0")])]) };
    let decided = bench.step(routes, &[("app", &[(DRAINING, "app-0")])]);
    assert_eq!(names(&decided.ask), [""; 0]);
    assert_eq!(told(&decided), [(Reason::Terminating, "a".into())], "a handshake may be under way");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_not_waited_for() {
    let routes: &[Route<'_>] = &[("a", &["app"], Drain::default())];
    let mut bench = Bench { can_ask: true, ..Bench::new(routes, &[("app", &[(READY, "app-0")])]) };
    bench.open("a", endpoint("app", 0), &pod("app-0", "1"));
    let began = Instant::now();
    bench.step(routes, &[("app", &[(DRAINING, "app-0")])]);
    let decided = bench.wait().await;
    assert_eq!(decided.orders[0].until, began + SECOND * 8, "ten seconds less the margin, from the beginning");
    assert_eq!(told(&bench.answer("app-0", Some(Fate::Ends(SECOND * 30)))), [], "a late answer lengthens nothing");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_leaves_is_drained_if_its_pod_ends_or_its_route_says_so() {
    let cases = [
        (Drain::default(), Some(Fate::Lives), None),
        (Drain::default(), None, None),
        (drains(), Some(Fate::Lives), Some(Reason::EndpointRemoved)),
        (drains(), None, Some(Reason::EndpointRemoved)),
        (Drain::default(), Some(Fate::Gone), Some(Reason::Terminating)),
        (Drain::default(), Some(Fate::Ends(SECOND * 5)), Some(Reason::Terminating)),
    ];
    for (drain, fate, expected) in cases {
        let routes: &[Route<'_>] = &[("a", &["app"], drain)];
        let both: Endpoints<'_> = &[(READY, "app-0"), (READY, "app-1")];
        let mut bench = Bench { can_ask: true, ..Bench::new(routes, &[("app", both)]) };
        bench.open("a", endpoint("app", 1), &pod("app-1", "1"));
        assert_eq!(names(&bench.step(routes, &[("app", &both[..1])]).ask), ["app-1"]);
        let decided = bench.answer("app-1", fate);
        assert_eq!(decided.orders.first().map(|order| order.reason), expected, "{fate:?}");
        assert_eq!(decided.depart.len(), usize::from(expected == Some(Reason::Terminating)));
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_that_flaps_ends_nothing() {
    let routes: &[Route<'_>] = &[("a", &["app"], drains())];
    let mut bench = Bench { can_ask: true, ..Bench::new(routes, &[("app", &[(READY, "app-0")])]) };
    bench.open("a", endpoint("app", 0), &pod("app-0", "1"));
    for _ in 0..3 {
        let decided = bench.step(routes, &[("app", &[(EndpointState::NotReady, "app-0")])]);
        assert_eq!((names(&decided.ask), told(&decided)), (vec!["app-0"], vec![]));
        assert_eq!(told(&bench.answer("app-0", Some(Fate::Lives))), []);
        assert_eq!(told(&bench.step(routes, &[("app", &[(READY, "app-0")])])), []);
    }
    bench.step(routes, &[("app", &[(EndpointState::NotReady, "app-0")])]);
    let shut_down = bench.answer("app-0", Some(Fate::Ends(SECOND * 10)));
    assert_eq!(told(&shut_down), [(Reason::Terminating, "a".into())], "unless its node shuts down");
}

#[tokio::test(start_paused = true)]
async fn another_pod_under_the_same_address_is_another_pod() {
    let routes: &[Route<'_>] = &[("a", &["app"], Drain::default())];
    let spec = |state, uid: &str| {
        let endpoints = vec![EndpointSpec { pod: Some(pod("app-0", uid)), ..EndpointSpec::new(address(0), state) }];
        [(pool("app"), Arc::new(PoolSpec { endpoints }))].into()
    };
    let at = |state, uid| Table { pools: spec(state, uid), ..table(routes, &[]) };
    let steps = [at(READY, "1"), at(DRAINING, "1"), at(DRAINING, "2"), at(READY, "3"), at(READY, "4")];
    let (mut retiring, none) = (Retiring::default(), Bygone::default());
    let mut uids = Vec::new();
    for pair in steps.windows(2) {
        let (before, now) = (Listed::new(&pair[0], &none), Listed::new(&pair[1], &none));
        let decided = retiring.step(&before, &now, || Holders(Vec::new()), false, Instant::now());
        uids.push(decided.orders.iter().map(|order| order.filter.pod.clone().unwrap().uid.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(uids, [vec!["1".to_owned()], vec!["2".to_owned()], vec![], vec![]], "each order is for one Pod");
}

#[tokio::test(start_paused = true)]
async fn all_pods_may_end_at_once_each_by_its_own_deadline() {
    let routes: &[Route<'_>] = &[("a", &["app"], Drain::default())];
    let pods = ["app-0", "app-1", "app-2"];
    let all = |state| pods.map(|name| (state, name));
    let mut bench = Bench { can_ask: true, ..Bench::new(routes, &[("app", &all(READY))]) };
    for (last, name) in pods.iter().enumerate() {
        bench.open("a", endpoint("app", last), &pod(name, "1"));
    }
    let began = Instant::now();
    assert_eq!(names(&bench.step(routes, &[("app", &all(DRAINING))]).ask), pods);
    let until = |decided: Decided| (decided.orders[0].until - began).as_secs();
    assert_eq!(until(bench.answer("app-2", Some(Fate::Ends(SECOND * 30)))), 27);
    assert_eq!(until(bench.answer("app-0", Some(Fate::Ends(SECOND * 100)))), 94);
    assert_eq!(until(bench.answer("app-1", None)), 8);
}

#[tokio::test(start_paused = true)]
async fn what_is_edited_away_is_kept_unless_the_route_says_otherwise() {
    let pools: &[(&str, Endpoints<'_>)] = &[("blue", &[(READY, "")]), ("green", &[(READY, "")])];
    let both: &[&str] = &["blue", "green"];
    let mut keep = Bench::new(&[("a", both, Drain::default())], pools);
    assert_eq!(told(&keep.step(&[("a", &["green"], Drain::default())], &pools[1..])), []);
    let mut drain = Bench::new(&[("a", both, drains())], pools);
    let decided = drain.step(&[("a", &["green"], drains())], &pools[1..]);
    let filter = Filter { location: Some(location("a")), service: Some(pool("blue")), ..Filter::default() };
    assert_eq!(decided.orders.iter().map(|order| (order.reason, &order.filter)).collect::<Vec<_>>(), [(Reason::BackendRemoved, &filter)]);
}

#[tokio::test(start_paused = true)]
async fn tunnels_to_a_pool_that_their_location_does_not_list_end_with_their_pod() {
    let cap = Drain { max_per_second: Some(7), keep_on_route_removed: true, ..Drain::default() };
    let old: Endpoints<'_> = &[(READY, "old-0")];
    let ending: Endpoints<'_> = &[(DRAINING, "old-0")];
    let (a, b): (Route<'_>, Route<'_>) = (("a", &["old"], cap), ("b", &["old"], Drain::default()));
    let mut bench = Bench::new(&[a, b], &[("old", old)]);
    bench.open("a", endpoint("old", 0), &pod("old-0", "1"));
    let moved: Route<'_> = ("a", &["new"], cap);
    bench.step(&[moved, b], &[("old", old), ("new", &[(READY, "")])]);
    let decided = bench.step(&[moved, b], &[("old", ending), ("new", &[(READY, "")])]);
    assert_eq!(told(&decided), [(Reason::Terminating, "a".into()), (Reason::Terminating, "b".into())]);

    let mut bench = Bench::new(&[a], &[("old", old)]);
    bench.open("a", endpoint("old", 0), &pod("old-0", "1"));
    let beside = |endpoints| Bygone { pools: specs(&[("old", endpoints)]), ..Bygone::default() };
    assert_eq!(told(&bench.step_beside(&[], &[], beside(old))), []);
    let decided = bench.step_beside(&[], &[], beside(ending));
    assert_eq!(told(&decided), [(Reason::Terminating, "a".into())]);
    assert_eq!(decided.orders[0].max_per_second, Some(7), "by the last words of its location");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_had_any_more_is_drained_at_once() {
    let pools: &[(&str, Endpoints<'_>)] = &[("app", &[(READY, "")])];
    let routes: &[Route<'_>] = &[("a", &["app"], Drain::default())];
    let began = Instant::now();
    let mut port = Bench::new(routes, pools);
    let decided = port.step_beside(&[], pools, refused(Refused::Port(location("a"))));
    assert_eq!(told(&decided), [(Reason::Withdrawn, "a".into())]);
    assert_eq!((decided.orders[0].from, decided.orders[0].until), (began, began + WITHDRAWN_SPREAD));
    assert!(port.retiring.next_due().is_none(), "and not once more half a minute later");

    let mut backend = Bench::new(routes, pools);
    let decided = backend.step_beside(&[("a", &[], Drain::default())], &[], refused(Refused::Backend(location("a"), pool("app"))));
    assert_eq!(told(&decided), [(Reason::Withdrawn, "a".into())]);
    assert_eq!(decided.orders[0].filter.service, Some(pool("app")));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_had_is_not_withdrawn() {
    let routes: &[Route<'_>] = &[("a", &["app"], Drain::default())];
    let pools: &[(&str, Endpoints<'_>)] = &[("app", &[(READY, "")])];
    let mut bench = Bench::new(routes, pools);
    assert_eq!(told(&bench.step_beside(routes, pools, refused(Refused::Port(location("b"))))), []);
    assert_eq!(told(&bench.step_beside(routes, pools, refused(Refused::Backend(location("a"), pool("other"))))), []);
    assert_eq!(told(&bench.step_beside(routes, pools, refused(Refused::Port(location("a"))))), [], "it is served elsewhere");
}

#[tokio::test(start_paused = true)]
async fn a_location_has_half_a_minute_to_come_back() {
    let routes: &[Route<'_>] = &[("a", &["app"], Drain::default())];
    let pools: &[(&str, Endpoints<'_>)] = &[("app", &[(READY, "")])];
    let mut bench = Bench::new(routes, pools);
    bench.step(&[], &[]);
    assert!(bench.retiring.next_due().is_some());
    bench.step(routes, pools);
    assert!(bench.retiring.next_due().is_none(), "it came back");
    bench.step(&[], &[]);
    assert_eq!(told(&bench.wait().await), [(Reason::RouteRemoved, "a".into())]);

    let mut withdrawn = Bench::new(routes, pools);
    withdrawn.step(&[], &[]);
    let decided = withdrawn.step_beside(&[], &[], refused(Refused::Port(location("a"))));
    assert_eq!(told(&decided), [(Reason::Withdrawn, "a".into())], "it came back and may not be");

    let mut keep = Bench::new(&[("a", &["app"], Drain { keep_on_route_removed: true, ..Drain::default() })], pools);
    keep.step(&[], &[]);
    assert!(keep.retiring.next_due().is_none(), "kept");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_comes_back_without_a_uid_is_asked_anew() {
    let routes: &[Route<'_>] = &[("a", &["app"], Drain::default())];
    let mut bench = Bench::new(routes, &[("app", &[(DRAINING, "app-0")])]);
    bench.open("a", endpoint("app", 0), &pod("app-0", "1"));
    let decided = bench.step(routes, &[("app", &[(READY, "app-0")])]);
    assert_eq!(names(&decided.stay), ["app-0"]);
    tokio::time::advance(SECOND * 60).await;
    let decided = bench.step(routes, &[("app", &[(DRAINING, "app-0")])]);
    assert_eq!(decided.orders[0].from, Instant::now(), "by a deadline of its own");
}
