//! EndpointSlices and resolved addresses -> the endpoints of one pool.
//!
//! It never knows routes. `index` keeps its slices here; the whole translation and the lane of endpoints alone ask.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    Event,
    objects::{Endpoint, EndpointConditions, EndpointSlice, Named, SERVICE_NAME_LABEL, ServicePort, ServiceSpec},
};
use crate::model::{
    ObjectRef,
    upstream::{EndpointSpec, EndpointState, Pod, PoolSpec},
};

/// An EndpointSlice, as far as it is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    /// `IPv4`, `IPv6`; every address of a slice is of one family.
    address_type: Box<str>,
    /// By the name of the Service's port; empty where that has none.
    ports: Box<[(Box<str>, u16)]>,
    endpoints: Box<[Listed]>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    address: IpAddr,
    state: EndpointState,
    /// Whether it answers, though it is terminating.
    serving: bool,
    pod: Option<Arc<Pod>>,
    /// The zones whose clients it is meant for; empty where nobody says.
    zones: Box<[Box<str>]>,
}

impl Slice {
    fn new(object: EndpointSlice) -> Self {
        let ports = object.ports.into_iter().filter_map(|port| Some((port.name.unwrap_or_default().into(), port.port?)));
        let endpoints = object.endpoints.iter().filter_map(listed);
        Self { ports: ports.collect(), endpoints: endpoints.collect(), address_type: object.address_type.into() }
    }
}

/// `addresses` are interchangeable, and consumers use the first (Kubernetes API, EndpointSlice).
fn listed(endpoint: &Endpoint) -> Option<Listed> {
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
    let pod = pod.map(|target| Arc::new(Pod { name: target.name.as_str().into(), uid: target.uid.as_str().into() }));
    let state = state(&endpoint.conditions);
    let zones = endpoint.hints.iter().flat_map(|hints| &hints.for_zones).map(|zone| zone.name.as_str().into());
    Some(Listed {
        address: endpoint.addresses.first()?.parse().ok()?,
        state,
        serving: state == EndpointState::Draining && is_serving(&endpoint.conditions),
        pod,
        zones: zones.collect(),
    })
}

/// All slices by their Service, so that a change of one Service reads no other's.
#[derive(Debug, Default)]
pub(super) struct Slices {
    of_service: BTreeMap<ObjectRef, BTreeMap<Arc<str>, Slice>>,
    service_of: BTreeMap<ObjectRef, ObjectRef>,
}

impl Slices {
    /// The Services whose endpoints are different afterwards.
    pub(super) fn apply(&mut self, event: Event<EndpointSlice>) -> BTreeSet<ObjectRef> {
        match event {
            Event::Apply(slice) => self.put(slice),
            Event::Delete(name) => self.remove(&name).into_iter().collect(),
            Event::Reset(slices) => {
                let names: BTreeSet<ObjectRef> = slices.iter().map(Named::object_ref).collect();
                let gone: Vec<ObjectRef> = self.service_of.keys().filter(|name| !names.contains(name)).cloned().collect();
                let removed: Vec<ObjectRef> = gone.iter().filter_map(|name| self.remove(name)).collect();
                removed.into_iter().chain(slices.into_iter().flat_map(|slice| self.put(slice))).collect()
            }
        }
    }

    fn put(&mut self, object: EndpointSlice) -> BTreeSet<ObjectRef> {
        let name = object.object_ref();
        let service =
            object.metadata.labels.get(SERVICE_NAME_LABEL).map(|service| ObjectRef::new(name.namespace.clone(), service.as_str()));
        let mut touched = BTreeSet::new();
        if self.service_of.get(&name) != service.as_ref() {
            touched.extend(self.remove(&name));
        }
        let Some(service) = service else { return touched };
        let slices = self.of_service.entry(service.clone()).or_default();
        let slice = Slice::new(object);
        if slices.get(&name.name) != Some(&slice) {
            slices.insert(name.name.clone(), slice);
            touched.insert(service.clone());
        }
        self.service_of.insert(name, service);
        touched
    }

    fn remove(&mut self, name: &ObjectRef) -> Option<ObjectRef> {
        let service = self.service_of.remove(name)?;
        if let Entry::Occupied(mut slices) = self.of_service.entry(service.clone()) {
            slices.get_mut().remove(&name.name);
            if slices.get().is_empty() {
                slices.remove();
            }
        }
        Some(service)
    }

    pub(super) fn of(&self, service: &ObjectRef) -> impl Iterator<Item = &Slice> + Clone {
        self.of_service.get(service).into_iter().flat_map(BTreeMap::values)
    }
}

/// The endpoints of one port of a Service.
///
/// A Pod of a dual-stack Service is listed once a family: only the Service's first family counts, else IPv4 if there is any. `zone` is ours.
pub(super) fn of_service<'a>(
    service: &ServiceSpec,
    port: &ServicePort,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    zone: Option<&str>,
) -> PoolSpec {
    let family = service.ip_families.first().map(String::as_str).unwrap_or_else(|| {
        let any_v4 = slices.clone().any(|slice| &*slice.address_type == "IPv4");
        if any_v4 { "IPv4" } else { "IPv6" }
    });
    let mut merged: BTreeMap<SocketAddr, &Listed> = BTreeMap::new();
    for slice in slices.filter(|slice| *slice.address_type == *family) {
        let named = slice.ports.iter().filter(|(name, _)| **name == *port.name.as_deref().unwrap_or(""));
        for (_, port) in named {
            slice.endpoints.iter().for_each(|endpoint| merge(&mut merged, *port, endpoint));
        }
    }
    let ours = zone.filter(|zone| is_served_by_hints(merged.values().copied(), zone));
    let spec = |(address, endpoint): (SocketAddr, &Listed)| EndpointSpec {
        address,
        state: endpoint.state,
        pod: endpoint.pod.clone(),
        serving: endpoint.serving,
        elsewhere: ours.is_some_and(|zone| endpoint.state == EndpointState::Ready && !endpoint.is_for(zone)),
    };
    PoolSpec { endpoints: merged.into_iter().map(spec).collect() }
}

/// Hints count only as kube-proxy takes them: where every ready endpoint has them, so that nobody is left without traffic, and some are for
/// our zone.
fn is_served_by_hints<'a>(endpoints: impl Iterator<Item = &'a Listed> + Clone, zone: &str) -> bool {
    let mut ready = endpoints.filter(|endpoint| endpoint.state == EndpointState::Ready);
    ready.clone().all(|endpoint| !endpoint.zones.is_empty()) && ready.any(|endpoint| endpoint.is_for(zone))
}

impl Listed {
    fn is_for(&self, zone: &str) -> bool {
        self.zones.iter().any(|known| **known == *zone)
    }
}

/// The endpoints behind addresses: what DNS said, or the address itself.
pub(super) fn of_addresses(addresses: impl Iterator<Item = SocketAddr>) -> PoolSpec {
    let mut endpoints: Vec<_> = addresses.map(|address| EndpointSpec::new(address, EndpointState::Ready)).collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.dedup();
    PoolSpec { endpoints }
}

fn state(conditions: &EndpointConditions) -> EndpointState {
    let ready = conditions.ready.unwrap_or(true);
    match (conditions.terminating.unwrap_or(false), ready) {
        // Whatever else is said of it: a Service may publish pods that are not ready as ready.
        (true, _) => EndpointState::Draining,
        (false, true) => EndpointState::Ready,
        (false, false) => EndpointState::NotReady,
    }
}

/// An absent `serving` is `ready`, and an absent `ready` is true (Kubernetes API, EndpointConditions).
fn is_serving(conditions: &EndpointConditions) -> bool {
    conditions.serving.or(conditions.ready).unwrap_or(true)
}

/// An endpoint that moves between slices is for a moment in both: the better word counts, as for kube-proxy.
fn merge<'a>(merged: &mut BTreeMap<SocketAddr, &'a Listed>, port: u16, endpoint: &'a Listed) {
    let rank = |state| match state {
        EndpointState::Ready => 0,
        EndpointState::Draining => 1,
        EndpointState::NotReady => 2,
    };
    match merged.entry(SocketAddr::new(endpoint.address, port)) {
        Entry::Vacant(vacant) => {
            vacant.insert(endpoint);
        }
        Entry::Occupied(mut known) => {
            let known = known.get_mut();
            if (rank(endpoint.state), &endpoint.pod) < (rank(known.state), &known.pod) {
                *known = endpoint;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::objects::{EndpointPort, TargetRef};

    fn conditions(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> EndpointConditions {
        EndpointConditions { ready, serving, terminating }
    }

    fn slice(address_type: &str, endpoints: &[(&str, EndpointConditions)]) -> Slice {
        let endpoint = |(address, conditions): &(&str, EndpointConditions)| Endpoint {
            addresses: vec![address.to_string()],
            conditions: conditions.clone(),
            target_ref: Some(TargetRef { kind: "Pod".into(), name: format!("pod-{address}"), uid: format!("uid-{address}") }),
            hints: None,
        };
        Slice::new(EndpointSlice {
            address_type: address_type.into(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            ports: vec![
                EndpointPort { name: Some("ws".into()), port: Some(8080) },
                EndpointPort { name: Some("metrics".into()), port: Some(9090) },
            ],
            ..EndpointSlice::default()
        })
    }

    fn ws() -> ServicePort {
        ServicePort { name: Some("ws".into()), port: 80, protocol: None, app_protocol: None }
    }

    fn addresses(pool: &PoolSpec) -> Vec<String> {
        pool.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn conditions_reduce_to_three_states() {
        let all_absent = EndpointConditions::default();
        assert_eq!(state(&all_absent), EndpointState::Ready, "an absent ready is true");
        assert_eq!(state(&conditions(Some(false), Some(true), Some(true))), EndpointState::Draining);
        assert_eq!(state(&conditions(Some(false), Some(false), Some(true))), EndpointState::Draining, "serving or not");
        assert_eq!(state(&conditions(Some(true), Some(true), Some(true))), EndpointState::Draining, "published though not ready");
        assert_eq!(state(&conditions(Some(false), Some(true), None)), EndpointState::NotReady);
    }

    #[test]
    fn only_the_port_of_the_name_counts() {
        let slices = [slice("IPv4", &[("10.0.0.2", conditions(Some(true), None, None)), ("10.0.0.1", conditions(None, None, None))])];
        let pool = of_service(&ServiceSpec::default(), &ws(), slices.iter(), None);
        assert_eq!(addresses(&pool), ["10.0.0.1:8080", "10.0.0.2:8080"]);
        let pod = Pod { name: "pod-10.0.0.1".into(), uid: "uid-10.0.0.1".into() };
        assert_eq!(pool.endpoints[0].pod.as_deref(), Some(&pod));
    }

    #[test]
    fn a_dual_stack_service_is_served_by_its_first_family() {
        let slices =
            [slice("IPv4", &[("10.0.0.1", EndpointConditions::default())]), slice("IPv6", &[("fd00::1", EndpointConditions::default())])];
        let mut service = ServiceSpec::default();
        assert_eq!(addresses(&of_service(&service, &ws(), slices.iter(), None)), ["10.0.0.1:8080"]);
        service.ip_families = vec!["IPv6".into(), "IPv4".into()];
        assert_eq!(addresses(&of_service(&service, &ws(), slices.iter(), None)), ["[fd00::1]:8080"]);
    }

    #[test]
    fn an_endpoint_in_two_slices_is_one_and_ready_if_either_says_so() {
        let draining = slice("IPv4", &[("10.0.0.1", conditions(Some(false), Some(true), Some(true)))]);
        let ready = slice("IPv4", &[("10.0.0.1", conditions(Some(true), None, None))]);
        for slices in [[&draining, &ready], [&ready, &draining]] {
            let pool = of_service(&ServiceSpec::default(), &ws(), slices.into_iter(), None);
            assert_eq!(pool.endpoints.len(), 1);
            assert_eq!(pool.endpoints[0].state, EndpointState::Ready);
        }
    }

    #[test]
    fn a_terminating_endpoint_says_whether_it_still_answers() {
        let serving =
            |serving| listed(&Endpoint { addresses: vec!["10.0.0.1".into()], conditions: serving, ..Endpoint::default() }).unwrap().serving;
        assert!(serving(conditions(Some(false), Some(true), Some(true))));
        assert!(!serving(conditions(Some(false), Some(false), Some(true))));
        assert!(!serving(conditions(Some(false), None, Some(true))));
        assert!(!serving(conditions(Some(true), Some(true), None)), "said of endpoints that drain alone");
    }

    /// A slice of endpoints that are ready and for these zones.
    fn hinted(endpoints: &[(&str, &[&str])]) -> Slice {
        let mut slice = slice("IPv4", &endpoints.iter().map(|(address, _)| (*address, EndpointConditions::default())).collect::<Vec<_>>());
        for (endpoint, (_, zones)) in slice.endpoints.iter_mut().zip(endpoints) {
            endpoint.zones = zones.iter().map(|zone| (*zone).into()).collect();
        }
        slice
    }

    fn near(slice: &Slice, zone: Option<&str>) -> Vec<String> {
        let pool = of_service(&ServiceSpec::default(), &ws(), std::iter::once(slice), zone);
        pool.endpoints.iter().filter(|endpoint| !endpoint.elsewhere).map(|endpoint| endpoint.address.ip().to_string()).collect()
    }

    #[test]
    fn hints_count_where_every_ready_endpoint_has_them_and_some_are_for_us() {
        let all = hinted(&[("10.0.0.1", &["a"]), ("10.0.0.2", &["b"]), ("10.0.0.3", &["a", "b"])]);
        assert_eq!(near(&all, Some("a")), ["10.0.0.1", "10.0.0.3"]);
        assert_eq!(near(&all, Some("c")).len(), 3, "a zone without endpoints takes all");
        assert_eq!(near(&all, None).len(), 3);
        assert_eq!(near(&hinted(&[("10.0.0.1", &["a"]), ("10.0.0.2", &[])]), Some("a")).len(), 2);
        let mut some_rest = all.clone();
        some_rest.endpoints[1].zones = [].into();
        some_rest.endpoints[1].state = EndpointState::NotReady;
        assert_eq!(
            near(&some_rest, Some("a")),
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(String::from),
            "one without hints that is not ready does not count, and is not elsewhere"
        );
    }
}
