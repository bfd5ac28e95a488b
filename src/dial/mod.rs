//! Connections to endpoints, with TLS where it is asked for: one attempt, one deadline, one cause when it fails.
//!
//! It never knows why an endpoint was picked or what is to be said to it. `proxy` calls it for requests, tunnels and layer 4.

pub mod tls;
mod verify;

use std::{io, net::SocketAddr, time::Duration};

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

pub use tls::{Client, Clients, TlsFault};

/// Probing starts after this silence: under the idle limits of NLB (350 s) and Azure (240 s).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// Sent and not acknowledged for this long: the peer is gone. With the probes, a vanished node is noticed in two minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// Why an endpoint could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It answered with a reset: nothing listens there.
    #[error("{0} refuses connections")]
    Refused(SocketAddr),
    /// It did not answer in time.
    #[error("{0} does not answer connections")]
    Timeout(SocketAddr),
    /// We have no descriptor, port or memory left. Not the endpoint's fault: never counted against it.
    #[error("connecting to {0} needs a descriptor or a local port, and none is left: {1}")]
    Exhausted(SocketAddr, #[source] io::Error),
    /// It was connected to, and its TLS is not what was asked for.
    #[error("{0} {1}: {2}")]
    Tls(SocketAddr, TlsFault, #[source] io::Error),
    /// Anything else: no route, network down.
    #[error("connecting to {0} failed: {1}")]
    Io(SocketAddr, #[source] io::Error),
}

impl DialError {
    /// The label of metrics.
    pub fn token(&self) -> &'static str {
        match self {
            DialError::Refused(_) => "refused",
            DialError::Timeout(_) => "timeout",
            DialError::Exhausted(..) => "exhausted",
            DialError::Tls(_, fault, _) => fault.token(),
            DialError::Io(..) => "unreachable",
        }
    }

    /// Whether the next endpoint would fail for the same reason.
    pub fn is_ours(&self) -> bool {
        matches!(self, DialError::Exhausted(..))
    }

    fn from_io(endpoint: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => DialError::Refused(endpoint),
            // The kernel gave up before our own deadline did.
            io::ErrorKind::TimedOut => DialError::Timeout(endpoint),
            _ if is_exhaustion(&error) => DialError::Exhausted(endpoint, error),
            _ => DialError::Io(endpoint, error),
        }
    }
}

/// Connects to an endpoint. Dropping the future gives the attempt up.
pub async fn connect(endpoint: SocketAddr, within: Duration) -> Result<TcpStream, DialError> {
    let attempt = async {
        let socket = if endpoint.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.connect(endpoint).await
    };
    match timeout(within, attempt).await {
        // TCP's simultaneous open: on a port of the ephemeral range where nobody listens, a socket of this host can meet itself.
        Ok(Ok(stream)) if stream.local_addr().is_ok_and(|local| local == endpoint) => Err(DialError::Refused(endpoint)),
        Ok(Ok(stream)) => {
            // A failure is no reason to lose the connection: a socket reset meanwhile refuses options, and its next read says so.
            let _ = tune(&stream);
            Ok(stream)
        }
        Ok(Err(error)) => Err(DialError::from_io(endpoint, error)),
        Err(_) => Err(DialError::Timeout(endpoint)),
    }
}

/// Sets what every socket of a client or backend has: no Nagle, and a vanished peer noticed. Set on a listener, accepted sockets inherit it.
pub fn tune<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Whether descriptors, local ports or memory ran out: a fault of ours, not of a peer.
pub fn is_exhaustion(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL, Errno::ADDRINUSE];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_connection_notices_a_vanished_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap(), SOON).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_refuses() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = connect(address, SOON).await.unwrap_err();
        assert!(matches!(error, DialError::Refused(_)), "{error}");
        assert!(!error.is_ours());
    }

    #[tokio::test]
    async fn a_full_queue_is_a_timeout() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        // The queue of 0 takes one; those after it get no answer to their SYN.
        let mut held = Vec::new();
        let error = loop {
            match connect(address, Duration::from_millis(200)).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, DialError::Timeout(_)), "{error}");
    }

    #[test]
    fn running_out_is_our_own_fault() {
        let endpoint = SocketAddr::from(([192, 0, 2, 1], 80));
        for errno in [Errno::MFILE, Errno::ADDRNOTAVAIL] {
            assert!(DialError::from_io(endpoint, errno.into()).is_ours());
        }
        assert!(!DialError::from_io(endpoint, Errno::HOSTUNREACH.into()).is_ours());
    }
}
