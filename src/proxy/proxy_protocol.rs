//! The PROXY header: who the client of a load balancer is, and what we tell a backend about ours.
//!
//! It never knows sockets. `conn` feeds it what it has read, `tcp` sends what it prints.

use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader};

use crate::model::tcp::ProxyProtocol as Version;

/// Longest header taken: version 2 with a client certificate's names and some TLVs of a cloud. The protocol would allow 64 KiB.
pub const MAX: usize = 4096;

/// Longest line of version 1, its end included.
const LINE: usize = 107;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Too few to tell.
    Unknown,
    /// Something else.
    Other,
    /// A header of this many bytes, and whom it speaks for: source and destination. `None`: the proxy itself (LOCAL, UNKNOWN).
    Header(usize, Option<(SocketAddr, SocketAddr)>),
    /// A header that is broken, or over [`MAX`].
    Malformed,
}

/// Looks at all that was read so far.
pub fn parse(read: &[u8]) -> Start {
    let begins = |signature: &[u8]| read.iter().zip(signature).all(|(a, b)| a == b);
    if !begins(V1) && !begins(V2) {
        return Start::Other;
    }
    if !read.starts_with(V1) && !read.starts_with(V2) {
        return Start::Unknown;
    }
    let read = match line(read) {
        Ok(read) => read,
        Err(start) => return start,
    };
    match ProxyHeader::parse(read, ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true }) {
        Ok((header, length)) => {
            Start::Header(length, header.proxied_address().map(|address| (canonical(address.source), canonical(address.destination))))
        }
        Err(proxy_header::Error::BufferTooShort) if read.len() < MAX => Start::Unknown,
        Err(_) => Start::Malformed,
    }
}

/// Of version 1 the line alone: whether it is one does not depend on how much of it was read.
fn line(read: &[u8]) -> Result<&[u8], Start> {
    if !read.starts_with(V1) {
        return Ok(read);
    }
    let longest = &read[..read.len().min(LINE)];
    match memchr::memmem::find(longest, b"\r\n") {
        Some(end) => Ok(&read[..end + 2]),
        None if read.len() >= LINE => Err(Start::Malformed),
        None => Err(Start::Unknown),
    }
}

/// The header that tells a backend who our client is.
pub fn print(version: Version, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let header = ProxyHeader::with_address(same_family(client, local));
    let mut bytes = Vec::with_capacity(108);
    // Neither fails: both addresses are of one family, of a stream, and there are no TLVs.
    let _ = match version {
        Version::V1 => header.encode_v1(&mut bytes),
        Version::V2 => header.encode_v2(&mut bytes),
    };
    bytes
}

/// An address without its IPv4-mapped disguise.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A header has one family: where a PROXY header in front mixed them, both are written as IPv6.
fn same_family(source: SocketAddr, destination: SocketAddr) -> ProxiedAddress {
    let mapped = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        v6 @ SocketAddr::V6(_) => v6,
    };
    if source.is_ipv4() == destination.is_ipv4() {
        ProxiedAddress::stream(source, destination)
    } else {
        ProxiedAddress::stream(mapped(source), mapped(destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_printed_is_read_back() {
        let pairs = [("192.0.2.7:40000", "198.51.100.1:443"), ("[2001:db8::7]:40000", "[2001:db8::1]:443")];
        for (client, local) in pairs.map(|(client, local)| (address(client), address(local))) {
            for version in [Version::V1, Version::V2] {
                let mut bytes = print(version, client, local);
                let length = bytes.len();
                for end in 0..length {
                    assert_eq!(parse(&bytes[..end]), Start::Unknown);
                }
                bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
                assert_eq!(parse(&bytes), Start::Header(length, Some((client, local))));
            }
        }
    }

    #[test]
    fn a_line_is_judged_whole_and_ends_in_time() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
        let longest = line(LINE);
        assert_eq!(parse(longest.as_bytes()), Start::Header(LINE, None));
        assert!((0..LINE).all(|end| parse(&longest.as_bytes()[..end]) == Start::Unknown));
        let longer = line(LINE + 1);
        assert_eq!(parse(longer.as_bytes()), Start::Malformed);
        assert_eq!(parse(&longer.as_bytes()[..LINE]), Start::Malformed);
    }

    #[test]
    fn families_are_not_mixed() {
        let header = print(Version::V1, address("192.0.2.7:40000"), address("[2001:db8::1]:443"));
        assert_eq!(header, b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 40000 443\r\n");
        let read = Start::Header(header.len(), Some((address("192.0.2.7:40000"), address("[2001:db8::1]:443"))));
        assert_eq!(parse(&header), read, "and come back as they were");
    }

    #[test]
    fn local_and_unknown_speak_for_nobody() {
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Start::Header(15, None));
        let local = [V2, &[0x20, 0, 0, 0]].concat();
        assert_eq!(parse(&local), Start::Header(16, None));
    }

    #[test]
    fn a_request_is_no_header_and_a_prefix_may_become_one() {
        assert_eq!(parse(b"GET /"), Start::Other);
        assert_eq!(parse(b"PUT /"), Start::Other);
        assert_eq!(parse(b"P"), Start::Unknown);
        assert_eq!(parse(b"\r\n"), Start::Unknown);
        assert_eq!(parse(b"\r\nGET"), Start::Other);
    }

    #[test]
    fn an_endless_or_broken_header_is_malformed() {
        assert_eq!(parse(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat()), Start::Malformed);
        assert_eq!(parse(b"PROXY TCP4 300.0.0.1 1.1.1.1 1 2\r\n"), Start::Malformed);
        assert_eq!(parse(&[V2, &[0x21, 0x11, 0xff, 0xff], &[0; MAX]].concat()), Start::Malformed);
    }
}
