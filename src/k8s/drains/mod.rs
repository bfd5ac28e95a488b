//! Events about Pods that go away while sockets are open to them.
//!
//! It never closes a socket: every replica does that by itself (`proxy::retire`), and says how it goes on. The leader alone runs it, and
//! asks the others only while a Pod is on its way out.

mod story;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    future::pending,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::{sync::watch, time::Instant};

use super::{
    at,
    events::{Notice, Notices, Repeated},
    peers::{Replicas, Survey},
    status::News,
};
use crate::{
    model::{ObjectRef, PoolKey, Table, pod::PodRef, route::Backend, upstream::EndpointState},
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

/// Tells of Pods that go away, for as long as tables come.
pub(super) async fn tell(replicas: &Replicas, mut latest: watch::Receiver<Arc<Translated>>, notices: &Notices) {
    let mut drains = Drains::default();
    let mut due = drains.see(&latest.borrow_and_update().table, Instant::now());
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
            () = at(due), if asking.is_none() => {
                due = None;
                asking = Some(Box::pin(replicas.survey()));
            }
            survey = answered(&mut asking) => {
                asking = None;
                let now = Instant::now();
                for notice in drains.hear(&survey, now) {
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
}

impl Drains {
    /// Sees which Pods go away now, and says when to ask about those that are new.
    fn see(&mut self, table: &Table, now: Instant) -> Option<Instant> {
        self.pods.values_mut().for_each(|going| going.is_listed = false);
        let mut new = false;
        for (pod, pool) in terminating(table) {
            match self.pods.entry(pod) {
                Entry::Occupied(mut known) => known.get_mut().is_listed = true,
                Entry::Vacant(place) => {
                    new = true;
                    let story = Story::new(&place.key().name, now);
                    place.insert(Going { story, route: route_to(table, pool), is_listed: true });
                }
            }
        }
        self.forget();
        new.then(|| now + SETTLE)
    }

    /// Hears what all replicas have, and says what is to be told of it.
    fn hear(&mut self, survey: &Survey, now: Instant) -> Vec<Notice> {
        let mut notices = Vec::new();
        for (pod, going) in &mut self.pods {
            let news = going.story.hear(&Sum::of(survey.of(pod)), &survey.missing, now);
            notices.extend(news.into_iter().map(|news| notice(pod, going.route.as_ref(), news)));
        }
        self.forget();
        notices
    }

    /// When to ask again; never, where nothing is left to be told.
    fn next_round(&self, now: Instant) -> Option<Instant> {
        let ages = self.pods.values().filter(|going| !going.story.is_over()).map(|going| going.story.age(now));
        ages.min().map(|youngest| now + if youngest < LONG { ROUND } else { LONG_ROUND })
    }

    fn forget(&mut self) {
        self.pods.retain(|_, going| going.is_listed || !going.story.is_over());
    }
}

/// The Pods that were told to go, each with a pool that has it.
fn terminating(table: &Table) -> impl Iterator<Item = (PodRef, &PoolKey)> {
    table.pools.iter().flat_map(|(key, pool)| {
        let namespace = if let PoolKey::Service { service, .. } = key { Some(&service.namespace) } else { None };
        let going = pool.endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Draining);
        going.filter_map(move |endpoint| {
            let pod = endpoint.pod.as_ref()?;
            Some((PodRef { namespace: Arc::clone(namespace?), name: Arc::clone(&pod.name), uid: Arc::clone(&pod.uid) }, key))
        })
    })
}

/// A WsRoute that sends to this pool.
fn route_to(table: &Table, pool: &PoolKey) -> Option<ObjectRef> {
    let sends = |backends: &[Backend]| backends.iter().any(|backend| backend.pool == *pool);
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
        upstream::{EndpointSpec, Pod, PoolSpec},
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
    fn a_pod_is_asked_about_until_it_has_nothing_left_and_forgotten_when_it_is_gone() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        assert_eq!(drains.see(&table(EndpointState::Draining), now), Some(now + SETTLE));
        assert_eq!(drains.see(&table(EndpointState::Draining), now), None, "it is known");
        let told = drains.hear(&survey(4, 4), now);
        assert_eq!((told[0].regarding.name.as_deref(), told[0].repeated), (Some("chat-0"), Repeated::Never));
        assert_eq!(drains.next_round(now), Some(now + ROUND));
        assert_eq!(drains.next_round(now + LONG), Some(now + LONG + LONG_ROUND));
        assert_eq!(drains.hear(&survey(0, 4), now)[0].news.reason, "DrainEnded");
        assert_eq!(drains.next_round(now), None, "though the Pod is there still");
        assert_eq!((drains.see(&table(EndpointState::Draining), now), drains.pods.len()), (None, 1));
        drains.see(&Table::default(), now);
        assert!(drains.pods.is_empty());
    }

    #[test]
    fn a_pod_that_is_gone_before_its_sockets_is_asked_about_still() {
        let (mut drains, now) = (Drains::default(), Instant::now());
        drains.see(&table(EndpointState::Draining), now);
        drains.see(&Table::default(), now);
        assert_eq!(drains.hear(&survey(2, 4), now).len(), 1);
        assert_eq!(drains.next_round(now), Some(now + ROUND));
        assert_eq!(drains.hear(&survey(0, 4), now).len(), 1);
        assert!(drains.pods.is_empty());
    }
}
