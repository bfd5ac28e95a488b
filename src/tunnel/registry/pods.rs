//! The tunnels by the Pod, location and endpoint they go to: what `proxy::retire` decides on, and what the replicas tell one another.
//!
//! It never gives orders. A look at it walks over all tunnels, so nobody looks for each request.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::{sync::watch, time::Instant};

use super::{Entry, Registry};
use crate::{
    balance::Endpoint,
    model::{
        LocationKey,
        pod::{PodRef, PodTunnels},
    },
    telemetry::metrics::Initiator,
    tunnel::close::{End, Unclean},
};

impl Registry {
    /// What is open to each Pod, and how those go that were told to.
    pub fn pods(&self) -> Vec<PodTunnels> {
        let mut pods: BTreeMap<PodRef, PodTunnels> = BTreeMap::new();
        for (pod, open) in self.open_by_pod() {
            pods.insert(pod.clone(), row(&pod, open));
        }
        let mut departures = self.departures.lock();
        for (pod, departure) in departures.show(|pod| pods.get(pod).map_or(0, |known| known.open), Instant::now()).collect::<Vec<_>>() {
            pods.entry(pod.clone()).or_insert_with(|| row(pod, 0)).departure = Some(departure);
        }
        pods.into_values().collect()
    }

    /// Who has tunnels where: each location with each of its endpoints, now and then twice.
    pub fn holders(&self) -> Vec<(LocationKey, Arc<Endpoint>)> {
        let mut holders = HashMap::new();
        self.for_each(|entry| {
            let (location, endpoint) = (&entry.identity.location, entry.identity.lease.endpoint());
            let group = (Arc::as_ptr(&location.identity).addr(), Arc::as_ptr(endpoint).addr());
            holders.entry(group).or_insert_with(|| (location.clone(), Arc::clone(endpoint)));
        });
        holders.into_values().collect()
    }

    /// Pods were told to go: from now on their cuts are counted.
    pub fn depart(&self, pods: &[PodRef]) {
        if pods.is_empty() {
            return;
        }
        let open = self.open_by_pod();
        let (mut departures, now) = (self.departures.lock(), Instant::now());
        for pod in pods {
            departures.begin(pod, open.get(pod).copied().unwrap_or_default(), now);
        }
        self.departed.send_modify(|count| *count += 1);
    }

    /// Changes when Pods were told to go, for whoever tells of it.
    pub fn departures(&self) -> watch::Receiver<u64> {
        self.departed.subscribe()
    }

    /// A Pod that was told to go takes tunnels again.
    pub fn stays(&self, pod: &PodRef) {
        self.departures.lock().take_back(pod);
    }

    /// The end of a tunnel, for what is told of its Pod.
    pub(super) fn note_end(&self, entry: &Entry, end: Option<&End>) {
        let Some(pod) = pod_of(entry.identity.lease.endpoint()) else { return };
        let is_cut = end.is_some_and(|end| end.by == Initiator::Backend && end.unclean == Some(Unclean::BackendGone));
        let now = Instant::now();
        let cut = is_cut.then(|| self.instant(entry.closing_since()).min(now));
        self.departures.lock().ended(&pod, cut, now);
    }

    fn open_by_pod(&self) -> BTreeMap<PodRef, u64> {
        let mut counts: HashMap<usize, (Arc<Endpoint>, u64)> = HashMap::new();
        self.for_each(|entry| {
            let endpoint = entry.identity.lease.endpoint();
            counts.entry(Arc::as_ptr(endpoint).addr()).or_insert_with(|| (Arc::clone(endpoint), 0)).1 += 1;
        });
        let mut pods = BTreeMap::new();
        for (endpoint, count) in counts.into_values() {
            if let Some(pod) = pod_of(&endpoint) {
                *pods.entry(pod).or_default() += count;
            }
        }
        pods
    }
}

fn pod_of(endpoint: &Endpoint) -> Option<PodRef> {
    PodRef::of(&endpoint.key.pool, endpoint.pod.as_ref()?)
}

fn row(pod: &PodRef, open: u64) -> PodTunnels {
    PodTunnels { namespace: pod.namespace.to_string(), pod: pod.name.to_string(), uid: pod.uid.to_string(), open, departure: None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::{
        balance::Lease,
        model::{EndpointKey, ObjectRef, PoolKey, upstream::Pod},
        telemetry::AccessLog,
        tunnel::{Identity, Kind, Opening, Socket, open},
    };

    fn pod(name: &str) -> PodRef {
        PodRef { namespace: "default".into(), name: name.into(), uid: "1".into() }
    }

    /// The ends of a WebSocket to a Pod, each as the other side has it: client, backend.
    fn tunnel(registry: &Arc<Registry>, to: &str) -> (DuplexStream, DuplexStream) {
        let service = PoolKey::Service { service: ObjectRef::new("default", "chat"), port: "80".into() };
        let endpoint = EndpointKey { pool: service, address: "10.0.0.1:80".parse().unwrap() };
        let identity = Identity {
            location: LocationKey { namespace: "default".into(), identity: "/ws".into() },
            route: ObjectRef::new("default", "chat"),
            label: "/ws".into(),
            lease: Lease::detached_of(endpoint, Arc::new(Pod { name: to.into(), uid: "1".into() })),
            client: "192.0.2.1:5000".parse().unwrap(),
            slot: crate::balance::Slot::detached(),
            permit: Arc::new(()),
            metrics: Arc::default(),
            log: None,
        };
        let opening = Opening {
            identity,
            began: Instant::now(),
            kind: Kind::WebSocket { reconnect_code: 1012, extensions: false },
            idle: None,
            max_age: None,
            client_delay: std::time::Duration::ZERO,
            frames: None,
            from_client: Bytes::new(),
            from_backend: Bytes::new(),
        };
        let ((client, client_side), (backend, backend_side)) = (duplex(1024), duplex(1024));
        open(registry, opening, Socket::Memory(client_side), Socket::Memory(backend_side));
        (client, backend)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_pod_cut_is_told_apart_from_what_it_closed() {
        let registry = Registry::new(AccessLog::off());
        let (left, _stays) = (tunnel(&registry, "chat-0"), tunnel(&registry, "chat-0"));
        let (mut closed, other) = (tunnel(&registry, "chat-0"), tunnel(&registry, "chat-1"));
        assert_eq!(registry.pods().iter().map(|pod| (&*pod.pod, pod.open)).collect::<Vec<_>>(), [("chat-0", 3), ("chat-1", 1)]);
        registry.depart(&[pod("chat-0")]);

        closed.1.write_all(&[0x88, 0]).await.unwrap();
        drop(closed.1);
        tokio::time::advance(Duration::from_secs(2)).await;
        drop((left.1, other.1));
        for mut client in [left.0, closed.0, other.0] {
            client.read_exact(&mut [0; 2]).await.unwrap(); // a Close, theirs or ours
            client.shutdown().await.unwrap();
            client.read_to_end(&mut Vec::new()).await.unwrap();
        }
        let mut pods = registry.pods();
        while registry.len() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await; // of paused time
            pods = registry.pods();
        }
        let [chat] = &pods[..] else { panic!("{pods:?}") };
        let departure = chat.departure.clone().unwrap();
        assert_eq!((&*chat.pod, chat.open, departure.tunnels, departure.cut), ("chat-0", 1, 3, 1));
        assert!((2.0..3.0).contains(&departure.first_cut_seconds.unwrap()), "{departure:?}");
    }
}
