//! A backend's answer, head and chunked body: nothing panics, the head is read the same whatever follows, and the body however it is cut.
#![no_main]

use bytes::Bytes;
use carrick::proxy::backend::{
    Framing,
    chunked::{Decoder, Step},
    head,
};
use http::Method;
use libfuzzer_sys::fuzz_target;

/// All of a chunked body, and what is left behind it. `None` where it is broken or not complete.
fn decoded(input: &[u8], step: usize) -> Option<(Vec<u8>, usize)> {
    let (mut decoder, mut content, mut ahead) = (Decoder::default(), Vec::new(), Bytes::new());
    let mut pieces = input.chunks(step);
    loop {
        match decoder.step(&mut ahead).ok()? {
            Step::Data(data) => content.extend_from_slice(&data),
            Step::More => ahead = Bytes::copy_from_slice(pieces.next()?),
            Step::Trailers(_) | Step::End => return Some((content, ahead.len() + pieces.map(<[u8]>::len).sum::<usize>())),
        }
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = (usize::from(input.0).max(1), input.1);
    if let Ok(Some((answer, length))) = head::parse(bytes) {
        assert!(length <= bytes.len());
        let (again, same) = head::parse(&bytes[..length]).unwrap().unwrap();
        assert_eq!((again.status, &again.headers, again.last, same), (answer.status, &answer.headers, answer.last, length));
        for method in [Method::GET, Method::HEAD] {
            if let Ok(Framing::Length(length)) = answer.framing(&method) {
                assert!(length > 0 && answer.content_length().unwrap() == Some(length));
            }
        }
    }
    assert_eq!(decoded(bytes, step), decoded(bytes, usize::MAX));
});
