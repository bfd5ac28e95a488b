//! TLS to endpoints, we being its client: one rustls configuration for each thing that a configuration says, shared by all connections.
//!
//! It never knows why an endpoint was picked or what is said inside. `live` keeps the [`Clients`] of what it serves, `proxy` shakes hands.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    client::{ResolvesClientCert, Resumption},
    crypto::aws_lc_rs,
    sign::CertifiedKey,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{DialError, verify::Verifier};
use crate::model::tls::{Application, BackendTls};

/// What all configurations of the data side have: made once a process.
static PROVIDER: LazyLock<Arc<rustls::crypto::CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
/// Sessions that one configuration remembers to go on with.
const SESSIONS: usize = 256;

/// The clients in use: one of a process. What means the same is the same client, over any number of configurations.
#[derive(Debug, Default)]
pub struct Clients(Mutex<HashMap<Arc<BackendTls>, Weak<Client>>>);

impl Clients {
    /// The client that does what `spec` says. Called when a configuration comes, never for a connection.
    pub fn get(&self, spec: &Arc<BackendTls>) -> Arc<Client> {
        let mut known = self.0.lock();
        if let Some(client) = known.get(spec).and_then(Weak::upgrade) {
            return client;
        }
        known.retain(|_, client| client.strong_count() > 0);
        let client = Arc::new(Client::new(Arc::clone(spec)));
        known.insert(Arc::clone(spec), Arc::downgrade(&client));
        client
    }
}

/// Speaks TLS as one [`BackendTls`] says.
#[derive(Debug)]
pub struct Client {
    /// Unique among all there ever were: what came by one client is never taken for what came by another.
    pub number: u32,
    spec: Arc<BackendTls>,
    config: Arc<ClientConfig>,
}

impl Client {
    fn new(spec: Arc<BackendTls>) -> Self {
        static NUMBERS: AtomicU32 = AtomicU32::new(1);
        let provider = Arc::clone(&PROVIDER);
        let verifier = Verifier::new(&spec.trust, &provider);
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().expect("aws-lc-rs has cipher suites for TLS 1.2 and 1.3");
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &spec.client {
            Some(cert) => builder.with_client_cert_resolver(Arc::new(Shown(Arc::clone(&cert.key)))),
            None => builder.with_no_client_auth(),
        };
        if spec.application == Application::Http {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Self { number: NUMBERS.fetch_add(1, Ordering::Relaxed), spec, config: Arc::new(config) }
    }

    /// Shakes hands over a socket that was just connected to `endpoint`.
    pub async fn shake(&self, socket: TcpStream, endpoint: SocketAddr, by: Instant) -> Result<Box<TlsStream<TcpStream>>, DialError> {
        // Boxed: what a handshake needs is not held by whoever waits for it.
        let attempt = Box::pin(TlsConnector::from(Arc::clone(&self.config)).connect(self.spec.server_name.clone(), socket));
        match timeout_at(by, attempt).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(DialError::Tls(endpoint, TlsFault::of(&error).unwrap_or(TlsFault::Failed), error)),
            Err(_) => Err(DialError::Timeout(endpoint)),
        }
    }
}

/// The one certificate that we show.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What is wrong with an endpoint's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsFault {
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Nobody whom we trust vouches for its certificate.
    UnknownIssuer,
    /// Its certificate is made out for other names.
    WrongName,
    /// Its certificate can't be used for another reason.
    Certificate,
    /// It wants a certificate of ours, or another one.
    WantsCertificate,
    /// It ended the handshake, or what it spoke is no TLS that we speak.
    Failed,
}

impl TlsFault {
    /// The label of metrics.
    pub fn token(self) -> &'static str {
        match self {
            TlsFault::Expired => "certificate_expired",
            TlsFault::NotYetValid => "certificate_not_yet_valid",
            TlsFault::UnknownIssuer => "certificate_unknown_issuer",
            TlsFault::WrongName => "certificate_wrong_name",
            TlsFault::Certificate => "certificate_invalid",
            TlsFault::WantsCertificate => "client_certificate",
            TlsFault::Failed => "tls",
        }
    }

    /// What rustls says in an error of a stream; `None` where the error is not about TLS.
    pub fn of(error: &io::Error) -> Option<Self> {
        let fault = match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::AlertReceived(alert) => Self::of_alert(*alert),
            _ => TlsFault::Failed,
        };
        Some(fault)
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFault::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsFault::NotYetValid,
            CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsFault::WrongName,
            _ => TlsFault::Certificate,
        }
    }

    /// In TLS 1.3 a server says so only after the handshake was done for us, with the first read.
    fn of_alert(alert: AlertDescription) -> Self {
        use AlertDescription::*;
        match alert {
            CertificateRequired
            | NoCertificate
            | BadCertificate
            | UnsupportedCertificate
            | CertificateRevoked
            | CertificateExpired
            | CertificateUnknown
            | UnknownCA
            | AccessDenied => TlsFault::WantsCertificate,
            _ => TlsFault::Failed,
        }
    }
}

impl std::fmt::Display for TlsFault {
    /// The rest of the sentence "10.0.0.1:8443 …".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TlsFault::Expired => "has a certificate that has expired",
            TlsFault::NotYetValid => "has a certificate that is not valid yet",
            TlsFault::UnknownIssuer => "has a certificate of an unknown issuer: name its authorities in backends[].tls",
            TlsFault::WrongName => "has a certificate for other names: name one of them in backends[].tls.serverName",
            TlsFault::Certificate => "has a certificate that can't be used",
            TlsFault::WantsCertificate => "does not take our certificate, or wants one: name it in backends[].tls.clientSecret",
            TlsFault::Failed => "does not do the TLS handshake",
        })
    }
}

/// The authorities of the system, read once: those of the image, or of SSL_CERT_FILE and SSL_CERT_DIR. None is a warning, and no certificate
/// will do then.
pub(super) static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's certificate authorities can not be read");
    }
    match added {
        0 => tracing::warn!(
            "the system has no certificate authorities: TLS to backends fails where none are named (SSL_CERT_FILE says where they are)"
        ),
        _ => tracing::info!(added, ignored, "the system's certificate authorities are read"),
    }
    Arc::new(roots)
});
