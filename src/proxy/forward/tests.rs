//! Plain HTTP over real sockets, both ends driven byte by byte.

use std::time::Duration;

use crate::{
    model::route::Action,
    proxy::{
        Settings,
        peers::{Upstream, gateway, gateway_with, location, nobody, proxied},
    },
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test]
async fn a_request_is_printed_anew_and_its_answer_passed_on() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("GET /a/../b?c=d HTTP/1.1\r\nhost: Shop.example\r\nX-Mine: 1\r\nConnection: X-Gone\r\nX-Gone: 2\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n").await;
    let mut backend = upstream.next().await;
    let head = backend.head().await;
    assert!(head.starts_with("GET /b?c=d HTTP/1.1\r\nHost: Shop.example\r\n"), "{head}");
    assert!(head.contains("\r\nX-Mine: 1\r\n") && !head.contains("X-Gone"), "{head}");
    assert!(head.contains("\r\nX-Forwarded-For: 127.0.0.1\r\n") && head.contains("\r\nX-Forwarded-Proto: http\r\n"), "{head}");
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: mine\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nKeep-Alive: timeout=5\r\n\r\nhi").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Server: mine\r\n"), "{head}");
    assert!(head.contains("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n") && !head.contains("Keep-Alive"), "{head}");
    client.until("hi").await;
}

#[tokio::test]
async fn both_connections_are_used_again() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut backend = upstream.next().await;
    for path in ["/1", "/2", "/3"] {
        assert!(backend.head().await.starts_with(&format!("GET {path} ")));
        backend.send(OK).await;
        client.until("\r\n\r\nhi").await;
        if path != "/3" {
            client.send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", path[1..].parse::<u32>().unwrap() + 1)).await;
        }
    }
    assert!(upstream.is_untouched());
}

#[tokio::test]
async fn bodies_stream_both_ways_as_they_come() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\n\r\n3\r\nabc\r\n").await;
    let mut backend = upstream.next().await;
    let head = backend.head().await;
    assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n") && head.contains("\r\nTrailer: X-Sum\r\n"), "{head}");
    assert!(head.contains("\r\nTE: trailers\r\n") && head.contains("\r\nConnection: TE\r\n"), "{head}");
    backend.until("3\r\nabc\r\n").await;
    client.send("1\r\nd\r\n0\r\nX-Sum: 4\r\nX-Other: 5\r\n\r\n").await;
    assert_eq!(backend.until("\r\n\r\n").await, "1\r\nd\r\n0\r\nx-sum: 4\r\n\r\n");
    backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Total\r\n\r\n2\r\nhi\r\n").await;
    client.until("2\r\nhi\r\n").await;
    backend.send("5;x=y\r\nthere\r\n0\r\nX-Total: 7\r\n\r\n").await;
    client.until("5\r\nthere\r\n0\r\nX-Total: 7\r\n\r\n").await;
}

#[tokio::test]
async fn a_get_keeps_its_body() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
    let mut backend = upstream.next().await;
    assert!(backend.head().await.contains("\r\nContent-Length: 3\r\n"));
    backend.until("abc").await;
}

#[tokio::test]
async fn head_and_304_say_the_length_of_another_answer() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut backend = upstream.next().await;
    backend.head().await;
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await;
    assert!(client.head().await.contains("Content-Length: 1234\r\n"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.head().await;
    backend.send("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: x\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 304 "));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    backend.head().await;
    backend.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 204 ") && !head.contains("Content-Length"), "{head}");
}

#[tokio::test]
async fn the_body_waits_for_the_backends_100() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").await;
    let mut backend = upstream.next().await;
    assert!(backend.head().await.contains("\r\nExpect: 100-continue\r\n"));
    backend.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.send("abc").await;
    backend.until("abc").await;
    backend.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_final_answer_instead_of_100_ends_the_connection() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").await;
    let mut backend = upstream.next().await;
    backend.head().await;
    backend.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 417 ") && answer.contains("Connection: close\r\n") && answer.ends_with("no"), "{answer}");
    assert_eq!(backend.rest().await, "");
}

#[tokio::test]
async fn an_early_answer_arrives_whole() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc").await;
    let mut backend = upstream.next().await;
    backend.until("\r\n\r\nabc").await;
    backend.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    drop(backend);
    let answer = client.until_cut().await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("Connection: close\r\n") && answer.ends_with("no"), "{answer}");
}

#[tokio::test]
async fn a_broken_body_never_ends_well_at_the_backend() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    for broken in ["3\r\nabc\r\nzz\r\n", "3\r\nabcd\r\n", "fffffffffffffffff\r\n", "3\r\nabc\r\n0\r\nbad header\r\n\r\n"] {
        let mut client = gateway.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{broken}")).await;
        let answer = client.until_cut().await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("X-Carrick-Reason: invalid_body\r\n"), "{broken:?}: {answer}");
        let received = upstream.next().await.until_cut().await;
        assert!(!received.contains("0\r\n\r\n"), "{broken:?}: {received}");
    }
}

#[tokio::test]
async fn a_client_that_vanishes_in_its_body_ends_the_backends_connection_unfinished() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let mut backend = upstream.next().await;
    backend.until("3\r\nabc\r\n").await;
    drop(client);
    assert_eq!(backend.until_cut().await, "");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_completed() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut client = gateway.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut backend = upstream.next().await;
        backend.head().await;
        backend.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n3\r\nabc\r\n")).await;
        client.until("abc\r\n").await;
        drop(backend);
        assert_eq!(client.until_cut().await, "");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_502() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    for (answer, token) in [
        ("", "backend_closed"),
        ("SSH-2.0-x\r\n", "backend_invalid"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "backend_invalid"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "backend_invalid"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "backend_invalid"),
    ] {
        let mut client = gateway.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let mut backend = upstream.next().await;
        backend.head().await;
        backend.send(answer).await;
        drop(backend);
        let said = client.rest().await;
        assert!(said.starts_with("HTTP/1.1 502 ") && said.contains(&format!("X-Carrick-Reason: {token}\r\n")), "{answer:?}: {said}");
    }
}

#[tokio::test]
async fn a_stale_connection_is_replaced_where_nothing_is_done_twice() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut stale = upstream.next().await;
    stale.head().await;
    stale.send(OK).await;
    client.until("\r\n\r\nhi").await;
    client.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    stale.head().await;
    drop(stale);
    let mut fresh = upstream.next().await;
    assert!(fresh.head().await.starts_with("GET /2 "));
    fresh.send(OK).await;
    client.until("\r\n\r\nhi").await;
    client.send("POST /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    fresh.head().await;
    drop(fresh);
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn endpoints_that_refuse_are_passed_over() {
    let mut upstream = Upstream::new().await;
    let dead = [nobody().await, nobody().await];
    let endpoints = [dead[0], dead[1], upstream.address];
    let gateway = gateway_with(location(Action::Proxy(Box::new(proxied()))), &endpoints, Settings::default()).await;
    let mut client = gateway.client().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut backend = upstream.next().await;
        backend.head().await;
        backend.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi").await;
        client.until("\r\n\r\nhi").await;
    }
    let failures: u64 = gateway.proxy.metrics.locations().iter().map(|(_, metrics)| metrics.endpoint_failures.get("refused")).sum();
    assert!(failures >= 2, "{failures}");
}

#[tokio::test]
async fn nobody_left_is_502_and_nobody_ready_503() {
    let gateway = gateway(proxied(), nobody().await).await;
    let answer = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("X-Carrick-Reason: connect_failed\r\n"), "{answer}");
    let gateway = gateway_with(location(Action::Proxy(Box::new(proxied()))), &[], Settings::default()).await;
    let answer = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: ") && answer.contains("X-Request-Id: "), "{answer}");
    assert_eq!(gateway.refused("no_ready_endpoint"), 1);
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_504() {
    let mut upstream = Upstream::new().await;
    let mut spec = proxied();
    spec.timeouts.response = Some(Duration::from_millis(50));
    let gateway = gateway(spec, upstream.address).await;
    let answer = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("X-Carrick-Reason: response_timeout\r\n"), "{answer}");
    assert_eq!(upstream.next().await.until_cut().await.lines().next(), Some("GET / HTTP/1.1"));
}

#[tokio::test]
async fn a_client_that_stalls_in_its_body_is_told() {
    let mut upstream = Upstream::new().await;
    let settings = Settings { body_timeout: Duration::from_millis(50), ..Settings::default() };
    let gateway = gateway_with(location(Action::Proxy(Box::new(proxied()))), &[upstream.address], settings).await;
    let answer = gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("X-Carrick-Reason: body_timeout\r\n"), "{answer}");
    let mut backend = upstream.next().await;
    backend.head().await;
    assert_eq!(backend.until_cut().await, "a");
}

#[tokio::test]
async fn an_http_1_0_client_gets_an_answer_it_can_read() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let mut backend = upstream.next().await;
    let head = backend.head().await;
    assert!(head.starts_with(&format!("GET / HTTP/1.1\r\nHost: {}\r\n", gateway.address)), "{head}");
    backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    let answer = client.rest().await;
    assert!(!answer.contains("chunked") && answer.ends_with("\r\n\r\nhi"), "{answer}");
}

#[tokio::test]
async fn a_body_larger_than_any_buffer_arrives_whole() {
    const SIZE: usize = 3_000_000;
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    let mut backend = upstream.next().await;
    let body = "0123456789".repeat(SIZE / 10);
    let (mut reading, mut writing) = client.0.into_split();
    let expected = body.clone();
    let sending = async { tokio::io::AsyncWriteExt::write_all(&mut writing, body.as_bytes()).await.unwrap() };
    let echoing = async {
        backend.head().await;
        let mut received = vec![0; SIZE];
        tokio::io::AsyncReadExt::read_exact(&mut backend.0, &mut received).await.unwrap();
        backend.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).await;
        backend.send(&received).await;
    };
    let receiving = async {
        let mut answer = Vec::new();
        while !answer.ends_with(expected.as_bytes()) {
            assert_ne!(tokio::io::AsyncReadExt::read_buf(&mut reading, &mut answer).await.unwrap(), 0);
        }
    };
    tokio::join!(sending, echoing, receiving);
}
