//! The deadlines of an HTTP connection, and its goodbye: the one wrapper between a socket and hyper.
//!
//! It never knows what is said, only which [`Phase`] the service says the exchange is in. `conn` puts it on; `http` sets phases, and takes it
//! off when a connection is upgraded.
//!
//! hyper's own `header_read_timeout` runs through idle keep-alive, closes without a 408, and there is none for bodies and stalled readers.

use std::{
    future::Future,
    io::{self, IoSlice},
    mem::MaybeUninit,
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
    /// The next request: its first byte begins [`Phase::Head`]. After a while it goes over to [`Phase::Rest`].
    Idle,
    /// Still the next request, by a connection that is to hold no buffer meanwhile: it ends quietly at the deadline.
    Rest,
}

/// Tells the guard of a connection what the service awaits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PhaseHandle(Arc<AtomicU32>);

impl PhaseHandle {
    const STEP: u32 = 8;

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
            3 => Phase::Idle,
            _ => Phase::Rest,
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

/// A client that sends requests one after the other does so within this: its connection keeps its buffers.
const BREATH: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 500 });
/// What the next request's first read takes: a head is rarely longer.
const FIRST: usize = 4096;

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

    /// Gives back what was read and is to be read again: the beginning of a head, if it is anything.
    pub fn unread(&mut self, read: Bytes) {
        if !read.is_empty() {
            self.phase.set(Phase::Head);
            self.ahead = read;
        }
    }

    /// Whether something was read that is to be read again.
    pub fn has_ahead(&self) -> bool {
        self.ahead.has_remaining()
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

    /// Waits in [`Phase::Rest`] for the first bytes of the next request, which are then read again. `false`: there will be none.
    ///
    /// Reads through the stack: a connection that waits here holds nothing but its socket and its timer.
    pub async fn rest(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            let mut first = [MaybeUninit::uninit(); FIRST];
            let mut first = ReadBuf::uninit(&mut first);
            let read = ready!(Pin::new(&mut *self).poll_read(cx, &mut first));
            self.ahead = Bytes::copy_from_slice(first.filled());
            Poll::Ready(read.is_ok() && !self.ahead.is_empty())
        })
        .await
    }

    fn received(&mut self) {
        match self.phase.get() {
            Phase::Idle | Phase::Rest => self.phase.set(Phase::Head),
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
                Phase::Idle => Some(self.deadlines.idle.min(BREATH)),
                Phase::Rest => Some(self.deadlines.idle.saturating_sub(BREATH)),
            };
            self.read_turn = Some(turn);
            self.read_by = wait.and_then(|wait| Instant::now().checked_add(wait));
        }
        let Some(by) = self.read_by else { return Poll::Pending };
        ready!(self.alarm.poll(by, cx));
        match phase {
            // The timer is set for the new phase at its first read.
            Phase::Idle if self.write_by.is_none() => {
                self.phase.set(Phase::Rest);
                self.poll_late(cx)
            }
            // The end of the stream: the connection is shut down in peace.
            Phase::Rest => Poll::Ready(Ok(())),
            // An answer behind one that is not taken would never arrive.
            Phase::Head if self.write_by.is_none() => {
                self.goodbye = Goodbye::Answering { written: 0, by: Instant::now() + LINGER };
                self.poll_answered(cx)
            }
            Phase::Head | Phase::Body | Phase::Wait | Phase::Idle => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
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
            buffer.put_slice(&this.ahead[..length]);
            this.ahead.advance(length);
            if this.ahead.is_empty() {
                this.ahead = Bytes::new();
            }
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
        // After an answer hyper does not read again before something is readable, so that the wait for the next request begins here.
        if this.phase.get() == Phase::Idle && this.read_turn != Some(this.phase.turn()) && this.poll_late(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DEADLINES: Deadlines = Deadlines {
        head: Duration::from_secs(15),
        body: SECOND,
        send: Duration::from_secs(60),
        idle: Duration::from_secs(75),
        late_head: LATE_HEAD,
    };

    fn guarded(buffer: usize) -> (DuplexStream, Guarded<DuplexStream>, PhaseHandle) {
        let (client, socket) = duplex(buffer);
        let guarded = Guarded::new(socket, Bytes::new(), DEADLINES);
        let phase = guarded.phase();
        (client, guarded, phase)
    }

    async fn read(guarded: &mut Guarded<DuplexStream>) -> io::Result<usize> {
        guarded.read(&mut [0; 64]).await
    }

    #[test]
    fn the_answers_to_a_late_head_have_the_length_they_say() {
        for answer in [LATE_HEAD, LATE_HEAD_BARE] {
            let (head, body) = std::str::from_utf8(answer).unwrap().split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_head_gets_408_however_slowly_it_trickles() {
        let (client, mut guarded, _) = guarded(1024);
        let began = Instant::now();
        let serving = async {
            loop {
                if let Err(error) = read(&mut guarded).await {
                    break error;
                }
            }
        };
        let trickling = async move {
            let (mut reader, mut writer) = tokio::io::split(client);
            let trickle = async {
                while writer.write_all(b"G").await.is_ok() {
                    tokio::time::sleep(SECOND).await;
                }
            };
            let mut answer = Vec::new();
            tokio::select! {
                read = reader.read_to_end(&mut answer) => assert!(read.is_ok()),
                () = trickle => {}
            }
            answer
        };
        let (error, answer) = tokio::join!(serving, trickling);
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(answer, LATE_HEAD);
        assert_eq!(began.elapsed().as_secs(), DEADLINES.head.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_head_behind_an_answer_that_is_not_taken_is_cut() {
        let (mut client, mut guarded, phase) = guarded(4);
        let stalled = futures_util::future::poll_immediate(guarded.write_all(b"HTTP/1.1 200")).await;
        assert!(stalled.is_none());
        phase.set(Phase::Head);
        assert_eq!(read(&mut guarded).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(guarded);
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"HTTP");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_its_time_but_not_stall() {
        let (mut client, mut guarded, phase) = guarded(1024);
        phase.set(Phase::Body);
        for _ in 0..100 {
            let (length, ()) = tokio::join!(read(&mut guarded), async {
                tokio::time::sleep(SECOND * 9 / 10).await;
                client.write_all(b"piece").await.unwrap();
            });
            assert_eq!(length.unwrap(), 5);
        }
        let stalled = Instant::now();
        assert_eq!(read(&mut guarded).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(stalled.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_rests_wakes_with_the_next_request() {
        let (mut client, mut guarded, phase) = guarded(1024);
        phase.set(Phase::Idle);
        let pending = futures_util::future::select(Box::pin(guarded.read_u8()), Box::pin(tokio::time::sleep(SECOND))).await;
        assert!(matches!(pending, futures_util::future::Either::Right(_)));
        drop(pending);
        assert_eq!(phase.get(), Phase::Rest);
        let (more, ()) = tokio::join!(guarded.rest(), async {
            tokio::time::sleep(SECOND * 70).await;
            client.write_all(b"GET /").await.unwrap();
        });
        assert!(more && guarded.has_ahead());
        assert_eq!(phase.get(), Phase::Head);
        assert_eq!(read(&mut guarded).await.unwrap(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_as_if_the_client_had_left() {
        let (mut client, mut guarded, phase) = guarded(1024);
        phase.set(Phase::Idle);
        let began = Instant::now();
        assert_eq!(read(&mut guarded).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 75);
        drop(guarded);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "without a word");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_byte_of_the_next_request_begins_a_head() {
        let (mut client, mut guarded, phase) = guarded(1024);
        phase.set(Phase::Idle);
        client.write_all(b"GET").await.unwrap();
        assert_eq!(read(&mut guarded).await.unwrap(), 3);
        assert_eq!(phase.get(), Phase::Head);
        let began = Instant::now();
        let (result, ()) = tokio::join!(read(&mut guarded), async {
            let mut answer = vec![0; LATE_HEAD.len()];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, LATE_HEAD);
            drop(client);
        });
        assert!(result.is_err());
        assert_eq!(began.elapsed().as_secs(), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_for_a_request_is_a_new_one() {
        let (mut client, mut guarded, phase) = guarded(1024);
        for _ in 0..3 {
            phase.set(Phase::Idle);
            let (length, ()) = tokio::join!(read(&mut guarded), async {
                tokio::time::sleep(Duration::from_secs(74)).await;
                client.write_all(b"GET").await.unwrap();
            });
            assert_eq!(length.unwrap(), 3, "the alarm set for the wait before must not end this one");
            phase.set(Phase::Wait);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_awaited_while_the_answer_is_made() {
        let (mut client, mut guarded, phase) = guarded(1024);
        phase.set(Phase::Wait);
        let (length, ()) = tokio::join!(read(&mut guarded), async {
            tokio::time::sleep(Duration::from_secs(86_400)).await;
            client.write_all(b"next").await.unwrap();
        });
        assert_eq!(length.unwrap(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stalls_is_cut_and_a_slow_one_is_not() {
        let (mut client, mut guarded, phase) = guarded(4);
        phase.set(Phase::Wait);
        let (sent, ()) = tokio::join!(guarded.write_all(&[7; 400]), async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                client.read_exact(&mut [0; 4]).await.unwrap();
            }
        });
        sent.unwrap();
        let stalled = Instant::now();
        assert_eq!(guarded.write_all(&[7; 400]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(stalled.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_goodbye_waits_for_the_clients_own() {
        let (mut client, guarded, _) = guarded(1024);
        let began = Instant::now();
        let ((), ()) = tokio::join!(guarded.close(), async {
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
            // Still on its way when the client heard that this is the end.
            client.write_all(&[7; 100_000]).await.unwrap();
            tokio::time::sleep(SECOND).await;
            drop(client);
        });
        assert_eq!(began.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_goodbye_does_not_wait_for_ever() {
        let (client, guarded, _) = guarded(1024);
        let began = Instant::now();
        guarded.close().await;
        assert_eq!(began.elapsed().as_secs(), LINGER.as_secs());
        drop(client);
        let (mut client, guarded, _) = self::guarded(4096);
        let ((), sent) = tokio::join!(guarded.close(), async {
            let mut sent = 0;
            while client.write_all(&[7; 4096]).await.is_ok() {
                sent += 4096;
            }
            sent
        });
        assert!((LINGER_BYTES..=LINGER_BYTES + 8192).contains(&sent), "{sent} bytes were taken");
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_off_with_the_guard() {
        let (mut client, socket) = duplex(64);
        let mut guarded = Guarded::new(socket, Bytes::from_static(b"GET / HT"), DEADLINES);
        let mut head = [0; 3];
        guarded.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"GET");
        client.write_all(b"TP").await.unwrap();
        let (mut socket, ahead) = guarded.into_parts();
        assert_eq!(ahead, " / HT");
        let mut rest = [0; 2];
        socket.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"TP");
    }
}
