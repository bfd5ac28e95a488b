//! Handshakes over real sockets, both ends driven byte by byte.

use std::time::Duration;

use crate::{
    model::{
        route::{Action, HeaderEdits, OriginPattern},
        table::HostPattern,
    },
    proxy::{
        Settings,
        peers::{Gateway, Peer, Upstream, gateway, gateway_with, location, nobody, proxied},
    },
};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: shop.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn with(field: &str) -> String {
    HANDSHAKE.replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1)
}

fn switch_with(field: &str) -> String {
    SWITCH.replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1)
}

fn refused(answer: &str, status: u16, token: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains(&format!("X-Carrick-Reason: {token}\r\n")) && answer.contains("Connection: close\r\n"), "{answer}");
}

async fn handshaken(gateway: &Gateway, upstream: &mut Upstream) -> (Peer, Peer, String) {
    let mut client = gateway.client().await;
    client.send(HANDSHAKE).await;
    let mut backend = upstream.next().await;
    let head = backend.head().await;
    (client, backend, head)
}

#[tokio::test]
async fn a_handshake_reaches_the_backend_as_the_rfc_spells_it() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let (mut client, mut backend, head) = handshaken(&gateway, &mut upstream).await;
    assert!(head.starts_with("GET /ws HTTP/1.1\r\nHost: shop.example\r\n"), "{head}");
    for field in ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"] {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "{field}: {head}");
    }
    assert!(!head.contains("keep-alive") && head.contains("\r\nX-Forwarded-For: 127.0.0.1\r\n"), "{head}");
    backend.send(SWITCH).await;
    let answer = client.head().await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    assert!(!answer.to_lowercase().contains("content-length"), "{answer}");
}

#[tokio::test]
async fn frames_that_come_with_the_handshakes_arrive_once_and_in_order() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    // Masked with zeros: the text stays readable.
    client.send([HANDSHAKE.as_bytes(), b"\x81\x83\0\0\0\0one"].concat()).await;
    let mut backend = upstream.next().await;
    backend.head().await;
    client.send(b"\x81\x83\0\0\0\0two").await;
    backend.send([SWITCH.as_bytes(), b"\x81\x05first"].concat()).await;
    client.head().await;
    let mut frame = [0; 7];
    tokio::io::AsyncReadExt::read_exact(&mut client.0, &mut frame).await.unwrap();
    assert_eq!(&frame, b"\x81\x05first");
    let mut frames = [0; 18];
    tokio::io::AsyncReadExt::read_exact(&mut backend.0, &mut frames).await.unwrap();
    assert_eq!(&frames, b"\x81\x83\0\0\0\0one\x81\x83\0\0\0\0two");
    assert_eq!(gateway.proxy.registry.len(), 1);
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_before_a_backend_is_dialled() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    refused(&gateway.ask(&HANDSHAKE.replace("GET", "POST")).await, 405, "method_not_allowed");
    let answer = gateway.ask(&HANDSHAKE.replace("Version: 13", "Version: 12")).await;
    refused(&answer, 426, "handshake_version");
    assert!(answer.contains("Sec-Websocket-Version: 13\r\n") && answer.contains("Upgrade: websocket\r\n"), "{answer}");
    refused(&gateway.ask(&HANDSHAKE.replace("Sec-WebSocket-Version: 13\r\n", "")).await, 426, "handshake_version");
    refused(&gateway.ask(&HANDSHAKE.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=")).await, 400, "handshake_key");
    refused(&gateway.ask(&with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")).await, 400, "handshake_key");
    refused(&gateway.ask(&with("Content-Length: 1")).await, 400, "handshake_body");
    refused(&gateway.ask(&with("Transfer-Encoding: chunked")).await, 400, "handshake_body");
    assert!(upstream.is_untouched());
}

#[tokio::test]
async fn an_empty_body_is_no_body() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send(with("Content-Length: 0")).await;
    let mut backend = upstream.next().await;
    assert!(!backend.head().await.contains("Content-Length"));
    backend.send(SWITCH).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn origins_are_held_to_the_list() {
    let upstream = Upstream::new().await;
    let mut spec = proxied();
    spec.websocket.origins = vec![OriginPattern::Host { scheme: None, host: HostPattern::Exact("shop.example".into()), port: None }];
    let gateway = gateway(spec, upstream.address).await;
    refused(&gateway.ask(&with("Origin: https://evil.example")).await, 403, "origin");
    let mut client = gateway.client().await;
    client.send(with("Origin: https://shop.example")).await;
    let mut upstream = upstream;
    assert!(upstream.next().await.head().await.contains("\r\nOrigin: https://shop.example\r\n"));
}

/// The trap: hyper hands out the socket after any answer to a request that carried Upgrade.
#[tokio::test]
async fn no_byte_behind_a_refused_handshake_reaches_anybody() {
    let mut upstream = Upstream::new().await;
    let mut spec = proxied();
    spec.websocket.origins = vec![OriginPattern::SameHost];
    let gateway = gateway(spec, upstream.address).await;
    let smuggled = with("Origin: https://evil.example") + "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = gateway.ask(&smuggled).await;
    refused(&answer, 403, "origin");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(upstream.is_untouched());
    assert!(gateway.proxy.registry.is_empty());
}

#[tokio::test]
async fn a_101_that_does_not_answer_the_handshake_is_502() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    for bad in [
        SWITCH.replace("s3pP", "xxxx"),
        SWITCH.replace("Upgrade: websocket\r\n", ""),
        SWITCH.replace("Connection: Upgrade\r\n", ""),
        switch_with("Sec-WebSocket-Protocol: unasked"),
    ] {
        let (mut client, mut backend, _) = handshaken(&gateway, &mut upstream).await;
        backend.send(bad).await;
        refused(&client.rest().await, 502, "handshake_invalid");
        assert_eq!(backend.until_cut().await, "");
    }
    assert!(gateway.proxy.registry.is_empty());
}

#[tokio::test]
async fn any_other_answer_is_passed_on_as_the_last_one() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    for (head, body) in [("Content-Length: 4", "nope"), ("Transfer-Encoding: chunked", "4\r\nnope\r\n0\r\n\r\n"), ("X-Close: 1", "nope")] {
        let mut client = gateway.client().await;
        client.send(format!("{HANDSHAKE}GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let mut backend = upstream.next().await;
        backend.head().await;
        backend.send(format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 Unauthorized\r\nX-Why: cookie\r\n{head}\r\n\r\n{body}")).await;
        if head == "X-Close: 1" {
            drop(backend);
        } else {
            assert_eq!(backend.rest().await, "");
        }
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("X-Why: cookie\r\n"), "{answer}");
        assert!(answer.contains("Connection: close\r\n") && answer.contains("nope"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    assert!(upstream.is_untouched());
}

#[tokio::test]
async fn a_large_answer_to_a_handshake_is_not_cut() {
    const SIZE: usize = 2_000_000;
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let (mut client, mut backend, _) = handshaken(&gateway, &mut upstream).await;
    let sending = async {
        backend.send(format!("HTTP/1.1 500 x\r\nContent-Length: {SIZE}\r\n\r\n")).await;
        backend.send("0123456789".repeat(SIZE / 10)).await;
    };
    let (answer, ()) = tokio::join!(client.rest(), sending);
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), SIZE);
}

#[tokio::test]
async fn other_tokens_are_no_upgrade() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n\r\n").await;
    let mut backend = upstream.next().await;
    let head = backend.head().await;
    assert!(!head.to_lowercase().contains("upgrade") && !head.contains("Http2-Settings"), "{head}");
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    client.until("\r\n\r\nhi").await;
    // It was an ordinary request: the connection goes on, and closes as any other.
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    backend.head().await;
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nho").await;
    assert!(client.rest().await.ends_with("ho"));
}

#[tokio::test]
async fn listed_tokens_pass_as_opaque_bytes() {
    let mut upstream = Upstream::new().await;
    let mut spec = proxied();
    spec.upgrades = vec!["spdy/3.1".into()];
    let gateway = gateway(spec, upstream.address).await;
    let mut client = gateway.client().await;
    client.send("POST /exec HTTP/1.1\r\nHost: a\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\nahead").await;
    let mut backend = upstream.next().await;
    assert!(backend.head().await.contains("\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\nContent-Length: 0\r\n"));
    backend.send("HTTP/1.1 101 x\r\nUpgrade: spdy/3.1\r\nConnection: upgrade\r\n\r\nback").await;
    client.head().await;
    client.until("back").await;
    backend.until("ahead").await;
}

#[tokio::test]
async fn http_1_0_is_never_upgraded() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send(HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0")).await;
    let mut backend = upstream.next().await;
    assert!(!backend.head().await.to_lowercase().contains("upgrade"));
}

#[tokio::test]
async fn subprotocols_outside_the_list_are_not_offered() {
    let mut upstream = Upstream::new().await;
    let mut spec = proxied();
    spec.websocket.subprotocols = vec!["chat".into()];
    let gateway = gateway(spec, upstream.address).await;
    let mut client = gateway.client().await;
    client.send(with("Sec-WebSocket-Protocol: other, chat")).await;
    let mut backend = upstream.next().await;
    assert!(backend.head().await.contains("\r\nSec-WebSocket-Protocol: chat\r\n"));
    backend.send(switch_with("Sec-WebSocket-Protocol: other")).await;
    refused(&client.rest().await, 502, "handshake_invalid");
}

#[tokio::test]
async fn endpoints_that_refuse_are_passed_over() {
    let mut upstream = Upstream::new().await;
    let endpoints = [nobody().await, nobody().await, upstream.address];
    let gateway = gateway_with(location(Action::Proxy(Box::new(proxied()))), &endpoints, Settings::default()).await;
    for _ in 0..3 {
        let (mut client, mut backend, _) = handshaken(&gateway, &mut upstream).await;
        backend.send(SWITCH).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    }
}

#[tokio::test]
async fn a_backend_that_is_slow_to_shake_hands_is_504_and_one_that_hangs_up_502() {
    let mut upstream = Upstream::new().await;
    let mut spec = proxied();
    spec.timeouts.handshake = Duration::from_millis(50);
    let slow = gateway(spec, upstream.address).await;
    refused(&slow.ask(HANDSHAKE).await, 504, "handshake_timeout");
    let _ = upstream.next().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let (mut client, backend, _) = handshaken(&gateway, &mut upstream).await;
    drop(backend);
    refused(&client.rest().await, 502, "backend_closed");
}

#[tokio::test]
async fn a_handshake_never_takes_a_pooled_connection() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut pooled = upstream.next().await;
    pooled.head().await;
    pooled.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    client.until("\r\n\r\nhi").await;
    client.send(HANDSHAKE).await;
    let mut fresh = upstream.next().await;
    assert!(fresh.head().await.starts_with("GET /ws "));
}

#[tokio::test]
async fn the_101_carries_the_locations_response_headers() {
    let mut upstream = Upstream::new().await;
    let mut location = location(Action::Proxy(Box::new(proxied())));
    location.response_headers = HeaderEdits { set: vec![("x-mine".into(), "1".into())], ..HeaderEdits::default() };
    let gateway = gateway_with(location, &[upstream.address], Settings::default()).await;
    let (mut client, mut backend, _) = handshaken(&gateway, &mut upstream).await;
    backend.send(SWITCH).await;
    assert!(client.head().await.contains("\r\nX-Mine: 1\r\n"));
}
