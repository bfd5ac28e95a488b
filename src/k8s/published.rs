//! The Service in front of Carrick (`--publish-service`): where clients reach us.
//!
//! It never knows who asks. `status` writes the addresses into WsRoutes, `tcp_service` makes a second Service after it.

use std::{net::IpAddr, sync::Arc};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Error,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tokio::sync::watch;

use super::trouble::Trouble;
use crate::{api::LoadBalancerIngress, model::ObjectRef};

/// What is known of one Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Watched {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It can't be read, so far.
    Unreadable,
    /// It is not there.
    Absent,
    /// It is there.
    There(Arc<Service>),
}

impl Watched {
    /// The Service, if it is there.
    pub(super) fn service(&self) -> Option<&Service> {
        match self {
            Watched::There(service) => Some(service),
            Watched::Unknown | Watched::Unreadable | Watched::Absent => None,
        }
    }
}

/// Keeps what is known of one Service, until nobody wants to know.
pub(super) async fn follow(client: Client, name: ObjectRef, known: watch::Sender<Watched>) {
    let services: Api<Service> = Api::namespaced(client, &name.namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", name.name));
    let mut trouble = Trouble::new(format!("service {name} can not be watched"));
    let events = || Box::pin(watcher::watcher(services.clone(), only.clone()).default_backoff());
    let mut running = events();
    let mut listed = Watched::Absent;
    while let Some(event) = running.next().await {
        let next = match event {
            Ok(Event::Init) => {
                listed = Watched::Absent;
                continue;
            }
            Ok(Event::InitApply(service)) => {
                listed = Watched::There(Arc::new(service));
                continue;
            }
            Ok(Event::InitDone) => std::mem::take(&mut listed),
            Ok(Event::Apply(service)) => Watched::There(Arc::new(service)),
            Ok(Event::Delete(_)) => Watched::Absent,
            // kube's watcher would ask from the same place for ever.
            Err(watcher::Error::WatchStartFailed(Error::Api(status))) if status.code == 410 => {
                running = events();
                continue;
            }
            Err(error) => {
                trouble.say(&error);
                // What is known stays true until it is known better.
                if *known.borrow() != Watched::Unknown {
                    continue;
                }
                Watched::Unreadable
            }
        };
        if next != Watched::Unreadable {
            trouble.is_over();
        }
        known.send_if_modified(|known| {
            *known != next && {
                *known = next;
                true
            }
        });
    }
}

/// Where clients reach a Service: at its load balancer, else at its external IPs, else at its cluster IP.
///
/// A load balancer that has no address yet is not replaced by the cluster IP, which its clients can't reach.
pub(super) fn addresses(service: &Service) -> Vec<LoadBalancerIngress> {
    let spec = service.spec.clone().unwrap_or_default();
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    let external = spec.external_ips.unwrap_or_default();
    let mut found: Vec<LoadBalancerIngress> = match type_ {
        "ExternalName" => spec.external_name.iter().map(|name| address(name)).collect(),
        "LoadBalancer" => {
            let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.clone());
            let of_balancer = ingress.into_iter().flatten().map(|point| LoadBalancerIngress { ip: point.ip, hostname: point.hostname });
            of_balancer
                .filter(|point| point.ip.is_some() || point.hostname.is_some())
                .chain(external.iter().map(|ip| address(ip)))
                .collect()
        }
        _ if !external.is_empty() => external.iter().map(|ip| address(ip)).collect(),
        _ => spec.cluster_ips.or_else(|| spec.cluster_ip.map(|ip| vec![ip])).unwrap_or_default().iter().map(|ip| address(ip)).collect(),
    };
    found.retain(|point| point.ip.as_deref() != Some("None") && point.hostname.as_deref() != Some("None"));
    found.truncate(32);
    found
}

/// An address as `--publish-address` spells it: an IP or a host name.
pub(super) fn address(text: &str) -> LoadBalancerIngress {
    match text.parse::<IpAddr>() {
        Ok(ip) => LoadBalancerIngress { ip: Some(ip.to_string()), hostname: None },
        Err(_) => LoadBalancerIngress { ip: None, hostname: Some(text.to_owned()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(service: serde_json::Value) -> Vec<String> {
        let service: Service = serde_json::from_value(service).unwrap();
        addresses(&service).into_iter().map(|point| point.ip.or(point.hostname).unwrap()).collect()
    }

    #[test]
    fn a_service_is_reached_where_its_type_says() {
        let balanced = serde_json::json!({
            "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1"},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example.com"}, {"ports": []}]}},
        });
        assert_eq!(spelled(balanced), ["192.0.2.1", "lb.example.com"]);
        assert!(spelled(serde_json::json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1"}})).is_empty(), "not yet");
        assert_eq!(spelled(serde_json::json!({"spec": {"clusterIPs": ["10.0.0.1", "fd00::1"]}})), ["10.0.0.1", "fd00::1"]);
        assert_eq!(spelled(serde_json::json!({"spec": {"type": "NodePort", "externalIPs": ["192.0.2.7"]}})), ["192.0.2.7"]);
        assert!(spelled(serde_json::json!({"spec": {"clusterIP": "None"}})).is_empty());
        assert_eq!(spelled(serde_json::json!({"spec": {"type": "ExternalName", "externalName": "a.example.com"}})), ["a.example.com"]);
    }
}
