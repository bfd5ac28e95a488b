//! TLS that we end: certificate and lowest version by name, swapped live, no configuration built per connection.
//!
//! It never knows what is said inside. `listen` makes one [`Terminator`] a port, `conn` hands it a ClientHello that was already read.

use std::{io, sync::Arc};

use rustls::{
    ServerConfig, ServerConnection,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    live::Live,
    model::table::{TcpPort, TlsVersion},
};

/// Why the data side can't speak TLS at all.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No session tickets.
    #[error("TLS can not be set up: {0}")]
    Rustls(#[from] rustls::Error),
    /// No self-signed certificate.
    #[error("no self-signed certificate could be made: {0}")]
    SelfSigned(#[from] rcgen::Error),
}

/// Where a port takes its certificates from.
#[derive(Clone, Debug)]
pub enum Place {
    /// From the hosts and layer-4 routes on the HTTPS port of this listener.
    Listener(Arc<str>),
    /// From the layer-4 routes of this port.
    Port(u16),
}

/// What all ports share: made once at the start.
#[derive(Debug)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    tickets: Arc<dyn ProducesTickets>,
    /// For names without a certificate, where no default one is configured.
    self_signed: Arc<CertifiedKey>,
}

/// Ends TLS on one port.
#[derive(Debug)]
pub struct Terminator {
    from_1_2: Arc<ServerConfig>,
    from_1_3: Arc<ServerConfig>,
}

impl Tls {
    /// Makes the ticket keys and a self-signed certificate.
    pub fn new() -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let self_signed = Arc::new(self_signed(&provider)?);
        Ok(Self { provider, tickets: aws_lc_rs::Ticketer::new()?, self_signed })
    }

    /// Ends TLS with the certificates of one place.
    pub fn terminator(&self, live: Arc<Live>, place: Place) -> Result<Terminator, TlsError> {
        let certificates = Arc::new(Certificates { live, place, self_signed: Arc::clone(&self.self_signed) });
        let config = |versions| -> Result<Arc<ServerConfig>, TlsError> {
            let config = ServerConfig::builder_with_provider(Arc::clone(&self.provider)).with_protocol_versions(versions)?;
            let mut config = config.with_no_client_auth().with_cert_resolver(Arc::clone(&certificates) as _);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            config.ticketer = Arc::clone(&self.tickets);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            // One is enough to come back with, and each costs a sealing and a write.
            config.send_tls13_tickets = 1;
            Ok(Arc::new(config))
        };
        Ok(Terminator { from_1_2: config(&[&TLS12, &TLS13])?, from_1_3: config(&[&TLS13])? })
    }
}

impl Terminator {
    /// Goes through the handshake that the bytes already read begin.
    pub async fn accept(&self, socket: TcpStream, read: &[u8], lowest: TlsVersion) -> io::Result<TlsStream<TcpStream>> {
        let config = match lowest {
            TlsVersion::V1_2 => &self.from_1_2,
            TlsVersion::V1_3 => &self.from_1_3,
        };
        let mut refused = None;
        let mut handshake = TlsAcceptor::from(Arc::clone(config)).accept_with(socket, |tls| refused = replay(tls, read).err());
        let Some((error, alert)) = refused else { return handshake.await };
        // rustls would wait for more before it sends the alert.
        if let Some(socket) = handshake.get_mut() {
            socket.write_all(&alert).await?;
            socket.shutdown().await?;
        }
        Err(error)
    }
}

/// Gives rustls what was already read. On an error, the alert that says so.
fn replay(tls: &mut ServerConnection, mut read: &[u8]) -> Result<(), (io::Error, Vec<u8>)> {
    let mut advance = || {
        while !read.is_empty() {
            tls.read_tls(&mut read)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
        Ok(())
    };
    advance().map_err(|error| {
        let mut alert = Vec::new();
        // Writing to memory does not fail.
        while tls.wants_write() && tls.write_tls(&mut alert).is_ok_and(|written| written > 0) {}
        (error, alert)
    })
}

/// Picks the certificate of the moment.
struct Certificates {
    live: Arc<Live>,
    place: Place,
    self_signed: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificates").field(&self.place).finish()
    }
}

impl Certificates {
    fn certificate(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.live.load();
        let router = &snapshot.router;
        let tcp = |port: &TcpPort| router.tcp(port, name).and_then(|route| router.tcp_tls(route)?.certificate(name).cloned());
        match &self.place {
            Place::Listener(listener) => tcp(&TcpPort::Https(Arc::clone(listener))).or_else(|| router.certificate(listener, name).cloned()),
            Place::Port(port) => tcp(&TcpPort::Number(*port)),
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let certificate = self.certificate(name.as_deref());
        Some(certificate.unwrap_or_else(|| Arc::clone(&self.self_signed)))
    }
}

fn self_signed(provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let made = rcgen::generate_simple_self_signed(["carrick.invalid".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    Ok(CertifiedKey::from_der(vec![made.cert.der().clone()], key, provider)?)
}
