//! Limits reached: accepting pauses, what is open stays, and it recovers.

use std::process::Command;

use futures_util::{SinkExt as _, future::join_all};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::support::{
    client::{get, head, rest, status, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, site},
    peers::Echo,
    process::Process,
    soon,
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[tokio::test]
async fn over_the_limit_clients_wait_and_are_served_when_others_leave() {
    let echo = Echo::start("echo").await;
    let gateway = Gateway::with(&["--max-connections", "2"], &site("app", "/", &[echo.at])).await;
    let mut first = websocket(gateway.http, "ws://a.test/").await;
    let mut second = websocket(gateway.http, "ws://a.test/").await;
    let waiting = websocket(gateway.http, "ws://a.test/");
    tokio::pin!(waiting);
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("a third connection was served"),
        () = eventually("the pause is counted", async || gateway.metric("carrick_accept_pauses_total{reason=\"max_connections\"}").await >= 1.0) => {}
    }
    assert_eq!(text(&mut first).await, "echo");
    assert_eq!(text(&mut second).await, "echo");
    drop(first);
    let mut third = waiting.await;
    assert_eq!(text(&mut third).await, "echo");
}

#[tokio::test]
async fn one_address_has_no_more_than_its_share() {
    let redirect = route("r", "locations:\n- {path: /, redirect: {path: /x}}");
    let gateway = Gateway::with(&["--max-connections-per-client", "3"], &all([redirect])).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(gateway.http).await.unwrap();
        socket.write_all(REQUEST).await.unwrap();
        head(&mut socket).await;
        held.push(socket);
    }
    let mut more = TcpStream::connect(gateway.http).await.unwrap();
    let _ = more.write_all(REQUEST).await;
    assert!(!rest(&mut more).await.contains("308"));
    held.pop();
    eventually("a place is free again", async || {
        let mut socket = TcpStream::connect(gateway.http).await.unwrap();
        let _ = socket.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
        rest(&mut socket).await.contains("308")
    })
    .await;
}

#[tokio::test]
async fn without_descriptors_accepting_pauses_and_recovers() {
    let echo = Echo::start("echo").await;
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("site.yaml"), site("app", "/", &[echo.at])).unwrap();
    // A process of its own: the limit is one of the process.
    let mut carrick = Process::start(
        Command::new("sh")
            .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\" 2>&1", env!("CARGO_BIN_EXE_carrick"), "standalone", "--max-connections", "1000"])
            .args(["--bind", "127.0.0.1", "--http-port", "0", "--https-port", "off", "--ops-bind", "off", "--admin-bind", "off"])
            .args(["--workers", "1", "--manifests"])
            .arg(folder.path()),
    );
    let at = carrick.port("http").await;
    eventually("it serves", async || status(&get(at, "a.test", "/").await) != 404).await;
    let mut first = websocket(at, "ws://a.test/").await;
    assert_eq!(text(&mut first).await, "echo");
    // Each takes two descriptors once it is open; the kernel takes in those that we do not.
    let mut crowd = join_all((0..64).map(|_| TcpStream::connect(at))).await;
    for socket in crowd.iter_mut().flatten() {
        socket.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n").await.unwrap();
    }
    carrick.line_with("accepting pauses").await;
    first.send(Message::text("still here")).await.unwrap();
    assert_eq!(text(&mut first).await, "still here");
    drop(crowd);
    // What waited in the kernel's queue is taken in, and seen to be gone, first: until then there is no descriptor to dial with, and 503.
    eventually("it opens sockets again", async || {
        let socket = TcpStream::connect(at).await.unwrap();
        soon("an answer", client_async("ws://a.test/", socket)).await.is_ok()
    })
    .await;
    let mut next = websocket(at, "ws://a.test/").await;
    assert_eq!(text(&mut next).await, "echo");
    first.send(Message::text("and here")).await.unwrap();
    assert_eq!(text(&mut first).await, "and here");
}
