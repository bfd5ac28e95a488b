//! Clients in front of the gateway: raw bytes, plain HTTP, and WebSockets.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::soon;

/// A WebSocket to the gateway.
pub type Socket = WebSocketStream<TcpStream>;

/// Opens `ws://host/path` at this address.
pub async fn websocket(at: SocketAddr, url: &str) -> Socket {
    let socket = TcpStream::connect(at).await.unwrap();
    soon("the handshake", client_async(url, socket)).await.unwrap_or_else(|error| panic!("{url}: {error}")).0
}

/// The next message, which must be text.
pub async fn text(socket: &mut Socket) -> String {
    match soon("a message", socket.next()).await {
        Some(Ok(Message::Text(text))) => text.to_string(),
        other => panic!("expected text, got {other:?}"),
    }
}

/// Both ways are open.
pub async fn still_echoes(socket: &mut Socket) {
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(text(socket).await, "still here");
}

/// The code of the Close that comes next, other messages passed over.
pub async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        match soon("a Close", socket.next()).await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(Message::Close(None))) => return 1005,
            Some(Ok(_)) => {}
            other => panic!("expected Close, got {other:?}"),
        }
    }
}

/// Sends these bytes and reads until the gateway ends the connection.
pub async fn raw(at: SocketAddr, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(at).await.unwrap();
    socket.write_all(request).await.unwrap();
    rest(&mut socket).await
}

/// What comes until the other side ends the connection, be it by a reset.
pub async fn rest(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = soon("the end of the connection", socket.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One GET with `Connection: close`: the whole answer.
pub async fn get(at: SocketAddr, host: &str, path: &str) -> String {
    raw(at, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await
}

/// The status of an answer.
pub fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// A header section and nothing after it, with the empty line.
pub async fn head(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let byte =
            soon("a head", socket.read_u8()).await.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)));
        bytes.push(byte);
    }
    String::from_utf8(bytes).unwrap()
}
