//! How tunnels end, seen from both sides: the table of docs/architecture.md over real sockets.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role},
    },
};

use crate::support::{
    client::{Socket, close_code, head, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service, site},
    peers::Scripted,
    soon,
};

/// A client's socket through the gateway, and the backend's end of it as raw bytes after the 101.
async fn joined(gateway: &Gateway, backend: &mut Scripted, path: &str) -> (Socket, TcpStream) {
    let url = format!("ws://a.test{path}");
    let answer = async {
        let mut socket = backend.accept().await;
        let request = head(&mut socket).await;
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("the key, in the RFC's letter case");
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        socket.write_all(response.as_bytes()).await.unwrap();
        socket
    };
    tokio::join!(websocket(gateway.http, &url), answer)
}

async fn speaking(socket: TcpStream) -> WebSocketStream<TcpStream> {
    WebSocketStream::from_raw_socket(socket, Role::Server, None).await
}

async fn gateway_with_backend() -> (Gateway, Scripted) {
    let backend = Scripted::start().await;
    (Gateway::start(&site("app", "/", &[backend.at])).await, backend)
}

#[tokio::test]
async fn a_close_passes_unchanged_both_ways() {
    let (gateway, mut backend) = gateway_with_backend().await;
    let (mut client, server) = joined(&gateway, &mut backend, "/").await;
    let mut server = speaking(server).await;
    server.close(Some(CloseFrame { code: 4321.into(), reason: "grüße".into() })).await.unwrap();
    match soon("the Close", client.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4321, "grüße")),
        other => panic!("{other:?}"),
    }
    // The answer goes out with the client's next read, which ends with the connection.
    let (echo, end) = tokio::join!(soon("the answer", server.next()), soon("the end", client.next()));
    assert!(end.is_none());
    assert!(matches!(echo, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 4321));
    eventually("the tunnel is gone", async || !gateway.admin("/debug/tunnels").await.contains("/app")).await;

    let (mut client, server) = joined(&gateway, &mut backend, "/").await;
    let mut server = speaking(server).await;
    client.close(Some(CloseFrame { code: 3000.into(), reason: "".into() })).await.unwrap();
    assert!(matches!(soon("the Close", server.next()).await, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 3000));
}

#[tokio::test]
async fn a_backend_that_vanishes_becomes_the_reconnect_code_after_all_it_said() {
    let (gateway, mut backend) = gateway_with_backend().await;
    let (mut client, server) = joined(&gateway, &mut backend, "/").await;
    let mut server = speaking(server).await;
    for _ in 0..50 {
        server.send(Message::binary(vec![7; 20_000])).await.unwrap();
    }
    let raw = server.into_inner();
    socket2::SockRef::from(&raw).set_linger(None).unwrap();
    drop(raw); // FIN without Close
    for _ in 0..50 {
        assert!(matches!(soon("a message", client.next()).await, Some(Ok(Message::Binary(bytes))) if bytes.len() == 20_000));
    }
    assert_eq!(close_code(&mut client).await, 1012);
}

#[tokio::test]
async fn a_reset_of_the_backend_is_a_close_for_the_client_with_the_code_of_the_route() {
    let backend = Scripted::start().await;
    let mut backend = backend;
    let spec = "locations:\n- path: /\n  backends: [{service: app, port: 80}]\n  websocket: {reconnectCode: 4000}";
    let gateway = Gateway::start(&all([service("app", &[backend.at]), route("r", spec)])).await;
    let (mut client, server) = joined(&gateway, &mut backend, "/").await;
    socket2::SockRef::from(&server).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(server); // RST
    assert_eq!(close_code(&mut client).await, 4000);
}

#[tokio::test]
async fn a_client_that_vanishes_becomes_1001_for_the_backend_at_a_frame_boundary() {
    let (gateway, mut backend) = gateway_with_backend().await;
    let (client, server) = joined(&gateway, &mut backend, "/").await;
    let mut server = speaking(server).await;
    let mut raw = client.into_inner();
    // A whole masked frame, so that the gateway stands at a boundary.
    raw.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    assert!(matches!(soon("the message", server.next()).await, Some(Ok(Message::Text(text))) if text.as_str() == "hi"));
    socket2::SockRef::from(&raw).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(raw);
    match soon("the Close", server.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_frame_cut_by_its_sender_is_never_followed_by_a_close() {
    let (gateway, mut backend) = gateway_with_backend().await;
    let (client, mut server) = joined(&gateway, &mut backend, "/").await;
    server.write_all(&[0x82, 10, 1, 2, 3]).await.unwrap(); // three of ten bytes
    server.shutdown().await.unwrap();
    let mut raw = client.into_inner();
    let mut bytes = Vec::new();
    soon("the end", raw.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, [0x82, 10, 1, 2, 3], "nothing that could be taken for payload");
}

#[tokio::test]
async fn an_idle_socket_is_told_to_come_back() {
    let backend = Scripted::start().await;
    let mut backend = backend;
    let spec = "locations:\n- path: /\n  backends: [{service: app, port: 80}]\n  timeouts: {idle: 200ms}";
    let gateway = Gateway::start(&all([service("app", &[backend.at]), route("r", spec)])).await;
    let (mut client, server) = joined(&gateway, &mut backend, "/").await;
    let mut server = speaking(server).await;
    assert_eq!(close_code(&mut client).await, 1012);
    drop(client);
    match soon("the Close", server.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sight_of_a_socket_while_it_is_open() {
    let (gateway, mut backend) = gateway_with_backend().await;
    let (mut client, server) = joined(&gateway, &mut backend, "/").await;
    let mut server = speaking(server).await;
    client.send(Message::text("hello")).await.unwrap();
    soon("the message", server.next()).await;
    let listed = gateway.admin("/debug/tunnels").await;
    assert!(listed.contains("default/app") && listed.contains(&backend.at.to_string()), "{listed}");
    let metrics = gateway.ops("/metrics").await;
    let open: Vec<&str> = metrics.lines().filter(|line| line.starts_with("carrick_tunnels_open{")).collect();
    assert!(open.len() == 1 && open[0].contains("route=\"app\"") && open[0].ends_with(" 1"), "{open:?}");
}

/// A gateway whose clients are told long after their backend, if nothing else happens.
async fn patient_gateway() -> (Gateway, Scripted) {
    let backend = Scripted::start().await;
    let spec = "locations:\n- path: /\n  backends: [{service: app, port: 80}]\n  drain: {clientSpread: 10h}";
    (Gateway::start(&all([service("app", &[backend.at]), route("app", spec)])).await, backend)
}

/// Until the gateway knows that the backend is gone.
async fn is_held(gateway: &Gateway) {
    eventually("the backend's end is known", async || gateway.admin("/debug/tunnels").await.contains("closing")).await;
}

#[tokio::test]
async fn a_client_that_closes_while_its_backend_is_gone_is_answered() {
    let (gateway, mut backend) = patient_gateway().await;
    let (mut client, server) = joined(&gateway, &mut backend, "/").await;
    socket2::SockRef::from(&server).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(server); // RST
    is_held(&gateway).await;
    client.send(Message::text("into the void")).await.unwrap();
    client.close(Some(CloseFrame { code: 4001.into(), reason: "".into() })).await.unwrap();
    assert_eq!(close_code(&mut client).await, 4001);
    assert!(soon("the end", client.next()).await.is_none());
    eventually("the tunnel is gone", async || !gateway.admin("/debug/tunnels").await.contains("/app")).await;
}

#[tokio::test]
async fn an_operator_need_not_wait_for_the_moment_of_a_client() {
    let (gateway, mut backend) = patient_gateway().await;
    let (mut client, server) = joined(&gateway, &mut backend, "/").await;
    drop(server);
    is_held(&gateway).await;
    gateway.operate("/drain?route=default/app").await;
    assert_eq!(close_code(&mut client).await, 1012);
}

#[tokio::test]
async fn all_that_a_client_says_before_its_close_reaches_the_backend_of_a_drain() {
    let (gateway, mut backend) = gateway_with_backend().await;
    let (client, server) = joined(&gateway, &mut backend, "/").await;
    let (mut write, mut read) = client.split();
    let mut server = speaking(server).await;
    write.send(Message::text("0")).await.unwrap();
    soon("the first", server.next()).await;
    gateway.operate("/drain?route=default/app").await;
    // The library answers the Close with its next write or read: until then there is more to say.
    for number in 1..200 {
        write.send(Message::text(format!("{number} {}", "x".repeat(10_000)))).await.unwrap();
    }
    let told = async { while let Some(Ok(_)) = read.next().await {} };
    let heard = async {
        for number in 1..200 {
            match soon("a message", server.next()).await {
                Some(Ok(Message::Text(text))) => assert!(text.starts_with(&format!("{number} "))),
                other => panic!("{number}: {other:?}"),
            }
        }
        assert!(matches!(soon("the Close", server.next()).await, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1001));
        assert!(soon("the end", server.next()).await.is_none());
    };
    tokio::join!(told, heard);
}

#[tokio::test]
async fn a_reader_that_stopped_within_a_huge_frame_gets_all_of_it_and_a_fin() {
    let (gateway, mut backend) = gateway_with_backend().await;
    let (client, mut server) = joined(&gateway, &mut backend, "/").await;
    let mut raw = client.into_inner();
    // A frame of 8 MiB, more than the sockets between take, of which the last byte never comes.
    let length = 8_u64 << 20;
    let header = [&[0x82, 127][..], &length.to_be_bytes()].concat();
    let sending = async move {
        server.write_all(&header).await.unwrap();
        server.write_all(&vec![7; length as usize - 1]).await.unwrap();
        server
    };
    let told = async {
        eventually("it flows", async || gateway.metric("carrick_connections_open").await >= 1.0).await;
        gateway.operate("/drain?route=default/app").await;
        let mut received = Vec::new();
        soon("the end", raw.read_to_end(&mut received)).await.unwrap();
        received
    };
    let (server, received) = tokio::join!(sending, told);
    assert_eq!(received.len(), 10 + length as usize - 1, "nothing was put in, nothing is missing");
    drop((raw, server));
    let unclean = r#"carrick_tunnel_unclean_ends_total{route_namespace="default",route="app",location="/",reason="mid_frame"}"#;
    eventually("it is counted", async || gateway.metric(unclean).await >= 1.0).await;
}
