//! The objects as last told, by kind and name: applied synchronously by one owner, read by the translation.
//!
//! ```text
//!  Change ──► apply ──► Store per kind ──► translate ──► Table + statuses
//!                │                            ▲
//!                └──► Dirty { routes,         │
//!                             endpoints } ────┘ endpoints alone: refresh, which keeps every location
//! ```
//!
//! It never knows where a Change comes from or when a table is published. `control` and `check` own one each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    Change, Event, Lookup, Options, Translated,
    acme::Solver,
    allowance::Allowance,
    configmap::{self, Files},
    endpoints::{Slice, Slices},
    grants::Grant,
    lookup::{Answers, Known},
    objects::{IngressClass, Named, ServicePort, ServiceSpec},
    pools,
    route::Route,
    secret,
    status::Problem,
};
use crate::model::{Cert, ObjectRef, PoolKey, Table, tls::Authorities, upstream::PoolSpec};

/// What a change bears on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Locations, hosts, certificates or statuses may differ: translate all.
    pub routes: bool,
    /// Endpoints may differ: refreshing the pools is enough.
    pub endpoints: bool,
}

impl Dirty {
    /// Whether anything may differ.
    pub fn any(self) -> bool {
        self.routes || self.endpoints
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { routes: self.routes || other.routes, endpoints: self.endpoints || other.endpoints }
    }

    fn routes(changed: bool) -> Self {
        Self { routes: changed, endpoints: false }
    }

    fn endpoints(changed: bool) -> Self {
        Self { routes: false, endpoints: changed }
    }
}

/// The objects as last told.
#[derive(Debug, Default)]
pub struct Index {
    routes: Store<Route>,
    services: Store<ServiceSpec>,
    slices: Slices,
    secrets: Store<secret::Content>,
    /// Of the Secrets that are not in the list above.
    looked_up: Answers<secret::Content>,
    config_maps: Answers<configmap::Content>,
    grants: Store<Grant>,
    classes: Store<IngressClass>,
    namespaces: Store<Allowance>,
    solvers: Store<Solver>,
    addresses: BTreeMap<Arc<str>, Vec<SocketAddr>>,
    /// Services that have a pool since the last translation: endpoints of others concern nobody.
    pooled: BTreeSet<ObjectRef>,
    /// Services that have none, and open tunnels.
    followed: BTreeSet<ObjectRef>,
    /// Ours.
    zone: Option<Arc<str>>,
    stale: Stale,
}

/// Whose endpoints have changed since the pools were made.
#[derive(Debug, Default)]
struct Stale {
    services: BTreeSet<ObjectRef>,
    addresses: BTreeSet<Arc<str>>,
}

impl Index {
    /// Takes a change in; what it says again changes nothing.
    pub fn apply(&mut self, change: Change) -> Dirty {
        match change {
            Change::WsRoute(event) => Dirty::routes(self.routes.apply(event, Route::new)),
            Change::Service(event) => Dirty::routes(self.services.apply(event, |service| service.spec)),
            Change::EndpointSlice(event) => {
                let mut touched = self.slices.apply(event);
                touched.retain(|service| self.pooled.contains(service) || self.followed.contains(service));
                let changed = !touched.is_empty();
                self.stale.services.extend(touched);
                Dirty::endpoints(changed)
            }
            Change::Secret(event) => Dirty::routes(self.secrets.apply(event, |object| secret::Content::read(&object))),
            Change::OtherSecret(event) => Dirty::routes(self.looked_up.apply(event, secret::Content::read)),
            Change::ConfigMap(event) => Dirty::routes(self.config_maps.apply(event, configmap::Content::read)),
            Change::ReferenceGrant(event) => Dirty::routes(self.grants.apply(event, Grant::new)),
            Change::IngressClass(event) => Dirty::routes(self.classes.apply(event, |class| class)),
            Change::Namespace(event) => Dirty::routes(self.namespaces.apply(event, Allowance::new)),
            Change::Ingress(event) => Dirty::routes(self.solvers.apply(event, Solver::new)),
            Change::Address { host_port, addresses } => {
                let known = self.addresses.insert(host_port.clone(), addresses.clone());
                let changed = known != Some(addresses);
                if changed {
                    self.stale.addresses.insert(host_port);
                }
                Dirty::endpoints(changed)
            }
            Change::Zone(zone) => {
                let changed = self.zone.replace(zone.clone()) != Some(zone);
                if changed {
                    self.stale.services.extend(self.pooled.iter().cloned());
                }
                Dirty::endpoints(changed)
            }
        }
    }

    /// The whole translation. What was looked up and is wanted no more is forgotten.
    pub fn translate(&mut self, options: &Options) -> Translated {
        self.stale = Stale::default();
        let translated = super::build::translate(self, options);
        self.pooled = pools::services(translated.table.pools.keys());
        if options.lookup == Lookup::OnDemand {
            self.config_maps.retain(&translated.wanted.config_maps);
            self.looked_up.retain(&translated.wanted.secrets);
        }
        translated
    }

    /// The last translation with the endpoints of now, for changes that are [`Dirty`] in endpoints alone: only the pools of the Services
    /// and addresses that changed are made anew, however many others there are.
    pub fn refresh(&mut self, options: &Options, last: &Translated) -> Translated {
        let Stale { services, addresses } = std::mem::take(&mut self.stale);
        let of_services = services.iter().flat_map(|service| pools::of_service(&last.table.pools, service));
        let of_addresses = addresses.iter().filter_map(|address| last.names.get(address)).flatten();
        let mut next = last.clone();
        for key in of_services.chain(of_addresses) {
            let pool = pools::endpoints(self, options, key);
            if last.table.pools.get(key).is_some_and(|known| **known != pool) {
                next.table.pools.insert(key.clone(), Arc::new(pool));
            }
        }
        next
    }

    /// The endpoints of pools that no location lists any more. Changes of theirs are told from now on, until they are not among these.
    pub fn follow(&mut self, options: &Options, held: BTreeSet<PoolKey>, served: &Table) -> BTreeMap<PoolKey, Arc<PoolSpec>> {
        let unlisted: Vec<PoolKey> = held.into_iter().filter(|key| !served.pools.contains_key(key)).collect();
        self.followed = pools::services(unlisted.iter());
        unlisted.into_iter().map(|key| (key.clone(), Arc::new(pools::endpoints(self, options, &key)))).collect()
    }

    /// All of them, the oldest first.
    pub(super) fn routes(&self) -> Vec<&Route> {
        let mut routes: Vec<&Route> = self.routes.0.values().collect();
        routes.sort_by(|a, b| a.age().cmp(&b.age()));
        routes
    }

    pub(super) fn classes(&self) -> impl Iterator<Item = &IngressClass> {
        self.classes.0.values()
    }

    pub(super) fn class(&self, name: &str) -> Option<&IngressClass> {
        self.classes.0.get(&ObjectRef::new("", name))
    }

    pub(super) fn service(&self, name: &ObjectRef) -> Option<&ServiceSpec> {
        self.services.0.get(name)
    }

    /// Whether a Secret is among those that are listed.
    pub(super) fn lists_secret(&self, name: &ObjectRef) -> bool {
        self.secrets.0.contains_key(name)
    }

    pub(super) fn cert(&self, name: &ObjectRef, lookup: Lookup) -> Known<&Result<Arc<Cert>, Problem>> {
        self.secret(name, lookup).map(|content| &content.cert)
    }

    pub(super) fn authorities_of_secret(&self, name: &ObjectRef, lookup: Lookup) -> Known<&Result<Arc<Authorities>, Problem>> {
        self.secret(name, lookup).map(|content| &content.authorities)
    }

    fn secret(&self, name: &ObjectRef, lookup: Lookup) -> Known<&secret::Content> {
        self.secrets.0.get(name).map_or_else(|| self.looked_up.get(name, lookup), Known::There)
    }

    pub(super) fn knows_secret(&self, name: &ObjectRef) -> bool {
        self.lists_secret(name) || self.looked_up.has(name)
    }

    pub(super) fn files(&self, name: &ObjectRef, lookup: Lookup) -> Known<&Files> {
        self.config_maps.get(name, lookup).map(|content| &content.files)
    }

    pub(super) fn authorities_of_config_map(&self, name: &ObjectRef, lookup: Lookup) -> Known<&Result<Arc<Authorities>, Problem>> {
        self.config_maps.get(name, lookup).map(|content| &content.authorities)
    }

    pub(super) fn knows_config_map(&self, name: &ObjectRef) -> bool {
        self.config_maps.has(name)
    }

    /// The ReferenceGrants of a namespace.
    pub(super) fn grants(&self, namespace: &str) -> impl Iterator<Item = &Grant> {
        let all = self.grants.0.range(ObjectRef::new(namespace, "")..);
        all.take_while(move |(name, _)| *name.namespace == *namespace).map(|(_, grant)| grant)
    }

    /// What is known of a namespace.
    pub(super) fn namespace(&self, name: &str) -> Option<&Allowance> {
        self.namespaces.0.get(&ObjectRef::new("", name))
    }

    /// Ingresses that are there to solve challenges.
    pub(super) fn solvers(&self) -> impl Iterator<Item = (&ObjectRef, &Solver)> {
        self.solvers.0.iter()
    }

    pub(super) fn slices(&self, service: &ObjectRef) -> impl Iterator<Item = &Slice> + Clone {
        self.slices.of(service)
    }

    pub(super) fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    pub(super) fn resolved(&self, host_port: &str) -> &[SocketAddr] {
        self.addresses.get(host_port).map_or(&[], Vec::as_slice)
    }
}

/// The port of a Service that a WsRoute means by a number or a name.
pub(super) fn service_port<'a>(service: &'a ServiceSpec, port: &str) -> Option<&'a ServicePort> {
    service.ports.iter().filter(|known| known.protocol.as_deref().unwrap_or("TCP") == "TCP").find(|known| match port.parse::<u16>() {
        Ok(number) => known.port == number,
        Err(_) => known.name.as_deref() == Some(port),
    })
}

/// Objects of one kind, reduced to what the translation needs of them; those that it needs nothing of are not kept.
#[derive(Debug)]
struct Store<V>(BTreeMap<ObjectRef, V>);

impl<V> Default for Store<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V: PartialEq> Store<V> {
    /// Whether anything is different afterwards. What is equal stays as it is, so that shared values stay shared.
    fn apply<T: Named, R: Into<Option<V>>>(&mut self, event: Event<T>, reduce: impl Fn(T) -> R) -> bool {
        match event {
            Event::Apply(object) => self.put(object.object_ref(), reduce(object).into()),
            Event::Delete(name) => self.0.remove(&name).is_some(),
            Event::Reset(objects) => {
                let names: BTreeSet<ObjectRef> = objects.iter().map(Named::object_ref).collect();
                let before = self.0.len();
                self.0.retain(|name, _| names.contains(name));
                let mut changed = self.0.len() != before;
                for object in objects {
                    changed |= self.put(object.object_ref(), reduce(object).into());
                }
                changed
            }
        }
    }

    fn put(&mut self, name: ObjectRef, value: Option<V>) -> bool {
        match value {
            Some(value) if self.0.get(&name) == Some(&value) => false,
            Some(value) => {
                self.0.insert(name, value);
                true
            }
            None => self.0.remove(&name).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::translate::objects::{ConfigMap, EndpointSlice, Secret, Service};

    fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
        serde_json::from_value(object).unwrap()
    }

    fn service(name: &str, port: u16) -> Service {
        read(json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "ws", "port": port}]}}))
    }

    fn slice(service: &str, endpoints: u8, ready: bool) -> EndpointSlice {
        let endpoint = |last| json!({"addresses": [format!("10.0.0.{last}")], "conditions": {"ready": ready}});
        read(json!({
            "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": "ws", "port": 8080}],
            "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
        }))
    }

    fn route(name: &str, locations: Value) -> Change {
        let route: crate::api::WsRoute = read(json!({
            "apiVersion": "carrick.dev/v1alpha1", "kind": "WsRoute", "metadata": {"name": name},
            "spec": {"hosts": [format!("{name}.example.com")], "locations": locations},
        }));
        Change::WsRoute(Event::Apply(route.into()))
    }

    fn proxied(name: &str) -> Change {
        route(name, json!([{"backends": [{"service": name, "port": "ws"}]}]))
    }

    fn pool<'t>(translated: &'t Translated, service: &str) -> &'t Arc<PoolSpec> {
        &translated.table.pools[&PoolKey::Service { service: ObjectRef::new("default", service), port: "ws".into() }]
    }

    #[test]
    fn endpoints_of_one_service_touch_nothing_else_among_a_thousand() {
        let mut index = Index::default();
        let names: Vec<String> = (0..1000).map(|number| format!("app-{number}")).collect();
        for name in &names {
            index.apply(Change::Service(Event::Apply(service(name, 80))));
            index.apply(Change::EndpointSlice(Event::Apply(slice(name, 10, true))));
            index.apply(proxied(name));
        }
        let options = Options::default();
        let before = index.translate(&options);
        assert_eq!(pool(&before, "app-500").endpoints.len(), 10);

        let dirty = index.apply(Change::EndpointSlice(Event::Apply(slice("app-500", 9, true))));
        assert_eq!(dirty, Dirty { routes: false, endpoints: true });
        let after = index.refresh(&options, &before);
        assert_eq!(pool(&after, "app-500").endpoints.len(), 9);
        assert!(Arc::ptr_eq(&before.statuses, &after.statuses));
        for name in names.iter().filter(|name| *name != "app-500") {
            assert!(Arc::ptr_eq(pool(&before, name), pool(&after, name)), "{name}");
        }
        assert_eq!(index.translate(&options), after, "the lane comes to what the whole translation does");
    }

    #[test]
    fn a_slice_that_changes_hands_is_gone_from_the_one_and_in_the_other() {
        let mut index = Index::default();
        for name in ["a", "b"] {
            index.apply(Change::Service(Event::Apply(service(name, 80))));
            index.apply(proxied(name));
        }
        index.apply(Change::EndpointSlice(Event::Apply(slice("a", 2, true))));
        let options = Options::default();
        let before = index.translate(&options);
        let mut moved = slice("a", 2, true);
        moved.metadata.labels.insert("kubernetes.io/service-name".into(), "b".into());
        assert!(index.apply(Change::EndpointSlice(Event::Apply(moved))).endpoints);
        let after = index.refresh(&options, &before);
        assert_eq!((pool(&after, "a").endpoints.len(), pool(&after, "b").endpoints.len()), (0, 2));
        assert!(index.apply(Change::EndpointSlice(Event::Reset(Vec::new()))).endpoints);
        let emptied = index.refresh(&options, &after);
        assert_eq!(pool(&emptied, "b").endpoints.len(), 0);
    }

    #[test]
    fn what_nobody_reads_dirties_nothing() {
        let mut index = Index::default();
        index.apply(Change::Service(Event::Apply(service("app", 80))));
        index.apply(Change::EndpointSlice(Event::Apply(slice("app", 1, true))));
        index.apply(proxied("app"));
        index.translate(&Options::default());

        let mut labelled = service("app", 80);
        labelled.metadata.labels.insert("team".into(), "a".into());
        labelled.metadata.annotations.insert("note".into(), "b".into());
        assert!(!index.apply(Change::Service(Event::Apply(labelled))).any());
        assert!(index.apply(Change::Service(Event::Apply(service("app", 81)))).routes, "a port is read");
        let mut touched = slice("app", 1, true);
        touched.metadata.annotations.insert("endpoints.kubernetes.io/last-change-trigger-time".into(), "now".into());
        assert!(!index.apply(Change::EndpointSlice(Event::Apply(touched))).any());
        assert!(!index.apply(Change::EndpointSlice(Event::Apply(slice("unused", 1, true)))).any(), "no route names this Service");
        let grant =
            json!({"metadata": {"name": "g"}, "spec": {"from": [{"kind": "HTTPRoute", "namespace": "a"}], "to": [{"kind": "Service"}]}});
        assert!(!index.apply(Change::ReferenceGrant(Event::Apply(read(grant)))).any());
        let ingress = json!({"metadata": {"name": "i"}, "spec": {"rules": [{"host": "a.example", "http": {"paths": [{"path": "/"}]}}]}});
        assert!(!index.apply(Change::Ingress(Event::Apply(read(ingress)))).any());
        let annotated = |value: &str| read(json!({"metadata": {"name": "default", "annotations": {"note": value}}}));
        index.apply(Change::Namespace(Event::Apply(annotated("a"))));
        assert!(!index.apply(Change::Namespace(Event::Apply(annotated("b")))).any());
    }

    fn config_map(name: &str) -> ConfigMap {
        read(json!({"metadata": {"name": name}, "data": {"index.html": "<p>"}}))
    }

    fn on_demand() -> Options {
        Options { lookup: Lookup::OnDemand, ..Options::default() }
    }

    fn said_of(translated: &Translated, route: &str) -> (bool, String) {
        let status = &translated.statuses[&ObjectRef::new("default", route)];
        (status.settled, status.conditions[1].reason.clone())
    }

    #[test]
    fn a_route_is_settled_when_all_that_it_names_was_answered() {
        let mut index = Index::default();
        index.apply(route(
            "page",
            json!([{"static": {"configMap": {"name": "page"}}}, {"path": "/b", "static": {"configMap": {"name": "gone"}}}]),
        ));
        let asked = index.translate(&on_demand());
        assert_eq!(asked.unanswered.config_maps, [ObjectRef::new("default", "gone"), ObjectRef::new("default", "page")].into());
        assert_eq!(said_of(&asked, "page"), (false, "Pending".to_owned()));

        assert!(index.apply(Change::ConfigMap(Event::Apply(config_map("page")))).routes);
        assert!(!index.translate(&on_demand()).statuses[&ObjectRef::new("default", "page")].settled);
        assert!(index.apply(Change::ConfigMap(Event::Delete(ObjectRef::new("default", "gone")))).routes);
        let answered = index.translate(&on_demand());
        assert_eq!(said_of(&answered, "page"), (true, "ConfigMapNotFound".to_owned()));
        assert_eq!(answered.wanted.config_maps.len(), 2, "they are watched as long as they are named");
        assert_eq!(answered.unanswered, Default::default());
    }

    #[test]
    fn what_is_wanted_no_more_is_forgotten() {
        let mut index = Index::default();
        let page = || route("page", json!([{"static": {"configMap": {"name": "page"}}}]));
        index.apply(page());
        index.apply(Change::ConfigMap(Event::Apply(config_map("page"))));
        assert_eq!(index.translate(&on_demand()).unanswered, Default::default());
        index.apply(Change::WsRoute(Event::Delete(ObjectRef::new("default", "page"))));
        index.translate(&on_demand());
        index.apply(page());
        assert_eq!(index.translate(&on_demand()).unanswered.config_maps.len(), 1, "to be told again");
    }

    #[test]
    fn what_tls_names_is_looked_up_unless_it_is_listed() {
        let mut index = Index::default();
        let backend = |tls: Value| json!({"service": "app", "port": "ws", "tls": tls});
        index.apply(route(
            "tls",
            json!([
                {"backends": [backend(json!({"caSecret": {"name": "ca"}, "clientSecret": {"name": "ours"}}))]},
                {"path": "/b", "backends": [backend(json!({"caConfigMap": {"name": "bundle"}}))]},
            ]),
        ));
        let asked = index.translate(&on_demand()).unanswered;
        assert_eq!(asked.secrets, [ObjectRef::new("default", "ca"), ObjectRef::new("default", "ours")].into());
        assert_eq!(asked.config_maps, [ObjectRef::new("default", "bundle")].into());
        let listed: Secret = read(json!({"metadata": {"name": "ours"}, "type": "kubernetes.io/tls", "data": {}}));
        index.apply(Change::Secret(Event::Apply(listed)));
        assert_eq!(index.translate(&on_demand()).wanted.secrets, [ObjectRef::new("default", "ca")].into());
    }

    #[test]
    fn a_secret_of_another_type_is_looked_up_and_named_with_its_type() {
        let mut index = Index::default();
        let route: crate::api::WsRoute = read(json!({
            "apiVersion": "carrick.dev/v1alpha1", "kind": "WsRoute", "metadata": {"name": "shop"},
            "spec": {"tls": {"certificates": [{"secretName": "shop"}]}},
        }));
        index.apply(Change::WsRoute(Event::Apply(route.into())));
        let options = Options { default_tls_secret: Some(ObjectRef::new("carrick", "default")), ..on_demand() };
        assert_eq!(index.translate(&options).unanswered.secrets.len(), 2, "that of the route, and that of the flag");
        let secret: Secret = read(json!({"metadata": {"name": "shop"}, "type": "Opaque", "data": {}}));
        index.apply(Change::OtherSecret(Event::Apply(secret)));
        index.apply(Change::OtherSecret(Event::Delete(ObjectRef::new("carrick", "default"))));
        let translated = index.translate(&options);
        assert_eq!(said_of(&translated, "shop"), (true, "SecretWrongType".to_owned()));
        assert!(translated.statuses[&ObjectRef::new("default", "shop")].conditions[1].message.contains("is of type Opaque"));
        assert_eq!(translated.unanswered, Default::default());
    }
}
