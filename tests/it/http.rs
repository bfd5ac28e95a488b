//! Plain HTTP through the whole application.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    client::{get, head, raw, rest, status},
    gateway::Gateway,
    manifest::{all, route, service, site},
    peers::{Scripted, nobody},
    soon,
};

async fn until(socket: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        bytes.push(soon(end, socket.read_u8()).await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn server_sent_events_arrive_as_they_are_sent() {
    let mut backend = Scripted::start().await;
    let gateway = Gateway::start(&site("events", "/", &[backend.at])).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET /events HTTP/1.1\r\nHost: a.test\r\nAccept: text/event-stream\r\n\r\n").await.unwrap();
    let mut server = backend.accept().await;
    head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    assert!(head(&mut client).await.contains("Content-Type: text/event-stream\r\n"));
    // Each is read before the next is sent: nothing is held back.
    for event in ["data: 1\n\n", "data: 22\n\n", "data: 333\n\n"] {
        server.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
        until(&mut client, &format!("{event}\r\n")).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_backend() {
    let mut backend = Scripted::start().await;
    let gateway = Gateway::start(&site("slow", "/", &[backend.at])).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let mut server = backend.accept().await;
    head(&mut server).await;
    drop(client);
    assert_eq!(rest(&mut server).await, "");
}

#[tokio::test]
async fn ten_megabytes_go_through_both_ways_at_once() {
    const SIZE: usize = 10_000_000;
    let backend = Scripted::start().await.each(|mut server| async move {
        head(&mut server).await;
        let mut body = vec![0; SIZE];
        server.read_exact(&mut body).await.unwrap();
        server.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).await.unwrap();
        server.write_all(&body).await.unwrap();
    });
    let gateway = Gateway::start(&site("upload", "/", &[backend])).await;
    let sent: Vec<u8> = (0..SIZE).map(|i| (i % 251) as u8).collect();
    let (mut reading, mut writing) = TcpStream::connect(gateway.http).await.unwrap().into_split();
    let request = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {SIZE}\r\n\r\n");
    let mut received = vec![0; SIZE];
    let send = async {
        writing.write_all(request.as_bytes()).await.unwrap();
        writing.write_all(&sent).await.unwrap();
    };
    let receive = async {
        assert!(head(&mut reading).await.starts_with("HTTP/1.1 200 "));
        reading.read_exact(&mut received).await.unwrap();
    };
    soon("all of it", async { tokio::join!(send, receive) }).await;
    assert!(sent == received);
}

#[tokio::test]
async fn what_earlier_hops_say_counts_only_from_trusted_proxies() {
    let said = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\n\r\n";
    for (flags, trusted) in [(&[][..], false), (&["--trusted-proxies", "127.0.0.0/8"][..], true)] {
        let mut backend = Scripted::start().await;
        let gateway = Gateway::with(flags, &site("app", "/", &[backend.at])).await;
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        client.write_all(said.as_bytes()).await.unwrap();
        let head = head(&mut backend.accept().await).await;
        assert_eq!(head.contains("X-Forwarded-For: 203.0.113.9, 127.0.0.1\r\n"), trusted, "{head}");
        assert_eq!(head.contains("X-Forwarded-Proto: https\r\n"), trusted, "{head}");
        assert_eq!(head.contains("X-Request-Id: mine\r\n"), trusted, "{head}");
    }
}

#[tokio::test]
async fn rewrites_hosts_and_edits_reach_the_backend() {
    let mut backend = Scripted::start().await;
    let spec = "locations:\n- path: /api\n  backends: [{service: app, port: 80}]\n  rewrite: {prefix: /v2, host: inner.test}\n\
        \x20 requestHeaders: {set: [{name: X-Env, value: test}], remove: [Cookie]}\n\x20 responseHeaders: {add: [{name: X-From, value: carrick}]}";
    let gateway = Gateway::start(&all([service("app", &[backend.at]), route("app", spec)])).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET /api/users?x=1 HTTP/1.1\r\nHost: a.test\r\nCookie: a=b\r\n\r\n").await.unwrap();
    let mut server = backend.accept().await;
    let seen = head(&mut server).await;
    assert!(seen.starts_with("GET /v2/users?x=1 HTTP/1.1\r\nHost: inner.test\r\n"), "{seen}");
    assert!(seen.contains("X-Env: test\r\n") && !seen.contains("Cookie") && seen.contains("X-Forwarded-Host: a.test\r\n"), "{seen}");
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(head(&mut client).await.contains("X-From: carrick\r\n"));
}

#[tokio::test]
async fn refusals_say_why_and_name_no_service() {
    let spec = "locations:\n- {path: /dead, backends: [{service: dead, port: 80}]}\n- {path: /none, backends: [{service: none, port: 80}]}";
    let gateway = Gateway::start(&all([service("dead", &[nobody().await]), service("none", &[]), route("app", spec)])).await;
    for (path, code, token) in [("/dead", 502, "connect_failed"), ("/none", 503, "no_ready_endpoint"), ("/", 404, "not_found")] {
        let answer = get(gateway.http, "a.test", path).await;
        assert_eq!(status(&answer), code, "{answer}");
        assert!(answer.contains(&format!("X-Carrick-Reason: {token}\r\n")) && answer.contains("X-Request-Id: "), "{answer}");
        assert!(!answer.contains("default/"), "{answer}");
    }
}

#[tokio::test]
async fn a_backend_that_is_silent_is_504() {
    let backend = Scripted::start().await;
    let spec = "locations:\n- {path: /, backends: [{service: app, port: 80}], timeouts: {response: 50ms}}";
    let gateway = Gateway::start(&all([service("app", &[backend.at]), route("app", spec)])).await;
    assert_eq!(status(&get(gateway.http, "a.test", "/").await), 504);
}

#[tokio::test]
async fn a_late_head_is_408_and_a_late_body_too() {
    let backend = Scripted::start().await;
    let flags = ["--header-timeout", "100ms", "--body-timeout", "100ms"];
    let gateway = Gateway::with(&flags, &site("app", "/", &[backend.at])).await;
    assert_eq!(status(&raw(gateway.http, b"GET / HTTP/1.1\r\nHos").await), 408);
    assert_eq!(status(&raw(gateway.http, b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nab").await), 408);
}
