//! TLS that we end: certificate and lowest version by name, swapped live, no configuration built per connection.
//!
//! It never knows what is said inside. `listen` makes one [`Terminator`] a port, `conn` hands it a ClientHello that was already read.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, ServerConfig, ServerConnection,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    client_auth::{Asking, Verified},
    client_cert::ClientCert,
    keys::Keyring,
    tickets::Tickets,
};
use crate::{
    live::Live,
    model::{
        table::{TcpPort, TlsVersion},
        tls::ClientAuth,
    },
    router::CompiledTls,
};

/// Why the data side can't speak TLS at all.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No configuration.
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
    keys: Arc<Keyring>,
    /// For names without a certificate, where no default one is configured.
    self_signed: Arc<CertifiedKey>,
}

/// Ends TLS on one port.
#[derive(Debug)]
pub struct Terminator {
    provider: Arc<CryptoProvider>,
    keys: Arc<Keyring>,
    certificates: Arc<Certificates>,
    from_1_2: Arc<ServerConfig>,
    from_1_3: Arc<ServerConfig>,
}

/// How one connection is to be ended: as the host that it asks for says.
#[derive(Clone, Debug)]
pub struct Terms {
    config: Arc<ServerConfig>,
    client_auth: Option<Arc<ClientAuth>>,
}

impl Tls {
    /// Makes a self-signed certificate. Tickets are sealed with `keys`.
    pub fn new(keys: Arc<Keyring>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let self_signed = Arc::new(self_signed(&provider)?);
        Ok(Self { provider, keys, self_signed })
    }

    /// Ends TLS with the certificates of one place.
    pub fn terminator(&self, live: Arc<Live>, place: Place) -> Result<Terminator, TlsError> {
        let certificates = Arc::new(Certificates { live, place, self_signed: Arc::clone(&self.self_signed) });
        let config = |lowest| config(&self.provider, &self.keys, &certificates, lowest, None);
        let (from_1_2, from_1_3) = (config(TlsVersion::V1_2)?, config(TlsVersion::V1_3)?);
        Ok(Terminator { provider: Arc::clone(&self.provider), keys: Arc::clone(&self.keys), certificates, from_1_2, from_1_3 })
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    keys: &Arc<Keyring>,
    certificates: &Arc<Certificates>,
    lowest: TlsVersion,
    client_auth: Option<&ClientAuth>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let versions: &[_] = match lowest {
        TlsVersion::V1_2 => &[&TLS12, &TLS13],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let config = ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(versions)?;
    let config = match client_auth {
        None => config.with_no_client_auth(),
        Some(auth) => config.with_client_cert_verifier(Arc::new(Asking::new(auth, provider))),
    };
    let mut config = config.with_cert_resolver(Arc::clone(certificates) as _);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A session that goes on is not verified again: it does only where the same is asked for.
    config.ticketer = Arc::new(Tickets::new(Arc::clone(keys), client_auth.map(context).unwrap_or_default()));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One is enough to come back with, and each costs a sealing and a write.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// What a session was verified by, in bytes.
fn context(auth: &ClientAuth) -> Vec<u8> {
    let authorities = auth.authorities.as_ref().map_or("nobody", |authorities| authorities.fingerprint());
    format!("{:?} {authorities}", auth.mode).into_bytes()
}

impl Terminator {
    /// The terms of a host or layer-4 route.
    pub fn terms(&self, tls: Option<&CompiledTls>) -> Result<Terms, rustls::Error> {
        let lowest = tls.map_or_else(TlsVersion::default, |tls| tls.min_version);
        if let Some((tls, auth)) = tls.and_then(|tls| Some((tls, tls.client_auth.as_ref()?))) {
            let config = match tls.asking.get() {
                Some(config) => config,
                None => {
                    let config = config(&self.provider, &self.keys, &self.certificates, lowest, Some(auth))?;
                    tls.asking.get_or_init(|| config)
                }
            };
            return Ok(Terms { config: Arc::clone(config), client_auth: Some(Arc::clone(auth)) });
        }
        let config = match lowest {
            TlsVersion::V1_2 => &self.from_1_2,
            TlsVersion::V1_3 => &self.from_1_3,
        };
        Ok(Terms { config: Arc::clone(config), client_auth: None })
    }
}

impl Terms {
    /// Goes through the handshake that the bytes already read begin. The socket comes back with an error, where there is more to be said.
    pub async fn accept(&self, socket: TcpStream, read: &[u8]) -> Result<TlsStream<TcpStream>, (io::Error, Option<TcpStream>)> {
        let mut refused = None;
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let mut handshake = acceptor.accept_with(socket, |tls| refused = replay(tls, read).err());
        let Some((error, alert)) = refused else {
            return handshake.into_fallible().await.map_err(|(error, socket)| (error, Some(socket)));
        };
        // rustls would wait for more before it sends the alert.
        if let Some(socket) = handshake.get_mut() {
            let said = async {
                socket.write_all(&alert).await?;
                socket.shutdown().await
            };
            // Whoever does not take it has gone.
            let _ = said.await;
        }
        Err((error, None))
    }

    /// Who the client is, as far as it was asked. `Err` where its certificate was over before this session went on.
    pub fn verified(&self, tls: &TlsStream<TcpStream>) -> Result<Option<Verified>, CertificateError> {
        let Some(client_auth) = &self.client_auth else { return Ok(None) };
        let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = leaf.map(|leaf| ClientCert::read(leaf).ok_or(CertificateError::BadEncoding)).transpose()?;
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        if certificate.as_ref().is_some_and(|certificate| certificate.is_over(now)) {
            return Err(CertificateError::Expired);
        }
        Ok(Some(Verified { client_auth: Arc::clone(client_auth), certificate }))
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
