//! Who may have a host, whatever many namespaces claim, are granted and delegate to each other.

use std::collections::{BTreeMap, BTreeSet};

use carrick::{
    manifests,
    model::{LocationKey, route::PathPattern, table::HostPattern},
    translate::{Change, HostOwnership, Index, Options, Translated},
};
use proptest::{collection::vec, prelude::*, sample::subsequence};
use serde_json::{Value, json};

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const HOSTS: [&str; 5] = ["x.test", "*.x.test", "y.x.test", "z.y.x.test", "other.test"];
const PATHS: [&str; 3] = ["/", "/team", "/team/app"];

/// A route: the younger, the later it stands in the world.
#[derive(Clone, Debug)]
struct Claim {
    namespace: &'static str,
    hosts: Vec<&'static str>,
    paths: Vec<&'static str>,
    delegates: Option<(Vec<&'static str>, Vec<&'static str>)>,
}

#[derive(Clone, Debug)]
struct World {
    claims: Vec<Claim>,
    /// Of each namespace, the hosts that it was granted.
    granted: Vec<Vec<&'static str>>,
}

fn claim() -> impl Strategy<Value = Claim> {
    let some = |from: &'static [&'static str], at_least: usize| subsequence(from, at_least..=from.len());
    let delegates = prop::option::weighted(0.4, (some(&NAMESPACES, 1), some(&PATHS, 0)));
    (prop::sample::select(&NAMESPACES[..]), some(&HOSTS, 1), some(&PATHS, 1), delegates)
        .prop_map(|(namespace, hosts, paths, delegates)| Claim { namespace, hosts, paths, delegates })
}

fn world() -> impl Strategy<Value = World> {
    let granted = vec(subsequence(&HOSTS, 0..=HOSTS.len()), NAMESPACES.len());
    (vec(claim(), 1..8), granted).prop_map(|(claims, granted)| World { claims, granted })
}

impl World {
    fn changes(&self) -> Vec<Change> {
        let namespaces = NAMESPACES.iter().zip(&self.granted).map(|(name, hosts)| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": {"carrick.dev/hosts": hosts.join(", ")}}})
        });
        let routes = self.claims.iter().enumerate().map(|(age, claim)| claim.object(age));
        let text = namespaces.chain(routes).map(|object| object.to_string()).collect::<Vec<_>>().join("\n---\n");
        let (changes, faults) = manifests::parse(&text);
        assert_eq!(faults, []);
        changes
    }

    fn translate(&self, options: &Options) -> Translated {
        translate(self.changes(), options)
    }

    fn may_claim(&self, namespace: &str, host: &str, options: &Options) -> bool {
        let position = NAMESPACES.iter().position(|name| *name == namespace).unwrap();
        !options.require_grants || self.granted[position].iter().any(|granted| covers(granted, host))
    }

    fn delegates(&self, owner: &str, to: &str, host: &str, path: &str) -> bool {
        self.claims.iter().filter(|claim| claim.namespace == owner && claim.hosts.iter().any(|known| covers(known, host))).any(|claim| {
            let below = |prefix: &&str| path == *prefix || path.starts_with(&format!("{}/", prefix.trim_end_matches('/')));
            let delegated =
                |(namespaces, paths): &(Vec<&str>, Vec<&str>)| namespaces.contains(&to) && (paths.is_empty() || paths.iter().any(below));
            claim.delegates.as_ref().is_some_and(delegated)
        })
    }
}

impl Claim {
    fn object(&self, age: usize) -> Value {
        let location = |path: &&str| json!({"path": path, "redirect": {"host": format!("{}.{age}", self.namespace)}});
        let mut spec = json!({"hosts": self.hosts, "locations": self.paths.iter().map(location).collect::<Vec<_>>()});
        if let Some((namespaces, paths)) = &self.delegates {
            spec["delegate"] = json!([{"namespaces": namespaces, "paths": paths}]);
        }
        json!({
            "apiVersion": "carrick.dev/v1alpha1", "kind": "WsRoute", "spec": spec,
            "metadata": {"name": format!("r{age}"), "namespace": self.namespace, "creationTimestamp": format!("2026-01-{:02}T00:00:00Z", age + 1)},
        })
    }
}

/// Whether a pattern is a host, or a wildcard above it.
fn covers(pattern: &str, host: &str) -> bool {
    pattern == host
        || pattern.strip_prefix('*').is_some_and(|suffix| host.len() > pattern.len() - 1 && host.ends_with(suffix) && host != pattern)
}

fn translate(changes: Vec<Change>, options: &Options) -> Translated {
    let mut index = Index::default();
    for change in changes {
        index.apply(change);
    }
    index.translate(options)
}

/// Whose locations each host has, with their paths.
fn served(translated: &Translated) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let path = |pattern: &PathPattern| match pattern {
        PathPattern::Prefix(prefix) if prefix.is_empty() => "/".to_owned(),
        pattern => pattern.to_string(),
    };
    let of_host = |host: &carrick::model::table::Host| {
        host.locations.iter().map(|location| (location.route.namespace.to_string(), path(&location.path))).collect()
    };
    translated.table.hosts.iter().map(|host| (host.host.to_string(), of_host(host))).collect()
}

/// Every location of every host, by what it is.
fn locations(translated: &Translated) -> BTreeSet<(HostPattern, LocationKey, String)> {
    let hosts = translated.table.hosts.iter();
    hosts
        .flat_map(|host| host.locations.iter().map(|location| (host.host.clone(), location.key.clone(), location.route.to_string())))
        .collect()
}

fn options(require_grants: bool) -> Options {
    Options { require_grants, ..Options::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A host has the locations of one namespace that may claim it, and of those that this one delegates to.
    #[test]
    fn a_host_is_its_owners_and_its_delegates(world in world(), require_grants: bool) {
        let options = options(require_grants);
        for (host, locations) in served(&world.translate(&options)) {
            let is_owner = |owner: &&&str| {
                world.may_claim(owner, &host, &options)
                    && locations.iter().all(|(namespace, path)| namespace == **owner || world.delegates(owner, namespace, &host, path))
            };
            prop_assert!(NAMESPACES.iter().find(is_owner).is_some(), "{host}: {locations:?}");
        }
    }

    /// What a younger route asks for takes nothing from an older one and gives it nothing, unless it delegates: then an older route of the
    /// other namespace comes before those of the owner that are younger.
    #[test]
    fn the_youngest_route_changes_nothing_for_the_others(mut world in world(), require_grants: bool) {
        let options = options(require_grants);
        world.claims.last_mut().unwrap().delegates = None;
        let mut with = locations(&world.translate(&options));
        let youngest = world.claims.pop().unwrap();
        let its_own = format!("{}/r{}", youngest.namespace, world.claims.len());
        with.retain(|(.., route)| *route != its_own);
        prop_assert_eq!(with, locations(&world.translate(&options)));
    }

    /// A grant is all that --require-grants asks for: where everything is granted, the flag changes nothing.
    #[test]
    fn with_every_grant_the_flag_changes_nothing(mut world in world()) {
        world.granted.fill(HOSTS.to_vec());
        prop_assert_eq!(world.translate(&options(true)), world.translate(&options(false)));
    }

    /// Without any grant nothing is served, not even by delegation: there is no owner to delegate. Sharing hosts does not lift that.
    #[test]
    fn without_a_grant_nothing_is_served(mut world in world(), shared: bool) {
        world.granted.fill(Vec::new());
        let host_ownership = if shared { HostOwnership::Shared } else { HostOwnership::Namespace };
        let options = Options { require_grants: true, host_ownership, ..Options::default() };
        prop_assert_eq!(world.translate(&options).table.hosts.len(), 0);
    }

    /// The order in which objects are told of does not matter.
    #[test]
    fn the_order_of_the_objects_does_not_matter(world in world(), require_grants: bool) {
        let mut changes = world.changes();
        let expected = translate(changes.clone(), &options(require_grants));
        changes.reverse();
        prop_assert_eq!(translate(changes, &options(require_grants)), expected);
    }
}
