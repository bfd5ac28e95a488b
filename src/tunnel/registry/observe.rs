//! What a scrape reads of the open tunnels: how many there are under each set of labels.
//!
//! It never counts while bytes move: tunnels settle what they counted for themselves when they are looked at. `admin` asks at a scrape.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::Registry;
use crate::{
    model::PoolKey,
    telemetry::metrics::{Detail, LocationLabels, OpenTunnels, TunnelLabels},
    tunnel::{Identity, entry::Entry},
};

impl Registry {
    /// The number of open tunnels by location and backend. Brings the locations' counters up to date.
    pub fn observe(&self, detail: Detail) -> Vec<OpenTunnels> {
        let mut groups: HashMap<(usize, usize), (TunnelLabels, u64)> = HashMap::new();
        self.each(|entry| {
            entry.settle();
            // Counters and endpoints are shared by all tunnels of a location: their addresses name them, and are cheaper to compare.
            let group = (Arc::as_ptr(&entry.identity.metrics).addr(), Arc::as_ptr(entry.identity.lease.endpoint()).addr());
            groups.entry(group).or_insert_with(|| (labels(&entry, detail), 0)).1 += 1;
        });
        // Two ports of a Service, or two endpoints that had one address after each other, are one series.
        let mut counts: BTreeMap<TunnelLabels, u64> = BTreeMap::new();
        for (labels, count) in groups.into_values() {
            *counts.entry(labels).or_default() += count;
        }
        counts.into_iter().map(|(labels, count)| OpenTunnels { labels, count }).collect()
    }
}

fn labels(entry: &Entry, detail: Detail) -> TunnelLabels {
    let Identity { route, label, lease, .. } = &entry.identity;
    let endpoint = lease.endpoint();
    let (service_namespace, service) = match &endpoint.key.pool {
        PoolKey::Service { service, .. } => (&*service.namespace, &*service.name),
        PoolKey::Address(address) => ("", &**address),
    };
    let pod = || endpoint.pod.as_deref().map_or_else(|| endpoint.key.address.to_string().into(), |pod| (&*pod.name).into());
    TunnelLabels {
        location: LocationLabels { route_namespace: (&*route.namespace).into(), route: (&*route.name).into(), location: (&**label).into() },
        service_namespace: service_namespace.into(),
        service: service.into(),
        endpoint_pod: (detail == Detail::Endpoint).then(pod),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::time::Instant;

    use super::*;
    use crate::{
        balance::Lease,
        model::{EndpointKey, LocationKey, ObjectRef},
        telemetry::AccessLog,
    };

    #[tokio::test]
    async fn no_series_is_there_twice() {
        let registry = Registry::new(AccessLog::off());
        let metrics = Arc::default();
        let entries = [("ws", 1), ("ws", 2), ("ws", 2), ("wss", 1)].map(|(port, last)| {
            let service = PoolKey::Service { service: ObjectRef::new("default", "chat"), port: port.into() };
            let identity = Identity {
                location: LocationKey { namespace: "default".into(), identity: "/ws".into() },
                route: ObjectRef::new("default", "chat"),
                label: "/ws".into(),
                lease: Lease::detached(EndpointKey { pool: service, address: SocketAddr::from(([10, 0, 0, last], 80)) }),
                client: SocketAddr::from(([192, 0, 2, 1], 5000)),
                slot: crate::balance::Slot::detached(),
                permit: Arc::new(()),
                metrics: Arc::clone(&metrics),
                log: None,
            };
            registry.enter(identity, Instant::now())
        });
        let counts = |detail| {
            let open = registry.observe(detail);
            open.into_iter().map(|open| (open.labels.endpoint_pod.map(String::from), open.count)).collect::<Vec<_>>()
        };
        assert_eq!(counts(Detail::Endpoint), [(Some("10.0.0.1:80".into()), 2), (Some("10.0.0.2:80".into()), 2)]);
        assert_eq!(counts(Detail::Service), [(None, 4)]);
        drop(entries);
    }
}
