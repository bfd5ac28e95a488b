//! EndpointSlices and resolved addresses -> the endpoints of one pool.
//!
//! It never knows routes. The whole translation and the endpoints lane of `index` call it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::objects::{Endpoint, EndpointConditions, EndpointSlice, Service, ServicePort};
use crate::model::upstream::{EndpointSpec, EndpointState, PoolSpec};

/// The endpoints of one port of a Service.
///
/// A Pod of a dual-stack Service is listed once a family: only the Service's first family counts, else IPv4 if there is any.
pub(super) fn of_service<'a>(service: &Service, port: &ServicePort, slices: impl Iterator<Item = &'a EndpointSlice> + Clone) -> PoolSpec {
    let family = service.spec.ip_families.first().map(String::as_str).unwrap_or_else(|| {
        let any_v4 = slices.clone().any(|slice| slice.address_type == "IPv4");
        if any_v4 { "IPv4" } else { "IPv6" }
    });
    let mut merged: BTreeMap<SocketAddr, EndpointSpec> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.address_type == family) {
        let named = slice.ports.iter().filter(|known| known.name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or(""));
        for port in named.filter_map(|known| known.port) {
            slice.endpoints.iter().filter_map(|endpoint| spec(endpoint, port)).for_each(|endpoint| merge(&mut merged, endpoint));
        }
    }
    PoolSpec { endpoints: merged.into_values().collect() }
}

/// The endpoints behind addresses: what DNS said, or the address itself.
pub(super) fn of_addresses(addresses: impl Iterator<Item = SocketAddr>) -> PoolSpec {
    let mut endpoints: Vec<_> = addresses.map(|address| EndpointSpec { address, state: EndpointState::Ready, pod: None }).collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.dedup();
    PoolSpec { endpoints }
}

/// `addresses` are interchangeable, and consumers use the first (Kubernetes API, EndpointSlice).
fn spec(endpoint: &Endpoint, port: u16) -> Option<EndpointSpec> {
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod").map(|target| Arc::from(target.name.as_str()));
    Some(EndpointSpec { address: SocketAddr::new(address, port), state: state(&endpoint.conditions), pod })
}

fn state(conditions: &EndpointConditions) -> EndpointState {
    let ready = conditions.ready.unwrap_or(true);
    match (ready, conditions.serving.unwrap_or(ready), conditions.terminating.unwrap_or(false)) {
        (true, ..) => EndpointState::Ready,
        (false, true, true) => EndpointState::Draining,
        _ => EndpointState::NotReady,
    }
}

/// An endpoint that moves between slices is for a moment in both: the better word counts, as for kube-proxy.
fn merge(merged: &mut BTreeMap<SocketAddr, EndpointSpec>, endpoint: EndpointSpec) {
    let rank = |state| match state {
        EndpointState::Ready => 0,
        EndpointState::Draining => 1,
        EndpointState::NotReady => 2,
    };
    match merged.entry(endpoint.address) {
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

    fn slice(address_type: &str, endpoints: &[(&str, EndpointConditions)]) -> EndpointSlice {
        let endpoint = |(address, conditions): &(&str, EndpointConditions)| Endpoint {
            addresses: vec![address.to_string()],
            conditions: conditions.clone(),
            target_ref: Some(TargetRef { kind: "Pod".into(), name: format!("pod-{address}") }),
        };
        EndpointSlice {
            address_type: address_type.into(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            ports: vec![
                EndpointPort { name: Some("ws".into()), port: Some(8080) },
                EndpointPort { name: Some("metrics".into()), port: Some(9090) },
            ],
            ..EndpointSlice::default()
        }
    }

    fn ws() -> ServicePort {
        ServicePort { name: Some("ws".into()), port: 80, protocol: None }
    }

    fn addresses(pool: &PoolSpec) -> Vec<String> {
        pool.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn conditions_reduce_to_three_states() {
        let all_absent = EndpointConditions::default();
        assert_eq!(state(&all_absent), EndpointState::Ready, "an absent ready is true");
        assert_eq!(state(&conditions(Some(false), Some(true), Some(true))), EndpointState::Draining);
        assert_eq!(state(&conditions(Some(false), Some(false), Some(true))), EndpointState::NotReady);
        assert_eq!(state(&conditions(Some(false), None, Some(true))), EndpointState::NotReady, "an absent serving is ready");
        assert_eq!(state(&conditions(Some(false), Some(true), None)), EndpointState::NotReady);
    }

    #[test]
    fn only_the_port_of_the_name_counts() {
        let slices = [slice("IPv4", &[("10.0.0.2", conditions(Some(true), None, None)), ("10.0.0.1", conditions(None, None, None))])];
        let pool = of_service(&Service::default(), &ws(), slices.iter());
        assert_eq!(addresses(&pool), ["10.0.0.1:8080", "10.0.0.2:8080"]);
        assert_eq!(pool.endpoints[0].pod.as_deref(), Some("pod-10.0.0.1"));
    }

    #[test]
    fn a_dual_stack_service_is_served_by_its_first_family() {
        let slices =
            [slice("IPv4", &[("10.0.0.1", EndpointConditions::default())]), slice("IPv6", &[("fd00::1", EndpointConditions::default())])];
        let mut service = Service::default();
        assert_eq!(addresses(&of_service(&service, &ws(), slices.iter())), ["10.0.0.1:8080"]);
        service.spec.ip_families = vec!["IPv6".into(), "IPv4".into()];
        assert_eq!(addresses(&of_service(&service, &ws(), slices.iter())), ["[fd00::1]:8080"]);
    }

    #[test]
    fn an_endpoint_in_two_slices_is_one_and_ready_if_either_says_so() {
        let draining = slice("IPv4", &[("10.0.0.1", conditions(Some(false), Some(true), Some(true)))]);
        let ready = slice("IPv4", &[("10.0.0.1", conditions(Some(true), None, None))]);
        for slices in [[&draining, &ready], [&ready, &draining]] {
            let pool = of_service(&Service::default(), &ws(), slices.into_iter());
            assert_eq!(pool.endpoints.len(), 1);
            assert_eq!(pool.endpoints[0].state, EndpointState::Ready);
        }
    }
}
