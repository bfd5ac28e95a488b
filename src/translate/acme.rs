//! Ingress v1 -> the locations that answer ACME's HTTP-01 challenges (RFC 8555 8.3) for cert-manager, and nothing else of an Ingress.
//!
//! It never knows certificates. `index` keeps what is of use of each Ingress; `build` adds it to the hosts when those are complete.

use std::sync::Arc;

use super::{
    build::{HostDraft, Hosts},
    class::Classes,
    layer4::Ports,
    location,
    objects::{Ingress, IngressPath},
    ownership::{self, Owners},
    references::Context,
};
use crate::{
    api::{self, IntOrString},
    model::{
        LocationKey, ObjectRef,
        limits::Access,
        route::{Action, HeaderEdits, Location, Match, PathPattern, UpgradeMatch},
        table::HostPattern,
        tls::Application,
    },
};

/// Where challenges are asked for; what follows is the token. The proxy never redirects below it.
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// How an Ingress named its class before `spec.ingressClassName`; cert-manager writes either.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// How metrics and log call every such location: the token is used once.
const LABEL: &str = "acme-challenge";

/// An Ingress, as far as it solves challenges.
#[derive(Debug, PartialEq)]
pub(super) struct Solver {
    class: Option<String>,
    challenges: Vec<Challenge>,
}

#[derive(Debug, PartialEq)]
struct Challenge {
    host: HostPattern,
    path: Arc<str>,
    backend: api::Backend,
}

impl Solver {
    /// `None` for an Ingress without challenges. Its other paths are left alone: cert-manager may add a challenge to anybody's.
    pub(super) fn new(object: Ingress) -> Option<Self> {
        let annotated = object.metadata.annotations.get(CLASS_ANNOTATION).cloned();
        let challenges = object.spec.rules.into_iter().flat_map(|rule| {
            // A challenge is for a name; a wildcard has none.
            let host = rule.host.filter(|host| !host.is_empty() && !host.starts_with('*'));
            let host = host.map(|host| HostPattern::Exact(host.to_ascii_lowercase().into()));
            let challenge = move |path| Challenge::new(host.as_ref()?, path);
            rule.http.paths.into_iter().filter_map(challenge)
        });
        let solver = Self { class: object.spec.ingress_class_name.or(annotated), challenges: challenges.collect() };
        (!solver.challenges.is_empty()).then_some(solver)
    }
}

impl Challenge {
    /// Whatever its pathType: cert-manager has written ImplementationSpecific and Exact, and means this one path.
    fn new(host: &HostPattern, path: IngressPath) -> Option<Self> {
        let raw = path.path?;
        let token = raw.strip_prefix(CHALLENGES)?;
        let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        let service = path.backend.service.filter(|_| is_token)?;
        let port = service.port.number.map(|number| IntOrString::Int(number.into()));
        let port = port.or(service.port.name.map(IntOrString::String));
        let backend = api::Backend { service: Some(service.name), port, ..api::Backend::default() };
        Some(Self { host: host.clone(), path: raw.into(), backend })
    }

    fn location(&self, context: Context<'_>, ingress: &ObjectRef) -> Location {
        let path = PathPattern::Exact(self.path.clone());
        let (backends, _) = context.backends(&ingress.namespace, std::slice::from_ref(&self.backend), Application::Http);
        let proxy = Some(backends).filter(|backends| !backends.is_empty());
        let proxy = proxy.and_then(|backends| location::proxy(backends, &path, &api::Policy::default()).ok());
        let identity = format!("ingress {} {} {path}", ingress.name, self.host);
        Location {
            key: LocationKey { namespace: ingress.namespace.clone(), identity: identity.into() },
            route: ingress.clone(),
            label: LABEL.into(),
            path,
            // Before a location of a route with the same path, which may take anything.
            matching: Match { upgrade: UpgradeMatch::None, ..Match::default() },
            action: proxy.map_or(Action::Unavailable, |proxy| Action::Proxy(Box::new(proxy))),
            access: Access::default(),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        }
    }
}

/// Adds the challenges of Ingresses of ours to their hosts, on every listener: nobody knows which of them port 80 of the name leads to.
pub(super) fn join(context: Context<'_>, classes: &Classes<'_>, owners: &Owners<'_>, hosts: &mut Hosts, ports: &mut Ports) {
    let is_ours = |solver: &Solver| match &solver.class {
        Some(class) => classes.takes(class),
        None => classes.without_class().is_some(),
    };
    for (ingress, solver) in context.index.solvers().filter(|(_, solver)| is_ours(solver)) {
        for challenge in solver.challenges.iter().filter(|challenge| owners.may_solve(&ingress.namespace, &challenge.host, &challenge.path))
        {
            let location = Arc::new(challenge.location(context, ingress));
            for listener in context.options.listeners.keys() {
                draft(hosts, ports, listener, &challenge.host).add(&location);
            }
        }
    }
}

/// The host on its own. It would hide the wildcard that answers for it so far, so it has all that the wildcard has, passed through TLS
/// included.
fn draft<'h>(hosts: &'h mut Hosts, ports: &mut Ports, listener: &Arc<str>, host: &HostPattern) -> &'h mut HostDraft {
    let key = (listener.clone(), host.clone());
    if !hosts.contains_key(&key) {
        let above: Vec<HostPattern> = ownership::wildcards_above(host).chain([HostPattern::Any]).collect();
        let answering = above.iter().position(|pattern| hosts.contains_key(&(listener.clone(), pattern.clone())));
        ports.pass_as_well(listener, host, &above[..answering.map_or(above.len(), |position| position + 1)]);
        let known = answering.and_then(|position| hosts.get(&(listener.clone(), above[position].clone()))).cloned();
        hosts.insert(key.clone(), known.unwrap_or_default());
    }
    hosts.entry(key).or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn solver(host: Option<&str>, path: Value) -> Option<Solver> {
        let rule = json!({"host": host, "http": {"paths": [path]}});
        Solver::new(serde_json::from_value(json!({"metadata": {"name": "solver"}, "spec": {"rules": [rule]}})).unwrap())
    }

    #[test]
    fn only_paths_of_challenges_with_a_service_count() {
        let path = |path: &str| json!({"path": path, "pathType": "ImplementationSpecific", "backend": {"service": {"name": "s", "port": {"number": 8089}}}});
        assert!(solver(Some("Shop.example.com"), path("/.well-known/acme-challenge/a_B-9")).is_some());
        for other in ["/", "/.well-known/acme-challenge/", "/.well-known/acme-challenge/a/b", "/.well-known/acme-challenge/..", "/x"] {
            assert_eq!(solver(Some("shop.example.com"), path(other)), None, "{other}");
        }
        assert_eq!(solver(Some("*.example.com"), path("/.well-known/acme-challenge/a")), None);
        assert_eq!(solver(None, path("/.well-known/acme-challenge/a")), None);
        let resource = json!({"path": "/.well-known/acme-challenge/a", "backend": {"resource": {"kind": "Bucket", "name": "b"}}});
        assert_eq!(solver(Some("shop.example.com"), resource), None);
    }

    #[test]
    fn an_ingress_without_rules_is_nothing() {
        let default_backend =
            json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
        assert_eq!(Solver::new(serde_json::from_value(default_backend).unwrap()), None);
        assert_eq!(Solver::new(serde_json::from_value(json!({"metadata": {"name": "i"}})).unwrap()), None);
    }
}
