//! One entry of `spec.locations` -> a location with every default applied, and what is wrong with it.
//!
//! It never knows hosts' owners or other routes. `build` calls it; a location that can't be served answers 503, one whose path
//! or match can't be understood is left out.

use std::{sync::Arc, time::Duration};

use super::{
    balancing, defaults, health,
    limits::{access, limits},
    references::Context,
    route::Route,
    status::{Problem, Report},
    values,
};
use crate::{
    api::{self, PathType, Policy as ApiPolicy},
    model::{
        LocationKey,
        balancing::Balancing,
        bygone::Refused,
        limits::Access,
        route::{
            Action, Drain, DrainBy, Frames, HeaderEdits, Location, Match, MaxAge, MessageLimits, OnRemoved, PathPattern, Ping, PingTo,
            Proxy, Rate, Rebalance, Redirect, RedirectPath, Rewrite, Static, StaticSource, Timeouts, UpgradeMatch, ValueMatch,
            ValuePattern, WebSocket,
        },
        tls::Application,
    },
};

/// To connect to one endpoint.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// A tunnel or connection without a byte either way.
pub(super) const IDLE: Duration = Duration::from_secs(3600);
const HANDSHAKE: Duration = Duration::from_secs(15);
const RESPONSE: Duration = Duration::from_secs(60);
/// "Service Restart": clients come back after it, as some do after neither 1001 nor 1011.
const RECONNECT_CODE: u16 = 1012;
/// To a Pong.
const PONG: Duration = Duration::from_secs(10);
/// Of the ages of tunnels.
const JITTER_PERCENT: u8 = 20;
/// What of an endpoint's tunnels moves in a minute once others were added.
const MOVED_PERCENT: u8 = 5;
/// A tunnel that moves is older than this.
const MOVED_AGE: Duration = Duration::from_secs(60);

/// Translates the location at a position of `spec.locations`; `None` where no request could be compared with it.
///
/// `unservable` is what keeps every location of the route from being served.
pub(super) fn translate(
    context: Context<'_>,
    route: &Route,
    position: usize,
    unservable: Option<&Problem>,
    report: &mut Report,
) -> Option<Arc<Location>> {
    let spec = route.spec.locations.as_deref()?.get(position)?;
    let label = label(spec);
    let (path, matching) = match comparable(route, spec, position) {
        Ok(comparable) => comparable,
        Err(problem) => {
            report.unserved(&label, problem.of_location(&label));
            return None;
        }
    };
    let policy = defaults::merge(&spec.policy, route.spec.defaults.as_ref());
    let built = unservable.map_or(Ok(()), |problem| Err(problem.clone())).and_then(|()| {
        let faults: Vec<String> = route.faults_below(&["locations", &position.to_string()]).map(ToString::to_string).collect();
        if !faults.is_empty() {
            return Err(Problem::invalid(faults.join("; ")));
        }
        let action = action(context, &route.id.namespace, spec, &path, &policy, &mut |problem| report.add(problem.of_location(&label)))?;
        let edits = |field: &str, edits| values::header_edits(edits).map_err(|wrong| Problem::invalid(format!("{field} {wrong}")));
        let request = edits("requestHeaders", policy.request_headers.as_ref())?;
        let response = edits("responseHeaders", policy.response_headers.as_ref())?;
        Ok((action, access(policy.access.as_ref()).map_err(Problem::invalid)?, request, response))
    });
    let (action, access, request_headers, response_headers) = built.unwrap_or_else(|problem| {
        report.unserved(&label, problem.of_location(&label));
        (Action::Unavailable, Access::default(), HeaderEdits::default(), HeaderEdits::default())
    });
    let identity = spec.name.as_deref().map_or_else(|| identity(route, &path, &matching), Arc::from);
    let key = LocationKey { namespace: route.id.namespace.clone(), identity };
    for pool in context.refused(&route.id.namespace, spec.backends.as_deref().unwrap_or_default()) {
        report.refuse(Refused::Backend(key.clone(), pool));
    }
    let label = label.into();
    Some(Arc::new(Location { key, route: route.id.clone(), label, path, matching, action, access, request_headers, response_headers }))
}

/// What is wrong in `spec.defaults` by itself, be there a location that it harms or not.
pub(super) fn faults_of_defaults(route: &Route) -> impl Iterator<Item = String> + '_ {
    route.spec.defaults.iter().flat_map(|policy| {
        let faults = [
            balancing::balancing(policy.load_balancing.as_ref()).err(),
            balancing::affinity(policy.affinity.as_ref(), &PathPattern::Prefix("".into())).err(),
            health::health(policy.health_check.as_ref(), None).err(),
            timeouts(policy.timeouts.as_ref()).err(),
            websocket(policy.websocket.as_ref()).err(),
            upgrades(policy.upgrades.as_ref()).err(),
            limits(policy.limits.as_ref()).err(),
            access(policy.access.as_ref()).err(),
            values::header_edits(policy.request_headers.as_ref()).err().map(|wrong| format!("requestHeaders {wrong}")),
            values::header_edits(policy.response_headers.as_ref()).err().map(|wrong| format!("responseHeaders {wrong}")),
        ];
        faults.into_iter().flatten().map(|wrong| format!("spec.defaults: {wrong}"))
    })
}

/// How metrics, log and status call a location.
fn label(spec: &api::Location) -> String {
    spec.name.clone().or_else(|| spec.path.clone()).unwrap_or_else(|| "/".to_owned())
}

/// Hosts, path type, path and match in a canonical spelling.
fn identity(route: &Route, path: &PathPattern, matching: &Match) -> Arc<str> {
    let mut hosts: Vec<&str> = route.spec.hosts.iter().flatten().map(String::as_str).collect();
    hosts.sort_unstable();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { hosts.join(",") };
    let path = match path {
        PathPattern::Exact(path) => format!("Exact {path}"),
        PathPattern::RegularExpression(expression) => format!("RegularExpression {expression}"),
        PathPattern::Prefix(prefix) => format!("Prefix {prefix}/"),
    };
    let matching = match matching {
        none if *none == Match::default() => String::new(),
        some => format!(" {}", serde_json::to_string(some).unwrap_or_default()),
    };
    format!("{hosts} {path}{matching}").into()
}

/// What requests are compared with.
fn comparable(route: &Route, spec: &api::Location, position: usize) -> Result<(PathPattern, Match), Problem> {
    let position = position.to_string();
    for field in ["name", "path", "pathType", "match"] {
        if let Some(fault) = route.faults_below(&["locations", &position, field]).next() {
            return Err(Problem::invalid(fault.to_string()));
        }
    }
    let same_name = |other: &&api::Location| spec.name.is_some() && other.name == spec.name;
    if route.spec.locations.iter().flatten().take_while(|other| !std::ptr::eq(*other, spec)).any(|other| same_name(&other)) {
        return Err(Problem::invalid("another location has the same name: names are identities"));
    }
    let raw = spec.path.as_deref().unwrap_or("/");
    let path = match spec.path_type.unwrap_or(PathType::Prefix) {
        PathType::Exact => values::path(raw).map(|path| PathPattern::Exact(path.into())),
        PathType::Prefix => values::path(raw).map(|path| PathPattern::Prefix(path.trim_end_matches('/').into())),
        PathType::RegularExpression if raw.len() > 512 => Err("has more than 512 bytes".to_owned()),
        PathType::RegularExpression => values::regex(raw).map(PathPattern::RegularExpression),
    };
    let path = path.map_err(|wrong| Problem::invalid(format!("path {wrong}")))?;
    let matching = spec.matching.as_ref().map(matching).transpose()?.unwrap_or_default();
    Ok((path, matching))
}

/// Sorted, so that two matches that mean the same are equal.
fn matching(spec: &api::Match) -> Result<Match, Problem> {
    let sorted = |list: Option<&Vec<String>>| {
        let mut list: Vec<Arc<str>> = list.into_iter().flatten().map(|text| text.as_str().into()).collect();
        list.sort_unstable();
        list.dedup();
        list
    };
    let values = |field: &str, list: Option<&Vec<api::ValueMatch>>| {
        let mut list = list.into_iter().flatten().map(|spec| value_match(field, spec)).collect::<Result<Vec<_>, _>>()?;
        list.sort_by_cached_key(|value| (value.name.clone(), format!("{:?}", value.value)));
        list.dedup();
        Ok::<_, Problem>(list)
    };
    let has_subprotocols = spec.subprotocols.as_ref().is_some_and(|names| !names.is_empty());
    if has_subprotocols && spec.upgrade == Some(api::UpgradeMatch::None) {
        return Err(Problem::invalid("match.subprotocols are offered by handshakes only, which match.upgrade None does not take"));
    }
    Ok(Match {
        methods: sorted(spec.methods.as_ref()),
        headers: values("headers", spec.headers.as_ref())?,
        query: values("query", spec.query.as_ref())?,
        cookies: values("cookies", spec.cookies.as_ref())?,
        subprotocols: sorted(spec.subprotocols.as_ref()),
        upgrade: match spec.upgrade {
            None => UpgradeMatch::Either,
            Some(api::UpgradeMatch::WebSocket) => UpgradeMatch::WebSocket,
            Some(api::UpgradeMatch::None) => UpgradeMatch::None,
        },
    })
}

fn value_match(field: &str, spec: &api::ValueMatch) -> Result<ValueMatch, Problem> {
    let invalid = |wrong: String| Problem::invalid(format!("match.{field} {}: {wrong}", spec.name));
    let name: Arc<str> = match field {
        "headers" => {
            http::HeaderName::try_from(spec.name.as_str()).map_err(|_| invalid("no name of a header field".to_owned()))?.as_str().into()
        }
        _ => spec.name.as_str().into(),
    };
    let value = match (&spec.value, &spec.regex) {
        (Some(value), None) => ValuePattern::Exact(value.as_str().into()),
        (None, Some(expression)) => ValuePattern::Regex(values::regex(expression).map_err(invalid)?),
        _ => return Err(invalid("takes exactly one of value and regex".to_owned())),
    };
    Ok(ValueMatch { name, value })
}

/// What a location does. `warn` takes what is wrong with a part of it that does not keep the rest from serving.
fn action(
    context: Context<'_>,
    namespace: &str,
    spec: &api::Location,
    path: &PathPattern,
    policy: &ApiPolicy,
    warn: &mut dyn FnMut(Problem),
) -> Result<Action, Problem> {
    match (&spec.backends, &spec.static_, &spec.redirect) {
        (Some(backends), None, None) => {
            let (backends, mut problems) = context.backends(namespace, backends, Application::Http);
            if backends.is_empty() {
                return Err(problems.pop().unwrap_or_else(|| Problem::invalid("backends is empty: name a service or an address")));
            }
            problems.into_iter().for_each(warn);
            proxy(backends, path, policy).map(|proxy| Action::Proxy(Box::new(proxy))).map_err(Problem::invalid)
        }
        (None, Some(spec), None) => files(context, namespace, spec, path).map(Action::Static),
        (None, None, Some(spec)) => redirect(spec, path).map(Action::Redirect).map_err(Problem::invalid),
        _ => Err(Problem::invalid("a location takes exactly one of backends, static and redirect")),
    }
}

/// Hands requests to backends, as a policy says.
pub(super) fn proxy(backends: Vec<crate::model::route::Backend>, path: &PathPattern, policy: &ApiPolicy) -> Result<Proxy, String> {
    let balancing = balancing::balancing(policy.load_balancing.as_ref())?;
    let host = policy.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_deref());
    Ok(Proxy {
        backends,
        balancing: Balancing { affinity: balancing::affinity(policy.affinity.as_ref(), path)?, ..balancing },
        rewrite: rewrite(policy.rewrite.as_ref(), path)?,
        host: host.map(Arc::from),
        health: health::health(policy.health_check.as_ref(), host)?,
        timeouts: timeouts(policy.timeouts.as_ref())?,
        websocket: websocket(policy.websocket.as_ref())?,
        upgrades: upgrades(policy.upgrades.as_ref())?,
        limits: limits(policy.limits.as_ref())?,
        drain: drain(policy.drain.as_ref()),
        rebalance: rebalance(policy.load_balancing.as_ref())?,
    })
}

/// How tunnels are brought to an end, of a location or of layer 4.
pub(super) fn drain(spec: Option<&api::Drain>) -> Drain {
    let Some(spec) = spec else { return Drain::default() };
    let removed = |on: Option<api::OnRemoved>| match on {
        Some(api::OnRemoved::Drain) => OnRemoved::Drain,
        Some(api::OnRemoved::Keep) | None => OnRemoved::Keep,
    };
    Drain {
        by: match spec.by {
            Some(api::DrainBy::Application) => DrainBy::Application,
            Some(api::DrainBy::Proxy) | None => DrainBy::Proxy,
        },
        start: spec.start.map(|start| start.0),
        max_per_second: spec.max_per_second,
        client_spread: spec.client_spread.and_then(api::Duration::non_zero),
        on_endpoint_removed: removed(spec.on_endpoint_removed),
        on_backend_removed: removed(spec.on_backend_removed),
        keep_on_route_removed: spec.on_route_removed == Some(api::OnRemoved::Keep),
    }
}

/// How tunnels move to endpoints that were added, of a location or of layer 4.
pub(super) fn rebalance(spec: Option<&api::LoadBalancing>) -> Result<Option<Rebalance>, String> {
    let Some(spec) = spec.and_then(|balancing| balancing.rebalance.as_ref()) else { return Ok(None) };
    let max_percent_per_minute = spec.max_percent_per_minute.unwrap_or(MOVED_PERCENT);
    if !(1..=100).contains(&max_percent_per_minute) {
        return Err(format!("loadBalancing.rebalance.maxPercentPerMinute is {max_percent_per_minute}: it takes 1 to 100"));
    }
    Ok(Some(Rebalance { max_percent_per_minute, min_age: spec.min_age.map_or(MOVED_AGE, |age| age.0) }))
}

fn upgrades(spec: Option<&Vec<String>>) -> Result<Vec<Arc<str>>, String> {
    let token = |token: &String| match token.to_ascii_lowercase() {
        token if token == "websocket" => Err("upgrades can't have websocket: it is always upgraded".to_owned()),
        token if token.starts_with("h2") || token.starts_with("http/") => {
            Err(format!("upgrades can't have {token}: its requests would pass by the routes"))
        }
        token => Ok(Arc::from(token)),
    };
    spec.into_iter().flatten().map(token).collect()
}

fn rewrite(spec: Option<&api::Rewrite>, path: &PathPattern) -> Result<Option<Rewrite>, String> {
    let Some(spec) = spec else { return Ok(None) };
    match (&spec.prefix, &spec.regex, &spec.replacement) {
        (None, None, None) => Ok(None),
        (Some(prefix), None, None) => Ok(Some(Rewrite::Prefix(replaced_prefix("rewrite.prefix", prefix, path)?))),
        (None, Some(regex), Some(replacement)) => {
            let regex = values::regex(regex).map_err(|wrong| format!("rewrite.regex {wrong}"))?;
            Ok(Some(Rewrite::Regex { regex, replacement: replacement.as_str().into() }))
        }
        _ => Err("rewrite takes either prefix, or regex and replacement".to_owned()),
    }
}

fn replaced_prefix(field: &str, prefix: &str, path: &PathPattern) -> Result<Arc<str>, String> {
    match path {
        PathPattern::Prefix(_) => values::path(prefix).map(Arc::from).map_err(|wrong| format!("{field} {wrong}")),
        _ => Err(format!("{field} replaces a Prefix: this location has another pathType")),
    }
}

fn timeouts(spec: Option<&api::Timeouts>) -> Result<Timeouts, String> {
    let spec = spec.cloned().unwrap_or_default();
    Ok(Timeouts {
        connect: positive("timeouts.connect", spec.connect, CONNECT)?,
        handshake: positive("timeouts.handshake", spec.handshake, HANDSHAKE)?,
        response: spec.response.map_or(Some(RESPONSE), api::Duration::non_zero),
        idle: spec.idle.map_or(Some(IDLE), api::Duration::non_zero),
        hold: spec.hold.and_then(api::Duration::non_zero),
    })
}

/// A time that `0s` makes no sense for.
pub(super) fn positive(field: &str, spec: Option<api::Duration>, default: Duration) -> Result<Duration, String> {
    spec.map_or(Some(default), api::Duration::non_zero)
        .ok_or_else(|| format!("{field} is 0s: write a time, or leave it out for {}s", default.as_secs()))
}

fn websocket(spec: Option<&api::WebSocket>) -> Result<WebSocket, String> {
    let spec = spec.cloned().unwrap_or_default();
    let origins = spec.origins.iter().flatten().map(|origin| values::origin(origin).map_err(|wrong| format!("websocket.origins {wrong}")));
    let reconnect_code = spec.reconnect_code.unwrap_or(RECONNECT_CODE);
    if !matches!(reconnect_code, 1001 | 1012 | 1013 | 4000..=4999) {
        return Err(format!("websocket.reconnectCode is {reconnect_code}: it takes 1001, 1012, 1013 or 4000 to 4999"));
    }
    Ok(WebSocket {
        subprotocols: spec.subprotocols.iter().flatten().map(|name| name.as_str().into()).collect(),
        origins: origins.collect::<Result<_, _>>()?,
        reconnect_code,
        max_age: max_age(&spec)?,
        frames: frames(&spec)?.map(Arc::new),
    })
}

fn max_age(spec: &api::WebSocket) -> Result<Option<MaxAge>, String> {
    let jitter_percent = spec.jitter_percent.unwrap_or(JITTER_PERCENT);
    if jitter_percent > 100 {
        return Err(format!("websocket.jitterPercent is {jitter_percent}: it takes 0 to 100"));
    }
    Ok(spec.max_age.and_then(api::Duration::non_zero).map(|age| MaxAge { age, jitter_percent }))
}

/// What is asked of the frames; `None` where that is nothing.
fn frames(spec: &api::WebSocket) -> Result<Option<Frames>, String> {
    let ping = spec.ping.as_ref().map(ping).transpose()?.flatten();
    let messages = spec.messages.as_ref().map(messages).transpose()?.unwrap_or_default();
    let frames = Frames { ping, messages };
    Ok((frames != Frames::default()).then_some(frames))
}

fn ping(spec: &api::Ping) -> Result<Option<Ping>, String> {
    let timeout = positive("websocket.ping.timeout", spec.timeout, PONG)?;
    let to = match spec.to.unwrap_or(api::PingTo::Client) {
        api::PingTo::Client => PingTo::Client,
        api::PingTo::Backend => PingTo::Backend,
        api::PingTo::Both => PingTo::Both,
    };
    Ok(spec.interval.and_then(api::Duration::non_zero).map(|interval| Ping { interval, timeout, to }))
}

fn messages(spec: &api::MessageLimits) -> Result<MessageLimits, String> {
    let max_size = spec.max_size.as_ref().map(values::bytes).transpose().map_err(|wrong| format!("websocket.messages.maxSize {wrong}"))?;
    if spec.burst.is_some() && spec.per_second.is_none() {
        return Err("websocket.messages.burst needs perSecond".to_owned());
    }
    let rate = spec.per_second.map(|per_second| Rate { per_second, burst: spec.burst.unwrap_or(per_second) });
    Ok(MessageLimits { max_size, rate })
}

fn files(context: Context<'_>, namespace: &str, spec: &api::Static, path: &PathPattern) -> Result<Static, Problem> {
    if matches!(path, PathPattern::RegularExpression(_)) {
        return Err(Problem::invalid("static names files by what follows the path: use pathType Prefix or Exact"));
    }
    let field = |name: &str, value: Result<Arc<str>, String>| value.map_err(|wrong| Problem::invalid(format!("static.{name} {wrong}")));
    let source = match (&spec.config_map, &spec.directory) {
        (Some(reference), None) => StaticSource::Files(context.files(namespace, reference)?),
        (None, Some(_)) if !context.options.allow_directories => {
            return Err(Problem::invalid("static.directory needs --static-root"));
        }
        (None, Some(directory)) => StaticSource::Directory(field("directory", values::directory(directory))?),
        _ => return Err(Problem::invalid("static takes exactly one of configMap and directory")),
    };
    let index = spec.index.as_deref().unwrap_or("index.html");
    if index.contains('/') {
        return Err(Problem::invalid(format!("static.index \"{index}\" is no name of a file in a folder")));
    }
    Ok(Static {
        source,
        index: field("index", values::file(index))?,
        fallback: spec.fallback.as_deref().map(|fallback| field("fallback", values::file(fallback))).transpose()?,
        cache_control: spec.cache_control.as_deref().map(|value| field("cacheControl", values::header_value(value))).transpose()?,
    })
}

fn redirect(spec: &api::Redirect, path: &PathPattern) -> Result<Redirect, String> {
    let path = match (&spec.path, &spec.prefix) {
        (None, None) => RedirectPath::Keep,
        (Some(full), None) => RedirectPath::Full(values::target(full).map_err(|wrong| format!("redirect.path {wrong}"))?),
        (None, Some(prefix)) => RedirectPath::Prefix(replaced_prefix("redirect.prefix", prefix, path)?),
        _ => return Err("redirect takes at most one of path and prefix".to_owned()),
    };
    if path == RedirectPath::Keep && spec.scheme.is_none() && spec.host.is_none() && spec.port.is_none() {
        return Err("redirect leads back to itself: give it a scheme, host, port, path or prefix".to_owned());
    }
    let scheme = spec.scheme.map(|scheme| match scheme {
        api::Scheme::Http => "http",
        api::Scheme::Https => "https",
    });
    Ok(Redirect {
        scheme: scheme.map(Arc::from),
        host: spec.host.as_deref().map(Arc::from),
        port: spec.port,
        path,
        status: spec.status.unwrap_or(308),
    })
}
