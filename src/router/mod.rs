//! What a table means for one request: which host, which location, which certificate. Compiled once a configuration; pure; a decision allocates nothing.
//!
//! It never knows sockets, endpoints or time. `live` compiles it, `proxy` and `carrick check` ask it.
//!
//! ```text
//! listener ─► Hosts: exact, longest wildcard, any ─► VirtualHost ─► Paths: tree of elements, expressions ─► Conditions ─► Location
//! ```

pub mod access;
pub mod explain;
mod hosts;
pub mod location;
mod matching;
pub mod origin;
mod paths;
pub mod rewrite;
pub mod tls;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use http::{HeaderMap, Method};
use rapidhash::RapidHashMap;
use rustls::sign::CertifiedKey;

pub use access::Access;
pub use explain::Explanation;
pub use location::{HeaderEdits, Location};
pub use matching::{Mismatch, parameter};
pub use origin::{Origin, PublicPorts};
pub use rewrite::Target;
pub use tls::CompiledTls;

pub use crate::model::path::{self, NormalPath, PathError};

use self::{
    hosts::{Hosts, specificity},
    paths::Paths,
};
use crate::model::{
    Cert, LocationKey, Table, route,
    table::{Host, HostPattern, TcpPort},
    tcp::{TcpRoute, TcpTls},
};

/// What is asked of a request to decide where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The name of the listener that it came in by.
    pub listener: &'a str,
    /// The host it is for: lower case, without port and trailing dot. `None` where HTTP/1.0 named none.
    pub host: Option<&'a str>,
    /// Its path.
    pub path: &'a NormalPath<'a>,
    /// What follows `?`, as it came.
    pub query: Option<&'a str>,
    /// Its method.
    pub method: &'a Method,
    /// Its header section.
    pub headers: &'a HeaderMap,
    /// Whether it asks to be upgraded to `websocket`.
    pub websocket: bool,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// To this location: an index into [`Router::locations`], and into the `served` of the snapshot.
    Location(usize),
    /// No host, or no location of the host, takes it.
    NotFound,
}

/// A compiled table.
#[derive(Default)]
pub struct Router {
    locations: Box<[Arc<Location>]>,
    hosts: Box<[VirtualHost]>,
    /// By listener: the virtual hosts, as indices into `hosts`. A handful at most, so a list.
    listeners: Vec<(Arc<str>, Hosts<usize>)>,
    tcp_routes: Box<[Arc<TcpRoute>]>,
    /// By layer-4 route.
    tcp_tls: Box<[Option<CompiledTls>]>,
    tcp_ports: RapidHashMap<TcpPort, Port>,
    default_certificate: Option<Arc<Cert>>,
}

/// One host of one listener.
struct VirtualHost {
    pattern: HostPattern,
    tls: Option<CompiledTls>,
    paths: Paths,
    /// Its locations in order of precedence.
    locations: Box<[u32]>,
}

/// A port of layer 4, with its routes by SNI.
#[derive(Default)]
struct Port {
    routes: Hosts<usize>,
    needs_sni: bool,
}

impl Router {
    /// Compiles a table.
    pub fn compile(table: &Table) -> Self {
        Self::default().recompile(table)
    }

    /// Compiles a table; what this router has compiled already, and means the same, is taken over.
    pub fn recompile(&self, table: &Table) -> Self {
        let mut locations = Locations::new(self);
        let mut router =
            Self { default_certificate: table.default_cert.as_ref().and_then(|name| table.certs.get(name).cloned()), ..Self::default() };
        router.hosts = table.hosts.iter().map(|host| VirtualHost::compile(host, table, &mut locations)).collect();
        for (index, host) in table.hosts.iter().enumerate() {
            router.listener(&host.listener).insert(&host.host, index);
        }
        for (port, routes) in &table.tcp {
            let compiled = router.tcp_ports.entry(port.clone()).or_default();
            for (pattern, index) in
                (0..).zip(routes).flat_map(|(index, route): (usize, _)| route.hosts.iter().map(move |host| (host, index)))
            {
                compiled.routes.insert(pattern, router.tcp_routes.len() + index);
            }
            compiled.needs_sni = matches!(port, TcpPort::Https(_)) || routes.iter().any(|route| asks_for_sni(route));
            router.tcp_routes = router.tcp_routes.iter().chain(routes).cloned().collect();
        }
        router.tcp_tls = router.tcp_routes.iter().map(|route| tcp_tls(route, table)).collect();
        router.locations = locations.compiled.into();
        router
    }

    fn listener(&mut self, name: &Arc<str>) -> &mut Hosts<usize> {
        let known = self.listeners.iter().position(|(known, _)| known == name);
        let at = known.unwrap_or_else(|| {
            self.listeners.push((name.clone(), Hosts::default()));
            self.listeners.len() - 1
        });
        &mut self.listeners[at].1
    }

    /// Every location once, however many hosts it serves. [`Decision::Location`] points here.
    pub fn locations(&self) -> &[Arc<Location>] {
        &self.locations
    }

    /// Every layer-4 route, port by port. [`Router::tcp`] points here.
    pub fn tcp_routes(&self) -> &[Arc<TcpRoute>] {
        &self.tcp_routes
    }

    /// Where a request goes: first its host (exact, longest wildcard, any), then the first of that host's locations that takes it.
    pub fn decide(&self, head: &Head<'_>) -> Decision {
        let Some(host) = self.virtual_host(head.listener, head.host) else { return Decision::NotFound };
        let takes = |candidate: paths::Candidate| self.locations[candidate.location as usize].unmet(head).is_none();
        host.paths.find(head.path.matching(), takes).map_or(Decision::NotFound, |found| Decision::Location(found as usize))
    }

    /// How [`Router::decide`] comes to its decision.
    pub fn explain(&self, head: &Head<'_>) -> Explanation<'_> {
        let host = self.virtual_host(head.listener, head.host);
        let locations = host.into_iter().flat_map(|host| &host.locations).map(|index| (*index as usize, &*self.locations[*index as usize]));
        Explanation::of(host.map(|host| &host.pattern), locations, head)
    }

    /// The host that a name (lower case) selects on a listener.
    pub fn host(&self, listener: &str, host: Option<&str>) -> Option<&HostPattern> {
        self.virtual_host(listener, host).map(|host| &host.pattern)
    }

    /// TLS of the host that a name (Host or SNI, lower case) selects on a listener; `None` where it asks for none.
    pub fn host_tls(&self, listener: &str, host: Option<&str>) -> Option<&CompiledTls> {
        self.virtual_host(listener, host)?.tls.as_ref()
    }

    /// The certificate for a name (lower case) on a listener: of its host, else the default one. `None`: the one made at start is to be used.
    pub fn certificate(&self, listener: &str, sni: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let of_host = self.host_tls(listener, sni).and_then(|tls| tls.certificate(sni));
        of_host.or(self.default_certificate.as_ref().map(|cert| &cert.key))
    }

    /// The layer-4 route of a port and a name (lower case): an index into [`Router::tcp_routes`], and into the `tcp` of the snapshot.
    ///
    /// On the HTTPS port of a listener, a host of layer 7 that is more specific wins over it.
    pub fn tcp(&self, port: &TcpPort, sni: Option<&str>) -> Option<usize> {
        let route = *self.tcp_ports.get(port)?.routes.find(sni)?;
        let TcpPort::Https(listener) = port else { return Some(route) };
        let host = self.host(listener, sni).map_or(0, specificity);
        let taking = self.tcp_routes[route].hosts.iter().filter(|pattern| takes(pattern, sni));
        (taking.map(specificity).max()? >= host).then_some(route)
    }

    /// Whether the ClientHello must be read before [`Router::tcp`] can be asked.
    pub fn tcp_needs_sni(&self, port: &TcpPort) -> bool {
        self.tcp_ports.get(port).is_some_and(|port| port.needs_sni)
    }

    /// TLS of a layer-4 route that we terminate.
    pub fn tcp_tls(&self, route: usize) -> Option<&CompiledTls> {
        self.tcp_tls.get(route)?.as_ref()
    }

    fn virtual_host(&self, listener: &str, host: Option<&str>) -> Option<&VirtualHost> {
        let (_, hosts) = self.listeners.iter().find(|(name, _)| **name == *listener)?;
        hosts.find(host).map(|index| &self.hosts[*index])
    }
}

impl VirtualHost {
    fn compile(host: &Host, table: &Table, locations: &mut Locations<'_>) -> Self {
        let indices: Box<[u32]> = host.locations.iter().map(|location| locations.index(location)).collect();
        let ordered = indices.iter().map(|index| (*index, &*locations.compiled[*index as usize]));
        Self {
            pattern: host.host.clone(),
            tls: host.tls.as_ref().map(|tls| CompiledTls::compile(tls, table)),
            paths: Paths::compile(ordered),
            locations: indices,
        }
    }
}

/// The locations compiled so far, each once.
struct Locations<'a> {
    previous: HashMap<&'a LocationKey, Vec<&'a Arc<Location>>>,
    known: HashMap<LocationKey, Vec<u32>>,
    compiled: Vec<Arc<Location>>,
}

impl<'a> Locations<'a> {
    fn new(previous: &'a Router) -> Self {
        let mut by_key: HashMap<_, Vec<_>> = HashMap::new();
        for location in &previous.locations {
            by_key.entry(&location.spec.key).or_default().push(location);
        }
        Self { previous: by_key, known: HashMap::new(), compiled: Vec::new() }
    }

    /// The index of a location, compiled if it is new. Two routes of a namespace may name theirs alike: the key alone is not the location.
    fn index(&mut self, spec: &Arc<route::Location>) -> u32 {
        let same = |location: &Location| Arc::ptr_eq(&location.spec, spec) || *location.spec == **spec;
        let known = match self.known.entry(spec.key.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Vec::new()),
        };
        if let Some(index) = known.iter().find(|index| same(&self.compiled[**index as usize])) {
            return *index;
        }
        let before = self.previous.get(&spec.key).and_then(|locations| locations.iter().find(|location| same(location)));
        let index = u32::try_from(self.compiled.len()).unwrap_or(u32::MAX);
        self.compiled.push(before.map_or_else(|| Arc::new(Location::compile(spec.clone())), |location| Arc::clone(location)));
        known.push(index);
        index
    }
}

fn asks_for_sni(route: &TcpRoute) -> bool {
    route.hosts.iter().any(|host| *host != HostPattern::Any)
}

fn tcp_tls(route: &TcpRoute, table: &Table) -> Option<CompiledTls> {
    match &route.tls {
        TcpTls::Terminate(tls) => Some(CompiledTls::compile(tls, table)),
        TcpTls::None | TcpTls::Passthrough => None,
    }
}

/// Whether a pattern takes a name.
fn takes(pattern: &HostPattern, name: Option<&str>) -> bool {
    match (pattern, name) {
        (HostPattern::Any, _) => true,
        (_, None) => false,
        (HostPattern::Exact(exact), Some(name)) => **exact == *name,
        (HostPattern::Wildcard(suffix), Some(name)) => {
            name.strip_suffix(&**suffix).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
        }
    }
}

#[cfg(test)]
mod tests;
