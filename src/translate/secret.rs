//! A Secret -> a certificate chain with its key, and certificate authorities: checked once, when the Secret arrives.
//!
//! It never prints what it read. `index` calls it when a Secret is applied, not for every translation.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{
    objects::{Named, Secret},
    status::Problem,
    tls::CA,
};
use crate::{
    api::Reason,
    model::{Cert, tls::Authorities},
};

/// The type that holds certificates.
pub(super) const TLS_TYPE: &str = "kubernetes.io/tls";

/// What routes may take from a Secret, each with what is wrong with it.
#[derive(Debug, PartialEq)]
pub(super) struct Content {
    /// Of type `kubernetes.io/tls`.
    pub(super) cert: Result<Arc<Cert>, Problem>,
    /// Of any type.
    pub(super) authorities: Result<Arc<Authorities>, Problem>,
}

impl Content {
    pub(super) fn read(secret: &Secret) -> Self {
        let bundle = value(secret, CA).and_then(|pem| authorities(&pem));
        let wrong = |problem| Problem::new(Reason::InvalidCertificate, format!("secret {} {problem}", secret.object_ref()));
        Self { cert: parse(secret), authorities: bundle.map(Arc::new).map_err(wrong) }
    }
}

/// The authorities of a bundle in PEM. The rest of the sentence "secret default/ca …" is the error.
pub(super) fn authorities(pem: &[u8]) -> Result<Authorities, String> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("has a {CA} that is not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("has a {CA} without a CERTIFICATE block: it takes the certificate authorities in PEM"));
    }
    Authorities::new(certificates)
        .map_err(|(number, error)| format!("has a {CA} whose certificate number {number} is no authority's: {error}"))
}

/// The certificate of a Secret, or what is wrong with it and what to do.
fn parse(secret: &Secret) -> Result<Arc<Cert>, Problem> {
    let name = secret.object_ref();
    let type_ = secret.type_.as_deref().unwrap_or("Opaque");
    if type_ != TLS_TYPE {
        let message = format!("secret {name} is of type {type_}: create it anew with type {TLS_TYPE}");
        return Err(Problem::new(Reason::SecretWrongType, message));
    }
    certificate(secret).map(Arc::new).map_err(|problem| Problem::new(Reason::InvalidCertificate, format!("secret {name} {problem}")))
}

/// The rest of the sentence "secret default/shop-tls …" is the error.
fn certificate(secret: &Secret) -> Result<Cert, String> {
    let chain = CertificateDer::pem_slice_iter(&value(secret, "tls.crt")?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("has a tls.crt that is not PEM: {error}"))?;
    let leaf = chain.first().ok_or("has a tls.crt without a CERTIFICATE block: it takes the chain in PEM, the leaf first")?;
    let (names, not_after) = leaf_names(leaf)?;
    let private = PrivateKeyDer::from_pem_slice(&value(secret, "tls.key")?)
        .map_err(|_| "has a tls.key without a private key in PEM: it takes PKCS#8, PKCS#1 or SEC1, not encrypted")?;
    let signer = aws_lc_rs::sign::any_supported_type(&private).map_err(|error| {
        format!("has a key that can't be used: {error}; it takes ECDSA P-256, P-384 or P-521, Ed25519, or RSA of 2048 bits and more")
    })?;
    let key = CertifiedKey::new(chain, signer);
    key.keys_match().map_err(|_| "has a tls.key that does not belong to the first certificate of tls.crt: put the leaf first")?;
    Ok(Cert::new(Arc::new(key), &private, names, not_after))
}

fn value(secret: &Secret, key: &str) -> Result<Vec<u8>, String> {
    if let Some(text) = secret.string_data.get(key) {
        return Ok(text.clone().into_bytes());
    }
    let encoded = secret.data.get(key).ok_or_else(|| format!("has no {key}"))?;
    decode(encoded).ok_or_else(|| format!("has a {key} that is not base64"))
}

/// Base64 as manifests have it, wrapped over lines.
pub(super) fn decode(encoded: &str) -> Option<Vec<u8>> {
    let joined: String = encoded.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(joined).ok()
}

/// DNS names and end of validity of a leaf: subject alternative names, else the common name.
fn leaf_names(leaf: &CertificateDer<'_>) -> Result<(Vec<Box<str>>, i64), String> {
    let (_, cert) = X509Certificate::from_der(leaf).map_err(|error| format!("has a first certificate that is not X.509: {error}"))?;
    let alternative = cert.subject_alternative_name().map_err(|error| format!("has a first certificate with bad names: {error}"))?;
    let mut names: Vec<Box<str>> = Vec::new();
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        if let GeneralName::DNSName(name) = name {
            names.push(name.to_ascii_lowercase().into());
        }
    }
    if alternative.is_none() {
        let common = cert.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(|name| name.to_ascii_lowercase().into()));
    }
    Ok((names, cert.validity().not_after.timestamp()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::translate::objects::Metadata;

    pub(in crate::translate) fn secret(name: &str, type_: &str, crt: &str, key: &str) -> Secret {
        Secret {
            metadata: Metadata { name: name.to_owned(), ..Metadata::default() },
            type_: Some(type_.to_owned()),
            data: BTreeMap::new(),
            string_data: BTreeMap::from([("tls.crt".to_owned(), crt.to_owned()), ("tls.key".to_owned(), key.to_owned())]),
        }
    }

    fn self_signed(names: &[&str], common: Option<&str>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn reason_and_message(secret: &Secret) -> (Reason, String) {
        let problem = parse(secret).unwrap_err();
        (problem.reason, problem.message)
    }

    #[test]
    fn names_come_from_the_alternative_names() {
        let (crt, key) = self_signed(&["Shop.example.com", "*.shop.example.com"], Some("ignored.example.com"));
        let cert = parse(&secret("shop", TLS_TYPE, &crt, &key)).unwrap();
        assert!(cert.covers("shop.example.com") && cert.covers("a.shop.example.com"));
        assert!(!cert.covers("ignored.example.com"));
        assert!(cert.not_after > 0);
    }

    #[test]
    fn without_alternative_names_the_common_name_counts() {
        let (crt, key) = self_signed(&[], Some("old.example.com"));
        assert!(parse(&secret("shop", TLS_TYPE, &crt, &key)).unwrap().covers("old.example.com"));
    }

    #[test]
    fn data_is_base64_even_over_lines() {
        let (crt, key) = self_signed(&["a.example"], None);
        let wrapped = |text: &str| {
            let encoded = BASE64_STANDARD.encode(text);
            encoded.as_bytes().chunks(60).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect::<String>()
        };
        let mut secret = secret("shop", TLS_TYPE, "", "");
        secret.string_data.clear();
        secret.data = BTreeMap::from([("tls.crt".to_owned(), wrapped(&crt)), ("tls.key".to_owned(), wrapped(&key))]);
        assert!(parse(&secret).unwrap().covers("a.example"));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (crt, _) = self_signed(&["a.example"], None);
        let (_, key) = self_signed(&["a.example"], None);
        let (reason, message) = reason_and_message(&secret("shop", TLS_TYPE, &crt, &key));
        assert_eq!(reason, Reason::InvalidCertificate);
        assert!(message.contains("secret default/shop has a tls.key that does not belong"), "{message}");
    }

    #[test]
    fn an_opaque_secret_is_of_the_wrong_type() {
        let (reason, message) = reason_and_message(&secret("shop", "Opaque", "", ""));
        assert_eq!(reason, Reason::SecretWrongType);
        assert!(message.contains("default/shop is of type Opaque"), "{message}");
    }

    #[test]
    fn no_message_repeats_what_the_secret_holds() {
        let (crt, _) = self_signed(&["a.example"], None);
        let (_, message) = reason_and_message(&secret("shop", TLS_TYPE, &crt, "hunter2"));
        assert!(!message.contains("hunter2"), "{message}");
        assert!(message.contains("tls.key"), "{message}");
    }
}
