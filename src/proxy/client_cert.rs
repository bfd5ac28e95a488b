//! The certificate that a client has shown, as backends are told of it: in header fields that nobody else can write.
//!
//! It never knows handshakes or locations. `conn` reads the certificate once a connection, `http` tells the backend of each request.

use std::fmt::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    objects::{oid_registry, oid2abbrev},
    prelude::FromDer as _,
    x509::{AttributeTypeAndValue, X509Name},
};

/// `SUCCESS` or `NONE`, as nginx calls it.
const VERIFIED: HeaderName = HeaderName::from_static("x-client-cert-verified");
/// The subject as RFC 4514 spells it, which is how nginx does.
const SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
/// The subject alternative names: `DNS:a.example, URI:spiffe://b/c`.
const SAN: HeaderName = HeaderName::from_static("x-client-cert-san");
/// SHA-256 of the certificate, in hex.
const FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-fingerprint");
/// The certificate itself (RFC 9440).
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// Whether a field, in lower case and with `-`, is one of those that tell of a client's certificate.
pub fn is_of_certificate(name: &str) -> bool {
    name.starts_with("x-client-cert-") || name == "client-cert" || name == "client-cert-chain"
}

/// A certificate as its fields say it.
#[derive(Debug)]
pub struct ClientCert {
    fields: Vec<(HeaderName, HeaderValue)>,
    not_after: i64,
}

impl ClientCert {
    /// Reads a certificate that rustls has verified. `None`: it can't be read, which rustls would not have let in.
    pub fn read(leaf: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let fingerprint = Sha256::digest(leaf).iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let san = certificate.subject_alternative_name().ok().flatten();
        let san = san.map(|extension| alternative_names(&extension.value.general_names)).filter(|text| !text.is_empty());
        let encoded = format!(":{}:", BASE64_STANDARD.encode(leaf));
        let fields = [
            (SUBJECT, Some(distinguished_name(certificate.subject()))),
            (SAN, san),
            (FINGERPRINT, Some(fingerprint)),
            (CLIENT_CERT, Some(encoded)),
        ];
        // All of it is visible ASCII, and so a field value.
        let fields = fields.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::try_from(text?).ok()?)));
        Some(Self { fields: fields.collect(), not_after: certificate.validity().not_after.timestamp() })
    }

    /// Whether it was over at this time, in seconds since the Unix epoch: a session that goes on is not verified again.
    pub fn is_over(&self, now: i64) -> bool {
        now > self.not_after
    }
}

/// Tells a backend what was verified. Whatever anybody else said of it must be gone.
pub fn tell(headers: &mut HeaderMap, shown: Option<&ClientCert>) {
    headers.insert(VERIFIED, HeaderValue::from_static(if shown.is_some() { "SUCCESS" } else { "NONE" }));
    for (name, value) in shown.into_iter().flat_map(|shown| &shown.fields) {
        headers.insert(name.clone(), value.clone());
    }
}

/// RFC 4514: the last element first, `,` between elements, `+` within one.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut elements: Vec<String> = name.iter_rdn().map(|element| element.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    elements.reverse();
    elements.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let name = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
    let mut text = format!("{name}=");
    match attribute.as_str() {
        Ok(value) => escape(&mut text, value),
        // Of a kind that is no text for us: its DER, as the RFC says.
        Err(_) => {
            text.push('#');
            attribute.as_slice().iter().for_each(|byte| _ = write!(text, "{byte:02x}"));
        }
    }
    text
}

fn alternative_names(names: &[GeneralName<'_>]) -> String {
    let mut text = String::new();
    for name in names {
        let (kind, value) = match name {
            GeneralName::DNSName(name) => ("DNS", (*name).to_owned()),
            GeneralName::URI(uri) => ("URI", (*uri).to_owned()),
            GeneralName::RFC822Name(address) => ("email", (*address).to_owned()),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => ("IP", address),
                None => continue,
            },
            _ => continue,
        };
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(kind);
        text.push(':');
        escape(&mut text, &value);
    }
    text
}

fn address(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        _ => None,
    }
}

/// RFC 4514 2.4: what separates is escaped, and what is not visible ASCII is told byte by byte. So no name can look like two.
fn escape(out: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            b'#' if at == 0 => out.push_str("\\#"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => _ = write!(out, "\\{byte:02X}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn told(edit: impl FnOnce(&mut CertificateParams)) -> HeaderMap {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        edit(&mut params);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut headers = HeaderMap::new();
        tell(&mut headers, Some(&ClientCert::read(made.der()).unwrap()));
        headers
    }

    #[test]
    fn a_backend_is_told_who_it_is() {
        let headers = told(|params| {
            params.distinguished_name.push(DnType::OrganizationName, "Shop");
            params.distinguished_name.push(DnType::CommonName, "alice");
            params.subject_alt_names = vec![
                SanType::DnsName("alice.example".try_into().unwrap()),
                SanType::URI("spiffe://shop/alice".try_into().unwrap()),
                SanType::IpAddress([192, 0, 2, 1].into()),
            ];
        });
        assert_eq!(headers[VERIFIED], "SUCCESS");
        assert_eq!(headers[SUBJECT], "CN=alice,O=Shop");
        assert_eq!(headers[SAN], "DNS:alice.example, URI:spiffe://shop/alice, IP:192.0.2.1");
        assert_eq!(headers[FINGERPRINT].len(), 64);
        let encoded = headers[CLIENT_CERT].to_str().unwrap();
        assert!(BASE64_STANDARD.decode(encoded.trim_matches(':')).unwrap().starts_with(&[0x30, 0x82]));
    }

    #[test]
    fn no_name_looks_like_two_nor_ends_the_field() {
        let headers = told(|params| {
            params.distinguished_name.push(DnType::CommonName, "alice, O=Admin\r\nX-Admin: yes é ");
            params.subject_alt_names = vec![SanType::URI("urn:a,DNS:admin.example".try_into().unwrap())];
        });
        assert_eq!(headers[SUBJECT], r"CN=alice\, O=Admin\0D\0AX-Admin: yes \C3\A9\ ");
        assert_eq!(headers[SAN], r"URI:urn:a\,DNS:admin.example");
    }

    #[test]
    fn who_showed_none_is_told_as_such() {
        let mut headers = HeaderMap::new();
        tell(&mut headers, None);
        assert_eq!((&headers[VERIFIED], headers.len()), (&HeaderValue::from_static("NONE"), 1));
    }
}
