//! One client connection from accept to its protocol: PROXY header, TLS, then HTTP.
//!
//! It never knows requests or routes. `listen` starts it, `http` and `tcp` take over from it.

use std::{net::SocketAddr, sync::Arc};

use crate::tunnel::Permit;

/// Who is at the other end of a connection, and how it came in.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The client: what the PROXY header of a trusted peer says, else the socket's peer. Never an IPv4-mapped address.
    pub peer: SocketAddr,
    /// The other end of the socket.
    pub socket_peer: SocketAddr,
    /// What the client connected to: the PROXY header's destination, else our end of the socket.
    pub local: SocketAddr,
    /// The name of the listener.
    pub listener: Arc<str>,
    /// The port to tell clients: `--public-http-port` or `--public-https-port`, else the one bound.
    pub public_port: u16,
    /// The port of the same listener's HTTPS to tell clients, if it has one.
    pub public_https_port: Option<u16>,
    /// Whether it came over TLS that we ended.
    pub secure: bool,
    /// The name in the ClientHello, in lower case.
    pub sni: Option<Arc<str>>,
    /// Counts the connection as open: keep it until the connection has ended, and hand it on to its tunnel.
    pub permit: Permit,
}
