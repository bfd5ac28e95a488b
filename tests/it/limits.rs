//! What a location lets in, over real sockets: by address, by number, by rate, by size. What is kept out is told why, and when to come back.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    client::{Socket, get, head, raw, rest, status, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service},
    peers::{Echo, Scripted, nobody},
    soon,
};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn site(endpoints: &[SocketAddr], policy: &str) -> String {
    let spec = format!("locations:\n- {{name: all, path: /, backends: [{{service: app, port: 80}}], {policy}}}");
    all([service("app", endpoints), route("app", &spec)])
}

/// The answer to a handshake that is refused.
async fn refused(gateway: &Gateway, more: &str) -> String {
    raw(gateway.http, format!("{HANDSHAKE}{more}\r\n").as_bytes()).await
}

async fn open(gateway: &Gateway) -> Socket {
    let mut socket = websocket(gateway.http, "ws://a.test/ws").await;
    text(&mut socket).await;
    socket
}

/// Waits until the tunnels that were dropped are gone.
async fn left(gateway: &Gateway, tunnels: f64) {
    let open = async || {
        let metrics = gateway.ops("/metrics").await;
        let series = metrics.lines().filter(|line| line.starts_with("carrick_tunnels_open{"));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    eventually("the tunnels are gone", async || open().await == tunnels).await;
}

async fn refusals(gateway: &Gateway, token: &str) -> f64 {
    gateway.metric(&format!(r#"carrick_refusals_total{{route_namespace="default",route="app",location="all",reason="{token}"}}"#)).await
}

/// The seconds that a refused client is told to wait.
fn retry_after(answer: &str) -> u32 {
    let line = answer.lines().find_map(|line| line.strip_prefix("Retry-After: "));
    line.unwrap_or_else(|| panic!("no Retry-After: {answer}")).parse().unwrap()
}

#[tokio::test]
async fn an_address_that_may_not_come_gets_403_and_the_backend_hears_nothing() {
    let mut backend = Scripted::start().await;
    let gateway = Gateway::start(&site(&[backend.at], "access: {allow: [127.0.0.0/8], deny: [127.0.0.1]}")).await;
    for answer in [refused(&gateway, "").await, get(gateway.http, "a.test", "/page").await] {
        assert_eq!(status(&answer), 403, "{answer}");
        assert!(answer.contains("X-Carrick-Reason: access_denied\r\n"), "{answer}");
    }
    assert!(!backend.was_dialled());
    assert_eq!(refusals(&gateway, "access_denied").await, 2.0);
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_the_client_counts_and_nobody_elses_word() {
    let echo = Echo::start("app").await;
    let manifests = site(&[echo.at], "access: {allow: [192.0.2.0/24, 10.0.0.0/8]}");
    let ask = |chain: &str| format!("GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nX-Forwarded-For: {chain}\r\n\r\n");
    let gateway = Gateway::with(&["--trusted-proxies", "127.0.0.0/8,10.0.0.0/8"], &manifests).await;
    for (chain, expected) in [
        ("192.0.2.7", true),
        ("192.0.2.7, 10.0.0.1", true),
        ("::ffff:192.0.2.7", true),
        ("192.0.2.7:5000", true),
        ("192.0.2.7, 198.51.100.1", false),
        ("192.0.2.7, 198.51.100.1, 10.0.0.1", false),
        ("192.0.2.7, unknown", false),
    ] {
        let answer = raw(gateway.http, ask(chain).as_bytes()).await;
        assert_eq!(status(&answer) != 403, expected, "{chain}: {answer}");
    }
    let gateway = Gateway::start(&manifests).await;
    assert_eq!(status(&raw(gateway.http, ask("192.0.2.7").as_bytes()).await), 403, "anybody may write that");
}

#[tokio::test]
async fn one_more_than_connections_is_503_until_one_leaves() {
    let echo = Echo::start("app").await;
    let gateway = Gateway::start(&site(&[echo.at], "limits: {connections: 2}")).await;
    let (first, _second) = (open(&gateway).await, open(&gateway).await);
    let answer = refused(&gateway, "").await;
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(answer.contains("X-Carrick-Reason: connection_limit\r\n"), "{answer}");
    assert!((5..=30).contains(&retry_after(&answer)));
    assert_ne!(status(&get(gateway.http, "a.test", "/").await), 503, "plain requests are no connections of the location");
    drop(first);
    left(&gateway, 1.0).await;
    drop(open(&gateway).await);
    assert_eq!(refusals(&gateway, "connection_limit").await, 1.0);
}

#[tokio::test]
async fn a_changed_limit_counts_what_is_open_and_closes_nothing() {
    let echo = Echo::start("app").await;
    let gateway = Gateway::start(&site(&[echo.at], "")).await;
    let mut sockets = vec![open(&gateway).await, open(&gateway).await, open(&gateway).await];
    gateway.change(&site(&[echo.at], "limits: {connections: 2}")).await;
    assert_eq!(status(&refused(&gateway, "").await), 503);
    assert_eq!(echo.open(), 3, "nobody is sent away");
    sockets.truncate(1);
    left(&gateway, 1.0).await;
    sockets.push(open(&gateway).await);
    assert_eq!(status(&refused(&gateway, "").await), 503);
}

#[tokio::test]
async fn one_client_is_kept_to_its_number_with_429() {
    let echo = Echo::start("app").await;
    let flags = ["--trusted-proxies", "127.0.0.1/32"];
    let gateway = Gateway::with(&flags, &site(&[echo.at], "limits: {connectionsPerClient: 1}")).await;
    // Held open by hand: each handshake names its client.
    let handshake = async |client: &str| {
        let mut socket = TcpStream::connect(gateway.http).await.unwrap();
        socket.write_all(format!("{HANDSHAKE}X-Forwarded-For: {client}\r\n\r\n").as_bytes()).await.unwrap();
        let answer = head(&mut socket).await;
        (status(&answer), answer, socket)
    };
    let (first, _, held) = handshake("2001:db8:1:1::1").await;
    let (same_network, answer, _) = handshake("2001:db8:1:1::2").await;
    let (other, _, _held) = handshake("2001:db8:1:2::1").await;
    assert_eq!((first, same_network, other), (101, 429, 101));
    assert!(answer.contains("X-Carrick-Reason: client_limit\r\n"), "{answer}");
    assert!((5..=30).contains(&retry_after(&answer)));
    drop(held);
    left(&gateway, 1.0).await;
    assert_eq!(handshake("2001:db8:1:1::3").await.0, 101);
}

#[tokio::test]
async fn handshakes_over_the_rate_are_429_and_told_different_times() {
    let echo = Echo::start("app").await;
    let gateway = Gateway::start(&site(&[echo.at], "limits: {handshakesPerSecond: 1, burst: 2}")).await;
    let _held = (open(&gateway).await, open(&gateway).await);
    let mut told = Vec::new();
    for _ in 0..12 {
        let answer = refused(&gateway, "").await;
        assert_eq!(status(&answer), 429, "{answer}");
        assert!(answer.contains("X-Carrick-Reason: rate_limit\r\n"), "{answer}");
        told.push(retry_after(&answer));
    }
    assert!(told.iter().max() > told.iter().min(), "a storm would come back as one: {told:?}");
    assert!(*told.last().unwrap() >= 8, "the twelfth has eleven before it: {told:?}");
    assert!(refusals(&gateway, "rate_limit").await >= 12.0);
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_413_before_anybody_is_asked() {
    let mut backend = Scripted::start().await;
    let gateway = Gateway::start(&site(&[backend.at], "limits: {requestBody: 1Ki}")).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 1025\r\n\r\n").await.unwrap();
    let answer = head(&mut client).await;
    assert_eq!(status(&answer), 413, "{answer}");
    assert!(answer.contains("X-Carrick-Reason: body_too_large\r\n") && answer.contains("Connection: close\r\n"), "{answer}");
    assert!(!backend.was_dialled());
    // What is as large as it may be passes.
    client = TcpStream::connect(gateway.http).await.unwrap();
    client
        .write_all(&[b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1024\r\n\r\n".as_slice(), &[b'x'; 1024]].concat())
        .await
        .unwrap();
    let mut server = backend.accept().await;
    assert!(head(&mut server).await.contains("Content-Length: 1024\r\n"));
    server.read_exact(&mut [0; 1024]).await.unwrap();
    server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(status(&head(&mut client).await), 204);
}

#[tokio::test]
async fn a_body_that_becomes_too_large_is_413_and_the_backend_never_sees_its_end() {
    let mut backend = Scripted::start().await;
    let gateway = Gateway::start(&site(&[backend.at], "limits: {requestBody: 1Ki}")).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n").await.unwrap();
    client.write_all(&[&[b'x'; 1024], b"\r\n".as_slice()].concat()).await.unwrap();
    let mut server = backend.accept().await;
    head(&mut server).await;
    server.read_exact(&mut [0; 1024 + 5 + 2]).await.unwrap();
    client.write_all(b"1\r\ny\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(status(&rest(&mut client).await), 413);
    assert_eq!(rest(&mut server).await, "", "neither the byte too many nor the last chunk");
    assert_eq!(refusals(&gateway, "body_too_large").await, 1.0);
}

/// A layer-4 route on a free port, and the way to it.
async fn layer_4(echo: &Echo, policy: &str) -> (Gateway, SocketAddr) {
    let port = nobody().await.port();
    let spec = format!("tcp:\n- {{port: {port}, backends: [{{service: app, port: 80}}], {policy}}}");
    let gateway = Gateway::start(&all([service("app", &[echo.at]), route("app", &spec)])).await;
    (gateway, SocketAddr::from(([127, 0, 0, 1], port)))
}

async fn refusals_of_port(gateway: &Gateway, port: SocketAddr, token: &str) -> f64 {
    let series =
        format!(r#"carrick_refusals_total{{route_namespace="default",route="app",location="tcp:{}",reason="{token}"}}"#, port.port());
    gateway.metric(&series).await
}

#[tokio::test]
async fn layer_4_closes_at_once_what_may_not_come() {
    let echo = Echo::start("app").await;
    let (gateway, port) = layer_4(&echo, "access: {deny: [127.0.0.0/8]}").await;
    eventually("it is refused", async || {
        if let Ok(mut socket) = TcpStream::connect(port).await {
            assert_eq!(rest(&mut socket).await, "");
        }
        refusals_of_port(&gateway, port, "access_denied").await > 0.0
    })
    .await;
    assert_eq!(echo.open(), 0);
}

#[tokio::test]
async fn layer_4_keeps_to_its_number_of_connections() {
    let echo = Echo::start("app").await;
    let (gateway, port) = layer_4(&echo, "limits: {connections: 1}").await;
    eventually("the port is open", async || TcpStream::connect(port).await.is_ok()).await;
    left(&gateway, 0.0).await;
    let mut held = websocket(port, "ws://a.test/").await;
    assert_eq!(text(&mut held).await, "app");
    let mut second = TcpStream::connect(port).await.unwrap();
    assert_eq!(soon("the end", rest(&mut second)).await, "");
    assert!(refusals_of_port(&gateway, port, "connection_limit").await >= 1.0);
    drop(held);
    left(&gateway, 0.0).await;
    let mut again = websocket(port, "ws://a.test/").await;
    assert_eq!(text(&mut again).await, "app");
}

/// A handshake under way: its answer is not awaited.
async fn begin(gateway: &Gateway, number: usize) -> TcpStream {
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(HANDSHAKE.replace("/ws", &format!("/{number}")).as_bytes()).await.unwrap();
    client.write_all(b"\r\n").await.unwrap();
    client
}

/// Waits until so many handshakes are held.
async fn held(gateway: &Gateway, number: f64) {
    let series = r#"carrick_handshakes_held{route_namespace="default",route="app",location="all"}"#;
    eventually(&format!("{number} are held"), async || gateway.metric(series).await == number).await;
}

async fn retries(gateway: &Gateway, reason: &str, result: &str) -> f64 {
    let labels = format!(r#"route_namespace="default",route="app",location="all",reason="{reason}",result="{result}""#);
    gateway.metric(&format!("carrick_retries_total{{{labels}}}")).await
}

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test]
async fn handshakes_wait_for_an_endpoint_and_then_go_through_in_order() {
    let mut backend = Scripted::start().await;
    let hold = "timeouts: {hold: 1h}";
    let gateway = Gateway::start(&site(&[], hold)).await;
    let mut clients = Vec::new();
    for number in 0..8 {
        clients.push(begin(&gateway, number).await);
        held(&gateway, number as f64 + 1.0).await;
    }
    assert_eq!(status(&get(gateway.http, "a.test", "/").await), 503, "a plain request is told at once");
    gateway.change(&site(&[backend.at], hold)).await;
    for (number, client) in clients.iter_mut().enumerate() {
        let mut server = backend.accept().await;
        let asked = head(&mut server).await;
        assert!(asked.starts_with(&format!("GET /{number} ")), "{number} was overtaken: {asked}");
        server.write_all(SWITCH).await.unwrap();
        assert_eq!(status(&head(client).await), 101);
    }
    held(&gateway, 0.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_held_frees_its_place() {
    let echo = Echo::start("app").await;
    let policy = "timeouts: {hold: 1h}, limits: {connections: 2}";
    let gateway = Gateway::with(&["--max-held-handshakes", "2"], &site(&[], policy)).await;
    let (first, _second) = (begin(&gateway, 0).await, begin(&gateway, 1).await);
    held(&gateway, 2.0).await;
    drop(first);
    held(&gateway, 1.0).await;
    let mut third = begin(&gateway, 2).await;
    held(&gateway, 2.0).await;
    gateway.change(&site(&[echo.at], policy)).await;
    assert_eq!(status(&head(&mut third).await), 101);
}

#[tokio::test]
async fn as_many_wait_as_may_and_none_for_ever() {
    let gateway = Gateway::with(&["--max-held-handshakes", "1"], &site(&[], "timeouts: {hold: 1h}")).await;
    let mut waiting = begin(&gateway, 0).await;
    held(&gateway, 1.0).await;
    let answer = refused(&gateway, "").await;
    assert!(status(&answer) == 503 && answer.contains("X-Carrick-Reason: hold_full\r\n"), "{answer}");
    assert!((5..=30).contains(&retry_after(&answer)));
    // A shutdown lets them go: another replica may have an endpoint.
    let ended = tokio::spawn(gateway.shut_down());
    let answer = rest(&mut waiting).await;
    assert!(status(&answer) == 503 && answer.contains("X-Carrick-Reason: no_ready_endpoint\r\n"), "{answer}");
    ended.await.unwrap();
    let gateway = Gateway::start(&site(&[], "timeouts: {hold: 100ms}")).await;
    let answer = refused(&gateway, "").await;
    assert!(status(&answer) == 503 && answer.contains("X-Carrick-Reason: no_ready_endpoint\r\n"), "{answer}");
    assert!((1..=5).contains(&retry_after(&answer)));
}

/// A server that ends every connection after the handshake, before a byte of its answer.
async fn cutting() -> SocketAddr {
    Scripted::start().await.each(|mut socket| async move {
        head(&mut socket).await;
    })
}

#[tokio::test]
async fn a_handshake_that_is_cut_before_its_answer_goes_to_another_endpoint() {
    let echo = Echo::start("app").await;
    let policy = "loadBalancing: {policy: RoundRobin}";
    let gateway = Gateway::start(&site(&[cutting().await, echo.at], policy)).await;
    for _ in 0..2 {
        drop(open(&gateway).await);
    }
    assert!(retries(&gateway, "cut", "ok").await >= 1.0);
}

#[tokio::test]
async fn two_retries_at_most_and_within_the_budget() {
    let endpoints = [cutting().await, cutting().await, cutting().await, cutting().await];
    let gateway = Gateway::start(&site(&endpoints, "")).await;
    assert_eq!(status(&refused(&gateway, "").await), 502);
    assert_eq!(retries(&gateway, "cut", "failed").await, 2.0);
    eventually("the budget is spent", async || {
        assert_eq!(status(&refused(&gateway, "").await), 502);
        retries(&gateway, "cut", "over_budget").await > 0.0
    })
    .await;
}

#[tokio::test]
async fn nothing_is_tried_again_after_a_byte_of_the_answer() {
    let answered = Scripted::start().await.each(|mut socket| async move {
        head(&mut socket).await;
        socket.write_all(b"H").await.unwrap();
    });
    let gateway = Gateway::start(&site(&[answered, answered], "")).await;
    assert_eq!(status(&refused(&gateway, "").await), 502);
    assert_eq!(retries(&gateway, "cut", "ok").await + retries(&gateway, "cut", "failed").await, 0.0);
}
