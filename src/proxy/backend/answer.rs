//! The body of a backend's answer, streamed from its connection, which goes back to the pool at the end.
//!
//! It never knows the client. `forward` and `upgrade` make it; hyper's server polls it. It holds no buffer while the backend is silent.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{Connection, Framing, Pool, chunked};
use crate::{balance::Lease, proxy::body::BodyError, proxy::headers::hop::strip_trailers};

/// The body of an answer. Dropped before its end, it closes its connection.
pub struct AnswerBody {
    connection: Option<Connection>,
    decoder: Decoder,
    /// Counts the endpoint as busy until the body has ended.
    lease: Lease,
    /// Where the connection goes at the end, if it may serve another request.
    pool: Option<Arc<Pool>>,
}

enum Decoder {
    Length(u64),
    Chunked(Box<chunked::Decoder>),
    UntilClose,
    End,
}

impl AnswerBody {
    /// The body that follows a head just read from `connection`. `pool` is `None` where the connection serves nothing more.
    pub fn new(connection: Connection, framing: Framing, lease: Lease, pool: Option<Arc<Pool>>) -> Self {
        let decoder = match framing {
            Framing::None => Decoder::End,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(Box::default()),
            Framing::UntilClose => Decoder::UntilClose,
        };
        let mut body = Self { connection: Some(connection), decoder, lease, pool };
        if matches!(body.decoder, Decoder::End) {
            body.finish();
        }
        body
    }

    /// All of the body, if it came with the head: what is small needs no stream.
    pub fn at_hand(&mut self) -> Option<Bytes> {
        match (&self.decoder, &mut self.connection) {
            (Decoder::End, _) => Some(Bytes::new()),
            (&Decoder::Length(length), Some(connection)) if connection.ahead.len() as u64 >= length => {
                let all = connection.ahead.split_to(usize::try_from(length).ok()?);
                self.finish();
                Some(all)
            }
            _ => None,
        }
    }

    /// The answer was read to its end.
    fn finish(&mut self) {
        self.decoder = Decoder::End;
        if let (Some(connection), Some(pool)) = (self.connection.take(), self.pool.take()) {
            pool.give(self.lease.endpoint().number, connection);
        }
    }

    fn fail(&mut self, error: io::Error) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.pool = None;
        self.finish();
        Poll::Ready(Some(Err(BodyError::Io(error))))
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
            let step = match &mut this.decoder {
                Decoder::End => chunked::Step::End,
                Decoder::Chunked(decoder) => match decoder.step(&mut connection.ahead) {
                    Ok(step) => step,
                    Err(broken) => return this.fail(io::Error::new(io::ErrorKind::InvalidData, broken)),
                },
                _ if connection.ahead.is_empty() => chunked::Step::More,
                Decoder::UntilClose => chunked::Step::Data(std::mem::take(&mut connection.ahead)),
                Decoder::Length(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(connection.ahead.len());
                    *left -= taken as u64;
                    chunked::Step::Data(connection.ahead.split_to(taken))
                }
            };
            match step {
                chunked::Step::Data(data) => {
                    if matches!(this.decoder, Decoder::Length(0)) {
                        this.finish();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                chunked::Step::Trailers(mut trailers) => {
                    this.finish();
                    strip_trailers(&mut trailers);
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                chunked::Step::End => {
                    this.finish();
                    return Poll::Ready(None);
                }
                chunked::Step::More => {}
            }
            match ready!(connection.poll_fill(cx)) {
                Ok(0) if matches!(this.decoder, Decoder::UntilClose) => {
                    this.pool = None;
                    this.finish();
                    return Poll::Ready(None);
                }
                Ok(0) => return this.fail(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return this.fail(error),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.decoder, Decoder::End)
    }

    fn size_hint(&self) -> SizeHint {
        match self.decoder {
            Decoder::End => SizeHint::with_exact(0),
            Decoder::Length(left) => SizeHint::with_exact(left),
            Decoder::Chunked(_) | Decoder::UntilClose => SizeHint::default(),
        }
    }
}
