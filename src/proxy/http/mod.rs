//! HTTP/1.1 with a client: hyper reads the heads, one service decides and answers, and the socket comes back for a tunnel or a goodbye.
//!
//! It never knows how a connection was accepted, nor what a tunnel does. `conn` calls [`serve`] once the first byte is there.

use std::{convert::Infallible, future::poll_fn, net::IpAddr, sync::Arc, task::Poll};

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Version,
    header::{CONNECTION, EXPECT, HOST, REFERER, SET_COOKIE, USER_AGENT},
    request::Parts,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Proxy,
    affinity::{self, Belonging},
    backend::head,
    body::Body,
    client_cert,
    conn::ClientInfo,
    decide::{Located, Plan, decide, is_secure},
    files,
    forward::{self, Route, forward, send::Upload},
    guarded::{Guarded, Phase, PhaseHandle},
    headers::{
        forwarded::{self, Hop, X_REQUEST_ID},
        hop,
    },
    hold,
    refuse::Refusal,
    sent::{Entry, Sent},
    upgrade::{self, Outcome, Switch, Tunnelled, handshake, handshake::Expected},
};
use crate::{
    balance::{Ask, Endpoint, Purpose, Slot, Target},
    live::Served,
    model::{
        balancing::Affinity,
        route::{Action, Proxy as Spec},
    },
    telemetry::LocationMetrics,
    tunnel::Socket,
};

/// Longest head of a request; over it, or over hyper's 100 fields, is 431.
const LONGEST_HEAD: usize = 32 * 1024;
/// What hyper may gather of a head that is not complete, and of an answer that is not taken.
const LONGEST_BUFFER: usize = 64 * 1024;
const X_CARRICK_REASON: http::HeaderName = http::HeaderName::from_static("x-carrick-reason");

/// Serves a client's connection to its end, or until a tunnel takes it over.
///
/// Between two requests that are far apart hyper is put away with its buffers, and made anew.
pub async fn serve(proxy: Arc<Proxy>, client: ClientInfo, mut socket: Guarded<Socket>) {
    let session = Arc::new(Session { phase: socket.phase(), proxy, client, left: Mutex::new(Left::Closed) });
    // Boxed: what hyper needs is not held while a connection rests.
    while let Some(mut resting) = Box::pin(session.converse(socket)).await {
        if resting.has_ahead() {
            socket = resting; // the beginning of a head that came with the last request
            continue;
        }
        let more = tokio::select! {
            // First: a request that has come is answered.
            biased;
            more = resting.rest() => more,
            () = session.proxy.parting() => false,
        };
        if !more {
            return resting.close().await;
        }
        socket = resting;
    }
}

impl Session {
    /// Answers requests for as long as they come, to the end of the connection. The socket of one that rests comes back.
    async fn converse(self: &Arc<Self>, socket: Guarded<Socket>) -> Option<Guarded<Socket>> {
        let _busy = self.proxy.busy.token();
        *self.left.lock() = Left::Closed;
        // Boxed a request: a connection that waits for its next one holds nothing of the last.
        let service = service_fn(|request| Box::pin(Arc::clone(self).serve(request)));
        let mut connection = http1::Builder::new()
            .half_close(false)
            .title_case_headers(true)
            .header_read_timeout(None)
            .max_header_size(LONGEST_HEAD)
            .max_buf_size(LONGEST_BUFFER)
            .serve_connection(TokioIo::new(socket), service);
        // Nobody tells it of a shutdown: from then on each answer is the last one, and a connection that rests is told.
        let ended = poll_fn(|cx| match std::pin::Pin::new(&mut connection).poll(cx) {
            Poll::Pending if self.phase.get() == Phase::Rest => Poll::Ready(None),
            ended => ended.map(Some),
        })
        .await;
        let Some(ended) = ended else {
            // Everything is written: the guard says so.
            let parts = connection.into_parts();
            let mut socket = parts.io.into_inner();
            socket.unread(parts.read_buf);
            return Some(socket);
        };
        let left = std::mem::replace(&mut *self.left.lock(), Left::Closed);
        match (ended, left) {
            (Ok(()), Left::Switched(switched)) => {
                let parts = connection.into_parts();
                let (socket, unread) = parts.io.into_inner().into_parts();
                let from_client = if unread.is_empty() { parts.read_buf } else { [parts.read_buf, unread].concat().into() };
                let Switched { switch, slot, served, began, log } = *switched;
                let permit = Arc::clone(&self.client.permit);
                let tunnelled = Tunnelled { served: &served, client: self.client.peer, began, from_client, permit, slot, log };
                switch.open(&self.proxy.registry, tunnelled, socket);
            }
            // After a request that carried Upgrade hyper ends without flushing or closing; polled once more, it does both.
            (Ok(()), Left::Open) => drop((&mut connection).await),
            (Ok(()), Left::Closed) => {}
            (Err(error), _) => self.broken(&error),
        }
        None
    }
}

/// One client connection.
struct Session {
    proxy: Arc<Proxy>,
    client: ClientInfo,
    phase: PhaseHandle,
    left: Mutex<Left>,
}

/// In which state hyper leaves the socket.
enum Left {
    /// Flushed and closed.
    Closed,
    /// Neither.
    Open,
    /// A 101 was the last thing written.
    Switched(Box<Switched>),
}

struct Switched {
    switch: Switch,
    slot: Slot,
    served: Arc<Served>,
    began: Instant,
    log: Option<Box<str>>,
}

/// What is known of a request when its answer begins.
struct Exchange {
    started: Instant,
    /// Whether what the peer says about earlier hops counts.
    trusted: bool,
    /// Whether the client came by https.
    secure: bool,
    /// The client's address: what trusted proxies say of it, else the connection's peer.
    from: IpAddr,
    /// Its name in every log.
    id: HeaderValue,
    /// Who serves it.
    served: Option<Arc<Served>>,
    /// Where it went.
    endpoint: Option<Arc<Endpoint>>,
    /// Where it belongs.
    belonging: Belonging,
    /// Bytes of its body.
    received: u64,
    /// It asked for a WebSocket.
    websocket: bool,
    /// Its host asks clients for certificates.
    asks: bool,
    /// The connection ends after the answer.
    last: bool,
    /// Counts it as open at its location: a handshake, and its tunnel after it.
    slot: Option<Slot>,
    /// The backend has switched protocols.
    switch: Option<Switch>,
}

impl Session {
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Sent>, Infallible> {
        let (parts, body) = request.into_parts();
        self.phase.set(Phase::Wait);
        if parts.headers.contains_key(http::header::UPGRADE) || parts.method == http::Method::CONNECT {
            *self.left.lock() = Left::Open;
        }
        let mut exchange = self.exchange(&parts);
        let entry = self.proxy.access.is_on().then(|| self.entry(&parts, &exchange));
        let outcome = self.respond(parts, body, &mut exchange).await;
        Ok(self.finish(outcome, exchange, entry))
    }

    fn exchange(&self, parts: &Parts) -> Exchange {
        let trusted = !self.proxy.settings.trusted_proxies.is_empty() && self.proxy.settings.trusts(self.client.peer.ip());
        Exchange {
            started: Instant::now(),
            trusted,
            secure: is_secure(&self.proxy, &self.client, &parts.headers, trusted),
            from: match trusted {
                true => forwarded::client(&parts.headers, self.client.peer.ip(), |proxy| self.proxy.settings.trusts(proxy)),
                false => self.client.peer.ip(),
            },
            id: forwarded::request_id(&parts.headers, trusted),
            served: None,
            endpoint: None,
            belonging: Belonging::default(),
            received: 0,
            websocket: handshake::wants_websocket(parts.version, &parts.headers),
            asks: false,
            last: false,
            slot: None,
            switch: None,
        }
    }

    async fn respond(&self, mut parts: Parts, body: Incoming, exchange: &mut Exchange) -> Result<Response<Body>, Refusal> {
        let located = match decide(&self.proxy, &self.client, &parts, exchange.secure, exchange.websocket)? {
            Plan::Answer(response) => return Ok(response),
            Plan::Location(located) => located,
        };
        exchange.last = located.last;
        exchange.asks = located.asks;
        let served = Arc::clone(&located.served);
        exchange.served = Some(Arc::clone(&served));
        if !served.location.access.admits(exchange.from) {
            exchange.last |= exchange.websocket;
            return Err(Refusal::AccessDenied);
        }
        let spec = match &served.location.spec.action {
            Action::Unavailable => return Err(Refusal::Unavailable),
            Action::Redirect(_) => return Ok(located.redirect(&self.client)),
            Action::Static(content) => {
                let asked = files::Request { method: &parts.method, path: &located.path, query: located.query, headers: &parts.headers };
                return Ok(self.proxy.files.serve(&served.location, content, &asked).await);
            }
            Action::Proxy(spec) => spec,
        };
        let upgrade = wanted_upgrade(&parts, &body, &located, exchange)?;
        let (Some(target), Some(limiter)) = (&served.target, &served.limiter) else { return Err(Refusal::NoBackends) };
        if upgrade.is_some() {
            exchange.slot = Some(limiter.enter(exchange.from, exchange.started)?);
        }
        let head = self.start(&parts, &located)?;
        let asked = affinity::Request {
            method: &parts.method,
            path: &located.path,
            query: located.query,
            headers: &parts.headers,
            client: exchange.from,
            now: exchange.started,
        };
        let belonging = affinity::of_request(&spec.balancing, target, &asked, &self.proxy.keys, &self.proxy.sessions);
        exchange.belonging = belonging;
        drop(located);
        let Spec { timeouts, .. } = &**spec;
        let mut headers = std::mem::take(&mut parts.headers);
        match upgrade {
            None => {
                belonging.prepare(&mut headers);
                let upload = Upload::new(body, &headers, self.phase.clone(), spec.limits.request_body).ok_or(Refusal::BodyTooLarge)?;
                self.edit(&mut headers, &parts, &served, exchange);
                let mut outgoing = forward::Outgoing { method: parts.method, head, headers, upload };
                let ask = Ask { now: exchange.started, wish: belonging.wish, purpose: belonging.purpose };
                let route = self.route(&served, spec, target, ask);
                let answered = forward(&route, &mut outgoing, &mut exchange.endpoint).await;
                exchange.received = outgoing.upload.received;
                answered.map(|answer| match &exchange.endpoint {
                    Some(endpoint) => belonging.learn(answer, endpoint, &self.proxy.sessions),
                    None => answer,
                })
            }
            Some(wanted) => {
                handshake::filter_subprotocols(&mut headers, &served.location);
                self.edit(&mut headers, &parts, &served, exchange);
                let expected = match wanted {
                    Wanted::WebSocket => Expected::websocket(&headers),
                    Wanted::Opaque(token) => Expected::opaque(&token),
                };
                let (method, ask) = (parts.method, Ask { now: exchange.started, wish: belonging.wish, purpose: Purpose::Lasting });
                // Boxed: a request that is no handshake does not pay for its room.
                let outcome = Box::pin(async {
                    let account = limiter.account();
                    let hold::Way { target, turn } = hold::way(&self.proxy, target, timeouts.hold, account, &served.metrics).await?;
                    let route = self.route(&served, spec, &target, ask);
                    // The time it was held is none of the handshake's.
                    let by = Instant::now() + timeouts.handshake;
                    let outgoing = upgrade::Outgoing { method, head, headers, expected, by };
                    hold::begin(turn, upgrade::upgrade(&route, spec, account, outgoing, &mut exchange.endpoint)).await
                });
                match outcome.await? {
                    Outcome::Answered(response) => Ok(response),
                    Outcome::Switched(response, switch) => {
                        exchange.switch = Some(switch);
                        Ok(response)
                    }
                }
            }
        }
    }

    /// The way to an endpoint of `target`.
    fn route<'a>(&'a self, served: &'a Served, spec: &Spec, target: &'a Target, ask: Ask) -> Route<'a> {
        Route {
            target,
            ask,
            secured: &served.secured,
            metrics: &served.metrics,
            pool: &self.proxy.pool,
            connect: spec.timeouts.connect,
            response: spec.timeouts.response,
        }
    }

    /// The request line and Host, as they go to the backend.
    fn start(&self, parts: &Parts, located: &Located<'_>) -> Result<Vec<u8>, Refusal> {
        let location = &located.served.location;
        let target = location.rewrite(&located.path, located.query).map_err(|_| Refusal::InvalidPath)?;
        let mut out = Vec::with_capacity(1024);
        match (&location.host, &located.authority) {
            (Some(host), _) => head::start(&mut out, &parts.method, &target, host.as_bytes()),
            (None, Some(authority)) => head::start(&mut out, &parts.method, &target, authority.spelled.as_bytes()),
            // HTTP/1.0 may name no host, HTTP/1.1 must: the one that the client connected to.
            (None, None) => head::start(&mut out, &parts.method, &target, self.client.local.to_string().as_bytes()),
        }
        Ok(out)
    }

    /// Makes a client's header section the one that goes to the backend, all but Host and the framing.
    fn edit(&self, headers: &mut HeaderMap, parts: &Parts, served: &Served, exchange: &Exchange) {
        hop::strip_request(headers);
        if parts.version == Version::HTTP_10 {
            // It can't be answered with a 100 there, and so means nothing (RFC 9110 10.1.1).
            headers.remove(EXPECT);
        }
        let host = headers.remove(HOST);
        let named = host.as_ref().and_then(|host| host.to_str().ok());
        let hop = Hop {
            peer: self.client.peer.ip(),
            trusted: exchange.trusted,
            verifies: exchange.asks,
            secure: exchange.secure,
            authority: parts.uri.authority().map(http::uri::Authority::as_str).or(named),
            // Where something in front ends TLS, the client came to the port of https.
            port: if exchange.secure && !self.client.secure {
                self.client.public_https_port.unwrap_or(443)
            } else {
                self.client.public_port
            },
        };
        forwarded::apply(headers, &hop, exchange.id.clone(), self.proxy.settings.forwarded);
        if exchange.asks {
            client_cert::tell(headers, self.client.verified.as_ref().and_then(|verified| verified.certificate.as_ref()));
        }
        served.location.request_headers.apply(headers);
    }

    /// Counts an answer, and adds what is ours to say.
    fn finish(&self, outcome: Result<Response<Body>, Refusal>, exchange: Exchange, mut entry: Option<Box<Entry>>) -> Response<Sent> {
        self.phase.set(Phase::Wait);
        let mut response = outcome.unwrap_or_else(Refusal::into_response);
        let status = response.status();
        let refusal = response.extensions_mut().remove::<Refusal>();
        let headers = response.headers_mut();
        if let Some(served) = &exchange.served {
            served.location.response_headers.apply(headers);
            if refusal.is_none()
                && let Some(cookie) = self.pinning(served, &exchange, status)
            {
                headers.append(SET_COOKIE, cookie);
            }
        }
        let metrics = exchange.served.as_ref().map_or(&self.proxy.metrics.unrouted, |served| &served.metrics);
        if let Some(refusal) = refusal {
            if self.proxy.settings.refusal_header {
                headers.insert(X_CARRICK_REASON, HeaderValue::from_static(refusal.token()));
            }
            headers.insert(X_REQUEST_ID, exchange.id);
            metrics.refusals.inc(refusal.token());
        }
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        let last = exchange.last || refusal.is_some_and(Refusal::ends_connection) || self.proxy.is_shutting_down();
        if last && !switched {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        count(metrics, status, exchange.started);
        if let Some(entry) = &mut entry {
            entry.status = status.as_u16();
            entry.refusal = refusal.map(Refusal::token);
            entry.endpoint = exchange.endpoint.as_ref().map(|endpoint| endpoint.key.address);
            entry.received = exchange.received;
            entry.served = exchange.served.clone();
        }
        if let (Some(switch), Some(slot), Some(served)) = (exchange.switch, exchange.slot, exchange.served) {
            let log = entry.as_ref().and_then(|entry| entry.handshake());
            *self.left.lock() = Left::Switched(Box::new(Switched { switch, slot, served, began: exchange.started, log }));
        }
        // A tunnel has a timer of its own: none is set for a next request.
        let next = if switched { Phase::Wait } else { Phase::Idle };
        response.map(|body| Sent::new(body, self.phase.clone(), next, entry))
    }

    /// The cookie that pins the endpoint of an answer, where the location has such cookies and the client none that holds.
    fn pinning(&self, served: &Served, exchange: &Exchange, status: StatusCode) -> Option<HeaderValue> {
        let Some(Affinity::Cookie(cookie)) = &served.location.spec.proxy()?.balancing.affinity else { return None };
        // A handshake that did not become a tunnel.
        let refused = exchange.slot.is_some() && status != StatusCode::SWITCHING_PROTOCOLS;
        let answered = affinity::Answered { endpoint: exchange.endpoint.as_ref()?, refused, secure: exchange.secure };
        exchange.belonging.set_cookie(cookie, served.target.as_ref()?, answered, &self.proxy.keys)
    }

    fn entry(&self, parts: &Parts, exchange: &Exchange) -> Box<Entry> {
        Box::new(Entry {
            proxy: Arc::clone(&self.proxy),
            client: self.client.peer,
            secure: exchange.secure,
            websocket: exchange.websocket,
            started: exchange.started,
            id: exchange.id.clone(),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            host: parts.headers.get(HOST).cloned(),
            user_agent: parts.headers.get(USER_AGENT).cloned(),
            referer: parts.headers.get(REFERER).cloned(),
            status: 0,
            refusal: None,
            served: None,
            endpoint: None,
            received: 0,
            sent: 0,
        })
    }

    /// Counts what hyper, or the guard below it, answered by itself: nobody is told but by this error.
    fn broken(&self, error: &hyper::Error) {
        tracing::debug!(client = %self.client.peer, %error, "connection ended");
        let refusal = match error {
            _ if error.is_parse_too_large() => Refusal::HeadTooLarge,
            _ if error.is_parse() => Refusal::MalformedHead,
            _ if forward::is_timeout(error) && self.phase.get() == Phase::Head => Refusal::HeadTimeout,
            _ => return,
        };
        let metrics = &self.proxy.metrics.unrouted;
        metrics.refusals.inc(refusal.token());
        metrics.requests.inc(refusal.status().as_u16());
    }
}

/// What a request is to be upgraded to.
enum Wanted {
    WebSocket,
    Opaque(Box<str>),
}

/// Whether a request is to be upgraded, and then that it is a handshake. A token that the location does not pass is no upgrade.
fn wanted_upgrade(parts: &Parts, body: &Incoming, located: &Located<'_>, exchange: &mut Exchange) -> Result<Option<Wanted>, Refusal> {
    let location = &located.served.location;
    let wanted = if exchange.websocket {
        Wanted::WebSocket
    } else {
        match handshake::wanted(parts.version, &parts.headers).find(|token| location.passes_upgrade(token)) {
            Some(token) => Wanted::Opaque(token.into()),
            None => return Ok(None),
        }
    };
    // What follows a handshake that is not answered by 101 is no request (RFC 9112 11.2).
    exchange.last = true;
    if exchange.websocket {
        handshake::check(&parts.method, &parts.headers, location, located.came_to())?;
    }
    if !hyper::body::Body::is_end_stream(body) {
        return Err(Refusal::HandshakeBody);
    }
    Ok(Some(wanted))
}

fn count(metrics: &LocationMetrics, status: StatusCode, started: Instant) {
    metrics.requests.inc(status.as_u16());
    let seconds = if status == StatusCode::SWITCHING_PROTOCOLS { &metrics.handshake_seconds } else { &metrics.response_seconds };
    seconds.observe(started.elapsed());
}

#[cfg(test)]
mod tests;
