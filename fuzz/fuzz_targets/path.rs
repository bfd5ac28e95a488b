//! Normalising twice changes nothing, and what comes out holds no way up and nothing that ends a request line.
#![no_main]

use carrick::router::path::normalise;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &str| {
    let Ok(path) = normalise(raw) else { return };
    let forwarded = path.as_str();
    assert!(forwarded.starts_with('/') && !forwarded.contains("//"));
    assert!(forwarded.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'\\' | b'[' | b']' | b'{' | b'}')));
    assert!(!forwarded.split(['/', ';']).any(|piece| matches!(piece, "." | "..")));
    assert_eq!(normalise(forwarded).as_ref(), Ok(&path));
    assert_eq!(normalise(path.matching()).unwrap().as_str(), path.matching());
});
