//! Handshakes through the whole application: what is joined, and above all what is not.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    client::{head, raw, rest, status, text, websocket},
    gateway::Gateway,
    manifest::{all, route, service, site},
    peers::{Echo, Scripted, nobody},
    tls::{Identity, connect},
};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn guarded(name: &str, endpoint: std::net::SocketAddr, more: &str) -> String {
    let spec = format!("{more}locations:\n- {{path: /, backends: [{{service: {name}, port: 80}}], websocket: {{origins: [SameHost]}}}}");
    all([service(name, &[endpoint]), route(name, &spec)])
}

#[tokio::test]
async fn early_frames_of_both_sides_arrive_once_and_in_order() {
    let mut backend = Scripted::start().await;
    let gateway = Gateway::start(&site("app", "/", &[backend.at])).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(&[HANDSHAKE.as_bytes(), b"\r\n\x81\x83\0\0\0\0one"].concat()).await.unwrap();
    let mut server = backend.accept().await;
    assert!(head(&mut server).await.contains("\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"));
    client.write_all(b"\x81\x83\0\0\0\0two").await.unwrap();
    server.write_all(&[SWITCH.as_bytes(), b"\x81\x03one", b"\x81\x03two"].concat()).await.unwrap();
    assert_eq!(status(&head(&mut client).await), 101);
    let (mut to_client, mut to_server) = ([0; 10], [0; 18]);
    client.read_exact(&mut to_client).await.unwrap();
    server.read_exact(&mut to_server).await.unwrap();
    assert_eq!((&to_client, &to_server), (b"\x81\x03one\x81\x03two", b"\x81\x83\0\0\0\0one\x81\x83\0\0\0\0two"));
}

#[tokio::test]
async fn bytes_behind_a_refused_handshake_reach_nobody_over_ws_and_wss() {
    let mut backend = Scripted::start().await;
    let identity = Identity::new("a.test");
    let tls = "hosts: [a.test]\ntls: {certificates: [{secretName: cert}], redirect: false}\n";
    let gateway = Gateway::start(&all([identity.secret("cert"), guarded("app", backend.at, tls)])).await;
    let smuggled = format!("{HANDSHAKE}Origin: https://evil.test\r\n\r\nGET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let plain = raw(gateway.http, smuggled.as_bytes()).await;
    let mut tls = connect(gateway.https(), &identity).await.unwrap();
    tls.write_all(smuggled.as_bytes()).await.unwrap();
    // `read_to_end` of rustls fails without close_notify: then nothing after the answer would be missing, but the goodbye.
    let mut secure = Vec::new();
    tls.read_to_end(&mut secure).await.unwrap();
    for answer in [plain, String::from_utf8(secure).unwrap()] {
        assert_eq!(status(&answer), 403, "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    assert!(!backend.was_dialled());
}

#[tokio::test]
async fn an_answer_that_is_no_101_is_the_last_one() {
    let mut backend = Scripted::start().await;
    let gateway = Gateway::start(&site("app", "/", &[backend.at])).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(format!("{HANDSHAKE}\r\nGET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes()).await.unwrap();
    let mut server = backend.accept().await;
    head(&mut server).await;
    server.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    let answer = rest(&mut client).await;
    assert!(status(&answer) == 401 && answer.contains("Connection: close\r\n") && answer.ends_with("no"), "{answer}");
    assert_eq!(rest(&mut server).await, "");
    assert!(!backend.was_dialled());
}

#[tokio::test]
async fn a_101_that_lies_is_502() {
    let mut backend = Scripted::start().await;
    let gateway = Gateway::start(&site("app", "/", &[backend.at])).await;
    for lie in [SWITCH.replace("s3p", "S3P"), SWITCH.replace("Upgrade: websocket\r\n", "Upgrade: h2c\r\n")] {
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        client.write_all(format!("{HANDSHAKE}\r\n").as_bytes()).await.unwrap();
        let mut server = backend.accept().await;
        head(&mut server).await;
        server.write_all(lie.as_bytes()).await.unwrap();
        assert_eq!(status(&rest(&mut client).await), 502);
    }
}

#[tokio::test]
async fn h2c_is_removed_and_a_listed_token_passes() {
    let mut backend = Scripted::start().await;
    let spec = "locations:\n- {path: /, backends: [{service: app, port: 80}], upgrades: [tcp]}";
    let gateway = Gateway::start(&all([service("app", &[backend.at]), route("app", spec)])).await;
    let ask = |token: &str| format!("GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: {token}\r\nConnection: Upgrade\r\n\r\n");
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(ask("h2c").as_bytes()).await.unwrap();
    assert!(!head(&mut backend.accept().await).await.contains("Upgrade"));
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(ask("tcp").as_bytes()).await.unwrap();
    let mut server = backend.accept().await;
    assert!(head(&mut server).await.contains("\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n"));
    server.write_all(b"HTTP/1.1 101 x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\nhello").await.unwrap();
    head(&mut client).await;
    let mut hello = [0; 5];
    client.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() {
    let echo = Echo::start("alive").await;
    let gateway = Gateway::start(&site("app", "/", &[nobody().await, echo.at, nobody().await])).await;
    for _ in 0..4 {
        let mut socket = websocket(gateway.http, "ws://a.test/").await;
        assert_eq!(text(&mut socket).await, "alive");
    }
}
