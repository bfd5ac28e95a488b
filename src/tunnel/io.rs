//! The two ends of a tunnel: a TCP socket, bare or under TLS, as one type of known size.
//!
//! It never knows what the bytes mean. `proxy` makes sockets and hands them to `tunnel::open`; `relay` moves the bytes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

/// One end. An enum and not a trait object: a bare socket costs no allocation, and `splice` can see that it is bare.
#[derive(Debug)]
pub enum Socket {
    /// A bare TCP socket.
    Tcp(TcpStream),
    /// TLS that we terminate. Boxed: it is 1 KiB, and most sockets are bare.
    Tls(Box<server::TlsStream<TcpStream>>),
    /// TLS to a backend, whose client we are.
    BackendTls(Box<client::TlsStream<TcpStream>>),
    /// An in-memory stream: simulations of whole tunnels pause time, which sockets can't.
    Memory(tokio::io::DuplexStream),
}

impl Socket {
    /// The TCP socket below.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Socket::Tcp(stream) => Some(stream),
            Socket::Tls(stream) => Some(stream.get_ref().0),
            Socket::BackendTls(stream) => Some(stream.get_ref().0),
            Socket::Memory(_) => None,
        }
    }

    /// Whether the bytes are encrypted on the wire.
    pub fn is_tls(&self) -> bool {
        matches!(self, Socket::Tls(_) | Socket::BackendTls(_))
    }
}

/// Calls a method of the stream inside, pinned.
macro_rules! forward {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Socket::Tls(stream) => Pin::new(&mut **stream).$method($($argument),*),
            Socket::BackendTls(stream) => Pin::new(&mut **stream).$method($($argument),*),
            Socket::Memory(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, poll_write(cx, bytes))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        forward!(self, poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Socket::Tcp(stream) => stream.is_write_vectored(),
            Socket::Tls(stream) => stream.is_write_vectored(),
            Socket::BackendTls(stream) => stream.is_write_vectored(),
            Socket::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_shutdown(cx))
    }
}
