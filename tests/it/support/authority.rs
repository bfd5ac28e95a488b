//! A certificate authority of the test's own: what it signs for servers and clients, and TLS servers that show or ask for it.

use std::{net::SocketAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::manifest;

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, in PEM, and the certificate in DER.
pub struct Signed {
    pub certificate: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Itself, as what a server shows: that of `openssl req -x509`.
    pub fn itself(name: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Signed::new(&params.self_signed(&key).unwrap(), &key)
    }

    /// A certificate for these names, valid as `edit` leaves it.
    pub fn sign(&self, names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        edit(&mut params);
        Signed::new(&params.signed_by(&key, &self.0).unwrap(), &key)
    }

    /// A certificate for a client, with a name that takes some quoting.
    pub fn client(&self, name: &str) -> Signed {
        self.sign(&[], |params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = vec![SanType::URI(format!("spiffe://test/{}", name.len()).try_into().unwrap())];
        })
    }

    /// As a ConfigMap with `ca.crt`.
    pub fn config_map(&self, name: &str) -> String {
        bundle("ConfigMap", "data", name, &self.pem())
    }

    /// As an Opaque Secret with `ca.crt`.
    pub fn secret(&self, name: &str) -> String {
        bundle("Secret", "stringData", name, &self.pem())
    }

    /// The roots of a peer that trusts it.
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }
}

/// A ConfigMap or Secret with `ca.crt`.
pub fn bundle(kind: &str, field: &str, name: &str, pem: &str) -> String {
    let pem: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n{field}:\n  ca.crt: |\n{pem}")
}

/// When a certificate was over long ago.
pub fn expired(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
}

impl Signed {
    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    /// As a Secret of type kubernetes.io/tls.
    pub fn secret(&self, name: &str) -> String {
        manifest::tls_secret(name, &self.certificate, &self.key)
    }

    /// Its key.
    pub fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    /// A server that shows it, and asks clients for a certificate of `clients`, if there is one.
    pub fn server(&self, clients: Option<&Authority>) -> Arc<ServerConfig> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let builder = match clients {
            Some(authority) => {
                ServerConfig::builder().with_client_cert_verifier(WebPkiClientVerifier::builder(authority.roots()).build().unwrap())
            }
            None => ServerConfig::builder().with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(vec![self.der.clone()], self.private()).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// An HTTP server over TLS: each answer tells the name it was asked by, what ALPN agreed on, how the handshake was done and how many
/// requests came before on the connection.
pub async fn tell(config: Arc<ServerConfig>) -> SocketAddr {
    let (acceptor, listener) = (TlsAcceptor::from(config), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let shaken = acceptor.accept(socket);
            tokio::spawn(async move {
                let Ok(mut socket) = shaken.await else { return };
                for before in 0.. {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match socket.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8_lossy(&head);
                    let tls = socket.get_ref().1;
                    let name = tls.server_name().unwrap_or("nobody");
                    let alpn = String::from_utf8_lossy(tls.alpn_protocol().unwrap_or(b"nothing"));
                    let told = format!("{name} {alpn} {:?} {before}\n{head}", tls.handshake_kind().unwrap());
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{told}", told.len());
                    if socket.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    at
}
