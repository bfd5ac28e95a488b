//! What a client may say, and what it gets, over real sockets.

use std::time::Duration;

use crate::{
    model::route::{Action, HeaderEdits, Redirect, RedirectPath},
    proxy::{
        Settings,
        peers::{Upstream, gateway, gateway_with, location, proxied},
    },
};

/// Everything that has two readings, or none.
const REFUSED: &[(&str, &str)] = &[
    ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\n\r\n"),
    ("host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("userinfo", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("lengths that differ", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("length list", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na"),
    ("signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na"),
    ("hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na"),
    ("length without a number", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n"),
    ("length beyond numbers", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n"),
    ("unknown coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("chunked then identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("gzip then chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("two codings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunked in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("coding with vertical tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("space before colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    ("folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"),
    ("folded first line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n"),
    ("CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n"),
    ("NUL in a name", "GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n"),
    ("no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
    ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("no version", "GET /\r\n\r\n"),
    ("space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("asterisk", "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("other scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("authority as target", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("encoded NUL", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("above the root", "GET /../x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("hidden dot segment", "GET /a/..%2f HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("Connection takes the host", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, host\r\n\r\n"),
    ("Connection takes the length", "POST / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: 1\r\n\r\na"),
];

#[tokio::test]
async fn what_has_two_readings_ends_the_connection_before_a_backend_is_dialled() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    for (name, request) in REFUSED {
        let answer = gateway.ask(&format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "), "{name}: {answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{name}: {answer}");
        assert!(upstream.is_untouched(), "{name}");
    }
    assert!(gateway.refused("malformed_head") > 0 && gateway.refused("invalid_host") > 0);
}

#[tokio::test]
async fn transfer_encoding_wins_over_content_length_and_ends_the_connection() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    for lengths in ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"] {
        let mut client = gateway.client().await;
        client
            .send(format!("POST / HTTP/1.1\r\nHost: a\r\n{lengths}\r\n\r\n1\r\na\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let mut backend = upstream.next().await;
        let head = backend.head().await;
        assert!(head.contains("Transfer-Encoding: chunked\r\n") && !head.contains("Content-Length"), "{head}");
        backend.until("1\r\na\r\n0\r\n\r\n").await;
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi").await;
        let answer = client.rest().await;
        assert!(answer.ends_with("hi") && answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
        assert_eq!(backend.until_cut().await, "");
    }
}

#[tokio::test]
async fn a_connection_that_rested_goes_on_where_it_was() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    let mut late = "GET /0 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    let mut backend = None;
    for request in 0..6 {
        // With each request comes the beginning of the next one, of another length each time.
        let next = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", request + 1);
        let (now, later) = next.split_at(request * 5);
        client.send(format!("{late}{now}")).await;
        late = later.to_owned();
        let backend = match &mut backend {
            Some(backend) => backend,
            none => none.insert(upstream.next().await),
        };
        assert!(backend.head().await.starts_with(&format!("GET /{request} ")));
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
        client.until("\r\n\r\nhi").await;
        // Others come and go: more than the millisecond after which a connection rests in tests.
        for _ in 0..10 {
            gateway.ask("GET / HTTP/1.1\r\n\r\n").await;
        }
    }
    client.send(late).await;
    assert!(backend.unwrap().head().await.starts_with("GET /6 "));
}

#[tokio::test]
async fn the_absolute_form_wins_over_host_and_ends_the_connection() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("GET http://shop.example/x?y#z HTTP/1.1\r\nHost: other.example\r\n\r\n").await;
    let mut backend = upstream.next().await;
    let head = backend.head().await;
    assert!(head.starts_with("GET /x?y HTTP/1.1\r\nHost: shop.example\r\n") && !head.contains("other.example"), "{head}");
    backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    assert!(client.rest().await.contains("Connection: close\r\n"));
}

#[tokio::test]
async fn connect_is_405_and_the_server_as_a_whole_has_options() {
    let upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let answer = gateway.ask("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("Allow: GET"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    let answer = gateway.ask("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
}

#[tokio::test]
async fn heads_have_a_size_and_a_number_of_fields() {
    let upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert!(gateway.ask(&many).await.starts_with("HTTP/1.1 431 "));
    for size in [33_000, 200_000] {
        let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(size));
        let mut client = gateway.client().await;
        client.send(&large).await;
        assert!(client.head().await.starts_with("HTTP/1.1 431 "), "{size}");
    }
    while gateway.refused("head_too_large") < 3 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut upstream = Upstream::new().await;
    let gateway = gateway(proxied(), upstream.address).await;
    let mut client = gateway.client().await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let mut backend = upstream.next().await;
    for number in ["1", "2"] {
        assert!(backend.head().await.starts_with(&format!("GET /{number} ")));
        backend.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}")).await;
    }
    let answers = client.rest().await;
    assert!(answers.contains("\r\n\r\n1HTTP/1.1 200 OK\r\n") && answers.ends_with("\r\n\r\n2"), "{answers}");
}

#[tokio::test]
async fn an_answer_of_our_own_has_a_date_and_a_refusal_its_reason() {
    let upstream = Upstream::new().await;
    let gateway = gateway_with(location(Action::Unavailable), &[upstream.address], Settings::default()).await;
    let answer = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nDate: "), "{answer}");
    assert!(answer.contains("\r\nX-Carrick-Reason: unavailable\r\n") && answer.contains("\r\nX-Request-Id: "), "{answer}");
    let silent = Settings { refusal_header: false, ..Settings::default() };
    let gateway = gateway_with(location(Action::Unavailable), &[upstream.address], silent).await;
    assert!(!gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.contains("X-Carrick-Reason"));
}

#[tokio::test]
async fn a_redirect_names_where_to_go() {
    let to = Redirect { scheme: Some("https".into()), host: None, port: None, path: RedirectPath::Full("/new".into()), status: 301 };
    let gateway = gateway_with(location(Action::Redirect(to)), &[], Settings::default()).await;
    let answer = gateway.ask("GET /old?q HTTP/1.1\r\nHost: Shop.example:8080\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 301 ") && answer.contains("\r\nLocation: https://shop.example/new?q\r\n"), "{answer}");
}

#[tokio::test]
async fn headers_are_edited_both_ways() {
    let mut upstream = Upstream::new().await;
    let mut location = location(Action::Proxy(Box::new(proxied())));
    let edits = |name: &str| HeaderEdits { set: vec![(name.into(), "set".into())], add: Vec::new(), remove: vec!["x-gone".into()] };
    (location.request_headers, location.response_headers) = (edits("x-to-backend"), edits("x-to-client"));
    let gateway = gateway_with(location, &[upstream.address], Settings::default()).await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Gone: 1\r\n\r\n").await;
    let mut backend = upstream.next().await;
    let head = backend.head().await;
    assert!(head.contains("\r\nX-To-Backend: set\r\n") && !head.contains("X-Gone"), "{head}");
    backend.send("HTTP/1.1 200 OK\r\nX-Gone: 1\r\nContent-Length: 0\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.contains("\r\nX-To-Client: set\r\n") && !head.contains("X-Gone"), "{head}");
}

#[tokio::test]
async fn where_something_in_front_ends_tls_the_backend_is_told_https() {
    let mut upstream = Upstream::new().await;
    let settings = Settings { tls_terminated_upstream: true, ..Settings::default() };
    let gateway = gateway_with(location(Action::Proxy(Box::new(proxied()))), &[upstream.address], settings).await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = upstream.next().await.head().await;
    assert!(head.contains("X-Forwarded-Proto: https\r\n") && head.contains("X-Forwarded-Port: 443\r\n"), "{head}");
}

#[tokio::test]
async fn load_balancers_are_told_of_the_shutdown() {
    let settings = Settings { lb_health_path: Some("/healthz".into()), ..Settings::default() };
    let gateway = gateway_with(location(Action::Unavailable), &[], settings).await;
    let ask = "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n";
    let mut client = gateway.client().await;
    client.send(ask).await;
    assert!(client.until("ok\n").await.starts_with("HTTP/1.1 200 "));
    gateway.proxy.leave();
    client.send(ask).await;
    let answer = client.until("shutting down\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && !answer.contains("Connection: close"), "{answer}");
    gateway.proxy.shut_down();
    client.send(ask).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Connection: close\r\n"), "an idle connection has one more: {answer}");
}

#[tokio::test]
async fn idle_connections_end_last_and_what_comes_at_that_moment_is_answered() {
    let gateway = gateway_with(location(Action::Unavailable), &[], Settings::default()).await;
    let ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut idle, mut late) = (gateway.client().await, gateway.client().await);
    for client in [&mut idle, &mut late] {
        client.send(ask).await;
        client.until("says why\n").await;
    }
    gateway.proxy.shut_down();
    gateway.proxy.answered().await;
    late.send(ask).await;
    gateway.proxy.part();
    assert_eq!(idle.rest().await, "");
    let answer = late.rest().await;
    assert!(answer.is_empty() || answer.contains("Connection: close\r\n"), "{answer}");
    gateway.proxy.closed().await;
}

#[tokio::test]
async fn a_head_that_is_late_is_counted() {
    let settings = Settings { header_timeout: Duration::from_millis(50), ..Settings::default() };
    let gateway = gateway_with(location(Action::Unavailable), &[], settings).await;
    let mut client = gateway.client().await;
    client.send("GET / HTT").await;
    client.until_cut().await;
    drop(client);
    while gateway.refused("head_timeout") == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_silence() {
    let settings = Settings { keepalive_timeout: Duration::from_millis(50), ..Settings::default() };
    let gateway = gateway_with(location(Action::Unavailable), &[], settings).await;
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.until("says why\n").await;
    assert_eq!(client.rest().await, "");
}

/// It is held by every request that waits for its backend.
#[test]
fn the_future_of_a_request_stays_small() {
    fn size<F>(_: fn(std::sync::Arc<super::Session>, http::Request<hyper::body::Incoming>) -> F) -> usize {
        size_of::<F>()
    }
    let size = size(super::Session::serve);
    assert!(size <= 3072, "{size}");
}
