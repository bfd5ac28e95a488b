//! Whose a host is: of the namespace of its oldest route, with the names under a wildcard; others need its delegation.
//!
//! It never knows locations. `build` and `layer4` ask it before they give a host to a route.

use std::{collections::BTreeMap, sync::Arc};

use super::{HostOwnership, Index, Options, allowance, route::Route, status::Problem, values};
use crate::{
    api::{Delegate, LabelSelector, LabelSelectorOperator, Reason, WsRouteSpec},
    model::table::HostPattern,
};

/// The owners of all hosts.
pub(super) struct Owners<'a> {
    index: &'a Index,
    shared: bool,
    /// A namespace may claim only what it was granted.
    require_grants: bool,
    claims: BTreeMap<HostPattern, Arc<str>>,
    delegations: Vec<Delegation<'a>>,
    claiming: &'a [Claim<'a>],
}

struct Delegation<'a> {
    owner: &'a str,
    hosts: &'a [HostPattern],
    delegate: &'a Delegate,
}

/// Whether a namespace may use a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// It owns it, or may use all of it.
    Owned,
    /// Its owner delegates it; below these paths, if there are any.
    Delegated { owner: Arc<str>, paths: Vec<String> },
    /// It belongs to this namespace, which delegates nothing.
    Denied { owner: Arc<str> },
    /// The namespace may not claim it, whoever owns it, and nobody delegates it.
    NotGranted,
}

impl Permit {
    /// Whether something below this path prefix may be served.
    pub(super) fn covers(&self, path: Option<&str>) -> bool {
        match self {
            Permit::Owned => true,
            Permit::Denied { .. } | Permit::NotGranted => false,
            Permit::Delegated { paths, .. } if paths.is_empty() => true,
            Permit::Delegated { paths, .. } => path.is_some_and(|path| paths.iter().any(|prefix| is_below(path, prefix))),
        }
    }

    /// Why a namespace may not use a host, nor any part of it.
    pub(super) fn refusal(&self, namespace: &str, host: &HostPattern) -> Option<Problem> {
        let message = match self {
            Permit::Owned | Permit::Delegated { .. } => return None,
            Permit::Denied { owner } => {
                format!("host {host} belongs to namespace {owner}: use another host, or have a WsRoute there delegate it")
            }
            Permit::NotGranted => format!(
                "namespace {namespace} was not granted host {host}: have it added to the annotation {} of the Namespace, or delegated by its owner",
                allowance::HOSTS
            ),
        };
        Some(Problem::new(Reason::HostNotAllowed, message))
    }
}

/// What a route claims, in the order of age: what can be read of its hosts, be the rest of it valid or not. A mistake elsewhere in a
/// route gives its host to nobody.
pub(super) struct Claim<'a> {
    pub(super) route: &'a Route,
    pub(super) hosts: &'a [HostPattern],
    /// SNI names of its `tcp` entries.
    pub(super) names: Vec<HostPattern>,
}

impl<'a> Owners<'a> {
    /// Gives each host to the namespace of the oldest claim, if it may claim it; what another's wildcard covers already is no one else's.
    pub(super) fn new(index: &'a Index, options: &Options, claims: &'a [Claim<'a>]) -> Self {
        let mut owners = Self {
            index,
            shared: options.host_ownership == HostOwnership::Shared,
            require_grants: options.require_grants,
            claims: BTreeMap::new(),
            delegations: Vec::new(),
            claiming: claims,
        };
        for Claim { route, hosts, names } in claims {
            for host in hosts.iter().chain(names) {
                if owners.owner(host).is_none() && owners.is_granted(&route.id.namespace, host) {
                    owners.claims.insert(host.clone(), route.id.namespace.clone());
                }
            }
            let delegates = route.spec.delegate.iter().flatten();
            owners.delegations.extend(delegates.map(|delegate| Delegation { owner: &route.id.namespace, hosts, delegate }));
        }
        owners
    }

    /// The namespace that a host belongs to, by its own claim or by the longest wildcard above it.
    pub(super) fn owner(&self, host: &HostPattern) -> Option<&Arc<str>> {
        self.claims.get(host).or_else(|| wildcards_above(host).find_map(|wildcard| self.claims.get(&wildcard)))
    }

    /// Whether a namespace may use a host.
    pub(super) fn permit(&self, namespace: &str, host: &HostPattern) -> Permit {
        let is_granted = self.is_granted(namespace, host);
        let owner = self.owner(host).filter(|owner| ***owner != *namespace);
        let Some(owner) = owner.filter(|_| !(self.shared && is_granted)) else {
            return if is_granted { Permit::Owned } else { Permit::NotGranted };
        };
        let covers = |delegation: &&Delegation<'_>| {
            delegation.owner == &**owner
                && delegation.hosts.iter().any(|known| known == host || wildcards_above(host).any(|wildcard| wildcard == *known))
                && self.is_meant(namespace, delegation.delegate)
        };
        let mut delegated = self.delegations.iter().filter(covers).peekable();
        if delegated.peek().is_none() {
            return if is_granted { Permit::Denied { owner: owner.clone() } } else { Permit::NotGranted };
        }
        let mut paths = Vec::new();
        for Delegation { delegate, .. } in delegated {
            match delegate.paths.as_deref() {
                None | Some([]) => return Permit::Delegated { owner: owner.clone(), paths: Vec::new() },
                Some(below) => paths.extend(below.iter().map(|path| values::path(path).unwrap_or_else(|_| path.clone()))),
            }
        }
        Permit::Delegated { owner: owner.clone(), paths }
    }

    /// Whether a solver of ACME challenges in a namespace may answer for a host: where the namespace may have the path, or where a route
    /// of the owner takes a certificate of the host from it, for there is where it is made.
    pub(super) fn may_solve(&self, namespace: &str, host: &HostPattern, path: &str) -> bool {
        match self.permit(namespace, host) {
            Permit::Denied { owner } => self.takes_certificate(&owner, host, namespace),
            permit => permit.covers(Some(path)),
        }
    }

    fn takes_certificate(&self, owner: &str, host: &HostPattern, from: &str) -> bool {
        let has_host = |claim: &&Claim<'_>| {
            *claim.route.id.namespace == *owner
                && claim.hosts.iter().any(|known| known == host || wildcards_above(host).any(|above| above == *known))
        };
        let certificates = |claim: &'a Claim<'a>| claim.route.spec.tls.iter().flat_map(|tls| tls.certificates.iter().flatten());
        self.claiming.iter().filter(has_host).flat_map(certificates).any(|reference| reference.namespace.as_deref() == Some(from))
    }

    fn is_granted(&self, namespace: &str, host: &HostPattern) -> bool {
        !self.require_grants || self.index.namespace(namespace).is_some_and(|known| known.has_host(host))
    }

    fn is_meant(&self, namespace: &str, delegate: &Delegate) -> bool {
        let by_name = delegate.namespaces.iter().flatten().any(|name| name == namespace);
        by_name
            || delegate
                .selector
                .as_ref()
                .is_some_and(|selector| self.index.namespace(namespace).is_some_and(|known| selects(selector, &known.labels)))
    }
}

/// `*.b.c` and `*.c` for `a.b.c`, the longest first.
pub(super) fn wildcards_above(host: &HostPattern) -> impl Iterator<Item = HostPattern> + '_ {
    let mut rest: Option<&str> = match host {
        HostPattern::Exact(name) | HostPattern::Wildcard(name) => Some(name),
        HostPattern::Any => None,
    };
    std::iter::from_fn(move || {
        rest = rest.and_then(|name| name.split_once('.')).map(|(_, parent)| parent);
        rest.map(|suffix| HostPattern::Wildcard(suffix.into()))
    })
}

/// Whether a path lies below a prefix, by whole elements.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Delegations that reach nobody, or select by something that can't be compared.
pub(super) fn misdelegated(spec: &WsRouteSpec) -> impl Iterator<Item = Problem> + '_ {
    spec.delegate.iter().flatten().enumerate().filter_map(|(position, delegate)| {
        let field = format!("spec.delegate[{position}]");
        let Some(selector) = &delegate.selector else {
            let nobody = delegate.namespaces.is_none();
            return nobody.then(|| Problem::invalid(format!("{field} needs namespaces or a selector")));
        };
        let odd = selector.match_expressions.iter().flatten().find(|requirement| {
            let needs_values = matches!(requirement.operator, LabelSelectorOperator::In | LabelSelectorOperator::NotIn);
            needs_values == requirement.values.iter().flatten().next().is_none()
        })?;
        Some(Problem::invalid(format!(
            "{field}.selector: {:?} of {} has no values, or values that it does not take",
            odd.operator, odd.key
        )))
    })
}

/// `meta/v1.LabelSelector`: all must hold; an empty one selects everything.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = labels.get(&requirement.key);
            let is_one_of = value.is_some_and(|value| requirement.values.iter().flatten().any(|one| one == value));
            match requirement.operator {
                LabelSelectorOperator::In => is_one_of,
                LabelSelectorOperator::NotIn => !is_one_of,
                LabelSelectorOperator::Exists => value.is_some(),
                LabelSelectorOperator::DoesNotExist => value.is_none(),
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_above_a_host_never_include_itself() {
        let above = |host: HostPattern| wildcards_above(&host).map(|host| host.to_string()).collect::<Vec<_>>();
        assert_eq!(above(values::host("a.b.c")), ["*.b.c", "*.c"]);
        assert_eq!(above(values::host("*.b.c")), ["*.c"]);
        assert_eq!(above(HostPattern::Any), [""; 0]);
    }

    #[test]
    fn paths_are_below_by_whole_elements() {
        assert!(is_below("/team", "/team") && is_below("/team/a", "/team/") && is_below("/team", "/"));
        assert!(!is_below("/teams", "/team") && !is_below("/", "/team"));
    }
}
