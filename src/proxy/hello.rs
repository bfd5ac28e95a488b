//! Reads the first message of a TLS client without touching it: which name it asks for.
//!
//! It never knows sockets or certificates. `conn` feeds it what it has read; the same bytes go on to rustls or to the backend.
//!
//! Our own, and not rustls' `Acceptor`: that one refuses what a backend behind passthrough would accept.

/// Longest ClientHello taken, record headers included. With post-quantum keys and a padded ECH they are about 2 KiB; a message is at most
/// 16 KiB a record, and nobody sends more.
pub const MAX: usize = 17 * 1024;

const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// RFC 8446 5.1: at most 2^14 bytes a fragment.
const FRAGMENT_MAX: usize = 1 << 14;
/// RFC 6066 3.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What a ClientHello says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host it asks for, in lower case, without trailing dot. `None` where it asks for none, or for an address.
    pub name: Option<Box<str>>,
}

/// Why bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// They are not TLS at all.
    #[error("the client does not speak TLS")]
    NotTls,
    /// TLS, but against RFC 8446 4.1.2.
    #[error("the ClientHello is malformed")]
    Malformed,
    /// Over [`MAX`].
    #[error("the ClientHello is longer than 17 KiB")]
    TooLong,
}

/// Joins the fragments of a ClientHello as they come; each byte is looked at once.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// Where the next record begins.
    next: usize,
    /// The handshake message so far.
    message: Vec<u8>,
}

impl HelloReader {
    /// Looks at all that was read so far: the same bytes as at the last call, and more. `None`: it is not complete.
    pub fn advance(&mut self, read: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        while let Some(record) = read.get(self.next..).filter(|record| !record.is_empty()) {
            if record[0] != HANDSHAKE || record.get(1).is_some_and(|major| *major != 3) {
                return Err(if self.next == 0 { HelloError::NotTls } else { HelloError::Malformed });
            }
            let Some((header, rest)) = record.split_at_checked(RECORD_HEADER) else { break };
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if length == 0 || length > FRAGMENT_MAX {
                return Err(HelloError::Malformed);
            }
            let Some(fragment) = rest.get(..length) else { break };
            self.message.extend_from_slice(fragment);
            self.next += RECORD_HEADER + length;
            if let Some(body) = complete(&self.message)? {
                return parse(body).map(Some).ok_or(HelloError::Malformed);
            }
        }
        if read.len() >= MAX { Err(HelloError::TooLong) } else { Ok(None) }
    }
}

/// The body of the message, once all of it is there.
fn complete(message: &[u8]) -> Result<Option<&[u8]>, HelloError> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(HelloError::Malformed);
    }
    let Some((header, body)) = message.split_at_checked(4) else { return Ok(None) };
    let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
    if length > MAX {
        return Err(HelloError::TooLong);
    }
    Ok(body.get(..length))
}

/// RFC 8446 4.1.2; earlier versions differ only in what we skip.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut body = Cursor(body);
    let _legacy_version = body.take(2)?;
    let _random = body.take(32)?;
    let _session = body.short_vector()?;
    let _cipher_suites = body.vector()?;
    let _compression = body.short_vector()?;
    // SSL 3 and TLS 1.0 know no extensions.
    if body.0.is_empty() {
        return Some(ClientHello::default());
    }
    let mut extensions = Cursor(body.vector()?);
    let mut hello = ClientHello::default();
    let mut named = false;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.vector()?;
        if kind == SERVER_NAME {
            // Twice would let us and the backend read different ones (RFC 8446 4.2 forbids it).
            if std::mem::replace(&mut named, true) {
                return None;
            }
            hello.name = server_name(content)?;
        }
    }
    body.0.is_empty().then_some(hello)
}

/// The one name of a server_name extension. The outer `None` is malformed, the inner one an address.
fn server_name(content: &[u8]) -> Option<Option<Box<str>>> {
    let mut content = Cursor(content);
    let mut list = Cursor(content.vector()?);
    let kind = list.take(1)?[0];
    let name = list.vector()?;
    let alone = list.0.is_empty() && content.0.is_empty();
    if kind != HOST_NAME || !alone {
        return None;
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    // An IPv6 address has colons; RFC 6066 forbids both kinds, and some clients send them.
    if name.contains(&b':') {
        return Some(None);
    }
    // An empty label too: without its dot, `a.example..` would still end in one.
    if name.len() > 253 || !name.iter().all(allowed) || name.split(|byte| *byte == b'.').any(<[u8]>::is_empty) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some(name.parse::<std::net::Ipv4Addr>().is_err().then(|| name.to_ascii_lowercase().into()))
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector whose length is one byte.
    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    /// A vector whose length is two bytes.
    fn vector(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

    use super::*;

    /// What rustls sends first to this server.
    fn hello_of(server: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(server.to_owned()).unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        HelloReader::default().advance(bytes)
    }

    /// The same message in records of `size` bytes.
    fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |fragment: &[u8]| [&[HANDSHAKE, 3, 1][..], &(fragment.len() as u16).to_be_bytes(), fragment].concat();
        hello[RECORD_HEADER..].chunks(size).flat_map(record).collect()
    }

    #[test]
    fn the_name_is_read_in_lower_case() {
        let hello = read(&hello_of("Shop.Example.COM")).unwrap().unwrap();
        assert_eq!(hello.name.as_deref(), Some("shop.example.com"));
    }

    #[test]
    fn an_address_asks_for_no_name() {
        assert_eq!(read(&hello_of("192.0.2.1")).unwrap().unwrap().name, None);
    }

    #[test]
    fn a_name_with_an_empty_label_is_none() {
        let mut hello = hello_of("shop.example.com");
        let at = hello.windows(4).position(|bytes| bytes == b".com").unwrap();
        hello[at..at + 4].copy_from_slice(b".c..");
        assert_eq!(read(&hello), Err(HelloError::Malformed));
    }

    #[test]
    fn every_prefix_of_a_hello_waits_for_more() {
        let hello = hello_of("shop.example.com");
        let mut reader = HelloReader::default();
        for end in 0..hello.len() {
            assert_eq!(reader.advance(&hello[..end]), Ok(None), "after {end} bytes");
        }
        assert!(reader.advance(&hello).unwrap().is_some());
    }

    #[test]
    fn fragments_are_joined_whatever_their_size() {
        let hello = hello_of("shop.example.com");
        for size in [1, 2, 3, 5, 100, hello.len()] {
            let name = read(&fragmented(&hello, size)).unwrap().unwrap().name;
            assert_eq!(name.as_deref(), Some("shop.example.com"), "in fragments of {size}");
        }
    }

    #[test]
    fn plain_http_is_told_apart_by_its_first_byte() {
        assert_eq!(read(b"G"), Err(HelloError::NotTls));
        assert_eq!(read(b"\x16\x01"), Err(HelloError::NotTls));
    }

    #[test]
    fn a_hello_never_grows_without_bound() {
        let endless = [&[HANDSHAKE, 3, 1, 0, 8, CLIENT_HELLO, 1, 0, 0][..], &[0; 4]].concat();
        assert_eq!(read(&endless), Err(HelloError::TooLong), "it announces 64 KiB");
        let fragments = fragmented(&[&[0; RECORD_HEADER][..], &[CLIENT_HELLO, 0, 0x40, 0], &[0; 4096]].concat(), 1);
        assert_eq!(read(&fragments), Err(HelloError::TooLong), "its records take more than it does");
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_panics() {
        let hello = hello_of("shop.example.com");
        for index in 0..hello.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = hello.clone();
                bytes[index] = value;
                let _ = read(&bytes);
            }
        }
    }

    #[test]
    fn a_name_that_is_no_host_is_refused() {
        let hello = hello_of("shop.example.com");
        let at = hello.windows(4).position(|window| window == b"shop").unwrap();
        for byte in [0, b' ', b'/', b'\n', 0x80] {
            let mut bytes = hello.clone();
            bytes[at] = byte;
            assert_eq!(read(&bytes), Err(HelloError::Malformed));
        }
    }
}
