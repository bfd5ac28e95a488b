//! All routes together -> the table: host by host, the oldest route first, each conflict settled and reported on the younger route.
//!
//! It never knows what a location does. `Index::translate` calls it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry, hash_map},
    sync::Arc,
};

use super::{
    Index, Options, RouteStatus, Translated, Wanted, acme,
    class::{Classes, Whose},
    layer4::{self, Ports},
    location,
    lookup::Known,
    ownership::{self, Claim, Owners, Permit},
    pools, precedence,
    references::Context,
    route::Route,
    status::{Problem, Report},
    values,
};
use crate::{
    api::{self, MinTlsVersion, Reason},
    model::{
        Cert, ObjectRef, PoolKey, Table,
        bygone::Refused,
        route::{Action, Location, Match, PathPattern},
        table::{Host, HostPattern, HostTls, TcpPort, TlsVersion},
        tcp::{TcpRoute, TcpTls},
    },
};

/// One route on its way into the table.
pub(super) struct Draft<'a> {
    pub(super) route: &'a Route,
    /// Those that exist.
    pub(super) listeners: Vec<Arc<str>>,
    pub(super) report: Report,
    /// Whether anything of it is in the table.
    pub(super) served: bool,
    /// The IngressClass in force.
    class: Option<Arc<str>>,
    locations: Vec<Candidate>,
    tls: Option<HostTls>,
}

/// A location, and what became of it on the hosts of its route.
struct Candidate {
    location: Arc<Location>,
    served: bool,
    refused: Vec<Problem>,
}

/// A virtual host on its way into the table.
#[derive(Clone, Default)]
pub(super) struct HostDraft {
    locations: Vec<Arc<Location>>,
    /// Who has a path and match already.
    taken: HashMap<(PathPattern, Match), ObjectRef>,
    /// The route that decides, and what it says.
    tls: Option<(ObjectRef, HostTls)>,
}

pub(super) type Hosts = BTreeMap<(Arc<str>, HostPattern), HostDraft>;

/// The whole translation.
pub(super) fn translate(index: &Index, options: &Options) -> Translated {
    let context = Context { index, options };
    let classes = Classes::new(index, &options.class);
    let mut departed = BTreeSet::new();
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    for route in index.routes() {
        match classes.whose(route) {
            Whose::Ours(class) => drafts.push(Draft::new(context, route, class)),
            Whose::Departed => _ = departed.insert(route.id.clone()),
            Whose::Foreign => {}
        }
    }
    let hosts_of: Vec<Vec<HostPattern>> = drafts.iter().map(|draft| hosts(draft.route)).collect();
    let claims: Vec<Claim<'_>> =
        drafts.iter().zip(&hosts_of).map(|(draft, hosts)| Claim { route: draft.route, hosts, names: layer4::names(draft.route) }).collect();
    let owners = Owners::new(index, options, &claims);

    let mut hosts = Hosts::new();
    let mut ports = Ports::default();
    for (draft, patterns) in drafts.iter_mut().zip(&hosts_of) {
        for host in patterns {
            draft.join(host, &owners, &mut hosts, &ports);
        }
        draft.settle();
        ports.join(context, draft, &owners, |listener, name| {
            hosts.get(&(listener.clone(), name.clone()))?.tls.as_ref().map(|(route, _)| route)
        });
    }
    inherit_tls(&mut hosts, &owners, &ports);
    acme::join(context, &classes, &owners, &mut hosts, &mut ports);
    let table = table(context, hosts, ports.into_routes());
    let names = pools::names(index, options, table.pools.keys());
    let mut wanted = Wanted::of_options(context);
    let mut statuses = BTreeMap::new();
    let mut refused = BTreeSet::new();
    for draft in drafts {
        refused.extend(draft.report.refused().iter().cloned());
        let of_route = Wanted::of_route(context, draft.route);
        let settled = of_route.unanswered(context).is_empty();
        wanted.add(of_route);
        let status = draft.report.into_status(draft.route.generation, draft.route.uid.clone());
        statuses.insert(draft.route.id.clone(), RouteStatus { class: draft.class, settled, served: draft.served, ..status });
    }
    let unanswered = wanted.unanswered(context);
    Translated { table, statuses: Arc::new(statuses), departed, names, wanted, refused: Arc::new(refused), unanswered }
}

/// The hosts that a route asks for: none where it only has ports, any where it names none.
fn hosts(route: &Route) -> Vec<HostPattern> {
    let named = route.spec.hosts.as_deref().unwrap_or_default();
    if named.is_empty() {
        let serves = route.spec.locations.as_ref().is_some_and(|locations| !locations.is_empty());
        return if serves { vec![HostPattern::Any] } else { Vec::new() };
    }
    let valid = |position: &usize| route.faults_below(&["hosts", &position.to_string()]).next().is_none();
    let mut hosts: Vec<HostPattern> = (0..named.len()).filter(valid).map(|position| values::host(&named[position])).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

impl<'a> Draft<'a> {
    fn new(context: Context<'_>, route: &'a Route, class: Option<Arc<str>>) -> Self {
        let mut report = Report::default();
        if let Some(why) = &route.unreadable {
            report.add(Problem::invalid(format!("the spec can't be read, and nothing of it is served: {why}")));
        }
        let unservable = route.faults_of_the_whole().map(|fault| Problem::invalid(fault.to_string())).next();
        for fault in route.faults_below(&["hosts"]).chain(route.faults_of_the_whole()) {
            report.add(Problem::invalid(fault.to_string()));
        }
        let tls = route.spec.tls.as_ref().map(|spec| host_tls(context, &route.id, spec, &mut report));
        ownership::misdelegated(&route.spec).for_each(|problem| report.add(problem));
        location::faults_of_defaults(route).for_each(|wrong| report.add(Problem::invalid(wrong)));
        let listeners = listeners(context.options, route, &mut report);
        let count = route.spec.locations.as_ref().map_or(0, Vec::len);
        let locations = (0..count).filter_map(|position| location::translate(context, route, position, unservable.as_ref(), &mut report));
        let locations = locations.map(|location| Candidate { location, served: false, refused: Vec::new() }).collect();
        Self { route, class, listeners, report, locations, tls, served: false }
    }

    /// Adds what the route has for a host, as far as the route may have it.
    fn join(&mut self, pattern: &HostPattern, owners: &Owners<'_>, hosts: &mut Hosts, ports: &Ports) {
        let permit = owners.permit(&self.route.id.namespace, pattern);
        if let Some(problem) = permit.refusal(&self.route.id.namespace, pattern) {
            for candidate in &mut self.locations {
                self.report.refuse(Refused::Host(candidate.location.key.clone(), pattern.clone()));
                candidate.refused.push(problem.clone());
            }
            self.report.add(problem);
            return;
        }
        for listener in &self.listeners {
            let host = hosts.entry((listener.clone(), pattern.clone())).or_default();
            for candidate in &mut self.locations {
                match host.admit(pattern, &candidate.location, &permit) {
                    Ok(()) => {
                        candidate.served = true;
                        self.served = true;
                        host.locations.push(candidate.location.clone());
                    }
                    Err(problem) => {
                        if problem.reason == Reason::HostNotAllowed {
                            self.report.refuse(Refused::Host(candidate.location.key.clone(), pattern.clone()));
                        }
                        candidate.refused.push(problem);
                    }
                }
            }
            if let Some(tls) = &self.tls
                && let Err(problem) = host.set_tls(pattern, self.route, tls, &permit, ports.passing(listener, pattern))
            {
                self.report.add(problem);
            }
        }
    }
}

impl Draft<'_> {
    /// Says which locations no host serves, and of the others, which hosts do not.
    fn settle(&mut self) {
        for Candidate { location, served, refused } in &mut self.locations {
            let mut refused = refused.drain(..);
            if !*served && let Some(problem) = refused.next() {
                self.report.unserved(&location.label, problem);
            }
            refused.for_each(|problem| self.report.add(problem));
        }
    }
}

impl HostDraft {
    /// Whether a location may be added: its path delegated, and no older one the same.
    fn admit(&mut self, pattern: &HostPattern, location: &Location, permit: &Permit) -> Result<(), Problem> {
        let path = match &location.path {
            PathPattern::Exact(path) | PathPattern::Prefix(path) => Some(&**path),
            PathPattern::RegularExpression(_) => None, // may match anywhere
        };
        if let Permit::Delegated { owner, paths } = permit
            && !permit.covers(path)
        {
            let message = format!("host {pattern} belongs to namespace {owner}, which delegates only paths below {}", paths.join(", "));
            return Err(Problem::new(Reason::HostNotAllowed, message).of_location(&location.label));
        }
        match self.taken.get(&(location.path.clone(), location.matching.clone())) {
            Some(winner) => {
                let winner = match *winner == location.route {
                    true => "another location before it".to_owned(),
                    false => format!("the older wsroute {winner}"),
                };
                let message = format!("{winner} has the same path and match on host {pattern}: change one of them");
                Err(Problem::new(Reason::Conflicted, message).of_location(&location.label))
            }
            None => {
                self.taken.insert((location.path.clone(), location.matching.clone()), location.route.clone());
                Ok(())
            }
        }
    }

    /// The owner's oldest route with `tls` decides for every location of the host, unless an older one passes it through.
    fn set_tls(
        &mut self,
        pattern: &HostPattern,
        route: &Route,
        tls: &HostTls,
        permit: &Permit,
        passing: Option<&TcpRoute>,
    ) -> Result<(), Problem> {
        if let Some(TcpRoute { route: winner, .. }) = passing {
            let message =
                format!("TLS of host {pattern} is passed through by the older wsroute {winner}: leave tls out, or use another host");
            return Err(Problem::new(Reason::Conflicted, message));
        }
        match (&self.tls, permit) {
            (Some((_, decided)), _) if decided == tls => Ok(()),
            (Some((winner, _)), _) => {
                let message = format!("tls of host {pattern} is decided by the older wsroute {winner}: say the same, or leave tls out");
                Err(Problem::new(Reason::Conflicted, message))
            }
            (None, Permit::Delegated { owner, .. }) => {
                let message = format!("tls of host {pattern} is for its owner, namespace {owner}, to decide: leave tls out");
                Err(Problem::new(Reason::Conflicted, message))
            }
            (None, _) => {
                self.tls = Some((route.id.clone(), tls.clone()));
                Ok(())
            }
        }
    }

    /// Adds a location that belongs to no route, unless there is the same one.
    pub(super) fn add(&mut self, location: &Arc<Location>) {
        if let hash_map::Entry::Vacant(vacant) = self.taken.entry((location.path.clone(), location.matching.clone())) {
            vacant.insert(location.route.clone());
            self.locations.push(location.clone());
        }
    }
}

/// Hosts under a wildcard of the same owner have its TLS, unless they say otherwise or are passed through.
fn inherit_tls(hosts: &mut Hosts, owners: &Owners<'_>, ports: &Ports) {
    let inherited: Vec<_> = hosts
        .iter()
        .filter(|((listener, pattern), host)| host.tls.is_none() && ports.passing(listener, pattern).is_none())
        .filter_map(|((listener, pattern), _)| {
            let owner = owners.owner(pattern);
            let tls = ownership::wildcards_above(pattern)
                .filter(|wildcard| owners.owner(wildcard) == owner)
                .find_map(|wildcard| hosts.get(&(listener.clone(), wildcard))?.tls.clone())?;
            Some(((listener.clone(), pattern.clone()), tls))
        })
        .collect();
    for (key, tls) in inherited {
        if let Entry::Occupied(mut host) = hosts.entry(key) {
            host.get_mut().tls = Some(tls);
        }
    }
}

fn listeners(options: &Options, route: &Route, report: &mut Report) -> Vec<Arc<str>> {
    let named = route.spec.listeners.as_deref().unwrap_or_default();
    if named.is_empty() {
        return vec!["default".into()];
    }
    let mut listeners = Vec::with_capacity(named.len());
    for name in named {
        match options.listeners.get_key_value(name.as_str()) {
            Some((known, _)) if !listeners.contains(known) => listeners.push(known.clone()),
            Some(_) => {}
            None => {
                let known: Vec<&str> = options.listeners.keys().map(|known| &**known).collect();
                let message = format!("no listener is called {name} (there are: {})", known.join(", "));
                report.add(Problem::new(Reason::ListenerNotFound, message));
            }
        }
    }
    listeners
}

fn host_tls(context: Context<'_>, id: &ObjectRef, spec: &api::Tls, report: &mut Report) -> HostTls {
    let (certificates, problems) = context.certificates(&id.namespace, spec.certificates.as_deref().unwrap_or_default());
    let (client_auth, problem) = spec.client_auth.as_ref().map(|auth| context.client_auth(&id.namespace, auth)).unzip();
    problems.into_iter().chain(problem.flatten()).for_each(|problem| report.add(problem));
    HostTls {
        certificates,
        client_auth,
        redirect: spec.redirect.unwrap_or(true),
        min_version: match spec.min_version {
            Some(MinTlsVersion::Tls13) => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        },
    }
}

fn table(context: Context<'_>, hosts: Hosts, tcp: BTreeMap<TcpPort, Vec<Arc<TcpRoute>>>) -> Table {
    let default_cert = context.options.default_tls_secret.clone().filter(|name| context.certificate(name).is_ok());
    let hosts = hosts.into_iter().map(|((listener, host), mut draft)| {
        draft.locations.sort_by(|a, b| precedence::compare(a, b));
        Host { listener, host, tls: draft.tls.map(|(_, tls)| tls), locations: draft.locations }
    });
    let mut table = Table { hosts: hosts.collect(), tcp, default_cert, ..Table::default() };
    table.certs = certs(context, &table);
    let keys: Vec<PoolKey> = pool_keys(&table).cloned().collect();
    for key in keys {
        if let Entry::Vacant(vacant) = table.pools.entry(key) {
            let pool = pools::endpoints(context.index, context.options, vacant.key());
            vacant.insert(Arc::new(pool));
        }
    }
    table
}

/// The certificates of the Secrets that hosts and layer 4 name, as far as they are good.
fn certs(context: Context<'_>, table: &Table) -> BTreeMap<ObjectRef, Arc<Cert>> {
    let of_hosts = table.hosts.iter().filter_map(|host| host.tls.as_ref()).flat_map(|tls| &tls.certificates);
    let of_ports = table.tcp.values().flatten().flat_map(|route| match &route.tls {
        TcpTls::Terminate(tls) => tls.certificates.as_slice(),
        _ => &[],
    });
    let good = |name: &ObjectRef| match context.index.cert(name, context.options.lookup) {
        Known::There(Ok(cert)) => Some((name.clone(), cert.clone())),
        _ => None,
    };
    of_hosts.chain(of_ports).chain(&table.default_cert).filter_map(good).collect()
}

fn pool_keys(table: &Table) -> impl Iterator<Item = &PoolKey> {
    let of_locations = table.hosts.iter().flat_map(|host| &host.locations).filter_map(|location| match &location.action {
        Action::Proxy(proxy) => Some(&proxy.backends),
        _ => None,
    });
    let of_ports = table.tcp.values().flatten().map(|route| &route.backends);
    of_locations.chain(of_ports).flatten().map(|backend| &backend.pool)
}
