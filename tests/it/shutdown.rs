//! SIGTERM: told, drained, gone.

use futures_util::StreamExt as _;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{
    client::{close_code, head, rest, status, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::site,
    peers::{Echo, Scripted},
};

#[tokio::test]
async fn every_socket_is_told_and_the_process_waits_for_them() {
    let echo = Echo::start("echo").await;
    let gateway = Gateway::with(&["--drain-timeout", "3s"], &site("app", "/", &[echo.at])).await;
    let mut sockets = Vec::new();
    for _ in 0..10 {
        let mut socket = websocket(gateway.http, "ws://a.test/").await;
        text(&mut socket).await;
        sockets.push(socket);
    }
    let clients = async {
        for mut socket in sockets {
            assert_eq!(close_code(&mut socket).await, 1012);
            assert!(socket.next().await.is_none(), "the answer is sent and the connection ended");
        }
    };
    tokio::join!(gateway.shut_down(), clients);
    eventually("the backend saw every socket end", async || echo.open() == 0).await;
}

#[tokio::test]
async fn an_answer_under_way_is_finished() {
    let mut backend = Scripted::start().await;
    let gateway = Gateway::start(&site("app", "/", &[backend.at])).await;
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let mut server = backend.accept().await;
    head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await.unwrap();
    let begun = head(&mut client).await;
    assert_eq!(status(&begun), 200);
    let finish = async {
        server.write_all(b"half").await.unwrap();
        assert_eq!(rest(&mut client).await, "halfhalf");
    };
    tokio::join!(gateway.shut_down(), finish);
}

#[tokio::test]
async fn a_silent_client_does_not_hold_the_process() {
    let gateway = Gateway::start(&site("app", "/", &[])).await;
    let mut silent = TcpStream::connect(gateway.http).await.unwrap();
    let mut kept_alive = TcpStream::connect(gateway.http).await.unwrap();
    kept_alive.write_all(b"HEAD /x HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    head(&mut kept_alive).await;
    gateway.shut_down().await;
    rest(&mut silent).await;
    assert_eq!(rest(&mut kept_alive).await, "", "a FIN, and no reset");
}

#[tokio::test]
async fn an_idle_connection_has_one_more_request_while_tunnels_are_told() {
    let echo = Echo::start("echo").await;
    let gateway = Gateway::with(&["--drain-timeout", "10s"], &site("app", "/ws", &[echo.at])).await;
    let mut socket = websocket(gateway.http, "ws://a.test/ws").await;
    text(&mut socket).await;
    let mut idle = TcpStream::connect(gateway.http).await.unwrap();
    let ask = b"HEAD /x HTTP/1.1\r\nHost: a.test\r\n\r\n";
    idle.write_all(ask).await.unwrap();
    let answer = head(&mut idle).await;
    assert!(!answer.contains("Connection: close"), "{answer}");
    let clients = async {
        // Told, and not answered yet: the shutdown is under way.
        let told = close_code(&mut socket).await;
        idle.write_all(ask).await.unwrap();
        let answer = rest(&mut idle).await;
        assert!(status(&answer) == 404 && answer.contains("Connection: close\r\n"), "{answer}");
        assert_eq!(told, 1012);
        assert!(socket.next().await.is_none());
    };
    tokio::join!(gateway.shut_down(), clients);
}
