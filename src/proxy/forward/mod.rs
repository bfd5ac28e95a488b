//! Plain HTTP through to a backend: an endpoint picked, a connection found or made, the exchange, the answer streamed back.
//!
//! It never knows hosts or paths: the location is decided, the request line printed. `http` calls it; `upgrade` shares [`find`].

pub mod send;
#[cfg(test)]
mod tests;

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT},
};

use tokio::time::Instant;

use super::{
    backend::{Answer, AnswerBody, Connection, Fault, Framing, Pool, head},
    body::Body,
    headers::hop,
    refuse::Refusal,
    search::{Search, Unreached},
};
use crate::{
    balance::{Ask, Attempt, Endpoint, Lease, Proof, Symptom, Target},
    dial::{self, DialError, TlsFault},
    live::Secured,
    model::EndpointKey,
    telemetry::{
        LocationMetrics,
        retries::{Retried, Retry},
    },
};
use send::{Answered, Failure, Upload, exchange};

/// A request whose location is decided, ready to go.
pub struct Outgoing {
    /// Its method.
    pub method: Method,
    /// The request line and Host, printed.
    pub head: Vec<u8>,
    /// Its header section, hop-by-hop fields taken off and ours put in.
    pub headers: HeaderMap,
    /// Its body.
    pub upload: Upload,
}

/// Who serves it.
pub struct Route<'a> {
    /// Picks endpoints.
    pub target: &'a Target,
    /// What it is asked.
    pub ask: Ask,
    /// TLS to them.
    pub secured: &'a Secured,
    /// Counts their failures.
    pub metrics: &'a LocationMetrics,
    /// Idle connections.
    pub pool: &'a Arc<Pool>,
    /// To connect to one endpoint.
    pub connect: Duration,
    /// From the last byte of the request to the first of the answer.
    pub response: Option<Duration>,
}

/// Sends a request on and returns its answer, whose body streams. `endpoint` is told as soon as there is one.
pub async fn forward(route: &Route<'_>, outgoing: &mut Outgoing, endpoint: &mut Option<Arc<Endpoint>>) -> Result<Response<Body>, Refusal> {
    let expects = prepare(outgoing);
    let head = Bytes::from(std::mem::take(&mut outgoing.head));
    let (mut attempt, mut connection) = find(route, Some(route.pool), &mut search(route)).await?;
    loop {
        *endpoint = Some(Arc::clone(attempt.endpoint()));
        let failure = match exchange(&mut connection, head.clone(), &mut outgoing.upload, expects, route.response).await {
            Ok(answered) => {
                attempt.succeeded(Proof::Connected);
                return respond(route, &outgoing.method, answered, connection, attempt.into_lease());
            }
            Err(failure) => failure,
        };
        match failure {
            // It was closed at the other end while the request was on its way, which nobody has read then.
            Failure::Backend(Fault::Closed(_)) if connection.is_reused() && outgoing.method.is_idempotent() && !outgoing.upload.touched => {
                // Boxed: it is rare, and not to be held by every request.
                let again = Box::pin(again(route, attempt)).await;
                route.metrics.retries.inc(Retried::Stale, Retry::of(&again));
                (attempt, connection) = again?;
            }
            failure => {
                let (token, refusal) = refusal(route, attempt.endpoint(), &failure);
                // How long an answer takes is up to what was asked, and a client's body is the client's.
                if matches!(failure, Failure::Backend(_)) {
                    attempt.failed(Symptom::Connect, token);
                }
                return Err(refusal);
            }
        }
    }
}

/// The same endpoint by a new connection; another one if that fails.
async fn again(route: &Route<'_>, attempt: Attempt) -> Result<(Attempt, Connection), Refusal> {
    let mut search = search(route);
    match fresh(route, &attempt).await {
        Ok(connection) => Ok((attempt, connection)),
        Err(error) => {
            search.pass_over(attempt, error)?;
            find(route, None, &mut search).await
        }
    }
}

/// A connection to the next endpoint of a search: an idle one, if it may be, else a new one. Endpoints that refuse are passed over.
pub async fn find(route: &Route<'_>, pool: Option<&Arc<Pool>>, search: &mut Search<'_>) -> Result<(Attempt, Connection), Refusal> {
    let mut first = true;
    loop {
        let attempt = search.pick()?;
        let endpoint = attempt.endpoint();
        let client = route.secured.client(&endpoint.key.pool).map(Arc::as_ref);
        if let Some(pool) = pool
            && let Some(connection) = poll_fn(|cx| Poll::Ready(pool.take(endpoint, client, cx))).await
        {
            return Ok((attempt, connection));
        }
        let connected = fresh(route, &attempt).await;
        if !first {
            route.metrics.retries.inc(Retried::Connect, Retry::of(&connected));
        }
        first = false;
        match connected {
            Ok(connection) => return Ok((attempt, connection)),
            Err(error) => search.pass_over(attempt, error)?,
        }
    }
}

/// A search among the endpoints of a route.
pub fn search<'a>(route: &Route<'a>) -> Search<'a> {
    Search::new(route.target, route.ask, route.metrics)
}

async fn fresh(route: &Route<'_>, attempt: &Attempt) -> Result<Connection, DialError> {
    let EndpointKey { pool, address } = &attempt.endpoint().key;
    let by = Instant::now() + route.connect;
    let socket = dial::connect(*address, route.connect).await?;
    match route.secured.client(pool) {
        Some(client) => Ok(Connection::secured(client.shake(socket, *address, by).await?, *address, client)),
        None => Ok(Connection::new(socket, *address)),
    }
}

impl From<Unreached> for Refusal {
    fn from(unreached: Unreached) -> Self {
        match unreached {
            Unreached::NoBackends => Refusal::NoBackends,
            Unreached::NoReadyEndpoint => Refusal::NoReadyEndpoint,
            Unreached::Full => Refusal::EndpointsFull,
            Unreached::ConnectFailed => Refusal::ConnectFailed,
            Unreached::ConnectTimeout => Refusal::ConnectTimeout,
            Unreached::Tls(fault) => Refusal::BackendTls(fault),
            Unreached::Exhausted(_) => Refusal::Exhausted,
        }
    }
}

/// Counts and names what went wrong after a connection was there.
fn refusal(route: &Route<'_>, endpoint: &Endpoint, failure: &Failure) -> (&'static str, Refusal) {
    let (token, refusal) = match failure {
        Failure::Client(error) if is_timeout(error) => return ("", Refusal::BodyTimeout),
        Failure::Client(_) => return ("", Refusal::InvalidBody),
        Failure::TooLarge => return ("", Refusal::BodyTooLarge),
        Failure::Timeout => ("response_timeout", Refusal::ResponseTimeout),
        Failure::Backend(Fault::Closed(error)) => closed(error),
        Failure::Backend(Fault::Invalid(_)) => ("invalid_answer", Refusal::BackendInvalid),
    };
    tracing::info!(endpoint = %endpoint.key, ?failure, "no answer");
    route.metrics.endpoint_failures.inc(token);
    (token, refusal)
}

/// The label of metrics and the refusal for a backend that ended the connection. One that does not take our certificate says so only now.
pub fn closed(error: &std::io::Error) -> (&'static str, Refusal) {
    TlsFault::of(error).map_or(("closed", Refusal::BackendClosed), |fault| (fault.token(), Refusal::BackendTls(fault)))
}

/// Whether reading from the client took too long.
pub fn is_timeout(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}

/// Ends the head. Whether the client waits for a 100 before it sends the body.
fn prepare(outgoing: &mut Outgoing) -> bool {
    let framing = outgoing.upload.framing();
    let expects = framing != Framing::None
        && outgoing.headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if !expects {
        outgoing.headers.remove(EXPECT);
    }
    head::fields(&mut outgoing.head, &outgoing.headers);
    if outgoing.headers.contains_key(http::header::TE) {
        head::field(&mut outgoing.head, "Connection", "TE");
    }
    head::framing(&mut outgoing.head, &outgoing.method, framing);
    head::end(&mut outgoing.head);
    // They are printed: nothing is kept of the client's buffer while the answer is awaited.
    outgoing.headers = HeaderMap::new();
    expects
}

fn respond(
    route: &Route<'_>,
    method: &Method,
    answered: Answered,
    connection: Connection,
    lease: Lease,
) -> Result<Response<Body>, Refusal> {
    let Answered { answer, whole } = answered;
    let endpoint = Arc::clone(lease.endpoint());
    let pool = (whole && !answer.last).then(|| Arc::clone(route.pool));
    let response = streamed(method, answer, connection, lease, pool);
    let mut response = response.map_err(|fault| refusal(route, &endpoint, &Failure::Backend(fault)).1)?;
    if !whole {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// An answer as the client gets it: its own framing and hop-by-hop fields taken off, its body streamed from `connection`.
pub fn streamed(
    method: &Method,
    answer: Answer,
    connection: Connection,
    lease: Lease,
    pool: Option<Arc<Pool>>,
) -> Result<Response<Body>, Fault> {
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Fault::Invalid("it switches protocols unasked"));
    }
    let framing = answer.framing(method)?;
    let length = answer.content_length()?;
    let Answer { status, mut headers, .. } = answer;
    hop::strip_response(status, &mut headers);
    // What a HEAD or a 304 says of the length is about another answer.
    let told = match framing {
        Framing::Length(length) => Some(length),
        Framing::None if status != StatusCode::NO_CONTENT => length,
        _ => None,
    };
    if let Some(length) = told {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut body = AnswerBody::new(connection, framing, lease, pool);
    let body = match body.at_hand() {
        Some(all) => Body::from(all),
        None => Body::boxed(body),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}
