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
    Change, Event, Options, Translated,
    configmap::{self, Files},
    objects::{EndpointSlice, IngressClass, Named, Namespace, SERVICE_NAME_LABEL, Service, ServicePort},
    options::ClassFilter,
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
    files: Store<Files>,
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
            Change::ConfigMap(event) => Dirty::routes(self.files.apply(event, |object| configmap::files(&object))),
            // References across namespaces are not supported yet, so no grant changes anything.
            Change::ReferenceGrant(_) => Dirty::default(),
            Change::IngressClass(event) => Dirty::routes(self.classes.apply(event, |class| class)),
            Change::Namespace(event) => Dirty::routes(self.namespaces.apply(event, |namespace| namespace)),
            // Only what `wanted` names, and the ingresses of solvers: nothing reads them yet.
            Change::OtherSecret(_) | Change::Ingress(_) => Dirty::default(),
            Change::Address { host_port, addresses } => {
                let known = self.addresses.insert(host_port, addresses.clone());
                Dirty::endpoints(known != Some(addresses))
            }
        }
    }

    /// The whole translation.
    pub fn translate(&self, options: &Options) -> Translated {
        super::build::translate(self, options)
    }

    /// The same locations with the endpoints of now: for a change that is [`Dirty`] in its endpoints alone.
    pub fn refresh(&self, options: &Options, last: &Translated) -> Translated {
        let mut next = last.clone();
        for (key, pool) in &mut next.table.pools {
            let spec = super::pools::endpoints(self, options, key);
            if **pool != spec {
                *pool = Arc::new(spec);
            }
        }
        next
    }

    /// The routes that are ours, the oldest first.
    pub(super) fn routes(&self, filter: &ClassFilter) -> Vec<&Route> {
        let mut routes: Vec<&Route> = self.routes.0.values().filter(|route| self.is_ours(route, filter)).collect();
        routes.sort_by(|a, b| a.age().cmp(&b.age()));
        routes
    }

    fn is_ours(&self, route: &Route, filter: &ClassFilter) -> bool {
        let class = |name: &str| self.classes.0.get(&ObjectRef::new("", name));
        let ours = |class: &IngressClass| match filter {
            ClassFilter::All => true,
            ClassFilter::Class(name) => class.metadata.name == **name,
            ClassFilter::Controller(controller) => class.spec.controller.as_deref() == Some(&**controller),
        };
        match (filter, &route.class) {
            (ClassFilter::All, _) => true,
            (ClassFilter::Class(name), Some(class)) => class == &**name,
            (ClassFilter::Controller(_), Some(name)) => class(name).is_some_and(ours),
            (_, None) => self.classes.0.values().any(|class| class.is_default() && ours(class)),
        }
    }

    pub(super) fn service(&self, name: &ObjectRef) -> Option<&Service> {
        self.services.0.get(name)
    }

    pub(super) fn cert(&self, name: &ObjectRef) -> Option<&Result<Arc<Cert>, Problem>> {
        self.certs.0.get(name)
    }

    pub(super) fn files(&self, name: &ObjectRef) -> Option<&Files> {
        self.files.0.get(name)
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
