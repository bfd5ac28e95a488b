//! Bulk at layer 4 without a copy: splice(2) through a pipe that is borrowed while a direction is busy.
//!
//! It never knows tunnels or frames. `relay` asks it for directions whose bytes are not looked at.

use std::{
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::{io::Interest, net::TcpStream};

/// Pipes of this process. The kernel counts their pages per user (pipe-user-pages-soft, 16384 pages, 1024 pipes of 16): a quarter is ours.
const PIPES: usize = 256;

/// Reads in a row that filled the scratch, before a direction counts as bulk: a pipe gains nothing for less.
const FULL_READS: u8 = 4;

/// Asked of one splice. A pipe has 16 slots, each for a page fragment of up to 32 KiB, so this is what may come at once.
const CHUNK: usize = 512 << 10;

static FREE: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());
static MADE: AtomicUsize = AtomicUsize::new(0);

/// One direction's use of splice.
#[derive(Debug, Default)]
pub(super) struct Splice {
    full_reads: u8,
    pipe: Option<Box<Pipe>>,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes in it. It is filled only when empty, so that EAGAIN always means the socket.
    held: usize,
}

impl Splice {
    /// Learns from a read through the scratch whether the direction is bulk.
    pub(super) fn saw(&mut self, filled: bool) {
        self.full_reads = if filled { self.full_reads.saturating_add(1) } else { 0 };
    }

    /// Whether the next bytes should be spliced. Takes a pipe; without a free one the scratch does it, and is asked again later.
    pub(super) fn begin(&mut self) -> bool {
        if self.pipe.is_none() && self.full_reads >= FULL_READS {
            self.pipe = Pipe::borrow().map(Box::new);
            self.full_reads = 0;
        }
        self.pipe.is_some()
    }

    /// Fills the pipe. 0 is the end of the stream. Gives the pipe back when the source has nothing.
    pub(super) fn poll_fill(&mut self, source: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(0)) };
        loop {
            if source.poll_read_ready(cx)?.is_pending() {
                // One full read will do to begin again.
                *self = Self { full_reads: FULL_READS - 1, pipe: None };
                return Poll::Pending;
            }
            match source.try_io(Interest::READABLE, || transfer(source, &pipe.write, CHUNK)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(filled) if filled > 0 => {
                    pipe.held = filled;
                    return Poll::Ready(Ok(filled));
                }
                over => {
                    *self = Self::default();
                    return Poll::Ready(over);
                }
            }
        }
    }

    /// Empties the pipe.
    pub(super) fn poll_drain(&mut self, sink: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        while pipe.held > 0 {
            ready!(sink.poll_write_ready(cx))?;
            match sink.try_io(Interest::WRITABLE, || transfer(&pipe.read, sink, pipe.held)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => pipe.held -= moved,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }
}

impl Pipe {
    fn borrow() -> Option<Self> {
        if let Some(pipe) = FREE.lock().pop() {
            return Some(pipe);
        }
        MADE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |made| (made < PIPES).then_some(made + 1)).ok()?;
        match pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC) {
            Ok((read, write)) => Some(Self { read, write, held: 0 }),
            Err(_) => {
                MADE.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// One that holds bytes of a connection is closed: they must never come out in another.
    fn give_back(self) {
        if self.held == 0 {
            FREE.lock().push(self);
        } else {
            MADE.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn transfer(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, bytes: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, bytes, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
}
