//! The deadlines of an HTTP connection, and its goodbye: the one wrapper between a socket and hyper.
//!
//! It never knows what is said, only which [`Phase`] the service says the exchange is in. `conn` puts it on; `http` sets phases, and takes it
//! off when a connection is upgraded.
//!
//! hyper's own `header_read_timeout` runs through idle keep-alive, closes without a 408, and there is none for bodies and stalled readers.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// What is awaited from the client. The wait for the very first byte is over before a connection is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The rest of a head: all of it before the deadline, else 408.
    Head,
    /// More of a body: each piece before the deadline, else the read fails with `TimedOut`.
    Body,
    /// Nothing: the answer is being made or sent.
    Wait,
    /// The next request: the connection ends quietly at the deadline, and its first byte begins [`Phase::Head`].
    Idle,
}

/// Tells the guard of a connection what the service awaits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PhaseHandle(Arc<AtomicU32>);

impl PhaseHandle {
    const STEP: u32 = 4;

    /// Begins a phase; the same one again begins anew.
    pub fn set(&self, phase: Phase) {
        let turn = self.0.load(Relaxed) & !(Self::STEP - 1);
        self.0.store(turn.wrapping_add(Self::STEP) | phase as u32, Relaxed);
    }

    /// The phase it is in.
    pub fn get(&self) -> Phase {
        match self.turn() % Self::STEP {
            0 => Phase::Head,
            1 => Phase::Body,
            2 => Phase::Wait,
            _ => Phase::Idle,
        }
    }

    /// Another number for each phase begun.
    fn turn(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// How long each wait may last, and what is said when a head is late.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// A whole head.
    pub head: Duration,
    /// Each piece of a body.
    pub body: Duration,
    /// A reader that takes nothing.
    pub send: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// The whole answer to a client whose head is late.
    pub late_head: &'static [u8],
}

/// Answers a late head.
pub const LATE_HEAD: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
X-Carrick-Reason: head_timeout\r\nContent-Length: 40\r\n\r\nthe request head did not arrive in time\n";
/// The same with `--refusal-header off`.
pub const LATE_HEAD_BARE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
Content-Length: 40\r\n\r\nthe request head did not arrive in time\n";

/// Most that is read and thrown away after our goodbye, so that a reset does not overtake the answer (RFC 9112 9.6).
const LINGER_BYTES: usize = 256 * 1024;
/// Longest wait for the client's own goodbye.
const LINGER: Duration = Duration::from_secs(2);

/// A socket under the deadlines of [`Phase`], that lingers when it is shut down.
#[derive(Debug)]
pub struct Guarded<S> {
    socket: S,
    /// Read before the guard was put on: read again first.
    ahead: Bytes,
    phase: PhaseHandle,
    deadlines: Deadlines,
    alarm: Alarm,
    /// The turn that `read_by` was set for.
    read_turn: Option<u32>,
    read_by: Option<Instant>,
    /// Set while the client takes nothing.
    write_by: Option<Instant>,
    goodbye: Goodbye,
}

/// How far a connection has ended.
#[derive(Clone, Copy, Debug)]
enum Goodbye {
    /// It has not.
    Unsaid,
    /// A late head is being answered: this much was written.
    Answering { written: usize, by: Instant },
    /// The socket is to be told.
    Saying,
    /// It was said; what the client still sends is thrown away.
    Lingering { left: usize, by: Instant },
    /// Nothing is left to do.
    Said,
}

impl<S> Guarded<S> {
    /// Guards a socket from which `ahead` was read already. It begins in [`Phase::Head`].
    pub fn new(socket: S, ahead: Bytes, deadlines: Deadlines) -> Self {
        Self {
            socket,
            ahead,
            phase: PhaseHandle(Arc::new(AtomicU32::new(Phase::Head as u32))),
            deadlines,
            alarm: Alarm::default(),
            read_turn: None,
            read_by: None,
            write_by: None,
            goodbye: Goodbye::Unsaid,
        }
    }

    /// The handle that says which phase it is in.
    pub fn phase(&self) -> PhaseHandle {
        self.phase.clone()
    }

    /// The socket below.
    pub fn get_ref(&self) -> &S {
        &self.socket
    }

    /// Takes the guard off: the socket, and what was read and not yet read again.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.socket, self.ahead)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    /// Ends a connection that hyper no longer owns: close_notify, FIN, then at most 256 KiB or 2 s of what the client still sends.
    pub async fn close(mut self) {
        // Whatever fails here, the socket is gone after it.
        let _ = std::future::poll_fn(|cx| Pin::new(&mut self).poll_shutdown(cx)).await;
    }

    fn received(&mut self) {
        match self.phase.get() {
            Phase::Idle => self.phase.set(Phase::Head),
            Phase::Body => self.read_turn = None,
            Phase::Head | Phase::Wait => {}
        }
    }

    /// Called when there is nothing to read: ready once that has lasted too long for the phase.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.phase.get();
        let turn = self.phase.turn();
        if self.read_turn != Some(turn) {
            let wait = match phase {
                Phase::Head => Some(self.deadlines.head),
                Phase::Body => Some(self.deadlines.body),
                Phase::Wait => None,
                Phase::Idle => Some(self.deadlines.idle),
            };
            self.read_turn = Some(turn);
            self.read_by = wait.and_then(|wait| Instant::now().checked_add(wait));
        }
        let Some(by) = self.read_by else { return Poll::Pending };
        ready!(self.alarm.poll(by, cx));
        match phase {
            // The end of the stream: hyper shuts the connection down in peace.
            Phase::Idle => Poll::Ready(Ok(())),
            // An answer behind one that is not taken would never arrive.
            Phase::Head if self.write_by.is_none() => {
                self.goodbye = Goodbye::Answering { written: 0, by: Instant::now() + LINGER };
                self.poll_answered(cx)
            }
            Phase::Head | Phase::Body | Phase::Wait => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }

    /// The answer to a late head is given here, and the goodbye said: hyper drops a socket whose read fails.
    fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The client is late; what it does about it changes nothing.
        let _ = ready!(self.poll_goodbye(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.goodbye = match self.goodbye {
                Goodbye::Unsaid => Goodbye::Saying,
                Goodbye::Answering { written, .. } if written == self.deadlines.late_head.len() => Goodbye::Saying,
                Goodbye::Answering { written, by } => {
                    let rest = &self.deadlines.late_head[written..];
                    match Pin::new(&mut self.socket).poll_write(cx, rest) {
                        Poll::Ready(Ok(more)) if more > 0 => Goodbye::Answering { written: written + more, by },
                        Poll::Ready(_) => Goodbye::Said,
                        Poll::Pending => {
                            ready!(self.alarm.poll(by, cx));
                            Goodbye::Said
                        }
                    }
                }
                Goodbye::Saying => match Pin::new(&mut self.socket).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => Goodbye::Lingering { left: LINGER_BYTES, by: Instant::now() + LINGER },
                    Poll::Ready(Err(error)) => {
                        self.goodbye = Goodbye::Said;
                        return Poll::Ready(Err(error));
                    }
                    Poll::Pending => return self.poll_stalled(cx),
                },
                Goodbye::Lingering { left, by } => match self.poll_discard(cx) {
                    Poll::Ready(Ok(more)) if more > 0 && more < left => Goodbye::Lingering { left: left - more, by },
                    Poll::Ready(_) => Goodbye::Said,
                    Poll::Pending => {
                        ready!(self.alarm.poll(by, cx));
                        Goodbye::Said
                    }
                },
                Goodbye::Said => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [0; 4096];
        let mut scratch = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut scratch))?;
        Poll::Ready(Ok(scratch.filled().len()))
    }

    /// Called when the client takes nothing: ready once that has lasted too long.
    fn poll_stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.write_by.is_none() {
            self.write_by = Instant::now().checked_add(self.deadlines.send);
        }
        let Some(by) = self.write_by else { return Poll::Pending };
        ready!(self.alarm.poll(by, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn taken<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(result) => {
                self.write_by = None;
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_stalled(cx),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !matches!(this.goodbye, Goodbye::Unsaid) {
            return this.poll_answered(cx);
        }
        if this.ahead.has_remaining() {
            let length = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.ahead.split_to(length));
            this.received();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.socket).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                if buffer.filled().len() > before {
                    this.received();
                }
                Poll::Ready(result)
            }
            Poll::Pending => this.poll_late(cx),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.taken(cx, written)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        this.taken(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes only what a write has taken.
        let flushed = Pin::new(&mut this.socket).poll_flush(cx);
        this.taken(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_goodbye(cx)
    }
}

/// One timer for all deadlines, made when the first is needed, moved only when it fires early or would fire late.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `by` has passed; else the task is woken at it, or earlier.
    fn poll(&mut self, by: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(by)));
        if sleep.deadline() > by {
            sleep.as_mut().reset(by);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= by {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(by);
        }
        Poll::Pending
    }
}
