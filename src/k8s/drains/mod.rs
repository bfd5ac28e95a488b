//! Events about Pods that go away while sockets are open to them.
//!
//! It never closes a socket: every replica does that by itself (`proxy::retire`), and says how it goes on. The leader alone runs it, and
//! asks the others only while a Pod is on its way out.

mod story;

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::{sync::watch, time::Instant};

use super::{
    at,
    events::{Notice, Notices, Repeated},
    peers::{Replicas, Survey},
    status::News,
};
use crate::{
    model::{
        ObjectRef, PoolKey, Table,
        pod::PodRef,
        route::Backend,
        upstream::{EndpointSpec, EndpointState},
    },
    translate::Translated,
};
use story::{Story, Sum};

/// Until replicas are asked of a Pod for the first time, so that all of them have heard that it goes.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two rounds of questions.
const ROUND: Duration = Duration::from_secs(2);
/// A drain that takes longer than this is asked for less often.
const LONG: Duration = Duration::from_secs(120);
/// So often.
const LONG_ROUND: Duration = Duration::from_secs(10);
/// A Pod of which all is told is remembered for as long as replicas still speak of it: a minute, and some.
const REMEMBERED: Duration = Duration::from_secs(120);

/// Tells of Pods that go away, for as long as tables come.
pub(super) async fn tell(replicas: &Replicas, mut latest: watch::Receiver<Arc<Translated>>, notices: &Notices) {
    let mut drains = Drains::default();
    let mut departures = replicas.departures();
    // Whoever led before may have left something untold.
    let mut due = Some(Instant::now() + SETTLE);
    drains.see(&latest.borrow_and_update().table, Instant::now());
    // Beside the tables, not between them: a Pod may come and go in the time that a silent replica takes.
    let mut asking = None;
    loop {
        tokio::select! {
            changed = latest.changed() => {
                if changed.is_err() {
                    return;
                }
                due = earliest(due, drains.see(&latest.borrow_and_update().table, Instant::now()));
            }
            Ok(()) = departures.changed() => due = earliest(due, Some(Instant::now() + SETTLE)),
            () = at(due), if asking.is_none() => {
                due = None;
                asking = Some(Box::pin(replicas.survey()));
            }
            survey = answered(&mut asking) => {
                asking = None;
                let now = Instant::now();
                for notice in drains.hear(&survey, &latest.borrow().table, now) {
                    notices.tell(notice);
                }
                due = earliest(due, drains.next_round(now));
            }
        }
    }
}

async fn answered<T>(asking: &mut Option<impl Future<Output = T> + Unpin>) -> T {
    match asking {
        Some(asking) => asking.await,
        None => pending().await,
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}

/// The Pods on their way out, and what was told of each.
#[derive(Debug, Default)]
struct Drains {
    pods: BTreeMap<PodRef, Going>,
}

#[derive(Debug)]
struct Going {
    story: Story,
    /// A WsRoute whose sockets it has.
    route: Option<ObjectRef>,
    /// Whether the table still has it.
    is_listed: bool,
    over_since: Option<Instant>,
}

impl Going {
    fn new(pod: &PodRef, table: &Table, now: Instant) -> Self {
        Self { story: Story::new(&pod.name, now), route: route_to(table, pod), is_listed: false, over_since: None }
    }
}

impl Drains {
    /// Sees which Pods go away now, and says when to ask about those that are new.
    fn see(&mut self, table: &Table, now: Instant) -> Option<Instant> {
        self.pods.values_mut().for_each(|going| going.is_listed = false);
        if !self.pods.is_empty() {
            // Without a UID it may be another Pod of the name by now; and one that was not ready may be again.
            pods(table, EndpointState::Ready).for_each(|pod| drop(self.pods.remove(&pod)));
        }
        let mut is_new = false;
        for pod in pods(table, EndpointState::Draining) {
            let going = self.pods.entry(pod).or_insert_with_key(|pod| {
                is_new = true;
                Going::new(pod, table, now)
            });
            going.is_listed = true;
        }
        self.forget(now);
        is_new.then(|| now + SETTLE)
    }

    /// Hears what all replicas have, and says what is to be told of it. They know of Pods that the table does not have, or not as such: Pods that
    /// failed, of a node that shuts down, of a Service that no route names any more.
    fn hear(&mut self, survey: &Survey, table: &Table, now: Instant) -> Vec<Notice> {
        for pod in survey.departing() {
            self.pods.entry(pod).or_insert_with_key(|pod| Going::new(pod, table, now));
        }
        let mut notices = Vec::new();
        for (pod, going) in &mut self.pods {
            let news = going.story.hear(&Sum::of(survey.of(pod)), &survey.missing, now);
            notices.extend(news.into_iter().map(|news| notice(pod, going.route.as_ref(), news)));
            if going.story.is_over() {
                going.over_since.get_or_insert(now);
            }
        }
        self.forget(now);
        notices
    }

    /// When to ask again; never, where nothing is left to be told.
    fn next_round(&self, now: Instant) -> Option<Instant> {
        let ages = self.pods.values().filter(|going| !going.story.is_over()).map(|going| going.story.age(now));
        ages.min().map(|youngest| now + if youngest < LONG { ROUND } else { LONG_ROUND })
    }

    fn forget(&mut self, now: Instant) {
        self.pods.retain(|_, going| going.is_listed || going.over_since.is_none_or(|since| now < since + REMEMBERED));
    }
}

/// The Pods that are in this state.
fn pods(table: &Table, state: EndpointState) -> impl Iterator<Item = PodRef> {
    table.pools.iter().flat_map(move |(key, pool)| {
        let endpoints = pool.endpoints.iter().filter(move |endpoint| endpoint.state == state);
        endpoints.filter_map(|endpoint| PodRef::of(key, endpoint.pod.as_ref()?))
    })
}

/// A WsRoute that sends to this Pod.
fn route_to(table: &Table, pod: &PodRef) -> Option<ObjectRef> {
    let is_it = |key: &PoolKey, endpoint: &EndpointSpec| endpoint.pod.as_ref().and_then(|at| PodRef::of(key, at)).as_ref() == Some(pod);
    let has_it = |key: &PoolKey| table.pools.get(key).is_some_and(|pool| pool.endpoints.iter().any(|endpoint| is_it(key, endpoint)));
    let sends = |backends: &[Backend]| backends.iter().any(|backend| has_it(&backend.pool));
    let mut locations = table.hosts.iter().flat_map(|host| &host.locations);
    let location = locations.find(|location| location.proxy().is_some_and(|proxy| sends(&proxy.backends)));
    let of_tcp = || table.tcp.values().flatten().find(|route| sends(&route.backends)).map(|route| route.route.clone());
    location.map(|location| location.route.clone()).or_else(of_tcp)
}

fn notice(pod: &PodRef, route: Option<&ObjectRef>, news: News) -> Notice {
    // What is left is said again and again; the beginning and the end were said if they are there, whoever led then.
    let repeated = if news.reason == "Draining" { Repeated::Counted } else { Repeated::Never };
    Notice {
        regarding: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.to_string()),
            name: Some(pod.name.to_string()),
            uid: Some(pod.uid.to_string()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        },
        related: route.map(|route| ObjectReference {
            api_version: Some("carrick.dev/v1alpha1".to_owned()),
            kind: Some("WsRoute".to_owned()),
            namespace: Some(route.namespace.to_string()),
            name: Some(route.name.to_string()),
            ..ObjectReference::default()
        }),
        action: "Drain",
        repeated,
        news,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        pod::{Departure, PodTunnels},
        upstream::{Pod, PoolSpec},
    };

    /// One pool with one Pod.
    fn table(state: EndpointState) -> Table {
        let pool = PoolKey::Service { service: ObjectRef::new("default", "chat"), port: "ws".into() };
        let pod = Some(Arc::new(Pod { name: "chat-0".into(), uid: "u".into() }));
        let endpoints = vec![EndpointSpec { pod, ..EndpointSpec::new("10.0.0.1:80".parse().unwrap(), state) }];
        Table { pools: BTreeMap::from([(pool, Arc::new(PoolSpec { endpoints }))]), ..Table::default() }
    }

    fn survey(open: u64, at_first: u64) -> Survey {
        let departure = Some(Departure { age_seconds: 1.0, tunnels: at_first, cut: 0, first_cut_seconds: None });
        let pod = PodTunnels { namespace: "default".into(), pod: "chat-0".into(), uid: "u".into(), open, departure };
        Survey { replicas: vec![vec![pod]], ..Survey::default() }
    }

    #[test]
    fn nobody_is_asked_while_no_pod_goes() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        assert_eq!(drains.see(&table(EndpointState::Ready), now), None);
        assert_eq!(drains.next_round(now), None);
    }

    #[test]
    fn a_pod_is_asked_about_until_it_has_nothing_left_and_told_of_once() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        let table = table(EndpointState::Draining);
        assert_eq!(drains.see(&table, now), Some(now + SETTLE));
        assert_eq!(drains.see(&table, now), None, "it is known");
        let told = drains.hear(&survey(4, 4), &table, now);
        assert_eq!((told[0].regarding.name.as_deref(), told[0].repeated), (Some("chat-0"), Repeated::Never));
        assert_eq!(drains.next_round(now), Some(now + ROUND));
        assert_eq!(drains.next_round(now + LONG), Some(now + LONG + LONG_ROUND));
        assert_eq!(drains.hear(&survey(0, 4), &table, now)[0].news.reason, "DrainEnded");
        assert_eq!(drains.next_round(now), None, "though the Pod is there still");
        assert_eq!(drains.see(&Table::default(), now), None);
        assert!(drains.hear(&survey(0, 4), &table, now).is_empty(), "though replicas speak of it still");
        drains.see(&Table::default(), now + REMEMBERED);
        assert!(drains.pods.is_empty());
    }

    #[test]
    fn a_pod_that_is_gone_before_its_sockets_is_asked_about_still() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        drains.see(&table(EndpointState::Draining), now);
        drains.see(&Table::default(), now);
        assert_eq!(drains.hear(&survey(2, 4), &Table::default(), now).len(), 1);
        assert_eq!(drains.next_round(now), Some(now + ROUND));
        assert_eq!(drains.hear(&survey(0, 4), &Table::default(), now).len(), 1);
    }

    #[test]
    fn a_pod_that_only_a_replica_knows_to_go_is_told_of_unless_it_comes_back() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        assert_eq!(drains.hear(&survey(2, 4), &table(EndpointState::NotReady), now)[0].news.reason, "DrainStarted");
        drains.see(&table(EndpointState::NotReady), now);
        assert_eq!(drains.next_round(now), Some(now + ROUND));
        drains.see(&table(EndpointState::Ready), now);
        assert_eq!(drains.next_round(now), None);
    }
}
