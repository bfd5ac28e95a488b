//! The other end of `/pods`: what another replica's ops port says of its tunnels.
//!
//! It never knows which replicas there are, nor what their tunnels mean. `app` hands it to `k8s`, which asks all of them.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::model::pod::{Heard, PodTunnels};

/// From the first packet to the last byte, between pods of one cluster.
const PATIENCE: Duration = Duration::from_secs(3);

/// Of an answer with its head: whoever speaks there, it is not read for ever. `PODS` of the longest names fit.
const LONGEST: u64 = 16 << 20;

/// An answer that is none.
#[derive(Debug, Error)]
enum Fault {
    #[error("{0}")]
    Connection(#[from] io::Error),
    #[error("no answer to /pods within {} s", PATIENCE.as_secs())]
    Late,
    #[error("it answers /pods with {0}")]
    Status(u16),
    #[error("its answer to /pods can not be read: {0}")]
    Unreadable(String),
}

/// Asks the replica whose ops port this is. `ours` is our own one: whoever connects to itself needs not ask.
pub async fn ask_for_pods(replica: SocketAddr, ours: Option<SocketAddr>) -> Heard {
    match timeout(PATIENCE, ask(replica, ours)).await.unwrap_or(Err(Fault::Late)) {
        Ok(heard) => heard,
        Err(Fault::Connection(error)) if error.kind() == ErrorKind::ConnectionRefused => Heard::Nobody,
        Err(fault) => Heard::Silence(fault.to_string()),
    }
}

async fn ask(replica: SocketAddr, ours: Option<SocketAddr>) -> Result<Heard, Fault> {
    let mut stream = TcpStream::connect(replica).await?;
    if ours.is_some_and(|ours| ours.port() == replica.port()) && is_same(stream.local_addr()?.ip(), replica.ip()) {
        return Ok(Heard::Ourselves);
    }
    let request = format!("GET /pods HTTP/1.1\r\nHost: {replica}\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    read(&answer).map(Heard::Tunnels)
}

fn is_same(one: IpAddr, other: IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}

/// What a whole answer says. It is our own server's, so its body has a length, and one that was cut off is told by it.
fn read(answer: &[u8]) -> Result<Vec<PodTunnels>, Fault> {
    let unreadable = |why: &str| Fault::Unreadable(why.to_owned());
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut fields);
    let length = match head.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(unreadable("it ends within its head")),
        Err(error) => return Err(unreadable(&error.to_string())),
    };
    let body = &answer[length..];
    if let Some(status) = head.code.filter(|status| *status != 200) {
        return Err(Fault::Status(status));
    }
    let declared = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let declared = declared.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
    if declared != Some(body.len()) {
        return Err(unreadable("it is not as long as it says"));
    }
    serde_json::from_slice(body).map_err(|error| unreadable(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const POD: &str = r#"{"namespace":"default","pod":"chat-0","uid":"u","open":3,"departure":null}"#;

    fn whole(status: u16, body: &str) -> String {
        format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    /// What is heard of a replica that answers with these bytes.
    async fn heard(answer: String) -> Heard {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 512]).await;
            socket.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(ask_for_pods(at, None), serve).0
    }

    #[tokio::test]
    async fn a_replica_says_what_it_has_on_each_pod() {
        let Heard::Tunnels(pods) = heard(whole(200, &format!("[{POD}]"))).await else { panic!("nothing was heard") };
        assert_eq!((&*pods[0].pod, pods[0].open), ("chat-0", 3));
    }

    #[tokio::test]
    async fn what_is_no_answer_says_why() {
        for (answer, why) in [
            (whole(404, "none"), "404"),
            (whole(200, "{}"), "can not be read"),
            (whole(200, &format!("[{POD}]")).replace('}', ""), "not as long"),
            ("HTTP/1.1 200 OK\r\n".into(), "within its head"),
            ("SSH-2.0-nobody\r\n".into(), "can not be read"),
        ] {
            let Heard::Silence(said) = heard(answer.clone()).await else { panic!("{answer}") };
            assert!(said.contains(why), "{answer}: {said}");
        }
    }

    #[tokio::test]
    async fn ourselves_and_nobody_are_not_missing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        assert_eq!(ask_for_pods(at, Some(SocketAddr::new("::".parse().unwrap(), at.port()))).await, Heard::Ourselves);
        drop(listener);
        assert_eq!(ask_for_pods(at, None).await, Heard::Nobody);
    }
}
