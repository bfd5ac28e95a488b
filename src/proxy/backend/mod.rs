//! HTTP/1.1 towards a backend, on sockets of our own: a head printed, an answer read, bodies streamed, connections kept for the next request.
//!
//! It never knows locations, refusals or the client's connection. `forward` and `upgrade` call it.
//!
//! Why not hyper's client: it needs a task and two channels a request, drops the body of a GET, loses answers that come before the request
//! is written, and can't spell a header. The half that a proxy needs is small.

pub mod answer;
pub mod chunked;
pub mod connection;
pub mod head;
pub mod pool;

pub use answer::AnswerBody;
pub use connection::Connection;
pub use head::{Answer, Framing};
pub use pool::Pool;

/// What a backend did that is not an answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It ended the connection, or reset it.
    #[error("the connection ended before the answer: {0}")]
    Closed(std::io::Error),
    /// What it sent is not HTTP/1.1, or too long.
    #[error("the answer can not be read: {0}")]
    Invalid(&'static str),
}
