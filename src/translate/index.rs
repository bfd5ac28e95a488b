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
    configmap::{self, Files},
    lookup::{Answers, Known},
    objects::{EndpointSlice, IngressClass, Named, Namespace, SERVICE_NAME_LABEL, Service, ServicePort},
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
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    /// Slices by their Service, so that a change of one Service does not read all of them.
    slices_of: BTreeMap<ObjectRef, BTreeSet<ObjectRef>>,
    certs: Store<Result<Arc<Cert>, Problem>>,
    /// Of the Secrets that are not in the list above.
    looked_up: Answers<Result<Arc<Cert>, Problem>>,
    files: Answers<Files>,
    classes: Store<IngressClass>,
    namespaces: Store<Namespace>,
    addresses: BTreeMap<Arc<str>, Vec<SocketAddr>>,
}

impl Index {
    /// Takes a change in; what it says again changes nothing.
    pub fn apply(&mut self, change: Change) -> Dirty {
        match change {
            Change::WsRoute(event) => Dirty::routes(self.routes.apply(event, Route::new)),
            Change::Service(event) => {
                let changed = self.services.apply(event, |service| service);
                Dirty { routes: changed, endpoints: changed }
            }
            Change::EndpointSlice(event) => {
                let changed = self.slices.apply(event, |slice| slice);
                if changed {
                    self.slices_of = slices_by_service(&self.slices);
                }
                Dirty::endpoints(changed)
            }
            Change::Secret(event) => Dirty::routes(self.certs.apply(event, |object| secret::parse(&object))),
            Change::ConfigMap(event) => Dirty::routes(self.files.apply(event, configmap::files)),
            // References across namespaces are not supported yet, so no grant changes anything.
            Change::ReferenceGrant(_) => Dirty::default(),
            Change::IngressClass(event) => Dirty::routes(self.classes.apply(event, |class| class)),
            Change::Namespace(event) => Dirty::routes(self.namespaces.apply(event, |namespace| namespace)),
            Change::OtherSecret(event) => Dirty::routes(self.looked_up.apply(event, secret::parse)),
            // Only the ingresses of solvers: nothing reads them yet.
            Change::Ingress(_) => Dirty::default(),
            Change::Address { host_port, addresses } => {
                let known = self.addresses.insert(host_port, addresses.clone());
                Dirty::endpoints(known != Some(addresses))
            }
        }
    }

    /// The whole translation. What was looked up and is wanted no more is forgotten.
    pub fn translate(&mut self, options: &Options) -> Translated {
        let translated = super::build::translate(self, options);
        if options.lookup == Lookup::OnDemand {
            self.files.retain(&translated.wanted.config_maps);
            self.looked_up.retain(&translated.wanted.secrets);
        }
        translated
    }

    /// The same locations with the endpoints of now: for a change that is [`Dirty`] in its endpoints alone.
    pub fn refresh(&mut self, options: &Options, last: &Translated) -> Translated {
        let mut next = last.clone();
        for (key, pool) in &mut next.table.pools {
            let spec = super::pools::endpoints(self, options, key);
            if **pool != spec {
                *pool = Arc::new(spec);
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

    pub(super) fn service(&self, name: &ObjectRef) -> Option<&Service> {
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

    pub(super) fn namespace_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.0.get(&ObjectRef::new("", name)).map(|namespace| &namespace.metadata.labels)
    }

    pub(super) fn slices(&self, service: &ObjectRef) -> impl Iterator<Item = &EndpointSlice> + Clone {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.0.get(name))
    }

    pub(super) fn resolved(&self, host_port: &str) -> &[SocketAddr] {
        self.addresses.get(host_port).map_or(&[], Vec::as_slice)
    }
}

/// The port of a Service that a WsRoute means by a number or a name.
pub(super) fn service_port<'a>(service: &'a Service, port: &str) -> Option<&'a ServicePort> {
    service.spec.ports.iter().filter(|known| known.protocol.as_deref().unwrap_or("TCP") == "TCP").find(|known| match port.parse::<u16>() {
        Ok(number) => known.port == number,
        Err(_) => known.name.as_deref() == Some(port),
    })
}

fn slices_by_service(slices: &Store<EndpointSlice>) -> BTreeMap<ObjectRef, BTreeSet<ObjectRef>> {
    let mut by_service: BTreeMap<ObjectRef, BTreeSet<ObjectRef>> = BTreeMap::new();
    for (name, slice) in &slices.0 {
        if let Some(service) = slice.metadata.labels.get(SERVICE_NAME_LABEL) {
            let service = ObjectRef::new(name.namespace.clone(), service.as_str());
            by_service.entry(service).or_default().insert(name.clone());
        }
    }
    by_service
}

/// Objects of one kind, reduced to what the translation needs of them.
#[derive(Debug)]
struct Store<V>(BTreeMap<ObjectRef, V>);

impl<V> Default for Store<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V: PartialEq> Store<V> {
    /// Whether anything is different afterwards. What is equal stays as it is, so that shared values stay shared.
    fn apply<T: Named>(&mut self, event: Event<T>, reduce: impl Fn(T) -> V) -> bool {
        match event {
            Event::Apply(object) => self.put(object.object_ref(), reduce(object)),
            Event::Delete(name) => self.0.remove(&name).is_some(),
            Event::Reset(objects) => {
                let names: BTreeSet<ObjectRef> = objects.iter().map(Named::object_ref).collect();
                let before = self.0.len();
                self.0.retain(|name, _| names.contains(name));
                let mut changed = self.0.len() != before;
                for object in objects {
                    changed |= self.put(object.object_ref(), reduce(object));
                }
                changed
            }
        }
    }

    fn put(&mut self, name: ObjectRef, value: V) -> bool {
        if self.0.get(&name) == Some(&value) {
            return false;
        }
        self.0.insert(name, value);
        true
    }
}
