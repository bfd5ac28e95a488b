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
use crate::model::{Cert, ObjectRef};

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
    certs: Store<Result<Arc<Cert>, Problem>>,
    /// Of the Secrets that are not in the list above.
    looked_up: Answers<Result<Arc<Cert>, Problem>>,
    files: Answers<Files>,
    grants: Store<Grant>,
    classes: Store<IngressClass>,
    namespaces: Store<Allowance>,
    solvers: Store<Solver>,
    addresses: BTreeMap<Arc<str>, Vec<SocketAddr>>,
    /// Services that have a pool since the last translation: endpoints of others concern nobody.
    pooled: BTreeSet<ObjectRef>,
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
                touched.retain(|service| self.pooled.contains(service));
                let changed = !touched.is_empty();
                self.stale.services.extend(touched);
                Dirty::endpoints(changed)
            }
            Change::Secret(event) => Dirty::routes(self.certs.apply(event, |object| secret::parse(&object))),
            Change::OtherSecret(event) => Dirty::routes(self.looked_up.apply(event, secret::parse)),
            Change::ConfigMap(event) => Dirty::routes(self.files.apply(event, configmap::files)),
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
        }
    }

    /// The whole translation. What was looked up and is wanted no more is forgotten.
    pub fn translate(&mut self, options: &Options) -> Translated {
        self.stale = Stale::default();
        let translated = super::build::translate(self, options);
        self.pooled = pools::services(&translated.table.pools);
        if options.lookup == Lookup::OnDemand {
            self.files.retain(&translated.wanted.config_maps);
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

    /// Of a Secret that was listed.
    pub(super) fn listed_cert(&self, name: &ObjectRef) -> Option<&Result<Arc<Cert>, Problem>> {
        self.certs.0.get(name)
    }

    pub(super) fn cert(&self, name: &ObjectRef, lookup: Lookup) -> Known<&Result<Arc<Cert>, Problem>> {
        self.listed_cert(name).map_or_else(|| self.looked_up.get(name, lookup), Known::There)
    }

    pub(super) fn knows_cert(&self, name: &ObjectRef) -> bool {
        self.listed_cert(name).is_some() || self.looked_up.has(name)
    }

    pub(super) fn files(&self, name: &ObjectRef, lookup: Lookup) -> Known<&Files> {
        self.files.get(name, lookup)
    }

    pub(super) fn knows_files(&self, name: &ObjectRef) -> bool {
        self.files.has(name)
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
