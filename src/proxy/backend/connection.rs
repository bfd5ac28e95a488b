//! One connection to a backend: what was read from it and not yet used, and how more is read.
//!
//! It never knows what a request is for. `forward` and `upgrade` drive it, `answer` reads bodies from it, `pool` keeps it.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::{
    Fault,
    head::{self, Answer},
};
use crate::{dial::Client, tunnel::Socket};

/// [`Connection::client`] of one without TLS: clients count from 1.
pub(super) const PLAIN: u32 = 0;

/// What one read takes at most. It is read into a scratch of the thread and copied out to its size: a connection that waits holds no buffer.
const SCRATCH: usize = 64 * 1024;
/// Most 1xx answers before the final one.
const MOST_INTERIM: usize = 8;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// A connection to a backend.
#[derive(Debug)]
pub struct Connection {
    stream: Socket,
    address: SocketAddr,
    /// The number of the TLS client that it came by; 0 is plain.
    pub(super) client: u32,
    /// Read and not yet used.
    pub(super) ahead: Bytes,
    /// It has answered a request before this one: it may have been closed at the other end meanwhile.
    pub(super) reused: bool,
    /// Something was read from it since it was there.
    heard: bool,
}

impl Connection {
    /// Takes a socket that was just connected to `address`.
    pub fn new(stream: TcpStream, address: SocketAddr) -> Self {
        Self { stream: Socket::Tcp(stream), address, client: PLAIN, ahead: Bytes::new(), reused: false, heard: false }
    }

    /// Takes a connection over which `client` has just shaken hands.
    pub fn secured(stream: Box<TlsStream<TcpStream>>, address: SocketAddr, client: &Client) -> Self {
        Self { stream: Socket::BackendTls(stream), address, client: client.number, ahead: Bytes::new(), reused: false, heard: false }
    }

    /// Where it was connected to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it has answered a request before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Whether no byte ever came from the other end.
    pub fn is_silent(&self) -> bool {
        !self.heard
    }

    /// The socket, and what was read from it and not used.
    pub fn into_parts(self) -> (Socket, Bytes) {
        (self.stream, self.ahead)
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Writes what the socket takes at once. With TLS it may be on its way only after [`Connection::poll_flush`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    /// Sends what TLS has taken and the socket has not.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Reads once, behind what is there already. `Ok(0)` is the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        BUFFER.with_borrow_mut(|scratch| {
            let mut scratch = ReadBuf::new(scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch)) {
                // TLS without close_notify is how many servers go; it is a FIN all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                read => read?,
            }
            let read = scratch.filled();
            self.heard |= !read.is_empty();
            self.ahead = if self.ahead.is_empty() { Bytes::copy_from_slice(read) } else { [&self.ahead, read].concat().into() };
            Poll::Ready(Ok(read.len()))
        })
    }

    /// Reads the next head, interim or final. Cancel-safe: what was read stays with the connection.
    pub async fn read_head(&mut self) -> Result<Answer, Fault> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// Reads the final head; at most 8 interim ones before it are dropped, as is anything said before a 101. Cancel-safe but for their count.
    pub async fn read_final_head(&mut self) -> Result<Answer, Fault> {
        for _ in 0..=MOST_INTERIM {
            let answer = self.read_head().await?;
            if !answer.status.is_informational() || answer.status == http::StatusCode::SWITCHING_PROTOCOLS {
                return Ok(answer);
            }
        }
        Err(Fault::Invalid("it sends interim answers without end"))
    }

    /// See [`Connection::read_head`].
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Fault>> {
        loop {
            if !self.ahead.is_empty()
                && let Some((answer, length)) = head::parse(&self.ahead)?
            {
                bytes::Buf::advance(&mut self.ahead, length);
                return Poll::Ready(Ok(answer));
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(Fault::Closed(io::ErrorKind::UnexpectedEof.into()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Fault::Closed(error))),
            }
        }
    }

    /// Whether it can carry another request: nothing was read that nobody asked for, and the other end has not closed it.
    pub(super) fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        self.ahead.is_empty() && self.poll_fill(cx).is_pending()
    }
}

#[cfg(test)]
impl Connection {
    /// Waits until there is something to read.
    pub(super) async fn stream_readable(&self) {
        self.stream.tcp().unwrap().readable().await.unwrap();
    }
}
