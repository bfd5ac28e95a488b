//! One WebSocket server: an echo, or a chat room.
//!
//! A plain client gets messages as they were sent. A client that offers [`SUBPROTOCOL`] (the page) gets them as JSON with the
//! server's name, and may ask for its own socket's end to see what a client sees then. Every answer, a 101 too, has the name in `Server`.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SERVER, UPGRADE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::broadcast,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

/// What the page speaks.
pub(super) const SUBPROTOCOL: &str = "demo.carrick.dev";

/// More than a person's chat: a reader that is further behind misses messages.
const ROOM: usize = 256;

/// Who hears what is said to a server.
#[derive(Clone)]
pub(super) struct Room {
    server: Arc<str>,
    /// Absent for an echo: only the speaker hears.
    everybody: Option<broadcast::Sender<Message>>,
}

impl Room {
    /// Everybody hears himself.
    pub(super) fn echo(server: &str) -> Self {
        Self { server: server.into(), everybody: None }
    }

    /// Everybody hears everybody.
    pub(super) fn chat(server: &str) -> Self {
        Self { server: server.into(), everybody: Some(broadcast::Sender::new(ROOM)) }
    }
}

/// Serves until dropped, and every connection with it.
pub(super) async fn serve(listener: TcpListener, room: Room) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => { connections.spawn(connection(socket, room.clone())); }
                // Out of descriptors, most likely: the proxy in this process gives some back.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(socket: TcpStream, room: Room) {
    let _ = socket.set_nodelay(true);
    // From here on, so that whoever has seen the 101 misses nothing.
    let heard = room.everybody.as_ref().map(broadcast::Sender::subscribe);
    let (upgrades, mut upgraded) = tokio::sync::mpsc::channel(1);
    let room = &room;
    let service = service_fn(|request| {
        let upgrades = upgrades.clone();
        let answer = answer(request, room);
        async move {
            let (mut answer, upgrade) = answer;
            // A host's name always is a field value; a --name may not be.
            if let Ok(server) = HeaderValue::from_str(&room.server) {
                answer.headers_mut().insert(SERVER, server);
            }
            if let Some(upgrade) = upgrade {
                let _ = upgrades.send(upgrade).await;
            }
            Ok::<_, Infallible>(answer)
        }
    });
    if http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await.is_err() {
        return;
    }
    if let Ok((upgrade, dialect)) = upgraded.try_recv()
        && let Ok(upgraded) = upgrade.await
    {
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        // A peer that went away is no event here: the tunnel's log line tells of it.
        let _ = talk(socket, room, heard, dialect).await;
    }
}

/// How messages look to a client.
#[derive(Clone, Copy)]
enum Dialect {
    Plain,
    Page,
}

fn answer(mut request: Request<Incoming>, room: &Room) -> (Response<Full<Bytes>>, Option<(OnUpgrade, Dialect)>) {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).filter(|_| request.headers().contains_key(UPGRADE));
    let Some(accept) = key.map(|key| derive_accept_key(key.as_bytes())) else {
        let text = format!("{} answers {} {}\n", room.server, request.method(), request.uri().path());
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        return (response, None);
    };
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let page = offers.flat_map(|value| value.split(',')).any(|offer| offer.trim() == SUBPROTOCOL);
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if page {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    let dialect = if page { Dialect::Page } else { Dialect::Plain };
    (response, Some((hyper::upgrade::on(&mut request), dialect)))
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn talk(
    mut socket: Socket,
    room: &Room,
    mut heard: Option<broadcast::Receiver<Message>>,
    dialect: Dialect,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    if let Dialect::Page = dialect {
        socket.send(Message::text(json!({"server": &*room.server}).to_string())).await?;
    }
    loop {
        let said = tokio::select! {
            said = socket.next() => match said {
                Some(said) => said?,
                None => return Ok(()),
            },
            Some(message) = hear(&mut heard) => {
                socket.send(spoken(message, &room.server, dialect)).await?;
                continue;
            }
        };
        // Pings are answered, and a Close echoed, by the library.
        if !said.is_text() && !said.is_binary() {
            continue;
        }
        let message = match (dialect, &said) {
            (Dialect::Page, Message::Text(text)) => match Wish::read(text) {
                Wish::Say(text) => Message::text(text),
                Wish::Close => {
                    let reason = format!("{} was asked to close", room.server);
                    socket.close(Some(CloseFrame { code: CloseCode::Library(4000), reason: reason.into() })).await?;
                    continue;
                }
                Wish::Vanish => return Ok(()),
            },
            _ => said,
        };
        match &room.everybody {
            // Nobody hears only when the last one has just left.
            Some(everybody) => drop(everybody.send(message)),
            None => socket.send(spoken(message, &room.server, dialect)).await?,
        }
    }
}

/// The next message of the room; never for an echo.
async fn hear(heard: &mut Option<broadcast::Receiver<Message>>) -> Option<Message> {
    loop {
        match heard {
            None => std::future::pending().await,
            Some(heard) => match heard.recv().await {
                Ok(message) => return Some(message),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            },
        }
    }
}

fn spoken(message: Message, server: &str, dialect: Dialect) -> Message {
    match (dialect, message) {
        (Dialect::Page, Message::Text(text)) => Message::text(json!({"server": server, "text": text.as_str()}).to_string()),
        (_, message) => message,
    }
}

/// What the page may send.
enum Wish {
    Say(String),
    /// The server closes, with 4000.
    Close,
    /// The server's end of the connection goes without a Close, as when its process dies.
    Vanish,
}

impl Wish {
    fn read(text: &str) -> Self {
        let wish: Value = serde_json::from_str(text).unwrap_or_default();
        match wish["do"].as_str() {
            Some("close") => Wish::Close,
            Some("vanish") => Wish::Vanish,
            _ => Wish::Say(wish["text"].as_str().unwrap_or(text).to_owned()),
        }
    }
}
