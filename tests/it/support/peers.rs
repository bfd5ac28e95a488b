//! Servers behind the gateway: one that speaks WebSocket, and one that does byte by byte what a test tells it.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

/// A WebSocket server that greets with its name, then echoes. Ends with the test.
pub struct Echo {
    /// Where it listens.
    pub at: SocketAddr,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Echo {
    /// Starts one.
    pub async fn start(name: &'static str) -> Self {
        Self::over(async move |socket| Some(socket), name).await
    }

    /// Starts one that speaks TLS.
    pub async fn secured(name: &'static str, config: Arc<ServerConfig>) -> Self {
        let acceptor = TlsAcceptor::from(config);
        Self::over(move |socket| acceptor.clone().accept(socket).map(Result::ok), name).await
    }

    async fn over<S, F>(shake: impl Fn(TcpStream) -> F + Send + 'static, name: &'static str) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let counted = open.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (open, shaken) = (counted.clone(), shake(socket));
                tokio::spawn(async move {
                    let Some(socket) = shaken.await else { return };
                    open.fetch_add(1, Ordering::SeqCst);
                    echo(name, socket).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { at, open, task }
    }

    /// How many sockets it has open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(name: &str, socket: impl AsyncRead + AsyncWrite + Unpin) {
    #[allow(clippy::result_large_err)] // the library's own type
    let choose = |request: &Request, mut response: Response| {
        if let Some(offers) = request.headers().get("sec-websocket-protocol") {
            let first = offers.to_str().unwrap().split(',').next().unwrap().trim().to_owned();
            response.headers_mut().insert("sec-websocket-protocol", first.parse().unwrap());
        }
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(socket, choose).await else { return };
    if socket.send(Message::text(name)).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// A server of which the test handles every connection itself.
pub struct Scripted {
    /// Where it listens.
    pub at: SocketAddr,
    accepted: mpsc::UnboundedReceiver<TcpStream>,
    task: JoinHandle<()>,
}

impl Scripted {
    /// Starts one.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (send, accepted) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if send.send(socket).is_err() {
                    return;
                }
            }
        });
        Self { at, accepted, task }
    }

    /// The next connection that the gateway opens.
    pub async fn accept(&mut self) -> TcpStream {
        super::soon("a connection to the backend", self.accepted.recv()).await.unwrap()
    }

    /// Whether a connection was opened that nobody took yet.
    pub fn was_dialled(&mut self) -> bool {
        !self.accepted.is_empty()
    }

    /// Runs the same script on every connection, and gives back where it listens.
    pub fn each<F: Future<Output = ()> + Send + 'static>(mut self, script: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> SocketAddr {
        let at = self.at;
        tokio::spawn(async move {
            while let Some(socket) = self.accepted.recv().await {
                tokio::spawn(script(socket));
            }
        });
        at
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        // The listener lives on only as long as the test holds it; `each` moved it into a task of the test's runtime.
        self.task.abort();
    }
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
