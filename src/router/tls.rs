//! The certificates of one host, and which of them a name gets.
//!
//! It never knows handshakes. `Router` compiles it, `proxy::tls` asks it.

use std::sync::{Arc, OnceLock};

use rustls::{ServerConfig, sign::CertifiedKey};

use crate::model::{
    Cert, Table,
    table::{HostTls, TlsVersion},
    tls::ClientAuth,
};

/// TLS of a host or of a layer-4 route, its Secrets resolved.
pub struct CompiledTls {
    certificates: Box<[Arc<Cert>]>,
    /// Plain HTTP is sent to https with 308. Only where a certificate is served.
    pub redirect: bool,
    /// The lowest version accepted.
    pub min_version: TlsVersion,
    /// What is asked of clients' certificates.
    pub client_auth: Option<Arc<ClientAuth>>,
    /// A place for what asks clients so: made with the first handshake, once a configuration.
    pub asking: OnceLock<Arc<ServerConfig>>,
}

impl CompiledTls {
    pub(super) fn compile(spec: &HostTls, table: &Table) -> Self {
        let certificates: Box<[_]> = spec.certificates.iter().filter_map(|name| table.certs.get(name).cloned()).collect();
        Self {
            redirect: spec.redirect && !certificates.is_empty(),
            certificates,
            min_version: spec.min_version,
            client_auth: spec.client_auth.clone(),
            asking: OnceLock::new(),
        }
    }

    /// The first certificate that covers the name, else the first. `None` while no Secret is there.
    pub fn certificate(&self, sni: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let covering = sni.and_then(|name| self.certificates.iter().find(|cert| cert.covers(name)));
        covering.or(self.certificates.first()).map(|cert| &cert.key)
    }
}
