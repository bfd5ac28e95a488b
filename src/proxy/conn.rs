//! One client connection from accept to its protocol: PROXY header, TLS, then HTTP or layer 4.
//!
//! It never knows requests or routes. `listen` starts it, `http` and `tcp` take over from it.
//!
//! Until its first byte a connection is a socket, a timer and a small task; buffers come with the bytes.

use std::{
    future::{Future, poll_fn},
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::server::TlsStream;

use super::{
    Proxy, ProxyProtocol, Settings,
    client_auth::{self, Verified},
    gate::Permit,
    guarded::{Deadlines, Guarded},
    hello::{ClientHello, HelloError, HelloReader},
    http,
    proxy_protocol::{self, Start, canonical},
    tcp,
    tls::{Terminator, Terms},
};
use crate::{
    live::ServedTcp,
    model::{table::TcpPort, tcp::TcpTls},
    tunnel::{self, Socket},
};

/// Who is at the other end of a connection, and how it came in.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The client: what the PROXY header of a trusted peer says, else the socket's peer. Never an IPv4-mapped address.
    pub peer: SocketAddr,
    /// The other end of the socket.
    pub socket_peer: SocketAddr,
    /// What the client connected to: the PROXY header's destination, else our end of the socket.
    pub local: SocketAddr,
    /// The name of the listener.
    pub listener: Arc<str>,
    /// The port to tell clients: `--public-http-port` or `--public-https-port`, else the one bound.
    pub public_port: u16,
    /// The port of the same listener's plain HTTP to tell clients, if it has one.
    pub public_http_port: Option<u16>,
    /// The same of its HTTPS.
    pub public_https_port: Option<u16>,
    /// Whether it came over TLS that we ended.
    pub secure: bool,
    /// The name in the ClientHello, in lower case.
    pub sni: Option<Arc<str>>,
    /// What its certificate was verified by, where one was asked for.
    pub verified: Option<Arc<Verified>>,
    /// Counts the connection as open: keep it until the connection has ended, and hand it on to its tunnel.
    pub permit: tunnel::Permit,
}

/// A port that clients come in by.
#[derive(Debug)]
pub struct Entrance {
    /// The name of its listener; empty for a port of layer 4.
    pub listener: Arc<str>,
    /// What is spoken there.
    pub speaks: Speaks,
    /// [`ClientInfo::public_port`].
    pub public_port: u16,
    /// [`ClientInfo::public_http_port`].
    pub public_http_port: Option<u16>,
    /// [`ClientInfo::public_https_port`].
    pub public_https_port: Option<u16>,
}

/// What is spoken at a port.
#[derive(Debug)]
pub enum Speaks {
    /// HTTP.
    Http,
    /// TLS: to us, or to a backend of layer 4.
    Https(Terminator),
    /// What the layer-4 routes of this port say.
    Tcp(u16, Terminator),
}

/// Why a connection ended before its protocol began.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the client has too many connections")]
    PerClientLimit,
    #[error("the client sent nothing in time")]
    FirstByteTimeout,
    #[error("the client went away")]
    Gone,
    #[error("the PROXY header is missing, broken or late, or its sender is not among the trusted proxies")]
    ProxyHeader,
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("the TLS handshake was not done in time")]
    TlsTimeout,
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    #[error("no layer-4 route takes it")]
    NoRoute,
}

impl Refused {
    /// The label of `connections_refused`.
    fn token(&self) -> &'static str {
        match self {
            Refused::PerClientLimit => "per_client_limit",
            Refused::FirstByteTimeout => "first_byte_timeout",
            Refused::Gone => "client_gone",
            Refused::ProxyHeader => "proxy_header",
            Refused::Hello(HelloError::NotTls) => "not_tls",
            Refused::Hello(HelloError::Malformed | HelloError::TooLong) => "client_hello",
            Refused::TlsTimeout => "tls_timeout",
            Refused::Tls(error) => client_auth::token(error),
            Refused::NoRoute => "no_route",
        }
    }
}

/// A browser that was sent to the HTTPS port with http:// should say what went wrong.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
Content-Length: 33\r\n\r\nthis port speaks HTTPS, not HTTP\n";

/// What the first read takes: a request's head or a ClientHello is rarely longer.
const FIRST: usize = 4096;

/// Serves a client from its accepted socket on, to its end or until a tunnel takes it over.
pub async fn serve(proxy: Arc<Proxy>, entrance: Arc<Entrance>, mut socket: TcpStream, peer: SocketAddr, permit: Permit) {
    let refused = match arrive(&proxy, &entrance, &mut socket, peer, permit).await {
        // Boxed, so that a client that sends nothing does not pay for what could follow.
        Ok(arrived) => proceed(Arc::clone(&proxy), entrance, socket, arrived).await,
        Err(refused) => Err(refused),
    };
    if let Err(refused) = refused {
        proxy.metrics.connections_refused.inc(refused.token());
        tracing::debug!(client = %peer, "connection refused: {refused}");
    }
}

/// A client that may be served.
struct Arrived {
    peer: SocketAddr,
    permit: Permit,
    /// The first it sent; empty where the backend may be the one to speak first.
    read: BytesMut,
}

async fn arrive(
    proxy: &Proxy,
    entrance: &Entrance,
    socket: &mut TcpStream,
    peer: SocketAddr,
    mut permit: Permit,
) -> Result<Arrived, Refused> {
    let settings = &proxy.settings;
    let peer = canonical(peer);
    let introduced = settings.proxy_protocol != ProxyProtocol::Off;
    // A trusted proxy stands for many clients: those are counted once it has said who they are.
    let stands_for_others = introduced && settings.trusts(peer.ip());
    if !stands_for_others && !permit.count_for(peer.ip()) {
        return Err(Refused::PerClientLimit);
    }
    let read = if introduced || entrance.client_speaks_first(proxy) {
        timeout(settings.header_timeout, poll_fn(|cx| poll_first(socket, cx))).await.unwrap_or(Err(Refused::FirstByteTimeout))?
    } else {
        BytesMut::new()
    };
    Ok(Arrived { peer, permit, read })
}

/// Reads through the stack: no buffer is held while there is nothing to read. (tokio takes an accepted socket for readable, so waiting
/// until it is tells nothing.)
fn poll_first(socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<Result<BytesMut, Refused>> {
    let mut first = [MaybeUninit::uninit(); FIRST];
    let mut first = ReadBuf::uninit(&mut first);
    match ready!(Pin::new(socket).poll_read(cx, &mut first)) {
        Ok(()) if !first.filled().is_empty() => Poll::Ready(Ok(BytesMut::from(first.filled()))),
        _ => Poll::Ready(Err(Refused::Gone)),
    }
}

fn proceed(
    proxy: Arc<Proxy>,
    entrance: Arc<Entrance>,
    socket: TcpStream,
    arrived: Arrived,
) -> Pin<Box<dyn Future<Output = Result<(), Refused>> + Send>> {
    let Arrived { peer, permit, read } = arrived;
    match (&entrance.speaks, proxy.settings.proxy_protocol) {
        // The common way has the small future.
        (Speaks::Http, ProxyProtocol::Off) => Box::pin(async move {
            let client = entrance.client(peer, local_of(&socket, peer), permit);
            speak_http(proxy, client, Socket::Tcp(socket), read.freeze()).await;
            Ok(())
        }),
        _ => Box::pin(Opened { proxy, entrance, socket, read }.run(peer, permit)),
    }
}

/// Our end of a socket; one that is gone already has none, and nobody will ask.
fn local_of(socket: &TcpStream, peer: SocketAddr) -> SocketAddr {
    socket.local_addr().map_or(peer, canonical)
}

impl Entrance {
    fn client_speaks_first(&self, proxy: &Proxy) -> bool {
        match &self.speaks {
            Speaks::Http | Speaks::Https(_) => true,
            Speaks::Tcp(port, _) => proxy.live.load().router.tcp_needs_sni(&TcpPort::Number(*port)),
        }
    }

    fn client(&self, peer: SocketAddr, local: SocketAddr, permit: Permit) -> ClientInfo {
        ClientInfo {
            peer,
            socket_peer: peer,
            local,
            listener: Arc::clone(&self.listener),
            public_port: self.public_port,
            public_http_port: self.public_http_port,
            public_https_port: self.public_https_port,
            secure: false,
            sni: None,
            verified: None,
            permit: Arc::new(permit),
        }
    }
}

async fn speak_http(proxy: Arc<Proxy>, client: ClientInfo, socket: Socket, read: Bytes) {
    let _serving = proxy.serving.token();
    let guarded = Guarded::new(socket, read, Deadlines::of(&proxy.settings));
    http::serve(proxy, client, guarded).await;
}

impl Deadlines {
    fn of(settings: &Settings) -> Self {
        Self {
            head: settings.header_timeout,
            body: settings.body_timeout,
            send: settings.send_timeout,
            idle: settings.keepalive_timeout,
            late_head: if settings.refusal_header { super::guarded::LATE_HEAD } else { super::guarded::LATE_HEAD_BARE },
        }
    }
}

/// A connection whose first bytes we read ourselves.
struct Opened {
    proxy: Arc<Proxy>,
    entrance: Arc<Entrance>,
    socket: TcpStream,
    /// Read, and not yet handed on.
    read: BytesMut,
}

impl Opened {
    async fn run(mut self, socket_peer: SocketAddr, mut permit: Permit) -> Result<(), Refused> {
        let (mut peer, mut local) = (socket_peer, local_of(&self.socket, socket_peer));
        if self.proxy.settings.proxy_protocol != ProxyProtocol::Off {
            let trusted = self.proxy.settings.trusts(socket_peer.ip());
            if let Some(introduced) = self.introduction(trusted).await? {
                (peer, local) = introduced;
            }
            if trusted && !permit.count_for(peer.ip()) {
                return Err(Refused::PerClientLimit);
            }
        }
        let client = ClientInfo { socket_peer, ..self.entrance.client(peer, local, permit) };
        let entrance = Arc::clone(&self.entrance);
        match &entrance.speaks {
            Speaks::Http => self.http(client).await,
            Speaks::Https(terminator) => self.https(client, terminator).await,
            Speaks::Tcp(port, terminator) => self.tcp(client, *port, terminator).await,
        }
    }

    async fn http(mut self, client: ClientInfo) -> Result<(), Refused> {
        if self.read.is_empty() {
            self.more(Instant::now() + self.proxy.settings.header_timeout, Refused::FirstByteTimeout).await?;
        }
        speak_http(self.proxy, client, Socket::Tcp(self.socket), self.read.freeze()).await;
        Ok(())
    }

    async fn https(mut self, mut client: ClientInfo, terminator: &Terminator) -> Result<(), Refused> {
        let by = Instant::now() + self.proxy.settings.tls_handshake_timeout;
        let hello = match self.hello(by).await {
            Err(Refused::Hello(HelloError::NotTls)) if self.read.first().is_some_and(u8::is_ascii_uppercase) => {
                return self.refuse_plain_http().await;
            }
            hello => hello?,
        };
        client.sni = hello.name.map(Arc::from);
        match self.https_way(&client, terminator)? {
            Way::Tcp(served, terms) => self.join(client, &served, terms, by).await,
            Way::Terminated(terms) => {
                let Self { proxy, socket, read, .. } = self;
                // Boxed: what a handshake needs is not held by the connection after it.
                let mut tls = Box::pin(handshake(&proxy, terms, socket, read, by, &mut client)).await?;
                // hyper reserves its buffer at its first read.
                match timeout(proxy.settings.header_timeout, tls.fill_buf()).await {
                    Ok(Ok([]) | Err(_)) => return Err(Refused::Gone),
                    Ok(Ok(_)) => {}
                    Err(_) => return Err(Refused::FirstByteTimeout),
                }
                speak_http(proxy, client, Socket::Tls(tls), Bytes::new()).await;
                Ok(())
            }
        }
    }

    fn https_way(&self, client: &ClientInfo, terminator: &Terminator) -> Result<Way, Refused> {
        let snapshot = self.proxy.live.load();
        let (router, name) = (&snapshot.router, client.sni.as_deref());
        let terms = |tls| terminator.terms(tls).map_err(|error| Refused::Tls(io::Error::other(error)));
        Ok(match router.tcp(&TcpPort::Https(Arc::clone(&client.listener)), name) {
            Some(route) => Way::Tcp(Arc::clone(&snapshot.tcp[route]), terms(router.tcp_tls(route))?),
            None => Way::Terminated(terms(router.host_tls(&client.listener, name))?),
        })
    }

    async fn tcp(mut self, mut client: ClientInfo, port: u16, terminator: &Terminator) -> Result<(), Refused> {
        let by = Instant::now() + self.proxy.settings.tls_handshake_timeout;
        let port = TcpPort::Number(port);
        if self.proxy.live.load().router.tcp_needs_sni(&port) {
            client.sni = self.hello(by).await?.name.map(Arc::from);
        }
        let (served, terms) = {
            let snapshot = self.proxy.live.load();
            let route = snapshot.router.tcp(&port, client.sni.as_deref()).ok_or(Refused::NoRoute)?;
            let terms = terminator.terms(snapshot.router.tcp_tls(route)).map_err(|error| Refused::Tls(io::Error::other(error)))?;
            (Arc::clone(&snapshot.tcp[route]), terms)
        };
        self.join(client, &served, terms, by).await
    }

    async fn join(self, mut client: ClientInfo, served: &ServedTcp, terms: Terms, by: Instant) -> Result<(), Refused> {
        let Self { proxy, socket, read, .. } = self;
        // Before TLS, which is most of what a connection costs.
        let Some(slot) = tcp::admit(served, &client) else { return Ok(()) };
        if let TcpTls::Terminate(_) = served.route.tls {
            let tls = Box::pin(handshake(&proxy, terms, socket, read, by, &mut client)).await?;
            tcp::serve(&proxy, served, client, slot, Socket::Tls(tls), Bytes::new()).await;
        } else {
            tcp::serve(&proxy, served, client, slot, Socket::Tcp(socket), read.freeze()).await;
        }
        Ok(())
    }

    /// Whom the PROXY header speaks for, where there is one.
    async fn introduction(&mut self, trusted: bool) -> Result<Option<(SocketAddr, SocketAddr)>, Refused> {
        let settings = &self.proxy.settings;
        let optional = settings.proxy_protocol == ProxyProtocol::Optional;
        let by = Instant::now() + settings.header_timeout;
        loop {
            match proxy_protocol::parse(&self.read) {
                Start::Header(length, addresses) if trusted => {
                    self.read.advance(length);
                    return Ok(addresses);
                }
                Start::Other if optional => return Ok(None),
                Start::Unknown => self.more(by, Refused::ProxyHeader).await?,
                Start::Other | Start::Header(..) | Start::Malformed => return Err(Refused::ProxyHeader),
            }
        }
    }

    /// The ClientHello, which stays in `read`.
    async fn hello(&mut self, by: Instant) -> Result<ClientHello, Refused> {
        let mut reader = HelloReader::default();
        loop {
            if let Some(hello) = reader.advance(&self.read)? {
                return Ok(hello);
            }
            self.more(by, Refused::TlsTimeout).await?;
        }
    }

    async fn refuse_plain_http(mut self) -> Result<(), Refused> {
        if self.socket.write_all(PLAIN_HTTP).await.is_ok() {
            Guarded::new(self.socket, Bytes::new(), Deadlines::of(&self.proxy.settings)).close().await;
        }
        Err(HelloError::NotTls.into())
    }

    /// Reads some more. `late` is what is wrong if nothing comes in time.
    async fn more(&mut self, by: Instant, late: Refused) -> Result<(), Refused> {
        // A ClientHello or a PROXY header in one piece; more of it is read in a second turn.
        const ROOM: usize = 2048;
        self.read.reserve(ROOM);
        match timeout_at(by, self.socket.read_buf(&mut self.read)).await {
            Ok(Ok(0) | Err(_)) => Err(Refused::Gone),
            Ok(Ok(_)) => Ok(()),
            Err(_) => Err(late),
        }
    }
}

/// Who a connection to an HTTPS port is for.
enum Way {
    /// For us, on the terms of its host.
    Terminated(Terms),
    /// For a layer-4 route.
    Tcp(Arc<ServedTcp>, Terms),
}

/// Ends TLS, and notes in `client` who it is.
async fn handshake(
    proxy: &Proxy,
    terms: Terms,
    socket: TcpStream,
    read: BytesMut,
    by: Instant,
    client: &mut ClientInfo,
) -> Result<Box<TlsStream<TcpStream>>, Refused> {
    let tls = match timeout_at(by, terms.accept(socket, &read)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err((error, socket))) => {
            // The alert says which certificate is missing or wrong. What the client has sent meanwhile would turn it into a reset.
            if let Some(socket) = socket {
                Guarded::new(socket, Bytes::new(), Deadlines::of(&proxy.settings)).close().await;
            }
            return Err(Refused::Tls(error));
        }
        Err(_) => return Err(Refused::TlsTimeout),
    };
    let verified = terms.verified(&tls).map_err(|error| Refused::Tls(io::Error::other(rustls::Error::from(error))))?;
    client.secure = true;
    client.verified = verified.map(Arc::new);
    Ok(Box::new(tls))
}
