//! What is not served, and why: one variant an event, with its status, its token and one line for the client.
//!
//! It never names a Service or an endpoint: those are for the log. Everything in `proxy` that says no returns a [`Refusal`]; `http` makes
//! it an answer, counts it, and adds `X-Carrick-Reason` and `X-Request-Id`.

use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE},
};

use super::body::Body;
use crate::dial::TlsFault;

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
            Origin | FileForbidden | ClientCertificate => StatusCode::FORBIDDEN,
            Misdirected => StatusCode::MISDIRECTED_REQUEST,
            NotFound => StatusCode::NOT_FOUND,
            MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            HeadTimeout | BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            HandshakeVersion => StatusCode::UPGRADE_REQUIRED,
            HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            FileUnreadable | Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ConnectFailed | BackendTls(_) | BackendClosed | BackendInvalid | HandshakeInvalid => StatusCode::BAD_GATEWAY,
            Unavailable | NoBackends | NoReadyEndpoint | EndpointsFull | Exhausted => StatusCode::SERVICE_UNAVAILABLE,
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
                | HandshakeBody
                | Misdirected
        )
    }

    /// When to come back, in whole seconds, where coming back helps. Jittered, so that clients do not come back together.
    fn retry_after(self) -> Option<HeaderValue> {
        matches!(self, Refusal::NoReadyEndpoint | Refusal::EndpointsFull | Refusal::Exhausted)
            .then(|| HeaderValue::from(fastrand::u16(1..=5)))
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
