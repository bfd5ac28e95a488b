//! One check of one endpoint: connected to, asked, and what it answered.
//!
//! It never knows what follows from it, nor when it is asked again.

use std::{io, net::SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Bytes, Message,
        client::IntoClientRequest as _,
        error::ProtocolError,
        http::{HeaderValue, header::USER_AGENT},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::{
    dial::{self, Client, DialError},
    model::health::{Active, Page, Question},
};

/// What we call ourselves.
const AGENT: &str = concat!("carrick-health/", env!("CARGO_PKG_VERSION"));
/// The head of an answer.
const MOST: usize = 64 * 1024;
/// Fields of an answer.
const FIELDS: usize = 128;
/// A message that an endpoint sends before its Pong: what may be held of it, many checks being made at once.
const MESSAGE: usize = 1024 * 1024;

/// Why an endpoint is not well.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It could not be connected to.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It did not answer in time.
    #[error("{0} does not answer in time")]
    Timeout(SocketAddr),
    /// It ended the connection before it answered.
    #[error("{0} ended the connection: {1}")]
    Closed(SocketAddr, #[source] io::Error),
    /// It answered with another status.
    #[error("{0} answers with status {1}")]
    Status(SocketAddr, u16),
    /// Its answer breaks the protocol.
    #[error("{0} answers with what is no answer: {1}")]
    Invalid(SocketAddr, String),
}

impl Fault {
    /// The label of metrics.
    pub fn token(&self) -> &'static str {
        match self {
            Fault::Dial(error) => error.token(),
            Fault::Timeout(_) => "no_answer",
            Fault::Closed(..) => "closed",
            Fault::Status(..) => "status",
            Fault::Invalid(..) => "invalid_answer",
        }
    }

    /// Whether the fault is none of the endpoint's.
    pub fn is_ours(&self) -> bool {
        matches!(self, Fault::Dial(error) if error.is_ours())
    }
}

/// Asks an endpoint once, within the time that the check allows.
pub(super) async fn ask(at: SocketAddr, tls: Option<&Client>, check: &Active) -> Result<(), Fault> {
    let by = Instant::now() + check.timeout;
    let asking = async {
        let stream = dial::connect(at, check.timeout).await?;
        match tls {
            Some(client) => question(client.shake(stream, at, by).await?, at, &check.question).await,
            None => question(stream, at, &check.question).await,
        }
    };
    timeout_at(by, asking).await.unwrap_or(Err(Fault::Timeout(at)))
}

async fn question(stream: impl AsyncRead + AsyncWrite + Unpin, at: SocketAddr, question: &Question) -> Result<(), Fault> {
    match question {
        Question::Tcp => Ok(()),
        Question::Http(page) => get(stream, at, page).await,
        Question::WebSocket { page, ping } => handshake(stream, at, page, *ping).await,
    }
}

/// A handshake, answered with 101 and the right accept hash, and a Ping with its Pong where that is asked for; then a Close, as a client
/// that has nothing more to say.
async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin, at: SocketAddr, page: &Page, ping: bool) -> Result<(), Fault> {
    let request = format!("ws://{}{}", host(at, page), page.path).into_client_request();
    let mut request = request.map_err(|error| refused(at, error))?;
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE)).max_frame_size(Some(MESSAGE));
    let (mut socket, _) = client_async_with_config(request, stream, Some(config)).await.map_err(|error| refused(at, error))?;
    if ping {
        pong(&mut socket).await.map_err(|error| refused(at, error))?;
    }
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: "health check".into() };
    // Whatever becomes of that, it has answered.
    let _ = socket.close(Some(goodbye)).await;
    Ok(())
}

/// Sends a Ping and waits for its Pong (RFC 6455 5.5.3); what else the endpoint says meanwhile is for other clients.
async fn pong(socket: &mut WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) -> Result<(), tungstenite::Error> {
    let sent = Bytes::copy_from_slice(&fastrand::u64(..).to_be_bytes());
    socket.send(Message::Ping(sent.clone())).await?;
    while let Some(message) = socket.next().await {
        match message? {
            Message::Pong(answered) if answered == sent => return Ok(()),
            _ => {}
        }
    }
    Err(tungstenite::Error::ConnectionClosed)
}

fn refused(at: SocketAddr, error: tungstenite::Error) -> Fault {
    match error {
        tungstenite::Error::Http(answer) => Fault::Status(at, answer.status().as_u16()),
        tungstenite::Error::Io(error) => Fault::Closed(at, error),
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete | ProtocolError::ResetWithoutClosingHandshake) => {
            Fault::Closed(at, io::ErrorKind::UnexpectedEof.into())
        }
        other => Fault::Invalid(at, other.to_string()),
    }
}

/// A GET, answered with 2xx or 3xx. Its body is not read.
async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, at: SocketAddr, page: &Page) -> Result<(), Fault> {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        page.path,
        host(at, page)
    );
    let closed = |error| Fault::Closed(at, error);
    stream.write_all(request.as_bytes()).await.map_err(closed)?;
    stream.flush().await.map_err(closed)?;
    let mut head = Vec::new();
    loop {
        if stream.read_buf(&mut head).await.map_err(closed)? == 0 {
            return Err(closed(io::ErrorKind::UnexpectedEof.into()));
        }
        match status(&mut head).map_err(|wrong| Fault::Invalid(at, wrong))? {
            Some(200..=399) => return Ok(()),
            Some(status) => return Err(Fault::Status(at, status)),
            None => {}
        }
    }
}

/// The status of the final answer, once its head is there. Interim answers are taken off.
fn status(head: &mut Vec<u8>) -> Result<Option<u16>, String> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut answer = httparse::Response::new(&mut fields);
        match answer.parse(head).map_err(|error| error.to_string())? {
            httparse::Status::Partial if head.len() > MOST => return Err(format!("its head is larger than {MOST} bytes")),
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete(length) => match answer.code {
                Some(100..=199) => drop(head.drain(..length)),
                code => return Ok(code),
            },
        }
    }
}

fn host(at: SocketAddr, page: &Page) -> String {
    page.host.as_deref().map_or_else(|| at.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use tokio::net::TcpListener;

    use super::*;

    fn check(question: Question, within: Duration) -> Active {
        let one = NonZeroU32::MIN;
        Active { question, interval: Duration::from_secs(1), timeout: within, healthy: one, unhealthy: one }
    }

    fn page() -> Page {
        Page { path: "/ready".into(), host: Some("app.example".into()) }
    }

    /// What a server that answers a request with these bytes is found to be, and what it was asked.
    async fn found(question: Question, answer: &'static str) -> (Result<(), &'static str>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let check = check(question, Duration::from_secs(20));
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") && socket.read_buf(&mut asked).await.unwrap() > 0 {}
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        };
        let (found, asked) = tokio::join!(ask(at, None, &check), serve);
        (found.map_err(|fault| fault.token()), asked)
    }

    #[tokio::test]
    async fn http_is_well_with_2xx_and_3xx() {
        let question = || Question::Http(page());
        let (well, asked) = found(question(), "HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(well, Ok(()));
        assert!(asked.starts_with("GET /ready HTTP/1.1\r\nHost: app.example\r\n"), "{asked}");
        for (answer, expected) in [
            ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", Ok(())),
            ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(())),
            ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 500 No\r\n\r\n", Err("status")),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Err("status")),
            ("HTTP/1.1 200", Err("closed")),
            ("SSH-2.0-OpenSSH\r\n", Err("invalid_answer")),
        ] {
            assert_eq!(found(question(), answer).await.0, expected, "{answer}");
        }
    }

    #[tokio::test]
    async fn a_websocket_is_well_only_with_101_and_the_right_hash() {
        let question = || Question::WebSocket { page: page(), ping: false };
        let (answer, asked) = found(question(), "HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(answer, Err("status"));
        assert!(asked.starts_with("GET /ready HTTP/1.1\r\nHost: app.example\r\n") && asked.contains("Sec-WebSocket-Key: "), "{asked}");
        let forged = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
        assert_eq!(found(question(), forged).await.0, Err("invalid_answer"));
        assert_eq!(found(question(), "").await.0, Err("closed"));
    }

    #[tokio::test]
    async fn a_websocket_that_is_well_is_told_goodbye() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let check = check(Question::WebSocket { page: Page { path: "/".into(), host: None }, ping: false }, Duration::from_secs(20));
        let serve = async {
            let mut socket = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
            socket.next().await
        };
        let (found, said) = tokio::join!(ask(at, None, &check), serve);
        found.unwrap();
        match said {
            Some(Ok(tungstenite::Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Normal),
            other => panic!("expected Close, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_shakes_hands_and_answers_no_ping_is_not_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let asked = |within| {
            let question = Question::WebSocket { page: page(), ping: true };
            async move { ask(at, None, &check(question, within)).await.map_err(|fault| fault.token()) }
        };
        let shaken = async || tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await;
        let alive = async {
            let mut socket = shaken().await.unwrap();
            // What it tells every client is no Pong, nor is one that nobody asked for.
            socket.send(Message::text("welcome")).await.unwrap();
            socket.send(Message::Pong(Bytes::from_static(b"keepalive"))).await.unwrap();
            while socket.next().await.is_some_and(|message| message.is_ok()) {}
        };
        assert_eq!(tokio::join!(asked(Duration::from_secs(20)), alive).0, Ok(()));
        assert_eq!(tokio::join!(asked(Duration::from_secs(20)), async { drop(shaken().await) }).0, Err("closed"));
        let (hung, _open) = tokio::join!(asked(Duration::from_millis(100)), shaken());
        assert_eq!(hung, Err("no_answer"));
    }

    #[tokio::test]
    async fn tcp_is_well_when_it_opens_and_silence_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        assert!(ask(at, None, &check(Question::Tcp, Duration::from_secs(20))).await.is_ok());
        // Nobody answers: the kernel alone accepted.
        let silent = check(Question::Http(page()), Duration::from_millis(20));
        assert_eq!(ask(at, None, &silent).await.unwrap_err().token(), "no_answer");
        drop(listener);
        let refused = ask(at, None, &check(Question::Tcp, Duration::from_secs(20))).await.unwrap_err();
        assert!(refused.token() == "refused" && !refused.is_ours());
    }
}
