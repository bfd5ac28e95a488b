//! Layer 4: ports that come and go, half-close, PROXY protocol, SNI.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    client::rest,
    eventually,
    gateway::Gateway,
    manifest::{all, route, service},
    peers::{Scripted, nobody},
    soon, tls,
};

fn tcp(port: u16, more: &str) -> String {
    route("tcp", &format!("tcp:\n- {{port: {port}, backends: [{{service: raw, port: 80}}]{more}}}"))
}

async fn free_port() -> u16 {
    nobody().await.port()
}

async fn connect(port: u16) -> TcpStream {
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the port is open", async || TcpStream::connect(at).await.is_ok()).await;
    TcpStream::connect(at).await.unwrap()
}

/// The backend's end of a client's connection. Others that only looked whether the port is open are passed over.
async fn joined(backend: &mut Scripted, client: &mut TcpStream) -> TcpStream {
    client.write_all(b"!").await.unwrap();
    loop {
        let mut socket = backend.accept().await;
        if soon("a byte or the end", socket.read_u8()).await.is_ok_and(|byte| byte == b'!') {
            return socket;
        }
    }
}

#[tokio::test]
async fn half_close_is_kept_both_ways() {
    let (mut backend, port) = (Scripted::start().await, free_port().await);
    let _gateway = Gateway::start(&all([service("raw", &[backend.at]), tcp(port, "")])).await;
    let mut client = connect(port).await;
    let mut server = joined(&mut backend, &mut client).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await, "question");
    server.write_all(b"answer").await.unwrap();
    drop(server);
    assert_eq!(rest(&mut client).await, "answer");
}

#[tokio::test]
async fn bulk_arrives_whole_both_ways() {
    let (mut backend, port) = (Scripted::start().await, free_port().await);
    let _gateway = Gateway::start(&all([service("raw", &[backend.at]), tcp(port, "")])).await;
    let mut client = connect(port).await;
    let server = joined(&mut backend, &mut client).await;
    let pattern = |seed: usize| (0..1 << 20).map(move |i| ((i * 31 + seed) >> 3) as u8).collect::<Vec<u8>>();
    let pump = |socket: TcpStream, out: usize, into: usize| async move {
        let (mut read, mut write) = socket.into_split();
        let send = async move {
            for round in 0..32 {
                write.write_all(&pattern(out + round)).await.unwrap();
            }
            write.shutdown().await.unwrap();
        };
        let receive = async move {
            let mut bytes = vec![0; 1 << 20];
            for round in 0..32 {
                read.read_exact(&mut bytes).await.unwrap();
                assert!(bytes == pattern(into + round), "round {round}");
            }
            assert_eq!(read.read(&mut bytes).await.unwrap(), 0);
        };
        tokio::join!(send, receive);
    };
    soon("64 MiB", async { tokio::join!(pump(client, 0, 1000), pump(server, 1000, 0)) }).await;
}

#[tokio::test]
async fn ports_come_and_go_and_open_connections_stay() {
    let (mut backend, first, second) = (Scripted::start().await, free_port().await, free_port().await);
    let gateway = Gateway::start(&all([service("raw", &[backend.at]), tcp(first, "")])).await;
    let mut client = connect(first).await;
    let mut server = joined(&mut backend, &mut client).await;
    gateway.change(&all([service("raw", &[backend.at]), tcp(second, "")])).await;
    connect(second).await;
    eventually("the old port is closed", async || TcpStream::connect(("127.0.0.1", first)).await.is_err()).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(soon("a byte", server.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() {
    let (backend, port) = (Scripted::start().await, free_port().await);
    let dead = nobody().await;
    let _gateway = Gateway::start(&all([service("raw", &[dead, backend.at]), tcp(port, "")])).await;
    let at = backend.each(|mut socket| async move { socket.write_all(b"alive").await.unwrap() });
    assert_ne!(at, dead);
    for _ in 0..6 {
        assert_eq!(rest(&mut connect(port).await).await, "alive");
    }
}

#[tokio::test]
async fn the_backend_is_told_who_the_client_is() {
    for (version, begins) in
        [("V1", b"PROXY TCP4 127.0.0.1 127.0.0.1 ".as_slice()), ("V2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01")]
    {
        let (backend, port) = (Scripted::start().await, free_port().await);
        let (send, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let at = backend.each(move |mut socket| {
            let send = send.clone();
            async move {
                let mut bytes = vec![0; begins.len()];
                if socket.read_exact(&mut bytes).await.is_ok() {
                    let _ = send.send(bytes);
                }
            }
        });
        let _gateway = Gateway::start(&all([service("raw", &[at]), tcp(port, &format!(", proxyProtocol: {version}"))])).await;
        let mut client = connect(port).await;
        client.write_all(b"hello").await.unwrap();
        assert_eq!(soon("the header", seen.recv()).await.unwrap(), begins);
    }
}

#[tokio::test]
async fn tls_is_passed_through_or_ended_here_by_name() {
    let (port, plain) = (free_port().await, Scripted::start().await);
    let inner = tls::Identity::new("inner.test");
    let outer = tls::Identity::new("outer.test");
    let through = tls::echo_server(&inner, "inner").await;
    let ended = plain.each(|mut socket| async move {
        let _ = socket.write_all(b"outer").await;
    });
    let spec = format!(
        "tcp:\n- {{port: {port}, hosts: [inner.test], tls: {{mode: Passthrough}}, backends: [{{service: through, port: 80}}]}}\n\
         - {{port: {port}, hosts: [outer.test], tls: {{mode: Terminate, certificates: [{{secretName: outer}}]}}, backends: [{{service: ended, port: 80}}]}}\n\
         - {{port: https, hosts: [inner.test], tls: {{mode: Passthrough}}, backends: [{{service: through, port: 80}}]}}"
    );
    let gateway =
        Gateway::start(&all([service("through", &[through]), service("ended", &[ended]), outer.secret("outer"), route("tcp", &spec)]))
            .await;
    drop(connect(port).await);
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(rest(&mut tls::connect(at, &inner).await.unwrap()).await, "inner", "the backend's own certificate");
    assert_eq!(rest(&mut tls::connect(at, &outer).await.unwrap()).await, "outer");
    assert_eq!(rest(&mut tls::connect(gateway.https(), &inner).await.unwrap()).await, "inner", "beside the terminated hosts");
    assert!(tls::connect(at, &tls::Identity::new("nobody.test")).await.is_err());
}
