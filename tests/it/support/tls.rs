//! Certificates made on the spot, and TLS clients and servers that know them.

use std::{io, net::SocketAddr, sync::Arc};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::{manifest, soon};

/// A self-signed certificate for one name, with its key.
pub struct Identity {
    /// The name.
    pub name: &'static str,
    /// PEM.
    pub certificate: String,
    /// PEM, PKCS#8.
    pub key: String,
}

impl Identity {
    /// A new one, ECDSA P-256.
    pub fn new(name: &'static str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { name, certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// As a Secret.
    pub fn secret(&self, name: &str) -> String {
        manifest::tls_secret(name, &self.certificate, &self.key)
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

/// A client that trusts this identity alone, with these ALPN offers.
pub fn client(identity: &Identity, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.der()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A TLS connection to this name at this address, verified.
pub async fn connect(at: SocketAddr, identity: &Identity) -> io::Result<TlsStream<TcpStream>> {
    connect_with(at, identity.name, client(identity, &["http/1.1"])).await
}

/// The same with a configuration of the test's.
pub async fn connect_with(at: SocketAddr, name: &'static str, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(at).await?;
    soon("the TLS handshake", TlsConnector::from(config).connect(ServerName::try_from(name).unwrap(), socket)).await
}

/// A TLS server that says `greeting` and goodbye.
pub async fn echo_server(identity: &Identity, greeting: &'static str) -> SocketAddr {
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![identity.der()], key).unwrap();
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(mut socket) = acceptor.accept(socket).await {
                let _ = socket.write_all(greeting.as_bytes()).await;
                let _ = socket.shutdown().await;
            }
        }
    });
    at
}
