//! What routes name and no list holds: which ConfigMaps and Secrets have to be looked up, and what came of it.
//!
//! It never knows who looks them up, or what is in them. `index` keeps the answers, `build` asks what is wanted of all routes together.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Lookup, Options, grants::Target, objects::Named, references::Context, route::Route, tls};
use crate::{
    api::{self, ObjectName},
    model::ObjectRef,
};

/// Objects that a source has to look up one by one, because it lists none of their kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// ConfigMaps.
    pub config_maps: BTreeSet<ObjectRef>,
    /// Secrets that are not in the list of `kubernetes.io/tls`.
    pub secrets: BTreeSet<ObjectRef>,
}

impl Wanted {
    /// What one route wants. A reference that is not permitted is not looked up: nobody learns whether the object is there.
    pub(super) fn of_route(context: Context<'_>, route: &Route) -> Self {
        let mut wanted = Self::default();
        if context.options.lookup == Lookup::Told {
            return wanted;
        }
        let namespace = &*route.id.namespace;
        let static_ = |location: &'_ api::Location| location.static_.as_ref()?.config_map.clone();
        for reference in route.spec.locations.iter().flatten().filter_map(static_) {
            wanted.config_maps.extend(context.config_map(namespace, &reference).ok());
        }
        let of_hosts = route.spec.tls.iter().flat_map(|tls| tls.certificates.iter().flatten());
        let of_ports = route.spec.tcp.iter().flatten().filter_map(|tcp| tcp.tls.as_ref()).flat_map(|tls| tls.certificates.iter().flatten());
        for reference in of_hosts.chain(of_ports) {
            wanted.secrets.extend(context.secret(namespace, reference).ok());
        }
        let (secrets, config_maps) = tls::named(&route.spec);
        let named = |name: &ObjectName, target| context.named(namespace, name.namespace.as_deref(), &name.name, target).ok();
        wanted.secrets.extend(secrets.into_iter().filter_map(|name| named(name, Target::Secret)));
        wanted.config_maps.extend(config_maps.into_iter().filter_map(|name| named(name, Target::ConfigMap)));
        wanted.secrets.retain(|name| !context.index.lists_secret(name));
        wanted
    }

    /// What the command line wants.
    pub(super) fn of_options(context: Context<'_>) -> Self {
        let Options { lookup, default_tls_secret, .. } = context.options;
        let secrets = default_tls_secret.iter().filter(|name| *lookup == Lookup::OnDemand && !context.index.lists_secret(name));
        Self { config_maps: BTreeSet::new(), secrets: secrets.cloned().collect() }
    }

    /// Those that nothing is known of.
    pub(super) fn unanswered(&self, context: Context<'_>) -> Self {
        let unanswered = |names: &BTreeSet<ObjectRef>, is_known: &dyn Fn(&ObjectRef) -> bool| {
            names.iter().filter(|name| !is_known(name)).cloned().collect::<BTreeSet<_>>()
        };
        Self {
            config_maps: unanswered(&self.config_maps, &|name| context.index.knows_config_map(name)),
            secrets: unanswered(&self.secrets, &|name| context.index.knows_secret(name)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.config_maps.is_empty() && self.secrets.is_empty()
    }

    pub(super) fn add(&mut self, other: Self) {
        self.config_maps.extend(other.config_maps);
        self.secrets.extend(other.secrets);
    }
}

/// What is known of an object that may have to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known<V> {
    /// It is there.
    There(V),
    /// It is not there.
    Absent,
    /// Nobody has said yet.
    Unanswered,
}

impl<V> Known<V> {
    /// The same of what it is seen as.
    pub(super) fn map<W>(self, see: impl FnOnce(V) -> W) -> Known<W> {
        match self {
            Known::There(value) => Known::There(see(value)),
            Known::Absent => Known::Absent,
            Known::Unanswered => Known::Unanswered,
        }
    }
}

/// What a source said of objects of one kind, reduced to what the translation needs of them; `None` is that it is not there.
#[derive(Debug)]
pub(super) struct Answers<V>(BTreeMap<ObjectRef, Option<V>>);

impl<V> Default for Answers<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V: PartialEq> Answers<V> {
    /// Whether anything is different afterwards.
    pub(super) fn apply<T: Named>(&mut self, event: Event<T>, reduce: impl Fn(&T) -> V) -> bool {
        match event {
            Event::Apply(object) => self.put(object.object_ref(), Some(reduce(&object))),
            Event::Delete(name) => self.put(name, None),
            Event::Reset(objects) => {
                let names: BTreeSet<ObjectRef> = objects.iter().map(Named::object_ref).collect();
                let before = self.0.len();
                self.retain(&names);
                objects
                    .iter()
                    .fold(self.0.len() != before, |changed, object| self.put(object.object_ref(), Some(reduce(object))) || changed)
            }
        }
    }

    fn put(&mut self, name: ObjectRef, answer: Option<V>) -> bool {
        if self.0.get(&name) == Some(&answer) {
            return false;
        }
        self.0.insert(name, answer);
        true
    }

    pub(super) fn get(&self, name: &ObjectRef, lookup: Lookup) -> Known<&V> {
        match (self.0.get(name), lookup) {
            (Some(Some(value)), _) => Known::There(value),
            (Some(None), _) | (None, Lookup::Told) => Known::Absent,
            (None, Lookup::OnDemand) => Known::Unanswered,
        }
    }

    pub(super) fn has(&self, name: &ObjectRef) -> bool {
        self.0.contains_key(name)
    }

    /// Forgets the others.
    pub(super) fn retain(&mut self, names: &BTreeSet<ObjectRef>) {
        self.0.retain(|name, _| names.contains(name));
    }
}
