//! What is not served, and why: one variant an event, with its status, its token and one line for the client.
//!
//! It never names a Service or an endpoint: those are for the log. Everything in `proxy` that says no returns a [`Refusal`]; `http` makes
//! it an answer, counts it, and adds `X-Carrick-Reason` and `X-Request-Id`.

use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE},
};

use super::body::Body;
use crate::{balance::Over, dial::TlsFault};

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// hyper could not read the head.
    MalformedHead,
    /// The head is over 32 KiB or has over 100 fields, or its target is over 64 KiB.
    HeadTooLarge,
    /// No Host, two, or one that is not a host with an optional port.
    InvalidHost,
    /// A request target that is neither a path nor an absolute http(s) URI, or has bytes outside RFC 3986.
    InvalidTarget,
    /// A path that has no normalised form.
    InvalidPath,
    /// Transfer-Encoding is not exactly `chunked`, once.
    InvalidTransferEncoding,
    /// Connection names a field that must reach the backend.
    InvalidConnection,
    /// The body broke its framing, or ended early.
    InvalidBody,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The body stalled.
    BodyTimeout,
    /// CONNECT, or another method that a handshake or a file does not know; the `Allow` that says which are.
    MethodNotAllowed(&'static str),
    /// The connection was made for a host that asks other certificates of clients.
    Misdirected,
    /// The host is for clients with a certificate, and plain HTTP has none.
    ClientCertificate,
    /// No host and path for it.
    NotFound,
    /// A handshake whose Sec-WebSocket-Version is not 13.
    HandshakeVersion,
    /// A handshake without a 16-byte Sec-WebSocket-Key.
    HandshakeKey,
    /// A handshake with a body.
    HandshakeBody,
    /// An Origin that the route does not list.
    Origin,
    /// An address that `access` keeps out.
    AccessDenied,
    /// As many tunnels are open at the location as `limits.connections` allows.
    ConnectionLimit,
    /// The client has as many open there as `limits.connectionsPerClient` allows.
    ClientLimit,
    /// More handshakes come than `limits.handshakesPerSecond` allows; the seconds until this one's turn.
    RateLimit(u16),
    /// A body over `limits.requestBody`.
    BodyTooLarge,
    /// No endpoint is ready, and as many handshakes wait for one as may.
    HoldFull,
    /// Declared, but can't be served; the status of the WsRoute says why.
    Unavailable,
    /// No Service behind the location has a share of the requests.
    NoBackends,
    /// No endpoint is ready.
    NoReadyEndpoint,
    /// Every endpoint has `loadBalancing.maxConnectionsPerEndpoint` connections.
    EndpointsFull,
    /// We are out of descriptors or ports.
    Exhausted,
    /// Every endpoint that was tried refused.
    ConnectFailed,
    /// An endpoint did not accept in `timeouts.connect`, and there was none left to try.
    ConnectTimeout,
    /// The TLS of every endpoint that was tried is not what it must be.
    BackendTls(TlsFault),
    /// The backend ended the connection before its answer.
    BackendClosed,
    /// The backend's answer is not HTTP/1.1.
    BackendInvalid,
    /// The backend's 101 does not answer the handshake.
    HandshakeInvalid,
    /// No 101 in `timeouts.handshake`.
    HandshakeTimeout,
    /// No answer in `timeouts.response`.
    ResponseTimeout,
    /// A file's permissions are not for us.
    FileForbidden,
    /// A file could not be read.
    FileUnreadable,
    /// A fault of ours.
    Internal,
}

impl From<Over> for Refusal {
    fn from(over: Over) -> Self {
        match over {
            Over::Connections => Refusal::ConnectionLimit,
            Over::PerClient => Refusal::ClientLimit,
            Over::Rate(turn) => Refusal::RateLimit(u16::try_from(turn.as_secs()).unwrap_or(u16::MAX)),
        }
    }
}

impl Refusal {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        use Refusal::*;
        match self {
            MalformedHead
            | InvalidHost
            | InvalidTarget
            | InvalidPath
            | InvalidTransferEncoding
            | InvalidConnection
            | InvalidBody
            | HandshakeKey
            | HandshakeBody => StatusCode::BAD_REQUEST,
            Origin | AccessDenied | FileForbidden | ClientCertificate => StatusCode::FORBIDDEN,
            Misdirected => StatusCode::MISDIRECTED_REQUEST,
            NotFound => StatusCode::NOT_FOUND,
            MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            HeadTimeout | BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            HandshakeVersion => StatusCode::UPGRADE_REQUIRED,
            ClientLimit | RateLimit(_) => StatusCode::TOO_MANY_REQUESTS,
            BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            FileUnreadable | Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ConnectFailed | BackendTls(_) | BackendClosed | BackendInvalid | HandshakeInvalid => StatusCode::BAD_GATEWAY,
            Unavailable | NoBackends | NoReadyEndpoint | EndpointsFull | Exhausted | ConnectionLimit | HoldFull => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ConnectTimeout | HandshakeTimeout | ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Its name in `X-Carrick-Reason`, metrics and log. Part of the interface: never renamed.
    pub fn token(self) -> &'static str {
        use Refusal::*;
        match self {
            MalformedHead => "malformed_head",
            HeadTooLarge => "head_too_large",
            InvalidHost => "invalid_host",
            InvalidTarget => "invalid_target",
            InvalidPath => "invalid_path",
            InvalidTransferEncoding => "invalid_transfer_encoding",
            InvalidConnection => "invalid_connection",
            InvalidBody => "invalid_body",
            HeadTimeout => "head_timeout",
            BodyTimeout => "body_timeout",
            MethodNotAllowed(_) => "method_not_allowed",
            Misdirected => "misdirected",
            ClientCertificate => "client_certificate",
            NotFound => "not_found",
            HandshakeVersion => "handshake_version",
            HandshakeKey => "handshake_key",
            HandshakeBody => "handshake_body",
            Origin => "origin",
            AccessDenied => "access_denied",
            ConnectionLimit => "connection_limit",
            ClientLimit => "client_limit",
            RateLimit(_) => "rate_limit",
            BodyTooLarge => "body_too_large",
            HoldFull => "hold_full",
            Unavailable => "unavailable",
            NoBackends => "no_backends",
            NoReadyEndpoint => "no_ready_endpoint",
            EndpointsFull => "endpoints_full",
            Exhausted => "exhausted",
            ConnectFailed => "connect_failed",
            ConnectTimeout => "connect_timeout",
            BackendTls(TlsFault::Expired) => "backend_certificate_expired",
            BackendTls(TlsFault::NotYetValid) => "backend_certificate_not_yet_valid",
            BackendTls(TlsFault::UnknownIssuer) => "backend_certificate_unknown_issuer",
            BackendTls(TlsFault::WrongName) => "backend_certificate_wrong_name",
            BackendTls(TlsFault::Certificate) => "backend_certificate_invalid",
            BackendTls(TlsFault::WantsCertificate) => "backend_client_certificate",
            BackendTls(TlsFault::Failed) => "backend_tls",
            BackendClosed => "backend_closed",
            BackendInvalid => "backend_invalid",
            HandshakeInvalid => "handshake_invalid",
            HandshakeTimeout => "handshake_timeout",
            ResponseTimeout => "response_timeout",
            FileForbidden => "file_forbidden",
            FileUnreadable => "file_unreadable",
            Internal => "internal",
        }
    }

    /// One line that tells the client why.
    pub fn message(self) -> &'static str {
        use Refusal::*;
        match self {
            MalformedHead => "the request could not be read\n",
            HeadTooLarge => "the header section is larger than 32 KiB or has more than 100 fields\n",
            InvalidHost => "exactly one valid Host is needed\n",
            InvalidTarget => "the request target is not a path or an http URI\n",
            InvalidPath => "the path has no safe reading\n",
            InvalidTransferEncoding => "Transfer-Encoding must be chunked, once\n",
            InvalidConnection => "Connection names a field that is not hop-by-hop\n",
            InvalidBody => "the body broke its framing or ended early\n",
            HeadTimeout => "the request head did not arrive in time\n",
            BodyTimeout => "the request body did not arrive in time\n",
            MethodNotAllowed(_) => "the method is not allowed here\n",
            Misdirected => "this connection was made for another host name: make one for this one\n",
            ClientCertificate => "this host is for clients with a certificate, over https\n",
            NotFound => "there is nothing at this host and path\n",
            HandshakeVersion => "only version 13 of the WebSocket protocol is spoken here\n",
            HandshakeKey => "Sec-WebSocket-Key must be 16 bytes in base64\n",
            HandshakeBody => "a handshake has no body\n",
            Origin => "this origin may not open a WebSocket here\n",
            AccessDenied => "this address may not come here\n",
            ConnectionLimit => "as many connections are open here as may be\n",
            ClientLimit => "this client has as many connections open here as it may\n",
            RateLimit(_) => "more connections are opened here than may be\n",
            BodyTooLarge => "the body is larger than this location takes\n",
            HoldFull => "no endpoint is ready, and as many wait for one as may\n",
            Unavailable => "this location can not be served; the status of its WsRoute says why\n",
            NoBackends => "no backend takes requests for this location\n",
            NoReadyEndpoint => "no endpoint is ready\n",
            EndpointsFull => "every endpoint has as many connections as it may\n",
            Exhausted => "the proxy is out of sockets\n",
            ConnectFailed => "no endpoint could be connected to\n",
            ConnectTimeout => "no endpoint could be connected to in time\n",
            BackendTls(TlsFault::Expired) => "the backend's certificate has expired\n",
            BackendTls(TlsFault::NotYetValid) => "the backend's certificate is not valid yet\n",
            BackendTls(TlsFault::UnknownIssuer) => "the backend's certificate is of an unknown issuer\n",
            BackendTls(TlsFault::WrongName) => "the backend's certificate is for other names\n",
            BackendTls(TlsFault::Certificate) => "the backend's certificate can not be used\n",
            BackendTls(TlsFault::WantsCertificate) => "the backend does not take the proxy's certificate\n",
            BackendTls(TlsFault::Failed) => "the backend does not do the TLS handshake\n",
            BackendClosed => "the backend ended the connection before its answer\n",
            BackendInvalid => "the backend's answer could not be read\n",
            HandshakeInvalid => "the backend's 101 does not answer the handshake\n",
            HandshakeTimeout => "the backend did not answer the handshake in time\n",
            ResponseTimeout => "the backend did not answer in time\n",
            FileForbidden => "the file may not be read\n",
            FileUnreadable => "the file could not be read\n",
            Internal => "the proxy failed\n",
        }
    }

    /// Whether the connection ends after the answer: the next bytes could be read in two ways, or are not a request.
    pub fn ends_connection(self) -> bool {
        use Refusal::*;
        matches!(
            self,
            MalformedHead
                | HeadTooLarge
                | InvalidHost
                | InvalidTarget
                | InvalidPath
                | InvalidTransferEncoding
                | InvalidConnection
                | InvalidBody
                | HeadTimeout
                | BodyTimeout
                | BodyTooLarge
                | HandshakeBody
                | Misdirected
        )
    }

    /// When to come back, in whole seconds, where coming back helps. Jittered, so that clients do not come back together.
    fn retry_after(self) -> Option<HeaderValue> {
        let seconds = match self {
            Refusal::NoReadyEndpoint | Refusal::EndpointsFull | Refusal::Exhausted => fastrand::u16(1..=5),
            // What is full stays so for longer than what is not there yet.
            Refusal::ConnectionLimit | Refusal::ClientLimit | Refusal::HoldFull => fastrand::u16(5..=30),
            // Those that were kept out are told one turn after the other; the clocks of a storm that began at once are not to tick together.
            Refusal::RateLimit(turn) => turn.saturating_add(fastrand::u16(1..=5)),
            _ => return None,
        };
        Some(HeaderValue::from(seconds))
    }

    /// The answer, without what depends on the request. It carries the refusal among its extensions, so that whoever sends it can count it.
    pub fn into_response(self) -> Response<Body> {
        let message = self.message();
        let mut response = Response::new(Body::from(message));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(message.len()));
        match self {
            Refusal::MethodNotAllowed(allow) => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            Refusal::HandshakeVersion => {
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            }
            _ => {}
        }
        if let Some(after) = self.retry_after() {
            headers.insert(RETRY_AFTER, after);
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_version_names_the_right_one() {
        let response = Refusal::HandshakeVersion.into_response();
        assert_eq!(response.status(), 426);
        assert_eq!(response.headers()[SEC_WEBSOCKET_VERSION], "13");
        assert_eq!(response.headers()[UPGRADE], "websocket");
    }

    #[test]
    fn a_client_is_told_when_to_come_back() {
        let after = Refusal::NoReadyEndpoint.into_response().headers()[RETRY_AFTER].to_str().unwrap().parse::<u32>().unwrap();
        assert!((1..=5).contains(&after));
        assert!(!Refusal::NotFound.into_response().headers().contains_key(RETRY_AFTER));
        assert!(!Refusal::BodyTooLarge.into_response().headers().contains_key(RETRY_AFTER), "it will be as large then");
    }

    #[test]
    fn clients_over_a_limit_are_told_different_times() {
        let told = |refusal: Refusal| refusal.into_response().headers()[RETRY_AFTER].to_str().unwrap().parse::<u16>().unwrap();
        for (refusal, range) in [
            (Refusal::ConnectionLimit, 5..=30),
            (Refusal::ClientLimit, 5..=30),
            (Refusal::RateLimit(0), 1..=5),
            (Refusal::RateLimit(40), 41..=45),
        ] {
            let times: Vec<_> = (0..100).map(|_| told(refusal)).collect();
            assert!(times.iter().all(|time| range.contains(time)), "{refusal:?}: {times:?}");
            assert!(times.iter().any(|time| *time != times[0]), "{refusal:?} is told to all alike");
        }
    }

    #[test]
    fn a_method_that_is_not_allowed_is_told_which_are() {
        assert_eq!(Refusal::MethodNotAllowed("GET").into_response().headers()[ALLOW], "GET");
    }

    #[test]
    fn the_answer_carries_its_refusal() {
        assert_eq!(Refusal::Origin.into_response().extensions().get::<Refusal>(), Some(&Refusal::Origin));
    }
}
