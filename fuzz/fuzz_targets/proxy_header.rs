//! A PROXY header that was read stays the same whatever follows it, is within its bounds, and is read back as it is printed.
#![no_main]

use carrick::{
    model::route::ProxyProtocol,
    proxy::proxy_protocol::{MAX, Start, parse, print},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|read: &[u8]| {
    let start = parse(read);
    let Start::Header(length, addresses) = start else { return };
    assert!((1..=read.len()).contains(&length));
    assert_eq!(parse(&read[..length]), start);
    assert!((0..length).all(|end| matches!(parse(&read[..end]), Start::Unknown) || end >= MAX), "a part of it is something else");
    let Some((client, local)) = addresses else { return };
    if client.is_ipv4() == local.is_ipv4() {
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let printed = print(version, client, local);
            assert_eq!(parse(&printed), Start::Header(printed.len(), Some((client, local))));
        }
    }
});
