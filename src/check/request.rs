//! One `--request`: which host and location it selects, why not the others, and what it would be given.
//!
//! It never decides: the router does. `check` calls it.

use std::{fmt::Write, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::Asked;
use crate::{
    model::{
        Table,
        route::{Action, Backend, Location, StaticSource},
        upstream::EndpointState,
    },
    router::{Head, Router, path},
};

/// The listener of every port that no other has.
const DEFAULT: &str = "default";

/// A request that can't be explained.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not as `--request` takes it.
    #[error("\"{0}\" is no request: write a method and a URL, as in 'GET ws://shop.example.com/chat'")]
    Line(String),
    /// Not as `-H` takes it.
    #[error("\"{0}\" is no header field: write 'Name: value'")]
    Field(String),
    /// No path that a request may have.
    #[error("{0}: {1}")]
    Path(String, path::PathError),
}

/// A request as it would come in.
#[derive(Debug)]
pub(super) struct Request {
    line: String,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    websocket: bool,
    listener: Arc<str>,
}

impl Request {
    pub(super) fn parse(line: &str, asked: &Asked<'_>) -> Result<Self, RequestError> {
        let malformed = || RequestError::Line(line.to_owned());
        let (method, url) = line.trim().rsplit_once(' ').unwrap_or(("GET", line.trim()));
        let method = method.trim().parse::<Method>().map_err(|_| malformed())?;
        let uri = url.parse::<Uri>().map_err(|_| malformed())?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https" | "ws" | "wss")).ok_or_else(malformed)?;
        uri.host().filter(|host| !host.is_empty()).ok_or_else(malformed)?;
        let mut headers = HeaderMap::new();
        for field in asked.headers {
            let parsed = field
                .split_once(':')
                .and_then(|(name, value)| Some((HeaderName::try_from(name.trim()).ok()?, HeaderValue::from_str(value.trim()).ok()?)));
            let (name, value) = parsed.ok_or_else(|| RequestError::Field(field.clone()))?;
            headers.append(name, value);
        }
        let asks = headers.get_all(header::UPGRADE).iter().any(|token| token.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let websocket = scheme.starts_with("ws") || asks;
        path::normalise(uri.path()).map_err(|error| RequestError::Path(line.to_owned(), error))?;
        let listener = uri.port_u16().and_then(|port| asked.listeners.get(&port));
        let listener = listener.map_or_else(|| DEFAULT.into(), Arc::clone);
        Ok(Self { line: line.trim().to_owned(), method, uri, headers, websocket, listener })
    }

    pub(super) fn explain(&self, router: &Router, table: &Table) -> String {
        let mut text = self.line.clone();
        // Parsing has looked at the path already.
        let Ok(path) = path::normalise(self.uri.path()) else { return text };
        let host = self.uri.host().map(|host| host.trim_end_matches('.').to_ascii_lowercase());
        let head = Head {
            listener: &self.listener,
            host: host.as_deref(),
            path: &path,
            query: self.uri.query(),
            method: &self.method,
            headers: &self.headers,
            websocket: self.websocket,
        };
        if *self.listener != *DEFAULT {
            indent(&mut text, &format!("listener {}", self.listener));
        }
        let explanation = router.explain(&head);
        indent(&mut text, &explanation.to_string());
        if self.is_plain() && redirects(table, &self.listener, &explanation) {
            indent(&mut text, "plain HTTP of this host is answered with 308 to https");
        }
        if let Some(location) = explanation.taken.and_then(|index| router.locations().get(index)) {
            outcome(&mut text, &location.spec, table);
        }
        text
    }

    fn is_plain(&self) -> bool {
        matches!(self.uri.scheme_str(), Some("http" | "ws"))
    }
}

fn indent(text: &mut String, lines: &str) {
    lines.lines().for_each(|line| text.extend(["\n  ", line]));
}

/// Redirect holds only while a certificate of the host is served.
fn redirects(table: &Table, listener: &str, explanation: &crate::router::Explanation<'_>) -> bool {
    let host = table.hosts.iter().find(|host| *host.listener == *listener && Some(&host.host) == explanation.host);
    let tls = host.and_then(|host| host.tls.as_ref());
    tls.is_some_and(|tls| tls.redirect && tls.certificates.iter().any(|name| table.certs.contains_key(name)))
}

/// What the location that takes the request does with it.
fn outcome(text: &mut String, location: &Location, table: &Table) {
    match &location.action {
        Action::Proxy(proxy) => backends(text, &proxy.backends, table),
        Action::Static(files) => match &files.source {
            StaticSource::Directory(folder) => indent(text, &format!("a file of {folder} below the static root")),
            StaticSource::Files(files) => indent(text, &format!("one of {} files of a ConfigMap", files.len())),
        },
        Action::Redirect(redirect) => indent(text, &format!("a redirect with {}", redirect.status)),
        Action::Unavailable => indent(text, "503: the location can't be served, see the status of its route"),
    }
}

fn backends(text: &mut String, backends: &[Backend], table: &Table) {
    let sum: u32 = backends.iter().map(|backend| backend.weight).sum();
    if sum == 0 {
        indent(text, "503: every weight is 0");
    }
    for backend in backends {
        let share = f64::from(backend.weight) * 100.0 / f64::from(sum.max(1));
        indent(text, &format!("pool {} (weight {}, {share:.0} % of new requests)", backend.pool, backend.weight));
        let endpoints = table.pools.get(&backend.pool).map_or(&[][..], |pool| &pool.endpoints);
        if !endpoints.iter().any(|endpoint| endpoint.state == EndpointState::Ready) {
            indent(text, "  no endpoint is ready: its share goes to the others, or 503");
        }
        for endpoint in endpoints {
            let mut line = format!("  {} ", endpoint.address);
            line.push_str(match endpoint.state {
                EndpointState::Ready => "ready",
                EndpointState::Draining => "draining: takes nothing new",
                EndpointState::NotReady => "not ready: takes nothing new",
            });
            if let Some(pod) = &endpoint.pod {
                let _ = write!(line, ", pod {}", pod.name);
            }
            indent(text, &line);
        }
    }
}
