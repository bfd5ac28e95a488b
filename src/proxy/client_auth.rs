//! Certificates that clients must or may show: verified in the handshake, asked for again with each request.
//!
//! It never knows certificates' names. `tls` makes an [`Asking`] for each thing that is asked, `decide` compares what a connection was
//! verified by with what the host of a request asks.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{client_cert::ClientCert, refuse::Refusal};
use crate::model::tls::{Authorities, ClientAuth, ClientAuthMode};

/// What a connection was verified by, and who it is.
#[derive(Debug)]
pub struct Verified {
    /// What was asked of the client.
    pub client_auth: Arc<ClientAuth>,
    /// What it has shown.
    pub certificate: Option<ClientCert>,
}

/// Whether a connection may carry a request for a host that asks this.
///
/// The name in the ClientHello decided what was asked of the client, Host decides where its request goes: a connection that was asked
/// something else is sent away with 421 (RFC 9110 15.5.20), so that no name opens the door of another. Plain HTTP has shown nothing.
pub fn admits(secure: bool, verified: Option<&Verified>, asked: Option<&Arc<ClientAuth>>) -> Result<(), Refusal> {
    match asked {
        Some(asked) if !secure => match asked.mode {
            ClientAuthMode::Require => Err(Refusal::ClientCertificate),
            ClientAuthMode::Optional => Ok(()),
        },
        asked if verified.map(|verified| &verified.client_auth) == asked => Ok(()),
        _ => Err(Refusal::Misdirected),
    }
}

/// Why a handshake failed, as a label of `connections_refused`.
pub fn token(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::NoCertificatesPresented) => "client_certificate_missing",
        Some(Error::InvalidCertificate(error)) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "client_certificate_expired",
            CertificateError::UnknownIssuer => "client_certificate_unknown_issuer",
            _ => "client_certificate_invalid",
        },
        _ => "tls_handshake",
    }
}

/// Asks clients for a certificate that some authorities vouch for.
#[derive(Debug)]
pub(super) struct Asking {
    /// `None`: nobody is known who could vouch, so none will do.
    chain: Option<(Arc<dyn ClientCertVerifier>, Arc<Authorities>)>,
    mode: ClientAuthMode,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Asking {
    pub(super) fn new(auth: &ClientAuth, provider: &Arc<CryptoProvider>) -> Self {
        let chain = auth.authorities.as_ref().and_then(|authorities| {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities.roots()), Arc::clone(provider));
            // It fails without roots, and there is no bundle without one.
            Some((builder.build().ok()?, Arc::clone(authorities)))
        });
        Self { chain, mode: auth.mode, algorithms: provider.signature_verification_algorithms }
    }
}

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        self.mode == ClientAuthMode::Require
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.as_ref().map_or(&[], |(webpki, _)| webpki.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let Some((webpki, authorities)) = &self.chain else { return Err(CertificateError::UnknownIssuer.into()) };
        match authorities.names(leaf, now) {
            Some(valid) => Ok(valid.map(|()| ClientCertVerified::assertion())?),
            None => webpki.verify_client_cert(leaf, intermediates, now),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_serves_only_hosts_that_ask_what_it_was_asked() {
        let asks = |mode| Arc::new(ClientAuth { authorities: None, mode });
        let verified = |mode| Verified { client_auth: asks(mode), certificate: None };
        let (require, optional) = (ClientAuthMode::Require, ClientAuthMode::Optional);
        assert_eq!(admits(true, None, None), Ok(()));
        assert_eq!(admits(true, Some(&verified(require)), Some(&asks(require))), Ok(()));
        for (verified, asked) in [
            (None, Some(asks(require))),
            (None, Some(asks(optional))),
            (Some(verified(optional)), Some(asks(require))),
            (Some(verified(require)), None),
        ] {
            assert_eq!(admits(true, verified.as_ref(), asked.as_ref()), Err(Refusal::Misdirected));
        }
        assert_eq!(admits(false, None, Some(&asks(require))), Err(Refusal::ClientCertificate));
        assert_eq!(admits(false, None, Some(&asks(optional))), Ok(()));
    }
}
