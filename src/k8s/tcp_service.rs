//! `--manage-tcp-service`: a second Service beside the published one, called NAME-tcp, with the ports of accepted `tcp` entries.
//!
//! It never touches a Service that it did not make: ours has our label, and the published Service as its owner, which also takes it
//! away at an uninstall. The leader alone runs it.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use kube::{
    Api, Client, Error,
    api::{DeleteParams, PostParams, Preconditions},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::info;

use super::{
    events::Notices,
    published::{self, Watched},
    status::News,
    trouble::Trouble,
};
use crate::{
    model::{ObjectRef, Table, table::TcpPort},
    translate::Translated,
};

/// The label that says whose it is.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
const US: &str = "carrick";
/// One request.
const REQUEST: Duration = Duration::from_secs(10);
/// After one that failed.
const PAUSE: Duration = Duration::from_secs(5);

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    /// It is as it should be, or nobody knows how that is.
    Nothing,
    /// It is to be made.
    Create(Box<Service>),
    /// It is to be changed, where it is still as it was seen.
    Replace(Box<Service>),
    /// It is to go, if it is still this one.
    Delete(Preconditions),
    /// It can't be kept, for this reason.
    Refuse(&'static str, String),
}

/// Keeps the Service, until nobody wants it any more.
pub(super) async fn keep(
    client: &Client,
    controller: &str,
    name: &ObjectRef,
    published: watch::Receiver<Watched>,
    latest: watch::Receiver<Arc<Translated>>,
    notices: Notices,
) {
    let own = ObjectRef::new(Arc::clone(&name.namespace), format!("{}-tcp", name.name));
    let (known, existing) = watch::channel(Watched::Unknown);
    let services = Api::namespaced(client.clone(), &name.namespace);
    let mut keeper =
        Keeper { services, manager: controller.chars().take(128).collect(), own: own.clone(), published, existing, latest, notices };
    tokio::select! {
        () = published::follow(client.clone(), own, known) => {}
        () = keeper.run() => {}
    }
}

struct Keeper {
    services: Api<Service>,
    manager: String,
    own: ObjectRef,
    published: watch::Receiver<Watched>,
    existing: watch::Receiver<Watched>,
    latest: watch::Receiver<Arc<Translated>>,
    notices: Notices,
}

impl Keeper {
    async fn run(&mut self) {
        // Before the first translation no port is known, which is not the same as none.
        if self.latest.changed().await.is_err() {
            return;
        }
        let mut trouble = Trouble::new(format!("service {} with the ports of tcp entries can not be kept", self.own));
        let mut refused = None;
        loop {
            let (published, existing) = (self.published.borrow_and_update().clone(), self.existing.borrow_and_update().clone());
            let ports = ports(&self.latest.borrow_and_update().table);
            let action = decide(&self.own, &published, &existing, &ports);
            match self.carry_out(action).await {
                Ok(None) => {
                    trouble.is_over();
                    refused = None;
                }
                Ok(Some((reason, note))) => {
                    trouble.say(&note);
                    if let Some(service) = published.service().filter(|_| refused.as_ref() != Some(&note)) {
                        self.notices.post(reference(service), News { is_bad: true, reason: reason.to_owned(), note: note.clone() });
                    }
                    refused = Some(note);
                }
                Err(why) => {
                    trouble.say(&why);
                    sleep(PAUSE).await;
                    continue;
                }
            }
            tokio::select! {
                Ok(()) = self.published.changed() => {}
                Ok(()) = self.existing.changed() => {}
                Ok(()) = self.latest.changed() => {}
                else => return,
            }
        }
    }

    /// Does it, or gives back why it is not to be done.
    async fn carry_out(&self, action: Action) -> Result<Option<(&'static str, String)>, String> {
        let (name, params) = (&*self.own.name, PostParams { field_manager: Some(self.manager.clone()), ..PostParams::default() });
        let request = async {
            match &action {
                Action::Nothing | Action::Refuse(..) => Ok(()),
                Action::Create(service) => self.services.create(&params, service).await.map(|_| ()),
                Action::Replace(service) => self.services.replace(name, &params, service).await.map(|_| ()),
                Action::Delete(preconditions) => {
                    self.services.delete(name, &DeleteParams::default().preconditions(preconditions.clone())).await.map(|_| ())
                }
            }
        };
        match timeout(REQUEST, request).await {
            Ok(Ok(())) => {}
            // Somebody else was faster; the watch tells what it is like now.
            Ok(Err(Error::Api(status))) if matches!(status.code, 404 | 409) => return Err("it has changed meanwhile".to_owned()),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no answer in time".to_owned()),
        }
        match action {
            Action::Create(service) => info!(service = %self.own, ports = ?numbers(&service), "created for tcp entries"),
            Action::Replace(service) => info!(service = %self.own, ports = ?numbers(&service), "changed for tcp entries"),
            Action::Delete(_) => info!(service = %self.own, "deleted: there are no tcp entries"),
            Action::Refuse(reason, note) => return Ok(Some((reason, note))),
            Action::Nothing => {}
        }
        Ok(None)
    }
}

/// The ports of layer 4 that are open.
fn ports(table: &Table) -> Vec<u16> {
    let number = |port: &TcpPort| if let TcpPort::Number(number) = port { Some(*number) } else { None };
    table.tcp.keys().filter_map(number).collect()
}

fn numbers(service: &Service) -> Vec<i32> {
    service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(|port| port.port).collect()
}

fn decide(own: &ObjectRef, published: &Watched, existing: &Watched, ports: &[u16]) -> Action {
    let (Watched::There(published), Watched::Absent | Watched::There(_)) = (published, existing) else { return Action::Nothing };
    let existing = existing.service();
    if let Some(theirs) = existing.filter(|existing| !is_ours(existing, published)) {
        let is_going = theirs.metadata.deletion_timestamp.is_some();
        return if ports.is_empty() || is_going { Action::Nothing } else { not_ours(own, published) };
    }
    match existing {
        None if ports.is_empty() => Action::Nothing,
        Some(existing) if existing.metadata.deletion_timestamp.is_some() => Action::Nothing,
        Some(existing) if ports.is_empty() => Action::Delete(Preconditions {
            uid: existing.metadata.uid.clone(),
            resource_version: existing.metadata.resource_version.clone(),
        }),
        _ if published.spec.as_ref().is_none_or(|spec| spec.selector.is_none()) => Action::Refuse(
            "TcpServiceNotKept",
            format!("service {} has no selector, so that {own} can not have the same one", reference_name(published)),
        ),
        None => Action::Create(Box::new(compose(own, published, None, ports))),
        Some(existing) => {
            let next = compose(own, published, Some(existing), ports);
            if next == *existing { Action::Nothing } else { Action::Replace(Box::new(next)) }
        }
    }
}

fn not_ours(own: &ObjectRef, published: &Service) -> Action {
    Action::Refuse(
        "TcpServiceNotOurs",
        format!(
            "service {own} is there and not ours, and is left alone: delete it, or add the tcp ports to {} by yourself without --manage-tcp-service",
            reference_name(published)
        ),
    )
}

fn reference_name(service: &Service) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", part(&service.metadata.namespace), part(&service.metadata.name))
}

fn is_ours(existing: &Service, published: &Service) -> bool {
    let labelled = existing.metadata.labels.as_ref().is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|value| value == US));
    let mut owners = existing.metadata.owner_references.iter().flatten();
    labelled && owners.any(|owner| Some(&owner.uid) == published.metadata.uid.as_ref())
}

/// The Service as it is to be: what is there, with all that is ours after the published one.
fn compose(own: &ObjectRef, published: &Service, existing: Option<&Service>, ports: &[u16]) -> Service {
    let mut service = existing.cloned().unwrap_or_default();
    let like = published.spec.clone().unwrap_or_default();
    service.metadata = ObjectMeta { name: Some(own.name.to_string()), namespace: Some(own.namespace.to_string()), ..service.metadata };
    service.metadata.labels.get_or_insert_default().insert(MANAGED_BY.to_owned(), US.to_owned());
    service.metadata.owner_references = Some(vec![owner(published)]);
    let annotations = published.metadata.annotations.iter().flatten().filter(|(key, _)| !is_of_a_tool(key));
    let annotations: Vec<_> = annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
    if !annotations.is_empty() {
        service.metadata.annotations.get_or_insert_default().extend(annotations);
    }
    let last = service.spec.take().unwrap_or_default();
    service.spec = Some(ServiceSpec {
        ports: Some(ports.iter().map(|port| service_port(*port, &last)).collect()),
        type_: like.type_,
        selector: like.selector,
        external_traffic_policy: like.external_traffic_policy,
        internal_traffic_policy: like.internal_traffic_policy,
        ip_families: like.ip_families,
        ip_family_policy: like.ip_family_policy,
        load_balancer_class: like.load_balancer_class,
        load_balancer_source_ranges: like.load_balancer_source_ranges,
        allocate_load_balancer_node_ports: like.allocate_load_balancer_node_ports,
        session_affinity: like.session_affinity,
        session_affinity_config: like.session_affinity_config,
        ..last
    });
    service
}

/// A port as the API server shows it, so that one that is there already makes no difference.
fn service_port(port: u16, last: &ServiceSpec) -> ServicePort {
    let number = i32::from(port);
    let existing = last.ports.iter().flatten().find(|existing| existing.port == number);
    ServicePort {
        name: Some(format!("tcp-{port}")),
        port: number,
        target_port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_owned()),
        node_port: existing.and_then(|existing| existing.node_port),
        ..ServicePort::default()
    }
}

/// Annotations that tell a tool about the one object that it wrote.
fn is_of_a_tool(key: &str) -> bool {
    ["kubectl.kubernetes.io/", "meta.helm.sh/", "helm.sh/", "argocd.argoproj.io/", "kustomize.toolkit.fluxcd.io/"]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

fn owner(published: &Service) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: published.metadata.name.clone().unwrap_or_default(),
        uid: published.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

fn reference(service: &Service) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: service.metadata.namespace.clone(),
        name: service.metadata.name.clone(),
        uid: service.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn own() -> ObjectRef {
        ObjectRef::new("carrick", "web-tcp")
    }

    fn published() -> Watched {
        let service = json!({
            "metadata": {
                "name": "web", "namespace": "carrick", "uid": "uid-web",
                "annotations": {"example.com/lb": "internal", "meta.helm.sh/release-name": "web"},
            },
            "spec": {"type": "LoadBalancer", "selector": {"app": "carrick"}, "externalTrafficPolicy": "Local", "ports": [{"port": 80}]},
        });
        Watched::There(Arc::new(serde_json::from_value(service).unwrap()))
    }

    fn created(ports: &[u16]) -> Service {
        let Action::Create(service) = decide(&own(), &published(), &Watched::Absent, ports) else { panic!("not created") };
        *service
    }

    #[test]
    fn it_is_like_the_published_one_with_the_ports_of_tcp_entries() {
        let service = created(&[9000, 9001]);
        let spec = service.spec.as_ref().unwrap();
        assert_eq!(numbers(&service), [9000, 9001]);
        assert_eq!((spec.type_.as_deref(), spec.external_traffic_policy.as_deref()), (Some("LoadBalancer"), Some("Local")));
        assert_eq!(service.metadata.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["example.com/lb"]);
        assert_eq!(service.metadata.owner_references.as_ref().unwrap()[0].uid, "uid-web");
        assert_eq!(decide(&own(), &published(), &Watched::There(Arc::new(service)), &[9000, 9001]), Action::Nothing);
    }

    #[test]
    fn ports_come_and_go_and_what_the_cluster_chose_stays() {
        let mut service = created(&[9000]);
        service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].node_port = Some(30_900);
        service.spec.as_mut().unwrap().cluster_ip = Some("10.0.0.9".into());
        let there = Watched::There(Arc::new(service));
        let Action::Replace(more) = decide(&own(), &published(), &there, &[9000, 9001]) else { panic!("not changed") };
        assert_eq!(more.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("10.0.0.9"));
        assert_eq!(more.spec.unwrap().ports.unwrap()[0].node_port, Some(30_900));
        assert!(matches!(decide(&own(), &published(), &there, &[]), Action::Delete(_)));
        assert_eq!(decide(&own(), &published(), &Watched::Absent, &[]), Action::Nothing);
    }

    #[test]
    fn what_somebody_else_made_is_left_alone() {
        let mut theirs = created(&[9000]);
        theirs.metadata.owner_references = None;
        let theirs = Watched::There(Arc::new(theirs));
        assert!(matches!(decide(&own(), &published(), &theirs, &[9001]), Action::Refuse("TcpServiceNotOurs", _)));
        assert_eq!(decide(&own(), &published(), &theirs, &[]), Action::Nothing, "never deleted");
    }

    #[test]
    fn before_both_are_known_nothing_is_done() {
        assert_eq!(decide(&own(), &Watched::Unknown, &Watched::Absent, &[9000]), Action::Nothing);
        assert_eq!(decide(&own(), &published(), &Watched::Unknown, &[9000]), Action::Nothing);
        assert_eq!(decide(&own(), &Watched::Absent, &Watched::Absent, &[9000]), Action::Nothing);
    }
}
