//! A ClientHello is read the same however its bytes are cut, and nothing panics.
#![no_main]

use carrick::proxy::hello::HelloReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = (usize::from(input.0).max(1), input.1);
    let whole = HelloReader::default().advance(bytes);
    let mut reader = HelloReader::default();
    let mut last = Ok(None);
    for end in (step..bytes.len()).step_by(step).chain([bytes.len()]) {
        last = reader.advance(&bytes[..end]);
        if !matches!(last, Ok(None)) {
            break;
        }
    }
    assert_eq!(last, whole);
    if let Ok(Some(hello)) = whole {
        assert!(hello.name.is_none_or(|name| !name.ends_with('.') && !name.bytes().any(|byte| byte.is_ascii_uppercase())));
    }
});
