//! The replicas of this installation, as the EndpointSlices of a Service of ours have them (`--peers-service`), and what they say of their tunnels.
//!
//! It never knows how a replica is asked: `app` brings that. `drains` and `deletion_cost` take sums of it; how many are ready, `app` tells `balance`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures_util::{
    future::BoxFuture,
    stream::{self, StreamExt as _},
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Error,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tokio::sync::watch;

use super::{Connection, trouble::Trouble};
use crate::{
    model::{
        ObjectRef,
        pod::{Heard, PodRef, PodTunnels},
    },
    translate::objects::SERVICE_NAME_LABEL,
};

/// What the Service calls the ops port.
const OPS_PORT: &str = "ops";

/// Replicas that are asked at once; the others wait their turn.
const AT_ONCE: usize = 16;

/// One replica, ourselves among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its Pod's name, or its address where the slice does not say.
    pub name: String,
    /// Its ops port.
    pub ops: SocketAddr,
    /// Whether it answers clients.
    pub is_serving: bool,
    /// Whether it was told to go.
    pub is_terminating: bool,
}

/// Every replica; `None` while that is not known.
pub type Peers = Option<Arc<[Peer]>>;

/// How many replicas share the work, where that is known: those that are ready and stay.
pub fn ready(peers: &Peers) -> Option<u32> {
    let ready = peers.as_ref()?.iter().filter(|peer| peer.is_serving && !peer.is_terminating);
    Some(u32::try_from(ready.count()).unwrap_or(u32::MAX))
}

/// Keeps the list of the replicas behind a Service, until nobody wants to know.
pub async fn follow(connection: Connection, service: ObjectRef, known: watch::Sender<Peers>) {
    let api: Api<EndpointSlice> = Api::namespaced(connection.client, &service.namespace);
    let only = watcher::Config::default().labels(&format!("{SERVICE_NAME_LABEL}={}", service.name));
    let mut trouble = Trouble::new(format!("the endpoints of service {service}, which are the replicas of Carrick, can not be watched"));
    let events = || Box::pin(watcher::watcher(api.clone(), only.clone()).default_backoff());
    let mut running = events();
    let mut slices = BTreeMap::new();
    let mut listing = BTreeMap::new();
    loop {
        let event = tokio::select! {
            Some(event) = running.next() => event,
            () = known.closed() => return,
            else => return,
        };
        match event {
            Ok(Event::Init) => listing = BTreeMap::new(),
            Ok(Event::InitApply(slice)) => {
                listing.insert(name_of(&slice), slice);
                continue;
            }
            Ok(Event::InitDone) => slices = std::mem::take(&mut listing),
            Ok(Event::Apply(slice)) => drop(slices.insert(name_of(&slice), slice)),
            Ok(Event::Delete(slice)) => drop(slices.remove(&name_of(&slice))),
            // kube's watcher would ask from the same place for ever.
            Err(watcher::Error::WatchStartFailed(Error::Api(status))) if status.code == 410 => {
                running = events();
                continue;
            }
            Err(error) => {
                trouble.say(&error);
                continue;
            }
        }
        trouble.is_over();
        let next = Some(Arc::from(listed(slices.values())));
        known.send_if_modified(|known| {
            *known != next && {
                *known = next;
                true
            }
        });
    }
}

fn name_of(slice: &EndpointSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}

/// The replicas of these slices, in the order of their names. One with an address of each family is one replica.
fn listed<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Vec<Peer> {
    let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let Some(port) = ports.filter(|port| port.name.as_deref() == Some(OPS_PORT)).find_map(|port| u16::try_from(port.port?).ok()) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(address) = endpoint.addresses.first().and_then(|address| address.parse::<IpAddr>().ok()) else { continue };
            let ops = SocketAddr::new(address, port);
            let name = endpoint.target_ref.as_ref().and_then(|target| target.name.clone()).unwrap_or_else(|| ops.to_string());
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let is_serving = conditions.serving.or(conditions.ready).unwrap_or(true);
            let is_terminating = conditions.terminating.unwrap_or(false);
            peers.entry(name.clone()).or_insert(Peer { name, ops, is_serving, is_terminating });
        }
    }
    peers.into_values().collect()
}

/// How tunnels are seen: our own, and those of another replica.
#[derive(Clone)]
pub struct Sight {
    /// What this replica has on each Pod.
    pub own: Arc<dyn Fn() -> Vec<PodTunnels> + Send + Sync>,
    /// Changes when Pods were told to go, as this replica sees it.
    pub departures: watch::Receiver<u64>,
    /// Asks the replica whose ops port this is; ends within seconds.
    pub ask: Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, Heard> + Send + Sync>,
}

/// All replicas together.
#[derive(Clone)]
pub(super) struct Replicas {
    sight: Sight,
    /// The others; `None` where `--peers-service` is not given, and then there are none.
    peers: Option<watch::Receiver<Peers>>,
}

/// What all replicas have, as far as they say.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    /// What each of those has that were heard, ourselves first.
    pub(super) replicas: Vec<Vec<PodTunnels>>,
    /// Who should have said something.
    pub(super) missing: BTreeSet<String>,
}

impl Replicas {
    pub(super) fn new(sight: Sight, peers: Option<watch::Receiver<Peers>>) -> Self {
        Self { sight, peers }
    }

    /// Changes when Pods were told to go, as far as this replica sees it.
    pub(super) fn departures(&self) -> watch::Receiver<u64> {
        self.sight.departures.clone()
    }

    /// Asks every replica.
    pub(super) async fn survey(&self) -> Survey {
        let own = (self.sight.own)();
        let mut survey = Survey { replicas: vec![own], missing: BTreeSet::new() };
        let peers = match self.peers.as_ref().map(|peers| peers.borrow().clone()) {
            None => return survey,
            Some(None) => {
                survey.missing.insert("every other replica".to_owned());
                return survey;
            }
            Some(Some(peers)) => peers,
        };
        let questions: Vec<_> = peers.iter().map(|peer| self.ask(peer.clone())).collect();
        let mut answers = stream::iter(questions).buffer_unordered(AT_ONCE);
        while let Some((peer, heard)) = answers.next().await {
            survey.take(peer, heard);
        }
        survey
    }

    fn ask(&self, peer: Peer) -> BoxFuture<'static, (Peer, Heard)> {
        let asked = (self.sight.ask)(peer.ops);
        Box::pin(async move { (peer, asked.await) })
    }
}

impl Survey {
    fn take(&mut self, peer: Peer, heard: Heard) {
        match heard {
            Heard::Tunnels(pods) => self.replicas.push(pods),
            Heard::Ourselves => {}
            // It begins, or has ended: it has no tunnels. A replica that serves and can't be reached is another matter.
            Heard::Nobody if !peer.is_serving => {}
            Heard::Nobody => drop(self.missing.insert(peer.name)),
            Heard::Silence(why) => {
                tracing::debug!(replica = peer.name, "it does not say what tunnels it has: {why}");
                self.missing.insert(peer.name);
            }
        }
    }

    /// What the replicas say of one Pod, one element each that says anything.
    pub(super) fn of<'a>(&'a self, pod: &'a PodRef) -> impl Iterator<Item = &'a PodTunnels> {
        self.replicas
            .iter()
            .flatten()
            .filter(move |tunnels| tunnels.pod == *pod.name && tunnels.namespace == *pod.namespace && tunnels.uid == *pod.uid)
    }

    /// The Pods that were told to go, as any replica has it; some twice.
    pub(super) fn departing(&self) -> impl Iterator<Item = PodRef> {
        self.replicas.iter().flatten().filter(|tunnels| tunnels.departure.is_some()).map(pod_of)
    }

    /// Open tunnels by Pod, over all replicas.
    pub(super) fn open(&self) -> HashMap<PodRef, u64> {
        let mut open = HashMap::new();
        for tunnels in self.replicas.iter().flatten() {
            *open.entry(pod_of(tunnels)).or_default() += tunnels.open;
        }
        open
    }
}

fn pod_of(tunnels: &PodTunnels) -> PodRef {
    PodRef { namespace: tunnels.namespace.as_str().into(), name: tunnels.pod.as_str().into(), uid: tunnels.uid.as_str().into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(family: &str, port_name: &str, endpoints: serde_json::Value) -> EndpointSlice {
        let ports = json!([{"name": "http", "port": 8080}, {"name": port_name, "port": 9180}]);
        serde_json::from_value(json!({"addressType": family, "metadata": {"name": family}, "ports": ports, "endpoints": endpoints}))
            .unwrap()
    }

    fn pod(name: &str, address: &str, conditions: serde_json::Value) -> serde_json::Value {
        json!({"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": name}})
    }

    #[test]
    fn a_replica_is_one_pod_whatever_it_has_of_addresses() {
        let four = slice("IPv4", "ops", json!([pod("b", "10.0.0.2", json!({})), pod("a", "10.0.0.1", json!({"ready": true}))]));
        let six = slice("IPv6", "ops", json!([pod("a", "fd00::1", json!({"ready": true}))]));
        let other = slice("IPv4", "metrics", json!([pod("c", "10.0.0.3", json!({}))]));
        let peers = listed([&four, &six, &other].into_iter());
        let found: Vec<_> = peers.iter().map(|peer| (peer.name.as_str(), peer.ops.to_string())).collect();
        assert_eq!(found, [("a", "10.0.0.1:9180".to_owned()), ("b", "10.0.0.2:9180".to_owned())]);
    }

    #[test]
    fn those_share_the_work_that_are_ready_and_stay() {
        let published = json!({"ready": true, "serving": false, "terminating": false});
        let endpoints = json!([
            pod("a", "10.0.0.1", json!({"ready": true, "serving": true, "terminating": false})),
            pod("starting", "10.0.0.2", published),
            pod("leaving", "10.0.0.3", json!({"ready": true, "serving": true, "terminating": true})),
        ]);
        let slice = slice("IPv4", "ops", endpoints);
        assert_eq!(ready(&Some(listed([&slice].into_iter()).into())), Some(1));
        assert_eq!(ready(&None), None);
    }

    #[tokio::test]
    async fn a_survey_names_who_should_have_said_something() {
        let tunnels = |open| PodTunnels { namespace: "default".into(), pod: "chat-0".into(), uid: "u".into(), open, departure: None };
        let peer = |name: &str, port, is_serving| Peer {
            name: name.into(),
            ops: SocketAddr::from(([10, 0, 0, 1], port)),
            is_serving,
            is_terminating: false,
        };
        let sight = Sight {
            own: Arc::new(move || vec![tunnels(1)]),
            departures: watch::channel(0).1,
            ask: Arc::new(move |at| {
                Box::pin(async move {
                    match at.port() {
                        1 => Heard::Ourselves,
                        2 => Heard::Tunnels(vec![tunnels(20)]),
                        3 | 4 => Heard::Nobody,
                        _ => Heard::Silence("late".into()),
                    }
                })
            }),
        };
        let peers = [peer("a", 1, true), peer("b", 2, true), peer("c", 3, false), peer("d", 4, true), peer("e", 5, false)];
        let (_known, list) = watch::channel(Some(Arc::from(peers)));
        let survey = Replicas::new(sight.clone(), Some(list)).survey().await;
        assert_eq!(survey.missing.iter().map(String::as_str).collect::<Vec<_>>(), ["d", "e"]);
        let pod = PodRef { namespace: "default".into(), name: "chat-0".into(), uid: "u".into() };
        assert_eq!((survey.of(&pod).count(), survey.open()[&pod]), (2, 21));

        let (_known, unknown) = watch::channel(None);
        let survey = Replicas::new(sight.clone(), Some(unknown)).survey().await;
        assert_eq!((survey.missing.len(), survey.open()[&pod]), (1, 1));
        assert!(Replicas::new(sight, None).survey().await.missing.is_empty(), "alone by flag");
    }
}
