//! `spec.tcp` -> routes of layer 4: which ports and names a route may have, who gets a port that two ask for.
//!
//! It never knows HTTP. `build` adds one route after the other, the oldest first.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    HasHttps, Options, allowance, balancing,
    build::Draft,
    health,
    limits::{access, limits},
    location::{CONNECT, IDLE, drain, positive, rebalance},
    ownership::{Owners, Permit},
    references::Context,
    status::Problem,
    values,
};
use crate::{
    api::{self, IntOrString, Reason, TcpTlsMode},
    model::{
        LocationKey, ObjectRef,
        balancing::Balancing,
        bygone::Refused,
        limits::Limits,
        table::{HostPattern, HostTls, TcpPort, TlsVersion},
        tcp::{ProxyProtocol, TcpRoute, TcpTls},
        tls::Application,
    },
};

/// The routes of each port, the older first.
#[derive(Default)]
pub(super) struct Ports(BTreeMap<TcpPort, Vec<Arc<TcpRoute>>>);

impl Ports {
    /// Adds the entries of a route, as far as the route may have their ports; every older route was added before.
    ///
    /// `terminated` tells which route asks for TLS of a host of layer 7: such a name is not passed through on the same port.
    pub(super) fn join<'h>(
        &mut self,
        context: Context<'_>,
        draft: &mut Draft<'_>,
        owners: &Owners<'_>,
        terminated: impl Fn(&Arc<str>, &HostPattern) -> Option<&'h ObjectRef>,
    ) {
        let entries = draft.route.spec.tcp.as_deref().unwrap_or_default();
        for (position, spec) in entries.iter().enumerate() {
            let label = label(spec);
            let faults = draft.route.faults_below(&["tcp", &position.to_string()]).map(ToString::to_string).collect::<Vec<_>>();
            let built = match faults.is_empty() {
                true => Entry::new(context, draft, spec, owners),
                false => Err(Problem::invalid(faults.join("; "))),
            };
            let Entry { route, ports, problems } = match built {
                Ok(entry) => entry,
                Err(problem) => {
                    if matches!(problem.reason, Reason::HostNotAllowed | Reason::PortNotAllowed) {
                        draft.report.refuse(Refused::Port(key(&draft.route.id, spec, &hosts(spec))));
                    }
                    draft.report.unserved(&label, problem);
                    continue;
                }
            };
            problems.into_iter().for_each(|problem| draft.report.unserved(&label, problem));
            for pool in context.refused(&draft.route.id.namespace, &spec.backends) {
                draft.report.refuse(Refused::Backend(route.key.clone(), pool));
            }
            for port in ports {
                match not_terminated(&port, &route, &terminated).and_then(|()| self.admit(&port, &route)) {
                    Ok(()) => {
                        self.0.entry(port).or_default().push(route.clone());
                        draft.served = true;
                    }
                    Err(problem) => draft.report.unserved(&label, problem),
                }
            }
        }
    }

    /// The entry that passes TLS of a host through on the HTTPS port of a listener.
    pub(super) fn passing(&self, listener: &Arc<str>, host: &HostPattern) -> Option<&TcpRoute> {
        let routes = self.0.get(&TcpPort::Https(listener.clone()))?;
        routes.iter().find(|route| route.hosts.contains(host)).map(Arc::as_ref)
    }

    /// Has the entry that passes the first of some wildcards through on the HTTPS port of a listener do so for a name under it as well.
    pub(super) fn pass_as_well(&mut self, listener: &Arc<str>, host: &HostPattern, wildcards: &[HostPattern]) {
        let Some(routes) = self.0.get_mut(&TcpPort::Https(listener.clone())) else { return };
        let passing = |wildcard: &HostPattern| routes.iter().position(|route| route.hosts.contains(wildcard));
        if let Some(position) = wildcards.iter().find_map(passing) {
            Arc::make_mut(&mut routes[position]).hosts.push(host.clone());
        }
    }

    pub(super) fn into_routes(self) -> BTreeMap<TcpPort, Vec<Arc<TcpRoute>>> {
        self.0
    }

    /// Whether an entry may have a port beside the older ones: a port without names belongs to one entry, a name too.
    fn admit(&self, port: &TcpPort, route: &TcpRoute) -> Result<(), Problem> {
        let older = self.0.get(port).map_or(&[][..], Vec::as_slice);
        let conflict = |what: String, winner: &TcpRoute| {
            Problem::new(Reason::Conflicted, format!("{what} belongs to wsroute {}, which is older", winner.route))
        };
        let speaks_tls = |route: &TcpRoute| route.tls != TcpTls::None;
        let whole = |route: &TcpRoute| route.hosts.contains(&HostPattern::Any);
        let stranger = |older: &&Arc<TcpRoute>| {
            let shared = speaks_tls(older) && speaks_tls(route);
            !shared || (older.key.namespace != route.key.namespace && (whole(older) || whole(route)))
        };
        if let Some(winner) = older.iter().find(stranger) {
            return Err(conflict(format!("tcp port {port}"), winner));
        }
        match older.iter().find_map(|older| Some((older, route.hosts.iter().find(|host| older.hosts.contains(host))?))) {
            Some((winner, host)) => Err(conflict(format!("{host} on tcp port {port}"), winner)),
            None => Ok(()),
        }
    }
}

/// SNI names that the entries of a route claim.
pub(super) fn names(route: &super::route::Route) -> Vec<HostPattern> {
    route.spec.tcp.iter().flatten().flat_map(|spec| spec.hosts.iter().flatten()).map(|host| values::host(host)).collect()
}

fn label(spec: &api::TcpRoute) -> String {
    let port = match &spec.port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    match spec.hosts.as_deref() {
        Some([first, ..]) => format!("tcp:{port} {first}"),
        _ => format!("tcp:{port}"),
    }
}

/// An entry that may have its ports. With `problems` its connections are closed at once.
struct Entry {
    route: Arc<TcpRoute>,
    ports: Vec<TcpPort>,
    problems: Vec<Problem>,
}

impl Entry {
    fn new(context: Context<'_>, draft: &Draft<'_>, spec: &api::TcpRoute, owners: &Owners<'_>) -> Result<Self, Problem> {
        let id = &draft.route.id;
        let ports = ports(context, &id.namespace, spec, &draft.listeners)?;
        let mut hosts = self::hosts(spec);
        let key = key(id, spec, &hosts);
        if !hosts.is_empty() && spec.tls.is_none() {
            return Err(Problem::invalid(format!("{} has hosts without tls: names are only seen in TLS", label(spec))));
        }
        hosts.iter().try_for_each(|host| may_have(owners, &id.namespace, host))?;
        if hosts.is_empty() {
            hosts.push(HostPattern::Any);
        }
        let (backends, mut problems) = context.backends(&id.namespace, &spec.backends, Application::Opaque);
        let invalid = |wrong: String| Problem::invalid(format!("{}: {wrong}", label(spec)));
        if passes_through(spec) && spec.backends.iter().any(|backend| backend.tls.is_some()) {
            return Err(invalid("tls.mode Passthrough leaves TLS to the client and the backend: leave backends[].tls out".to_owned()));
        }
        let tls = tls(context, id, spec.tls.as_ref(), &mut problems).map_err(invalid)?;
        let timeouts = spec.timeouts.clone().unwrap_or_default();
        let route = TcpRoute {
            key,
            route: id.clone(),
            label: label(spec).into(),
            hosts,
            tls,
            backends,
            balancing: balancing(spec).map_err(invalid)?,
            health: health::health(spec.health_check.as_ref(), None).map_err(invalid)?,
            proxy_protocol: spec.proxy_protocol.map(|version| match version {
                api::ProxyProtocol::V1 => ProxyProtocol::V1,
                api::ProxyProtocol::V2 => ProxyProtocol::V2,
            }),
            connect: positive("timeouts.connect", timeouts.connect, CONNECT).map_err(invalid)?,
            idle: timeouts.idle.map_or(Some(IDLE), api::Duration::non_zero),
            access: access(spec.access.as_ref()).map_err(invalid)?,
            limits: tcp_limits(spec.limits.as_ref()).map_err(invalid)?,
            drain: drain(spec.drain.as_ref()),
            rebalance: rebalance(spec.load_balancing.as_ref()).map_err(invalid)?,
        };
        Ok(Self { route: Arc::new(route), ports, problems })
    }
}

fn balancing(spec: &api::TcpRoute) -> Result<Balancing, String> {
    let source_ip = spec.affinity.as_ref().and_then(|affinity| affinity.source_ip.as_ref());
    let affinity = source_ip.map(balancing::source_ip).transpose()?;
    Ok(Balancing { affinity, ..balancing::balancing(spec.load_balancing.as_ref())? })
}

fn tcp_limits(spec: Option<&api::Limits>) -> Result<Limits, String> {
    match limits(spec)? {
        Limits { request_body: Some(_), .. } => Err("limits.requestBody is for HTTP: leave it out".to_owned()),
        limits => Ok(limits),
    }
}

/// The names of an entry, sorted.
fn hosts(spec: &api::TcpRoute) -> Vec<HostPattern> {
    let mut hosts: Vec<HostPattern> = spec.hosts.iter().flatten().map(|host| values::host(host)).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// The identity of an entry over edits.
fn key(id: &ObjectRef, spec: &api::TcpRoute, hosts: &[HostPattern]) -> LocationKey {
    let port = match &spec.port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let hosts = if hosts.is_empty() { HostPattern::Any.to_string() } else { hosts.join(",") };
    LocationKey { namespace: id.namespace.clone(), identity: format!("tcp:{port} {hosts}").into() }
}

/// A name is had as a whole: the paths that a delegation is bound to can't be seen in TLS.
fn may_have(owners: &Owners<'_>, namespace: &str, host: &HostPattern) -> Result<(), Problem> {
    let permit = owners.permit(namespace, host);
    match &permit {
        Permit::Delegated { owner, paths } if !paths.is_empty() => {
            let message =
                format!("host {host} belongs to namespace {owner}, which delegates only paths of it: TLS can't be told apart by path");
            Err(Problem::new(Reason::HostNotAllowed, message))
        }
        permit => permit.refusal(namespace, host).map_or(Ok(()), Err),
    }
}

/// The ports of an entry: one of its own, or the HTTPS port of each listener of the route.
fn ports(context: Context<'_>, namespace: &str, spec: &api::TcpRoute, listeners: &[Arc<str>]) -> Result<Vec<TcpPort>, Problem> {
    let options = context.options;
    let not_allowed = |message: String| Err(Problem::new(Reason::PortNotAllowed, message));
    let number = match &spec.port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|number| *number > 0),
        IntOrString::String(name) if name == "https" => return https(options, spec, listeners),
        IntOrString::String(digits) => digits.parse().ok().filter(|number| *number > 0),
    };
    let Some(number) = number else { return Err(Problem::invalid(format!("{} has no port between 1 and 65535, nor https", label(spec)))) };
    match &options.tcp_ports {
        None => {
            not_allowed(format!("tcp port {number} can't be had, because --tcp-ports is off: have it cover the port (chart: tcpPorts)"))
        }
        Some(range) if !range.contains(&number) => not_allowed(format!(
            "tcp port {number} is none of --tcp-ports {}-{}: choose one of them, or have the range cover it (chart: tcpPorts)",
            range.start(),
            range.end()
        )),
        Some(_) if options.own_ports.contains(&number) => {
            not_allowed(format!("tcp port {number} is one of our own (HTTP, HTTPS, ops or admin): choose another"))
        }
        Some(_) if options.require_grants && !context.index.namespace(namespace).is_some_and(|known| known.has_port(number)) => {
            not_allowed(format!(
                "namespace {namespace} was not granted tcp port {number}: have it added to the annotation {} of the Namespace",
                allowance::TCP_PORTS
            ))
        }
        Some(_) => Ok(vec![TcpPort::Number(number)]),
    }
}

fn passes_through(spec: &api::TcpRoute) -> bool {
    spec.tls.as_ref().is_some_and(|tls| tls.mode.unwrap_or(TcpTlsMode::Passthrough) == TcpTlsMode::Passthrough)
}

fn https(options: &Options, spec: &api::TcpRoute, listeners: &[Arc<str>]) -> Result<Vec<TcpPort>, Problem> {
    if !passes_through(spec) || spec.hosts.as_ref().is_none_or(Vec::is_empty) {
        return Err(Problem::invalid("tcp port https needs hosts and tls.mode Passthrough: it is shared with the terminated hosts"));
    }
    let with_https = |name: &&Arc<str>| options.listeners.get(*name) == Some(&HasHttps::Yes);
    let ports: Vec<TcpPort> = listeners.iter().filter(with_https).map(|name| TcpPort::Https(name.clone())).collect();
    match ports.is_empty() {
        true => Err(Problem::new(Reason::PortNotAllowed, "tcp port https can't be had: no listener of the route has an HTTPS port")),
        false => Ok(ports),
    }
}

fn tls(context: Context<'_>, id: &ObjectRef, spec: Option<&api::TcpTls>, problems: &mut Vec<Problem>) -> Result<TcpTls, String> {
    let Some(spec) = spec else { return Ok(TcpTls::None) };
    let certificates = spec.certificates.as_deref().unwrap_or_default();
    match spec.mode.unwrap_or(TcpTlsMode::Passthrough) {
        TcpTlsMode::Passthrough if !certificates.is_empty() => {
            Err("tls.mode Passthrough takes no certificates: the backend has them".to_owned())
        }
        TcpTlsMode::Passthrough if spec.client_auth.is_some() => {
            Err("tls.mode Passthrough takes no clientAuth: the backend asks for certificates".to_owned())
        }
        TcpTlsMode::Passthrough => Ok(TcpTls::Passthrough),
        TcpTlsMode::Terminate if certificates.is_empty() => Err("tls.mode Terminate needs certificates".to_owned()),
        TcpTlsMode::Terminate => {
            let (certificates, missing) = context.certificates(&id.namespace, certificates);
            problems.extend(missing);
            let (client_auth, missing) = spec.client_auth.as_ref().map(|auth| context.client_auth(&id.namespace, auth)).unzip();
            problems.extend(missing.flatten());
            Ok(TcpTls::Terminate(HostTls { certificates, redirect: false, min_version: TlsVersion::V1_2, client_auth }))
        }
    }
}

/// A name that is terminated on a listener can't be passed through there: one of the two would never see a connection.
fn not_terminated<'h>(
    port: &TcpPort,
    route: &TcpRoute,
    terminated: impl Fn(&Arc<str>, &HostPattern) -> Option<&'h ObjectRef>,
) -> Result<(), Problem> {
    let TcpPort::Https(listener) = port else { return Ok(()) };
    match route.hosts.iter().find_map(|host| Some((host, terminated(listener, host)?))) {
        Some((host, winner)) => {
            Err(Problem::new(Reason::Conflicted, format!("wsroute {winner} has tls for host {host}: it can't be passed through as well")))
        }
        None => Ok(()),
    }
}
