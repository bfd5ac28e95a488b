//! A request on its way to a backend: head, body and trailers written, while an answer may already come.
//!
//! It never knows locations or pools. `forward` drives it. The body is only taken as fast as the backend reads.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode, header::TRAILER};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::proxy::{
    backend::{Answer, Connection, Fault, Framing},
    guarded::{Phase, PhaseHandle},
    headers::{elements, hop::strip_trailers},
};

/// How long a backend that was asked for a 100 may take before the body is sent unasked (RFC 9110 10.1.1).
const EXPECT: Duration = Duration::from_secs(1);
/// What is gathered for one write.
const GATHER: usize = 16 * 1024;
/// Most buffers of one write.
const SLICES: usize = 16;

/// The body of a client's request.
pub struct Upload {
    body: Incoming,
    framing: Framing,
    /// Names that the client said its trailers would have.
    trailers: Vec<HeaderName>,
    phase: PhaseHandle,
    /// Bytes of content taken so far.
    pub received: u64,
    /// The most that it may be.
    limit: u64,
    /// Something was taken: the request can't be sent a second time.
    pub touched: bool,
    ended: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The client's body broke off; the backend connection must end without its end.
    Client(hyper::Error),
    /// The client's body is larger than it may be; the backend connection must end without its end.
    TooLarge,
    /// The backend failed.
    Backend(Fault),
    /// The backend did not answer in time.
    Timeout,
}

/// The head of the final answer.
pub struct Answered {
    /// The head.
    pub answer: Answer,
    /// Whether all of the request was sent before it. If not, the connection serves nothing more, on either side.
    pub whole: bool,
}

impl Upload {
    /// Takes the body of a request with this head. `None`: it says itself that it is larger than `limit`.
    pub fn new(body: Incoming, headers: &HeaderMap, phase: PhaseHandle, limit: Option<u64>) -> Option<Self> {
        let limit = limit.unwrap_or(u64::MAX);
        let framing = match body.size_hint().exact() {
            _ if body.is_end_stream() => Framing::None,
            Some(length) if length > limit => return None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let named = headers.get_all(TRAILER).iter().flat_map(|value| elements(value.as_bytes()));
        let trailers = match framing {
            Framing::Chunked => named.filter_map(|name| HeaderName::from_bytes(name).ok()).collect(),
            _ => Vec::new(),
        };
        let ended = framing == Framing::None;
        phase.set(if ended { Phase::Wait } else { Phase::Body });
        Some(Self { body, framing, trailers, phase, received: 0, limit, touched: false, ended })
    }

    /// How it ends, towards the backend.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// More of it, as it goes to the backend. `None` is its end.
    fn poll_next(&mut self, cx: &mut Context<'_>, out: &mut VecDeque<Bytes>) -> Poll<Option<Result<(), Failure>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose();
        self.touched = true;
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                self.phase.set(Phase::Wait);
                return Poll::Ready(Some(Err(Failure::Client(error))));
            }
        };
        let Some(frame) = frame else {
            self.end(out, HeaderMap::new());
            return Poll::Ready(None);
        };
        match frame.into_data() {
            // A chunk without bytes would be the last one.
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                self.received += data.len() as u64;
                if self.received > self.limit {
                    self.phase.set(Phase::Wait);
                    return Poll::Ready(Some(Err(Failure::TooLarge)));
                }
                if self.framing == Framing::Chunked {
                    out.push_back(Bytes::from(format!("{:x}\r\n", data.len())));
                    out.push_back(data);
                    out.push_back(Bytes::from_static(b"\r\n"));
                } else {
                    out.push_back(data);
                }
            }
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                strip_trailers(&mut trailers);
                self.end(out, trailers);
                return Poll::Ready(None);
            }
        }
        Poll::Ready(Some(Ok(())))
    }

    fn end(&mut self, out: &mut VecDeque<Bytes>, trailers: HeaderMap) {
        self.ended = true;
        self.phase.set(Phase::Wait);
        if self.framing != Framing::Chunked {
            return;
        }
        let mut last = BytesMut::from(&b"0\r\n"[..]);
        for (name, value) in trailers.iter().filter(|(name, _)| self.trailers.contains(name)) {
            last.put_slice(name.as_str().as_bytes());
            last.put_slice(b": ");
            last.put_slice(value.as_bytes());
            last.put_slice(b"\r\n");
        }
        last.put_slice(b"\r\n");
        out.push_back(last.freeze());
    }
}

/// Sends a request and reads the head of its final answer, for which the backend has `response` from the last byte sent.
pub async fn exchange(
    connection: &mut Connection,
    head: Bytes,
    upload: &mut Upload,
    expects: bool,
    response: Option<Duration>,
) -> Result<Answered, Failure> {
    let mut sending = Sending { out: VecDeque::from([head]), upload, unflushed: false, dead: false };
    if expects {
        poll_fn(|cx| sending.poll_write(connection, cx)).await;
        match timeout(EXPECT, connection.read_head()).await {
            Ok(Ok(answer)) if answer.status.is_informational() && answer.status != StatusCode::SWITCHING_PROTOCOLS => {}
            Ok(Ok(answer)) => return Ok(Answered { answer, whole: false }),
            Ok(Err(fault)) => return Err(Failure::Backend(fault)),
            Err(_) => {}
        }
    }
    if let Some(answer) = poll_fn(|cx| sending.poll(connection, cx)).await? {
        return Ok(Answered { answer, whole: false });
    }
    let whole = !sending.dead;
    let answer = match response {
        Some(response) => timeout(response, connection.read_final_head()).await.map_err(|_| Failure::Timeout)?,
        None => connection.read_final_head().await,
    };
    Ok(Answered { answer: answer.map_err(Failure::Backend)?, whole })
}

struct Sending<'a> {
    /// To be written.
    out: VecDeque<Bytes>,
    upload: &'a mut Upload,
    /// Something was written that TLS may still hold.
    unflushed: bool,
    /// The backend reads no more; what it says meanwhile still counts.
    dead: bool,
}

impl Sending<'_> {
    /// Until all is sent, or a final answer came before that.
    fn poll(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<Option<Answer>, Failure>> {
        match self.poll_send(connection, cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(None)),
            Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
            Poll::Pending => {}
        }
        loop {
            match ready!(connection.poll_head(cx)) {
                Ok(answer) if answer.status.is_informational() && answer.status != StatusCode::SWITCHING_PROTOCOLS => {}
                Ok(answer) => return Poll::Ready(Ok(Some(answer))),
                Err(fault) => return Poll::Ready(Err(Failure::Backend(fault))),
            }
        }
    }

    fn poll_send(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            while !self.dead && !self.upload.ended && self.out.iter().map(Bytes::len).sum::<usize>() < GATHER {
                match self.upload.poll_next(cx, &mut self.out) {
                    Poll::Ready(Some(Ok(()))) => {}
                    Poll::Ready(Some(Err(failure))) => return Poll::Ready(Err(failure)),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            if self.out.is_empty() && !self.unflushed {
                return if self.dead || self.upload.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            ready!(self.poll_write(connection, cx));
        }
    }

    /// Writes and flushes all that is at hand. A write that fails ends the sending, not the exchange: an answer may be on its way.
    fn poll_write(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<()> {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.out) {
                *slice = IoSlice::new(bytes);
                used += 1;
            }
            match ready!(connection.poll_write(cx, &slices[..used])) {
                Ok(written) if written > 0 => self.advance(written),
                _ => self.give_up(),
            }
            self.unflushed = !self.dead;
        }
        if self.unflushed && ready!(connection.poll_flush(cx)).is_err() {
            self.give_up();
        }
        self.unflushed = false;
        Poll::Ready(())
    }

    fn give_up(&mut self) {
        self.dead = true;
        self.out.clear();
        self.upload.phase.set(Phase::Wait);
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.out.front_mut() {
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.out.pop_front();
        }
    }
}
