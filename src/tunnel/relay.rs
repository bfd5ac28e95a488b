//! The task of one tunnel: both directions in one poll, through the thread's scratch.
//!
//! It does what `close` says with the sockets of `io`, and holds no buffer but the rest of a short write. It never knows what is a frame.
//! `tunnel::open` spawns it; it reports to its entry in the `registry`.

mod frames;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep_until},
};

use super::{
    Kind, Opening, Socket,
    clock::Tick,
    close::{Closing, Goodbye, Reason, Sink, Source, other},
    entry::{Entry, Ordered},
    features::{Due, Features},
    frame::Tally,
    registry::Registry,
    scratch,
    splice::Splice,
};
use crate::telemetry::metrics::{Opcode, Side};

/// Reads of one direction in one poll: a busy tunnel moves half a MiB, then it is the others' turn.
const READS: usize = 8;

/// Both ends of a tunnel and what is between them.
#[derive(Debug)]
pub(super) struct Relay {
    /// By side.
    sockets: [Socket; 2],
    /// By source.
    lanes: [Lane; 2],
    closing: Closing,
    idle: Option<Duration>,
    /// The end of its age.
    old: Tick,
    features: Option<Box<Features>>,
    /// What the tunnel's one Sleep is set to.
    armed: Tick,
    entry: Arc<Entry>,
    registry: Arc<Registry>,
}

/// What is on its way in one direction.
#[derive(Debug, Default)]
struct Lane {
    /// What a short write left; nothing more is read to be passed on until it is out.
    rest: Bytes,
    /// TLS holds bytes that the socket did not take.
    unflushed: bool,
    /// For bytes that nobody looks at, when they come in bulk.
    splice: Splice,
}

/// What became of one direction in one poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carried {
    Nothing,
    Something,
    /// All that it may in one poll; there is more.
    Turn,
}

/// The future of a tunnel; done when both its sides are.
#[expect(clippy::manual_async_fn, reason = "the block captures `relay` in place; the argument of an async fn is held twice")]
pub(super) fn run(mut relay: Relay) -> impl Future<Output = ()> + Send {
    async move {
        let mut sleep = pin!(sleep_until(relay.registry.instant(Tick(0))));
        // A task keeps its waker for life, so once is enough.
        poll_fn(|cx| {
            relay.entry.attach(cx.waker());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| relay.poll(cx, sleep.as_mut())).await;
    }
}

impl Relay {
    /// Enters the tunnel into the registry.
    pub(super) fn new(registry: &Arc<Registry>, opening: Opening, client: Socket, backend: Socket) -> Self {
        let Opening { identity, began, kind, idle, max_age, client_delay, frames, from_client, from_backend } = opening;
        let entry = registry.enter(identity, began);
        let now = registry.now();
        let (closing, features) = match kind {
            Kind::WebSocket { reconnect_code, extensions } => {
                (Closing::websocket(reconnect_code, client_delay), frames.map(|frames| Features::new(&frames, extensions, now)))
            }
            Kind::Opaque | Kind::Tcp => (Closing::opaque(client_delay), None),
        };
        let mut relay = Self {
            sockets: [client, backend],
            lanes: Default::default(),
            closing,
            idle,
            old: max_age.map_or(Tick::NEVER, |age| now.after(age)),
            features,
            armed: Tick::NEVER,
            entry,
            registry: Arc::clone(registry),
        };
        relay.read_ahead(Side::Client, from_client, now);
        relay.read_ahead(Side::Backend, from_backend, now);
        relay
    }

    fn read_ahead(&mut self, from: Side, bytes: Bytes, now: Tick) {
        if self.features.is_some() {
            return self.pass(from, &bytes, &mut Context::from_waker(Waker::noop()), now);
        }
        let mut tally = Tally::default();
        let verdict = self.closing.received(from, &bytes, now, &mut tally);
        self.entry.meter(from, verdict.pass, &tally, now);
        self.lanes[from as usize].rest = bytes;
    }

    fn poll(&mut self, cx: &mut Context<'_>, sleep: Pin<&mut Sleep>) -> Poll<()> {
        let now = self.registry.now();
        if now >= self.deadline_to_check() {
            self.expire(now);
        }
        loop {
            let carried = [self.carry(Side::Client, cx, now), self.carry(Side::Backend, cx, now)];
            if self.closing.is_done() {
                return Poll::Ready(());
            }
            if carried.contains(&Carried::Turn) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // What one direction brings ends the other one only in a tunnel that is closing.
            if self.closing.is_open() || carried == [Carried::Nothing; 2] {
                break;
            }
            self.entry.closes(now);
        }
        self.arm(cx, sleep, now);
        Poll::Pending
    }

    /// When there may be something due: cheap, and never too late.
    fn deadline_to_check(&self) -> Tick {
        if self.closing.is_open() { self.armed.min(self.entry.slot()) } else { self.deadline() }
    }

    fn deadline(&self) -> Tick {
        let closing = self.closing.deadline();
        if self.closing.is_open() {
            let asking = self.features.as_ref().map_or(Tick::NEVER, |features| features.deadline());
            self.ordered_at().min(self.idle_until()).min(asking)
        } else if self.closing.takes_orders() {
            closing.min(self.ordered_at())
        } else if self.entry.is_killed() {
            Tick(0)
        } else {
            closing
        }
    }

    fn ordered_at(&self) -> Tick {
        self.old.min(self.entry.slot())
    }

    fn idle_until(&self) -> Tick {
        self.idle.map_or(Tick::NEVER, |idle| self.entry.active().after(idle))
    }

    fn expire(&mut self, now: Tick) {
        if self.deadline() > now {
            return;
        }
        let goodbye = if self.entry.slot() <= now && (self.closing.takes_orders() || self.entry.is_killed()) {
            let Ordered { reason, patience } = self.entry.ordered();
            self.closing.order(reason, patience, now)
        } else if self.old <= now && self.closing.takes_orders() {
            self.closing.order(Reason::MaxAge, Duration::ZERO, now)
        } else if !self.closing.is_open() {
            self.closing.expired(now)
        } else if self.idle_until() <= now {
            self.closing.order(Reason::Idle, Duration::ZERO, now)
        } else {
            match self.features.as_mut().and_then(|features| features.due(now)) {
                Some(Due::Silent(side)) => self.closing.silent(side, now),
                Some(Due::Ask(side)) => return self.ask(side, now),
                None => return,
            }
        };
        self.entry.closes(now);
        self.say(goodbye, now);
    }

    /// Sets the Sleep to the earliest deadline. It is moved only to fire sooner, or when it has fired: not for each message.
    fn arm(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>, now: Tick) {
        let deadline = self.deadline();
        if deadline == Tick::NEVER || (deadline >= self.armed && now < self.armed) {
            return;
        }
        self.armed = deadline;
        sleep.as_mut().reset(self.registry.instant(deadline));
        if sleep.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// Moves what there is from a side to the other.
    fn carry(&mut self, from: Side, cx: &mut Context<'_>, now: Tick) -> Carried {
        let mut carried = Carried::Nothing;
        for _ in 0..READS {
            let written = self.write_rest(from, cx, now);
            if self.closing.source(from) != Source::Open || (written.is_pending() && !self.closing.drops(from)) {
                return carried;
            }
            let bulk = !self.closing.drops(from) && self.lanes[from as usize].splice.begin();
            let read = if bulk { self.fill(from, cx, now) } else { self.read(from, cx, now) };
            if read.is_pending() {
                return carried;
            }
            carried = Carried::Something;
        }
        Carried::Turn
    }

    /// Writes what is left from before, then the FIN if it is due. Pending as long as nothing more can be written.
    fn write_rest(&mut self, from: Side, cx: &mut Context<'_>, now: Tick) -> Poll<()> {
        let to = other(from);
        match self.closing.sink(to) {
            Sink::Open | Sink::Ending => {}
            Sink::Shut | Sink::Broken => return Poll::Ready(()),
        }
        let result = ready!(self.poll_write_rest(from, cx, now));
        if result.is_err() {
            self.closing.unwritable(to);
            self.lanes[from as usize] = Lane::default();
        } else if self.closing.sink(to) == Sink::Ending {
            match ready!(Pin::new(&mut self.sockets[to as usize]).poll_shutdown(cx)) {
                Ok(()) => self.closing.shut(to),
                Err(_) => self.closing.unwritable(to),
            }
        }
        Poll::Ready(())
    }

    fn poll_write_rest(&mut self, from: Side, cx: &mut Context<'_>, now: Tick) -> Poll<io::Result<()>> {
        let to = other(from);
        let (socket, lane) = (&mut self.sockets[to as usize], &mut self.lanes[from as usize]);
        while !lane.rest.is_empty() {
            let written = ready!(Pin::new(&mut *socket).poll_write(cx, &lane.rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let _ = lane.rest.split_to(written);
            self.entry.touch(now);
            self.closing.delivered(to, now);
            if let Some(features) = &mut self.features {
                features.delivered(to, now);
            }
        }
        // The allocation goes with its last byte.
        lane.rest = Bytes::new();
        if let Socket::Tcp(sink) = &*socket {
            ready!(lane.splice.poll_drain(sink, cx))?;
        }
        if lane.unflushed {
            ready!(Pin::new(socket).poll_flush(cx))?;
            lane.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// One read, and the write of what it brought.
    fn read(&mut self, from: Side, cx: &mut Context<'_>, now: Tick) -> Poll<()> {
        scratch::with(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut self.sockets[from as usize]).poll_read(cx, &mut buffer));
            match read {
                Ok(()) if !buffer.filled().is_empty() => self.pass(from, buffer.filled(), cx, now),
                // TLS without close_notify is how most clients go; it is a FIN all the same.
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => self.end(from, Source::Lost, now),
                Ok(()) | Err(_) => self.end(from, Source::Finished, now),
            }
            Poll::Ready(())
        })
    }

    /// One read into a pipe, which `write_rest` empties.
    fn fill(&mut self, from: Side, cx: &mut Context<'_>, now: Tick) -> Poll<()> {
        let Socket::Tcp(source) = &self.sockets[from as usize] else { return self.read(from, cx, now) };
        match ready!(self.lanes[from as usize].splice.poll_fill(source, cx)) {
            Ok(0) => self.end(from, Source::Finished, now),
            Ok(filled) => {
                let mut tally = Tally::default();
                tally.bytes[Opcode::Opaque as usize] = filled as u64;
                self.entry.meter(from, filled, &tally, now);
            }
            Err(_) => self.end(from, Source::Lost, now),
        }
        Poll::Ready(())
    }

    /// Bytes between two bare sockets that nobody looks at may be spliced, if they come in bulk.
    fn learn(&mut self, from: Side, read: usize) {
        if !self.closing.has_frames() && self.sockets.iter().all(|socket| matches!(socket, Socket::Tcp(_))) {
            self.lanes[from as usize].splice.saw(read == scratch::SIZE);
        }
    }

    fn end(&mut self, from: Side, how: Source, now: Tick) {
        let goodbye = self.closing.ended(from, how, now);
        self.say(goodbye, now);
    }

    fn forward(&mut self, from: Side, chunk: &[u8], cx: &mut Context<'_>, now: Tick) {
        if chunk.is_empty() {
            return;
        }
        let mut tally = Tally::default();
        let verdict = self.closing.received(from, chunk, now, &mut tally);
        self.entry.meter(from, verdict.pass, &tally, now);
        self.learn(from, chunk.len());
        self.write(from, &chunk[..verdict.pass], cx);
        self.say(verdict.say, now);
    }

    /// Writes at once what the socket takes, and keeps the rest.
    fn write(&mut self, from: Side, bytes: &[u8], cx: &mut Context<'_>) {
        let to = other(from);
        let (socket, lane) = (&mut self.sockets[to as usize], &mut self.lanes[from as usize]);
        lane.unflushed = socket.is_tls();
        if !lane.rest.is_empty() {
            lane.rest = [&lane.rest[..], bytes].concat().into();
            return;
        }
        let mut left = bytes;
        while !left.is_empty() {
            match Pin::new(&mut *socket).poll_write(cx, left) {
                Poll::Ready(Ok(written)) if written > 0 => left = &left[written..],
                Poll::Ready(_) => return self.closing.unwritable(to),
                Poll::Pending => {
                    lane.rest = Bytes::copy_from_slice(left);
                    return;
                }
            }
        }
    }

    /// Puts a Close behind what is on its way already.
    fn say(&mut self, goodbye: Option<Goodbye>, now: Tick) {
        let mut next = goodbye;
        while let Some(goodbye) = next {
            self.put(other(goodbye.to), &goodbye.frame(fastrand::u32(..).to_ne_bytes()));
            next = if goodbye.to == Side::Client { self.closing.told_client(now) } else { None };
        }
    }

    /// Puts a frame of ours behind what is on its way from a side to the other.
    fn put(&mut self, from: Side, frame: &[u8]) {
        let lane = &mut self.lanes[from as usize];
        lane.rest = [&lane.rest[..], frame].concat().into();
        lane.unflushed = true;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let end = (!std::thread::panicking()).then(|| self.closing.end());
        self.registry.leave(&self.entry, end.as_ref());
    }
}

#[cfg(test)]
mod tests;
