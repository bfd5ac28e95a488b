//! Whether a backend's certificate will do.
//!
//! It never knows sockets. `tls` makes one [`Verifier`] for each configuration; rustls asks it in each full handshake.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::tls::SYSTEM;
use crate::model::tls::{Authorities, Trust};

/// Verifies chain and name as RFC 5280 and RFC 9525 say, or nothing.
#[derive(Debug)]
pub(super) struct Verifier {
    checks: Checks,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Checks {
    /// Up to one of these authorities; `pinned` are those that may also be the backend's own certificate.
    Chain { webpki: Arc<WebPkiServerVerifier>, pinned: Option<Arc<Authorities>> },
    /// There is nobody to vouch for anything.
    Never,
    /// Any certificate will do.
    Nothing,
}

impl Verifier {
    pub(super) fn new(trust: &Trust, provider: &Arc<CryptoProvider>) -> Self {
        let (roots, pinned) = match trust {
            Trust::System => (Some(&*SYSTEM), None),
            Trust::Authorities(authorities) => (Some(authorities.roots()), Some(Arc::clone(authorities))),
            Trust::Anything => (None, None),
        };
        let webpki = roots.map(|roots| WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider)).build());
        let checks = match webpki {
            Some(Ok(webpki)) => Checks::Chain { webpki, pinned },
            // There are no roots.
            Some(Err(_)) => Checks::Never,
            None => Checks::Nothing,
        };
        Self { checks, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.checks {
            Checks::Chain { webpki, pinned } => match pinned.as_ref().and_then(|pinned| pinned.names(leaf, now)) {
                Some(valid) => {
                    valid?;
                    verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
                    Ok(ServerCertVerified::assertion())
                }
                None => webpki.verify_server_cert(leaf, intermediates, name, ocsp, now).map_err(|error| named_rightly(error, leaf)),
            },
            Checks::Never => Err(CertificateError::UnknownIssuer.into()),
            Checks::Nothing => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// An authority that vouches for itself, as `openssl req -x509` makes them, is an unknown issuer first of all.
fn named_rightly(error: Error, leaf: &CertificateDer<'_>) -> Error {
    let Error::InvalidCertificate(CertificateError::Other(_)) = error else { return error };
    match X509Certificate::from_der(leaf) {
        Ok((_, certificate)) if certificate.is_ca() && certificate.issuer() == certificate.subject() => {
            CertificateError::UnknownIssuer.into()
        }
        _ => error,
    }
}
