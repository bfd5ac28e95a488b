//! Connections that wait for their next request: bounded, by endpoint, the latest first.
//!
//! It never knows requests. `forward` takes from it, `answer` gives back.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    task::{Context, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Connection, connection::PLAIN};
use crate::{balance::Endpoint, dial::Client};

/// Servers close idle connections too, Node after 5 s: being first means that no request meets a closing connection.
const IDLE: Duration = Duration::from_secs(4);
/// How often the idle ones are looked at, while there are any.
const SWEEP: Duration = Duration::from_secs(1);
/// Most connections that wait for one endpoint.
const MOST_PER_ENDPOINT: usize = 256;
/// Most that wait in all: descriptors are for clients.
const MOST: usize = 4096;

/// The idle connections of the whole data side.
#[derive(Default)]
pub struct Pool(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    /// By number of the endpoint, whose address tells whether the number was given away since, and of the TLS client.
    by_endpoint: HashMap<(u32, u32), Vec<Waiting>, rapidhash::fast::RandomState>,
    count: usize,
    swept: bool,
}

struct Waiting {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// A pool without connections.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The connection that was used last and is still open at the other end.
    pub fn take(&self, endpoint: &Endpoint, client: Option<&Client>, cx: &mut Context<'_>) -> Option<Connection> {
        let key = (endpoint.number, client.map_or(PLAIN, |client| client.number));
        loop {
            let mut connection = {
                let mut idle = self.0.lock();
                let waiting = idle.by_endpoint.get_mut(&key)?.pop()?;
                idle.count -= 1;
                waiting.connection
            };
            if connection.address() == endpoint.key.address && connection.is_quiet(cx) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose last answer was read to its end.
    pub fn give(self: &Arc<Self>, number: u32, mut connection: Connection) {
        if !connection.is_quiet(&mut Context::from_waker(Waker::noop())) {
            return;
        }
        connection.reused = true;
        let mut idle = self.0.lock();
        let full = idle.count >= MOST;
        let waiting = idle.by_endpoint.entry((number, connection.client)).or_default();
        if full || waiting.len() >= MOST_PER_ENDPOINT {
            return;
        }
        waiting.push(Waiting { connection, since: Instant::now() });
        idle.count += 1;
        if !std::mem::replace(&mut idle.swept, true) {
            drop(idle);
            sweep(Arc::downgrade(self));
        }
    }

    /// How many connections wait.
    pub fn len(&self) -> usize {
        self.0.lock().count
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes what waited too long or was closed at the other end. Whether any is left.
    fn expire(&self, now: Instant) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut idle = self.0.lock();
        idle.by_endpoint.retain(|_, waiting| {
            waiting.retain_mut(|waiting| now.duration_since(waiting.since) < IDLE && waiting.connection.is_quiet(&mut cx));
            !waiting.is_empty()
        });
        idle.count = idle.by_endpoint.values().map(Vec::len).sum();
        idle.swept = idle.count > 0;
        idle.swept
    }
}

/// Looks after the pool as long as something waits in it.
#[allow(clippy::disallowed_methods, reason = "this task is the pool's own, and ends with it")]
fn sweep(pool: Weak<Pool>) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            if !pool.upgrade().is_some_and(|pool| pool.expire(Instant::now())) {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        balance::Lease,
        model::{EndpointKey, PoolKey},
    };

    async fn connected() -> (Connection, Lease, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let lease = Lease::detached(EndpointKey { pool: PoolKey::Address("test".into()), address });
        (Connection::new(stream.unwrap(), address), lease, accepted.unwrap().0)
    }

    async fn take(pool: &Pool, lease: &Lease) -> Option<Connection> {
        poll_fn(|cx| std::task::Poll::Ready(pool.take(lease.endpoint(), None, cx))).await
    }

    #[tokio::test]
    async fn a_connection_is_given_out_once() {
        let pool = Pool::new();
        let (connection, lease, _peer) = connected().await;
        pool.give(0, connection);
        assert!(take(&pool, &lease).await.unwrap().is_reused());
        assert!(take(&pool, &lease).await.is_none());
        assert!(pool.is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_says_something_unasked_is_not_kept() {
        let pool = Pool::new();
        let (connection, lease, mut peer) = connected().await;
        peer.write_all(b"HTTP/1.1 408 late\r\n\r\n").await.unwrap();
        connection.stream_readable().await;
        pool.give(0, connection);
        assert!(take(&pool, &lease).await.is_none());
    }

    #[tokio::test]
    async fn a_connection_that_the_backend_closed_is_not_given_out() {
        let pool = Pool::new();
        let (connection, lease, peer) = connected().await;
        pool.give(0, connection);
        drop(peer);
        // Given out until the FIN has arrived, never after.
        while let Some(connection) = take(&pool, &lease).await {
            pool.give(0, connection);
            tokio::task::yield_now().await;
        }
        assert!(pool.is_empty());
    }

    #[tokio::test]
    async fn idle_connections_are_closed() {
        let pool = Pool::new();
        let (connection, _lease, _peer) = connected().await;
        pool.give(0, connection);
        assert!(pool.expire(Instant::now()));
        assert!(!pool.expire(Instant::now() + IDLE));
        assert!(pool.is_empty());
    }
}
