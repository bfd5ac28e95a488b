//! Reads files without stalling a worker: at once what the kernel has in memory, the rest on the blocking pool.
//!
//! It never knows requests. `disk` and `answer` call it; [`FileBody`] is what hyper's server pulls from.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    ops::Range,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};
use tokio::sync::Semaphore;

use super::open::Patience;
use crate::proxy::body::BodyError;

/// A file up to this size is read in one piece; a larger one in chunks of it.
pub(super) const CHUNK: u64 = 64 * 1024;

/// Calls that may wait for a disk at the same time; the runtime's blocking pool is for others too.
const READERS: usize = 16;

/// Chunks that are read, but not yet written to the socket. One is on its way while the next is read.
const CHUNKS_OUT: usize = 2;

/// The right to wait for a disk.
#[derive(Clone, Debug)]
pub(super) struct Readers(Arc<Semaphore>);

impl Readers {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(READERS)))
    }

    /// Runs `work` on the blocking pool, as soon as fewer than [`READERS`] do.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let permit = self.0.clone().acquire_owned().await.map_err(io::Error::other)?;
        // The permit goes along: a request that is given up does not stop the call that it waited for.
        let running = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        running.await.map_err(io::Error::other)
    }

    /// Exactly these bytes of a file, at once where they are in memory.
    pub(super) async fn read(&self, file: &Arc<OwnedFd>, range: Range<u64>) -> io::Result<Vec<u8>> {
        match read_exactly(file, range.clone(), Patience::Cached) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.read_later(file.clone(), range).await,
            done => done,
        }
    }

    async fn read_later(&self, file: Arc<OwnedFd>, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.run(move || read_exactly(&file, range, Patience::Wait)).await?
    }
}

/// Reads all of a range; a file that has become shorter is an error.
pub(super) fn read_exactly(file: &OwnedFd, range: Range<u64>, patience: Patience) -> io::Result<Vec<u8>> {
    let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        let (rest, at) = (&mut bytes[filled..], range.start + filled as u64);
        let read = match patience {
            Patience::Wait => pread(file, rest, at),
            Patience::Cached => preadv2(file, &mut [IoSliceMut::new(rest)], at, ReadWriteFlags::NOWAIT),
        };
        match read {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent")),
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            // Some file systems do not know RWF_NOWAIT.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if patience == Patience::Cached => return Err(io::ErrorKind::WouldBlock.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(bytes)
}

/// A part of a body.
#[derive(Debug)]
pub(super) enum Piece {
    /// These bytes: the head of a part of a multipart answer.
    Text(Bytes),
    /// These bytes of the file.
    File(Range<u64>),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Piece::Text(bytes) => bytes.len() as u64,
            Piece::File(range) => range.end - range.start,
        }
    }
}

/// Pieces of a file, read as they are sent. Holds at most [`CHUNKS_OUT`] chunks, however slow the reader and large hyper's queue.
pub(super) struct FileBody {
    file: Arc<OwnedFd>,
    readers: Readers,
    pieces: VecDeque<Piece>,
    reading: Option<Reading>,
    /// Bytes still to come.
    left: u64,
    flow: Arc<Flow>,
}

type Reading = Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send>>;

impl FileBody {
    pub(super) fn new(file: Arc<OwnedFd>, pieces: VecDeque<Piece>, readers: Readers) -> Self {
        let left = pieces.iter().map(Piece::len).sum();
        Self { file, readers, pieces, reading: None, left, flow: Arc::default() }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.reading.is_none() {
            let range = match self.pieces.pop_front() {
                None => return Poll::Ready(None),
                Some(Piece::Text(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Some(Piece::File(range)) => range,
            };
            if !self.flow.has_room(cx) {
                self.pieces.push_front(Piece::File(range));
                return Poll::Pending;
            }
            let chunk = range.start..range.end.min(range.start + CHUNK);
            if chunk.end < range.end {
                self.pieces.push_front(Piece::File(chunk.end..range.end));
            }
            match read_exactly(&self.file, chunk.clone(), Patience::Cached) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let (readers, file) = (self.readers.clone(), self.file.clone());
                    self.reading = Some(Box::pin(async move { readers.read_later(file, chunk).await }));
                }
                read => return Poll::Ready(Some(read.map(|bytes| self.flow.hand_out(bytes)))),
            }
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        Poll::Ready(Some(read.map(|bytes| self.flow.hand_out(bytes))))
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(ready!(self.poll_chunk(cx)).map(|chunk| {
            let bytes = chunk?;
            self.left -= bytes.len() as u64;
            Ok(Frame::data(bytes))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Counts the chunks that hyper holds.
#[derive(Debug, Default)]
struct Flow {
    out: AtomicUsize,
    waker: AtomicWaker,
}

impl Flow {
    fn has_room(&self, cx: &Context<'_>) -> bool {
        let room = || self.out.load(Acquire) < CHUNKS_OUT;
        room() || {
            self.waker.register(cx.waker());
            room()
        }
    }

    fn hand_out(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        self.out.fetch_add(1, AcqRel);
        Bytes::from_owner(Chunk { bytes, flow: self.clone() })
    }
}

/// Bytes that tell when they are gone.
struct Chunk {
    bytes: Vec<u8>,
    flow: Arc<Flow>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.flow.out.fetch_sub(1, AcqRel);
        self.flow.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn file(content: &[u8]) -> Arc<OwnedFd> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Arc::new(file.into())
    }

    fn body(file: &Arc<OwnedFd>, pieces: impl IntoIterator<Item = Piece>) -> FileBody {
        FileBody::new(file.clone(), pieces.into_iter().collect(), Readers::new())
    }

    #[tokio::test]
    async fn pieces_arrive_in_order_and_whole() {
        let content: Vec<u8> = (0..300_000u32).map(|i| i as u8 ^ (i >> 8) as u8).collect();
        let file = file(&content);
        let mut body = body(&file, [Piece::Text("head".into()), Piece::File(5..200_000), Piece::Text("foot".into()), Piece::File(0..1)]);
        let mut sent = Vec::new();
        while let Some(frame) = body.frame().await {
            sent.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(sent, [b"head", &content[5..200_000], b"foot", &content[..1]].concat());
    }

    #[tokio::test]
    async fn a_reader_that_holds_two_chunks_gets_no_third() {
        let file = file(&vec![1; 5 * CHUNK as usize]);
        let mut body = body(&file, [Piece::File(0..5 * CHUNK)]);
        let first = body.frame().await.unwrap().unwrap();
        let second = body.frame().await.unwrap().unwrap();
        assert!(body.frame().now_or_never().is_none());
        drop(first);
        let third = body.frame().await.unwrap().unwrap();
        drop((second, third));
        assert_eq!(body.collect().await.unwrap().to_bytes().len() as u64, 2 * CHUNK);
    }

    #[tokio::test]
    async fn hyper_gives_chunks_back_while_it_waits_for_the_next() {
        let content: Vec<u8> = (0..2_000_000u32).map(|i| (i >> 5) as u8).collect();
        let file = file(&content);
        let service = hyper::service::service_fn(async |_: http::Request<hyper::body::Incoming>| {
            Ok::<_, std::convert::Infallible>(http::Response::new(body(&file, [Piece::File(0..2_000_000)])))
        });
        let (mut client, server) = tokio::io::duplex(1000);
        let serving = hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(server), service);
        let reading = async {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let (served, answer) = tokio::join!(serving, reading);
        served.unwrap();
        assert!(answer.ends_with(&content));
    }

    #[tokio::test]
    async fn a_file_that_becomes_shorter_is_seen_as_cut() {
        let file = file(&vec![1; 2 * CHUNK as usize]);
        let mut body = body(&file, [Piece::File(0..2 * CHUNK)]);
        assert!(body.frame().await.unwrap().is_ok());
        std::fs::File::from(file.try_clone().unwrap()).set_len(CHUNK + 5).unwrap();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof));
    }

    #[tokio::test]
    async fn the_end_of_ten_gigabytes_is_read_where_it_is() {
        let mut sparse = tempfile::tempfile().unwrap();
        sparse.set_len(10 << 30).unwrap();
        sparse.seek(SeekFrom::End(-3)).unwrap();
        sparse.write_all(b"end").unwrap();
        let file = Arc::new(OwnedFd::from(sparse));
        assert_eq!(Readers::new().read(&file, (10 << 30) - 4..10 << 30).await.unwrap(), b"\0end");
    }
}
