//! What TLS is to verify and to show, towards backends and from clients: every certificate parsed, every default applied.
//!
//! It never knows connections, nor the objects that the certificates came from. `translate` makes it, `dial` and `proxy` act on it.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use rustls::{
    CertificateError, RootCertStore,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::Cert;

/// TLS to the endpoints of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct BackendTls {
    /// The name asked for (SNI) and verified; an address is verified only.
    #[serde(serialize_with = "as_text")]
    pub server_name: ServerName<'static>,
    /// Which certificates will do.
    pub trust: Trust,
    /// The certificate that we show where the backend asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Arc<Cert>>,
    /// What is spoken inside.
    pub application: Application,
}

/// Which certificates of a backend will do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Trust {
    /// Those that the system's authorities vouch for.
    System,
    /// Those that these authorities vouch for.
    Authorities(Arc<Authorities>),
    /// Any.
    Anything,
}

/// What is spoken inside TLS to a backend, as far as TLS itself says it (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Application {
    /// HTTP/1.1.
    Http,
    /// Nobody knows.
    Opaque,
}

/// The certificate authorities of one `ca.crt`. Compares, prints and serialises as its fingerprint.
#[derive(Clone)]
pub struct Authorities {
    fingerprint: Box<str>,
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Authorities {
    /// Takes the certificates of a bundle. An error says which of them is none, counted from 1, and why.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, (usize, rustls::Error)> {
        let mut roots = RootCertStore::empty();
        let mut hash = Sha256::new();
        for (number, certificate) in (1..).zip(&certificates) {
            roots.add(certificate.clone()).map_err(|error| (number, error))?;
            hash.update(certificate);
        }
        let fingerprint = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
        Ok(Self { fingerprint, certificates, roots: Arc::new(roots) })
    }

    /// SHA-256 of the certificates' DER, in hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The authorities, ready for rustls.
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// Whether this very certificate is among them, and then whether it is valid at that time: what was named itself needs nobody to
    /// vouch for it, and an authority is no peer's certificate to webpki.
    pub fn names(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Option<Result<(), CertificateError>> {
        self.certificates.contains(leaf).then(|| is_valid_at(leaf, now))
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Authorities {}

impl Hash for Authorities {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authorities").field(&self.fingerprint).finish()
    }
}

impl Serialize for Authorities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.fingerprint)
    }
}

/// The certificates that clients must or may show on a host or a layer-4 route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientAuth {
    /// Who must vouch for them. `None` while they are not known: then no certificate will do.
    pub authorities: Option<Arc<Authorities>>,
    /// Whether one must be shown.
    pub mode: ClientAuthMode,
}

/// Whether a client certificate must be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ClientAuthMode {
    /// It must.
    Require,
    /// It may; a wrong one may not.
    Optional,
}

fn is_valid_at(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    Ok(())
}

fn as_text<S: Serializer>(name: &ServerName<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&name.to_str())
}
