//! `carrick check`: what a cluster would say to some manifests, and which location a request would get.
//!
//! It never serves or writes anything. `app` runs it and prints the report; the golden tests use [`readable`].

mod readable;
mod request;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

pub use readable::readable;
pub use request::RequestError;
use serde::Serialize;

use crate::{
    manifests::{self, Fault, Severity},
    model::{ObjectRef, Table, route::Location, table::HostPattern},
    router::Router,
    translate::{Change, Index, Options, RouteStatus, Translated},
};
use request::Request;

/// What was found. Prints as text for a terminal.
#[derive(Debug)]
pub struct CheckReport {
    faults: Vec<Fault>,
    translated: Translated,
    answers: Vec<String>,
}

/// Requests to be explained.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    /// Each as `GET ws://host/path`.
    pub requests: &'a [String],
    /// Header fields of all of them, `Name: value`.
    pub headers: &'a [String],
    /// Which listener a port of a URL leads to; every other one leads to `default`.
    pub listeners: BTreeMap<u16, Arc<str>>,
}

/// Translates what some files and folders hold, and explains some requests. Only a request or field that can't be read is an error.
pub fn run(paths: &[PathBuf], asked: &Asked<'_>, options: &Options) -> Result<CheckReport, RequestError> {
    let (changes, faults) = manifests::read(paths);
    of_changes(changes, faults, asked, options)
}

fn of_changes(changes: Vec<Change>, faults: Vec<Fault>, asked: &Asked<'_>, options: &Options) -> Result<CheckReport, RequestError> {
    let mut index = Index::default();
    for change in changes {
        index.apply(change);
    }
    let translated = index.translate(options);
    let answers = explain(&translated.table, asked)?;
    Ok(CheckReport { faults, translated, answers })
}

/// What becomes of each request.
pub fn explain(table: &Table, asked: &Asked<'_>) -> Result<Vec<String>, RequestError> {
    let router = Router::compile(table);
    asked.requests.iter().map(|line| Ok(Request::parse(line, asked)?.explain(&router, table))).collect()
}

impl CheckReport {
    /// Whether a file, an object or a part of it can't be served as it asks for.
    pub fn has_errors(&self) -> bool {
        self.faults.iter().any(|fault| fault.severity == Severity::Wrong)
            || self.translated.statuses.values().any(|status| !status.is_good())
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))?;
        for (route, status) in self.translated.statuses.iter() {
            writeln!(f, "\nwsroute {route}")?;
            write_status(f, status)?;
            // The requests are what was asked for: the locations in full would bury the answers.
            if self.answers.is_empty() {
                write_locations(f, route, &self.translated.table)?;
            }
        }
        if self.translated.statuses.is_empty() {
            writeln!(f, "no wsroute")?;
        }
        self.answers.iter().try_for_each(|answer| writeln!(f, "\n{answer}"))
    }
}

fn write_status(f: &mut fmt::Formatter<'_>, status: &RouteStatus) -> fmt::Result {
    for condition in &status.conditions {
        write!(f, "  {:<13}{:<6}", condition.type_, condition.status)?;
        match condition.message.as_str() {
            "" => writeln!(f, " {}", condition.reason)?,
            message => writeln!(f, " {}: {message}", condition.reason)?,
        }
    }
    status.locations.iter().try_for_each(|location| writeln!(f, "  not served: {} ({})", location.name, location.reason))
}

/// Each location of a route once, with the hosts that it serves.
fn write_locations(f: &mut fmt::Formatter<'_>, route: &ObjectRef, table: &Table) -> fmt::Result {
    let mut written: Vec<&Location> = Vec::new();
    for location in table.hosts.iter().flat_map(|host| &host.locations).filter(|location| location.route == *route) {
        if written.iter().any(|known| std::ptr::eq(*known, &**location)) {
            continue;
        }
        written.push(location);
        let hosts = hosts_of(table, location).map(ToString::to_string).collect::<Vec<_>>().join(" ");
        writeln!(f, "  location {} on {hosts}", location.label)?;
        write_effective(f, &**location)?;
    }
    for tcp in table.tcp.values().flatten().filter(|tcp| tcp.route == *route) {
        writeln!(f, "  {}", tcp.label)?;
        write_effective(f, &**tcp)?;
    }
    Ok(())
}

fn hosts_of<'a>(table: &'a Table, location: &'a Location) -> impl Iterator<Item = &'a HostPattern> {
    let serves = move |known: &Arc<Location>| std::ptr::eq(&**known, location);
    table.hosts.iter().filter(move |host| host.locations.iter().any(serves)).map(|host| &host.host)
}

/// All but what the line above has said already.
fn write_effective(f: &mut fmt::Formatter<'_>, value: &impl Serialize) -> fmt::Result {
    let mut value = serde_json::to_value(value).map_err(|_| fmt::Error)?;
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "key" | "route" | "label"));
    }
    readable(&value).lines().try_for_each(|line| writeln!(f, "    {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::HasHttps;

    const MANIFESTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {ports: [{name: ws, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: chat-1, labels: {kubernetes.io/service-name: chat}}
addressType: IPv4
ports: [{name: ws, port: 8080}]
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: chat-7f}}
- {addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: carrick.dev/v1alpha1
kind: WsRoute
metadata: {name: shop}
spec:
  hosts: [shop.example.com]
  locations:
  - path: /chat
    match: {upgrade: WebSocket}
    backends: [{service: chat, port: ws}]
  - path: /
    redirect: {host: www.example.com}
"#;

    fn check(manifests: &str, requests: &[&str], headers: &[&str]) -> CheckReport {
        let (changes, faults) = manifests::parse(manifests);
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let asked = Asked { requests: &owned(requests), headers: &owned(headers), listeners: BTreeMap::from([(8081, "internal".into())]) };
        let both = [("default".into(), HasHttps::Yes), ("internal".into(), HasHttps::No)];
        of_changes(changes, faults, &asked, &Options { listeners: both.into(), ..Options::default() }).unwrap()
    }

    #[test]
    fn a_good_route_is_shown_with_its_defaults() {
        let report = check(MANIFESTS, &[], &[]);
        assert!(!report.has_errors());
        let text = report.to_string();
        for expected in ["wsroute default/shop", "Accepted", "location /chat on shop.example.com", "handshake: 15s", "reconnect_code: 1012"]
        {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn what_is_wrong_is_an_error_and_named() {
        let report = check(&MANIFESTS.replace("port: ws}", "port: web}"), &[], &[]);
        assert!(report.has_errors());
        let text = report.to_string();
        assert!(text.contains("service default/chat has no port named web (it has: ws)"), "{text}");
        assert!(text.contains("not served: /chat (PortNotFound)"), "{text}");
    }

    #[test]
    fn an_unknown_field_is_an_error_and_an_unknown_kind_is_not() {
        assert!(check(&MANIFESTS.replace("hosts:", "hostz:"), &[], &[]).has_errors());
        assert!(!check(&format!("{MANIFESTS}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\n"), &[], &[]).has_errors());
    }

    #[test]
    fn a_request_is_explained_down_to_its_endpoints() {
        let text = check(MANIFESTS, &["GET ws://Shop.Example.com:8080/chat?room=1"], &[]).to_string();
        for expected in [
            "host shop.example.com",
            "> /chat of default/shop",
            "default/chat:ws",
            "10.0.0.1:8080 ready, pod chat-7f",
            "10.0.0.2:8080 draining",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        let text = check(MANIFESTS, &["GET http://shop.example.com/chat"], &["X-Team: a"]).to_string();
        assert!(text.contains("> / of default/shop"), "{text}");
        assert!(check(MANIFESTS, &["http://other.example/"], &[]).to_string().contains("404"));
    }

    #[test]
    fn a_request_that_can_not_be_read_is_refused() {
        for request in ["", "GET", "GET shop.example.com/", "GET ftp://a/", "GET http:///x", "G T http://a/"] {
            assert!(Request::parse(request, &Asked::default()).is_err(), "{request}");
        }
        let headers = ["no colon".to_owned()];
        assert!(Request::parse("GET http://a/", &Asked { headers: &headers, ..Asked::default() }).is_err());
    }

    #[test]
    fn a_port_of_another_listener_leads_there() {
        let inner = MANIFESTS.replace("hosts: [shop", "listeners: [internal]\n  hosts: [shop");
        let at = |manifests: &str, url: &str| check(manifests, &[url], &[]).to_string();
        assert!(at(&inner, "http://shop.example.com:8081/").contains("listener internal"));
        assert!(at(&inner, "http://shop.example.com:8081/").contains("> / of default/shop"));
        assert!(at(&inner, "http://shop.example.com/").contains("404"));
        assert!(at(MANIFESTS, "http://shop.example.com:8081/").contains("404"));
    }
}
