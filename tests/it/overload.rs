//! Limits reached: accepting pauses, what is open stays, and it recovers.

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{
    client::{head, rest, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, site},
    peers::Echo,
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
