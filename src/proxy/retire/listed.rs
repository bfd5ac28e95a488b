//! What a configuration has for open tunnels, and what the step to the next one means for them.
//!
//! Pure: it never knows which tunnels there are, nor what time it is. The parent compares each configuration with the last one by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::pods::{How, Left};
use crate::{
    live::Snapshot,
    model::{
        EndpointKey, LocationKey, PoolKey, Table,
        bygone::{Bygone, Refused},
        pod::PodRef,
        route::{Backend, Drain},
        table::HostPattern,
        upstream::{EndpointSpec, EndpointState, PoolSpec},
    },
    tunnel::Filter,
};

/// What the locations of a configuration have for tunnels.
#[derive(Debug)]
pub(super) struct Listed<'a> {
    locations: BTreeMap<&'a LocationKey, Declared<'a>>,
    /// The locations that list a pool.
    users: BTreeMap<&'a PoolKey, BTreeSet<&'a LocationKey>>,
    table: &'a Table,
    bygone: &'a Bygone,
}

/// All locations of one identity together: several WsRoutes of a namespace may declare it, each on several hosts.
#[derive(Debug, Default)]
struct Declared<'a> {
    pools: BTreeSet<&'a PoolKey>,
    hosts: BTreeSet<&'a HostPattern>,
    /// Of the first that has backends; one that can't be served has forgotten what it said.
    drain: Option<&'a Drain>,
}

/// The endpoints of a pool by their address.
type Endpoints<'a> = BTreeMap<SocketAddr, &'a EndpointSpec>;

impl<'a> Listed<'a> {
    pub(super) fn of(snapshot: &'a Snapshot) -> Self {
        Self::new(&snapshot.table, &snapshot.bygone)
    }

    pub(super) fn new(table: &'a Table, bygone: &'a Bygone) -> Self {
        let mut listed = Self { locations: BTreeMap::new(), users: BTreeMap::new(), table, bygone };
        for host in &table.hosts {
            for location in &host.locations {
                let (backends, drain) = location.proxy().map_or((&[][..], None), |proxy| (&proxy.backends, Some(&proxy.drain)));
                listed.declare(&location.key, backends, drain);
                listed.locations.entry(&location.key).or_default().hosts.insert(&host.host);
            }
        }
        for route in table.tcp.values().flatten() {
            listed.declare(&route.key, &route.backends, Some(&route.drain));
        }
        listed
    }

    fn declare(&mut self, key: &'a LocationKey, backends: &'a [Backend], drain: Option<&'a Drain>) {
        let declared = self.locations.entry(key).or_default();
        declared.drain = declared.drain.or(drain);
        for backend in backends {
            declared.pools.insert(&backend.pool);
            self.users.entry(&backend.pool).or_default().insert(key);
        }
    }

    pub(super) fn has(&self, location: &LocationKey) -> bool {
        self.locations.contains_key(location)
    }

    /// What a location says of its tunnels, if it says anything now.
    pub(super) fn drain(&self, location: &LocationKey) -> Option<&'a Drain> {
        self.locations.get(location)?.drain
    }

    /// The locations that list a pool.
    pub(super) fn users(&self, pool: &PoolKey) -> impl Iterator<Item = &'a LocationKey> {
        self.users.get(pool).into_iter().flatten().copied()
    }

    /// The locations that say something of their tunnels, and nothing in `next`: gone, not servable, or without backends.
    pub(super) fn silenced<'b>(&'b self, next: &'b Self) -> impl Iterator<Item = (&'a LocationKey, &'a Drain)> + 'b {
        let speaking = self.locations.iter().filter_map(|(key, declared)| Some((*key, declared.drain?)));
        speaking.filter(|(key, _)| next.drain(key).is_none())
    }

    /// The locations that are no more in `next`.
    pub(super) fn gone<'b>(&'b self, next: &'b Self) -> impl Iterator<Item = &'a LocationKey> + 'b {
        self.locations.keys().copied().filter(|key| !next.has(key))
    }

    /// Whether the next configuration refuses a location something that it does not have there.
    pub(super) fn refuses(&self, location: &LocationKey) -> bool {
        !self.has(location)
            && self.bygone.refused.iter().any(|refused| matches!(refused, Refused::Host(key, _) | Refused::Port(key) if key == location))
    }

    /// The tunnels of what a location had in this configuration and may not have in the next. By which of its hosts a tunnel came is not
    /// kept: if one of several is withdrawn, all tunnels of the location are sent back, and those of the others return at once.
    pub(super) fn withdrawn(&self, next: &Self) -> Vec<Filter> {
        let of = |key: &LocationKey| (self.locations.get(key), next.locations.get(key));
        let whole = |key: &LocationKey| Filter { location: Some(key.clone()), ..Filter::default() };
        let withdrawn = |refused: &Refused| match refused {
            Refused::Host(key, host) => {
                let has = |declared: Option<&Declared<'_>>| declared.is_some_and(|declared| declared.hosts.contains(host));
                let (before, now) = of(key);
                (has(before) && !has(now)).then(|| whole(key))
            }
            Refused::Port(key) => {
                let (before, now) = of(key);
                (before.is_some() && now.is_none()).then(|| whole(key))
            }
            Refused::Backend(key, pool) => {
                let lists = |declared: Option<&Declared<'_>>| {
                    declared.is_some_and(|declared| declared.pools.iter().any(|known| known.is_same_service(pool)))
                };
                let (before, now) = of(key);
                (lists(before) && !lists(now)).then(|| Filter { service: Some(pool.clone()), ..whole(key) })
            }
        };
        // Where nothing is refused anew nothing can have been withdrawn.
        if Arc::ptr_eq(&self.bygone.refused, &next.bygone.refused) {
            return Vec::new();
        }
        next.bygone.refused.difference(&self.bygone.refused).filter_map(withdrawn).collect()
    }

    /// Services that a location listed and lists no more, though it is there.
    pub(super) fn unlisted(&self, next: &Self) -> Vec<(&'a LocationKey, &'a PoolKey)> {
        let both = self.locations.iter().filter_map(|(key, before)| Some((*key, before, next.locations.get(*key)?)));
        both.flat_map(|(key, before, now)| {
            let gone = before.pools.iter().filter(move |pool| !now.pools.iter().any(|known| known.is_same_service(pool)));
            gone.map(move |pool| (key, *pool))
        })
        .collect()
    }

    /// Endpoints that take nothing new any more, each with how that came.
    pub(super) fn left(&self, next: &Self) -> Vec<Left> {
        next.moved(self).flat_map(|(pool, before, now)| left_of(pool, &before, &now)).collect()
    }

    /// Pods that are given tunnels and were not.
    pub(super) fn arrived(&self, next: &Self) -> Vec<PodRef> {
        let of_pool = |(pool, before, now): (&PoolKey, Endpoints<'_>, Endpoints<'_>)| {
            let was_ready = |spec: &EndpointSpec| before.get(&spec.address).is_some_and(|known| is_ready(known) && known.pod == spec.pod);
            let arrived = now.values().filter(|spec| is_ready(spec) && !was_ready(spec));
            arrived.filter_map(|spec| PodRef::of(pool, spec.pod.as_ref()?)).collect::<Vec<_>>()
        };
        next.moved(self).flat_map(of_pool).collect()
    }

    /// The Pods that are on their way out by the word of a slice.
    pub(super) fn terminating(&self) -> BTreeSet<PodRef> {
        let draining = |pool: &'a PoolKey, spec: &'a PoolSpec| {
            let endpoints = spec.endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Draining);
            endpoints.filter_map(|endpoint| PodRef::of(pool, endpoint.pod.as_ref()?))
        };
        self.table.pools.iter().chain(&self.bygone.pools).flat_map(|(pool, spec)| draining(pool, spec)).collect()
    }

    /// The pools of this configuration whose endpoints are others than before, with both.
    fn moved<'b>(&'b self, before: &'b Self) -> impl Iterator<Item = (&'a PoolKey, Endpoints<'b>, Endpoints<'b>)> + 'b {
        self.table.pools.iter().chain(&self.bygone.pools).filter_map(|(pool, spec)| {
            let last = before.pool(pool);
            let same = last.is_some_and(|last| Arc::ptr_eq(last, spec) || last == spec);
            (!same).then(|| (pool, last.map(|last| by_address(last)).unwrap_or_default(), by_address(spec)))
        })
    }

    fn pool(&self, pool: &PoolKey) -> Option<&'a Arc<PoolSpec>> {
        self.table.pools.get(pool).or_else(|| self.bygone.pools.get(pool))
    }
}

fn left_of(pool: &PoolKey, before: &Endpoints<'_>, now: &Endpoints<'_>) -> Vec<Left> {
    let left = |spec: &EndpointSpec, how| Left {
        endpoint: EndpointKey { pool: pool.clone(), address: spec.address },
        pod: spec.pod.clone(),
        pod_ref: spec.pod.as_ref().and_then(|pod| PodRef::of(pool, pod)),
        how,
    };
    let same = |spec: &EndpointSpec, other: &Endpoints<'_>| {
        other.get(&spec.address).filter(|known| known.pod == spec.pod).map(|known| known.state)
    };
    let still = now.values().filter_map(|spec| match (same(spec, before), spec.state) {
        (known, EndpointState::Draining) if known != Some(EndpointState::Draining) => Some(left(spec, How::Terminating)),
        (Some(EndpointState::Ready), EndpointState::NotReady) => Some(left(spec, How::Unready)),
        _ => None,
    });
    let gone = before.values().filter(|spec| same(spec, now).is_none() && spec.state != EndpointState::Draining);
    still.chain(gone.map(|spec| left(spec, How::Removed))).collect()
}

fn by_address(spec: &PoolSpec) -> Endpoints<'_> {
    spec.endpoints.iter().map(|endpoint| (endpoint.address, endpoint)).collect()
}

fn is_ready(spec: &EndpointSpec) -> bool {
    spec.state == EndpointState::Ready
}
