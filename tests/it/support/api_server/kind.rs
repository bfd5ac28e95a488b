//! The kinds that the server knows, and the paths at which it serves them.

/// A kind of object.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    group: &'static str,
    version: &'static str,
    /// What requests and tests call it.
    pub plural: &'static str,
    /// What manifests call it.
    pub kind: &'static str,
    /// False for a kind of the cluster.
    pub namespaced: bool,
    /// Whether its status is written apart.
    pub has_status: bool,
    /// Whether metadata.generation counts the changes of its spec.
    pub has_generation: bool,
}

const fn namespaced(group: &'static str, version: &'static str, plural: &'static str, kind: &'static str) -> Kind {
    Kind { group, version, plural, kind, namespaced: true, has_status: false, has_generation: false }
}

const fn of_cluster(group: &'static str, version: &'static str, plural: &'static str, kind: &'static str) -> Kind {
    Kind { namespaced: false, ..namespaced(group, version, plural, kind) }
}

static KINDS: [Kind; 13] = [
    of_cluster("", "v1", "namespaces", "Namespace"),
    of_cluster("", "v1", "nodes", "Node"),
    Kind { has_status: true, ..namespaced("", "v1", "services", "Service") },
    namespaced("", "v1", "secrets", "Secret"),
    namespaced("", "v1", "configmaps", "ConfigMap"),
    namespaced("", "v1", "pods", "Pod"),
    namespaced("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    of_cluster("networking.k8s.io", "v1", "ingressclasses", "IngressClass"),
    Kind { has_status: true, has_generation: true, ..namespaced("networking.k8s.io", "v1", "ingresses", "Ingress") },
    namespaced("gateway.networking.k8s.io", "v1beta1", "referencegrants", "ReferenceGrant"),
    Kind { has_status: true, has_generation: true, ..namespaced("carrick.dev", "v1alpha1", "wsroutes", "WsRoute") },
    namespaced("coordination.k8s.io", "v1", "leases", "Lease"),
    namespaced("events.k8s.io", "v1", "events", "Event"),
];

impl Kind {
    /// The kind of this plural name.
    pub fn named(plural: &str) -> &'static Kind {
        KINDS.iter().find(|kind| kind.plural == plural).unwrap_or_else(|| panic!("the API server of the tests knows no {plural}"))
    }

    /// The kind that a manifest calls by this name.
    pub fn of_manifest(name: &str) -> &'static Kind {
        KINDS.iter().find(|kind| kind.kind == name).unwrap_or_else(|| panic!("the API server of the tests knows no {name}"))
    }

    /// `GROUP/VERSION`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// What a path of the API names.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    pub kind: &'static Kind,
    /// Empty for all namespaces and for kinds of the cluster.
    pub namespace: String,
    /// `None` for the collection.
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Resource {
    /// Reads a path; `None` where nothing is served.
    pub fn parse(path: &str) -> Option<Self> {
        let steps: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match steps.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let find = |plural: &str| KINDS.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural);
        let (namespace, rest) = match rest {
            ["namespaces", namespace, inner @ ..] if inner.first().is_some_and(|plural| find(plural).is_some()) => (*namespace, inner),
            _ => ("", rest),
        };
        let mut rest = rest.iter().map(|step| (*step).to_owned());
        let kind = find(&rest.next()?)?;
        Some(Self { kind, namespace: namespace.to_owned(), name: rest.next(), subresource: rest.next() })
    }

    /// As RBAC names it: `wsroutes/status`.
    pub fn permission(&self) -> String {
        self.subresource.as_ref().map_or(self.kind.plural.to_owned(), |sub| format!("{}/{sub}", self.kind.plural))
    }
}
