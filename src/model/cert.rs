//! A certificate chain with its key, parsed and checked once.
//!
//! It compares, prints and serialises as fingerprint and names only: no key ever reaches a log or `/debug/table`.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// What one Secret of type `kubernetes.io/tls` holds.
#[derive(Clone, Serialize)]
pub struct Cert {
    /// SHA-256 of the chain's and the key's DER, in hex.
    pub fingerprint: Box<str>,
    /// DNS names of the leaf: subject alternative names, else the common name. Lower case; may begin with `*.`.
    pub names: Vec<Box<str>>,
    /// End of the leaf's validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// Ready for rustls.
    #[serde(skip)]
    pub key: Arc<CertifiedKey>,
}

impl Cert {
    /// Joins a checked key with what its leaf says. `private` is the DER that `key` was made from.
    pub fn new(key: Arc<CertifiedKey>, private: &PrivateKeyDer<'_>, names: Vec<Box<str>>, not_after: i64) -> Self {
        let mut hash = Sha256::new();
        key.cert.iter().for_each(|cert: &CertificateDer<'_>| hash.update(cert));
        hash.update(private.secret_der());
        let fingerprint = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
        Self { fingerprint, names, not_after, key }
    }

    /// Whether the leaf is made out for this host name (RFC 9525: a wildcard stands for exactly one label).
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == suffix),
            None => **name == *host,
        })
    }
}

impl PartialEq for Cert {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Cert {}

impl Hash for Cert {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl fmt::Debug for Cert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cert").field("fingerprint", &self.fingerprint).field("names", &self.names).finish_non_exhaustive()
    }
}
