//! From a request head to what is done about it: admitted, sent to https, or given to a location. No await, one look at the snapshot.
//!
//! It never knows sockets or bodies. `http` calls it once a request; the guard of the snapshot is gone when it returns.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header::LOCATION, request::Parts};

use super::{
    Proxy,
    body::Body,
    client_auth::admits,
    conn::ClientInfo,
    headers::{
        admit::{Admitted, Authority, Target, admit},
        forwarded::named_scheme,
    },
    refuse::Refusal,
};
use crate::{
    live::Served,
    router::{Decision, Head, NormalPath, Origin, PublicPorts},
};

/// ACME's http-01 challenge must be reachable without the certificate that it is for (RFC 8555 8.3).
const ACME: &str = "/.well-known/acme-challenge/";

/// What is done about a request.
pub(super) enum Plan<'a> {
    /// It is answered already.
    Answer(Response<Body>),
    /// A location takes it.
    Location(Located<'a>),
}

/// A request that a location takes.
pub(super) struct Located<'a> {
    pub served: Arc<Served>,
    pub authority: Option<Authority<'a>>,
    pub path: NormalPath<'a>,
    pub query: Option<&'a str>,
    /// Whether the client came by https, as far as trusted peers tell.
    pub secure: bool,
    /// Whether its host asks clients for certificates.
    pub asks: bool,
    /// The connection ends after the answer.
    pub last: bool,
}

/// Whether the client came by https: what a trusted peer says, else what the connection is.
pub(super) fn is_secure(proxy: &Proxy, client: &ClientInfo, headers: &HeaderMap, trusted: bool) -> bool {
    let named = if trusted { named_scheme(headers) } else { None };
    named.unwrap_or(client.secure || proxy.settings.tls_terminated_upstream)
}

/// Decides about a request.
pub(super) fn decide<'a>(proxy: &Proxy, client: &ClientInfo, parts: &'a Parts, secure: bool, websocket: bool) -> Result<Plan<'a>, Refusal> {
    let Admitted { authority, target, last } = admit(&parts.method, &parts.uri, parts.version, &parts.headers)?;
    let (path, query) = match target {
        Target::Path(path, query) => (path, query),
        Target::Server => return Ok(Plan::Answer(empty(StatusCode::NO_CONTENT))),
    };
    if proxy.settings.lb_health_path.as_deref() == Some(path.as_str()) {
        return Ok(Plan::Answer(health(proxy)));
    }
    let snapshot = proxy.live.load();
    let host = authority.as_ref().map(|authority| &*authority.host);
    let tls = snapshot.router.host_tls(&client.listener, host);
    let challenge = path.as_str().starts_with(ACME);
    if !secure
        && let Some(host) = host
        && !challenge
        && tls.is_some_and(|tls| tls.redirect)
    {
        return Ok(Plan::Answer(to_https(client, host, &path, query)?));
    }
    let asked = tls.and_then(|tls| tls.client_auth.as_ref());
    if client.secure || !challenge {
        admits(client.secure, client.verified.as_deref(), asked)?;
    }
    let head = Head { listener: &client.listener, host, path: &path, query, method: &parts.method, headers: &parts.headers, websocket };
    let served = match snapshot.router.decide(&head) {
        Decision::Location(index) => snapshot.served.get(index).cloned().ok_or(Refusal::Internal)?,
        Decision::NotFound => return Err(Refusal::NotFound),
    };
    Ok(Plan::Location(Located { served, authority, path, query, secure, asks: asked.is_some(), last }))
}

impl Located<'_> {
    /// Where the client came to, as it sees it.
    pub fn came_to(&self) -> Origin<'_> {
        let (scheme, own) = if self.secure { ("https", 443) } else { ("http", 80) };
        let host = self.authority.as_ref().map_or("", |authority| &*authority.host);
        let port = self.authority.as_ref().and_then(|authority| authority.port).filter(|&port| port != own);
        Origin { scheme, host, port }
    }

    /// The answer of a location that redirects.
    pub fn redirect(&self, client: &ClientInfo) -> Response<Body> {
        let ports = PublicPorts { http: client.public_http_port.unwrap_or(80), https: client.public_https_port.unwrap_or(443) };
        match self.served.location.redirect(self.came_to(), ports, &self.path, self.query) {
            Some((status, location)) => redirect(status, location),
            None => Refusal::Internal.into_response(),
        }
    }
}

fn to_https(client: &ClientInfo, host: &str, path: &NormalPath<'_>, query: Option<&str>) -> Result<Response<Body>, Refusal> {
    let mut location = format!("https://{host}");
    if let Some(port) = client.public_https_port.filter(|&port| port != 443) {
        location += &format!(":{port}");
    }
    location += path.as_str();
    if let Some(query) = query {
        location.push('?');
        location += query;
    }
    let location = HeaderValue::try_from(location).map_err(|_| Refusal::InvalidTarget)?;
    Ok(redirect(StatusCode::PERMANENT_REDIRECT, location))
}

fn redirect(status: StatusCode, location: HeaderValue) -> Response<Body> {
    let mut response = empty(status);
    response.headers_mut().insert(LOCATION, location);
    response
}

/// What a load balancer asks: whether it may send new connections.
fn health(proxy: &Proxy) -> Response<Body> {
    let (status, text) = if proxy.is_leaving() { (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n") } else { (StatusCode::OK, "ok\n") };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
