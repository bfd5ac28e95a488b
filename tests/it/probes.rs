//! Requests as attackers and odd clients spell them: what the backend is given is one request with one meaning, or nothing.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    client::{get, raw, status},
    gateway::Gateway,
    manifest::site,
    peers::Scripted,
};

/// The start of a request; its fields are added by each probe.
const POST: &str = "POST /probe HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n";
/// What an attacker would have read as a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A gateway, and all that its backend is sent.
struct Probed {
    gateway: Gateway,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Probed {
    async fn start() -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&received);
        let backend = Scripted::start().await.each(move |socket| record(socket, Arc::clone(&written)));
        Self { gateway: Gateway::start(&site("app", "/", &[backend])).await, received }
    }

    /// The statuses of all answers, and what the backend was sent without the fields that we add.
    async fn send(&self, request: &str) -> (Vec<u16>, String) {
        self.received.lock().clear();
        let answers = raw(self.gateway.http, request.as_bytes()).await;
        let statuses = answers.match_indices("HTTP/1.").map(|(at, _)| status(&answers[at..])).collect();
        let received = String::from_utf8_lossy(&self.received.lock()).into_owned();
        let ours = |line: &&str| !line.starts_with("X-Forwarded-") && !line.starts_with("X-Real-Ip") && !line.starts_with("X-Request-Id");
        (statuses, received.split_inclusive("\r\n").filter(ours).collect())
    }
}

/// Answers each piece that it reads with 200: an attacker's luck, were a second request in it.
async fn record(mut socket: TcpStream, received: Arc<Mutex<Vec<u8>>>) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = socket.read(&mut piece).await {
        received.lock().extend_from_slice(&piece[..length]);
        if received.lock().ends_with(b"\r\n\r\n") || received.lock().ends_with(b"12345") {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    }
}

#[tokio::test]
async fn what_has_two_readings_reaches_no_backend() {
    let probed = Probed::start().await;
    let fields = [
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: 0x5",
        "Content-Length: ",
        "Content-Length: 99999999999999999999999",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length : 5",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "X: a\rTransfer-Encoding: chunked",
        "X: a\r\n b",
        "Host: b.test",
        "Connection: Content-Length\r\nContent-Length: 5",
    ];
    for fields in fields {
        let (statuses, received) = probed.send(&format!("{POST}{fields}\r\n\r\n5\r\n12345\r\n0\r\n\r\n{SMUGGLED}")).await;
        assert_eq!((statuses, &*received), (vec![400], ""), "{fields:?}");
    }
}

#[tokio::test]
async fn what_follows_a_last_request_is_no_request() {
    let probed = Probed::start().await;
    let both = "POST /probe HTTP/1.1\r\nHost: a.test\r\nContent-Length: 500\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n";
    let expected = "POST /probe HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n";
    assert_eq!(probed.send(&format!("{both}{SMUGGLED}")).await, (vec![200], expected.to_owned()));
    let handshake = "GET /probe HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (statuses, received) = probed.send(&format!("{handshake}{SMUGGLED}")).await;
    assert_eq!(statuses, [200]);
    assert!(!received.contains("smuggled"), "{received}");
}

#[tokio::test]
async fn broken_chunks_never_end_a_request_at_the_backend() {
    let probed = Probed::start().await;
    let bodies = [
        "fffffffffffffffff\r\n12345",
        "10000000000000005\r\n12345\r\n0\r\n\r\n",
        "-5\r\n12345\r\n0\r\n\r\n",
        "0x5\r\n12345\r\n0\r\n\r\n",
        "5\n12345\r\n0\r\n\r\n",
        "5;a\n12345\r\n0\r\n\r\n",
        "5\r\n12345\n0\r\n\r\n",
        "5\r\n12345XX\r\n0\r\n\r\n",
        "5\r\n123450\r\n\r\n",
        "\r\n12345\r\n0\r\n\r\n",
        "5\r\n12345\r\n0\r\nX T: 1\r\n\r\n",
    ];
    for body in bodies {
        let (statuses, received) = probed.send(&format!("{POST}Transfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}")).await;
        assert!(!received.contains("0\r\n\r\n") && !received.contains("smuggled"), "{body:?} became {received:?}");
        // The backend of this test answers as soon as it sees the content: that answer may come first, and then it is the last.
        assert!(matches!(*statuses, [200] | [400]), "{body:?}: {statuses:?}");
    }
}

#[tokio::test]
async fn names_that_only_look_like_framing_frame_nothing() {
    let probed = Probed::start().await;
    let (statuses, received) = probed.send(&format!("{POST}Content_Length: 7\r\nTransfer_Encoding: chunked\r\n\r\n")).await;
    assert_eq!((statuses, &*received), (vec![200], "POST /probe HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n"));
}

#[tokio::test]
async fn an_old_client_is_not_waited_for_to_expect_anything() {
    let probed = Probed::start().await;
    let (statuses, received) =
        probed.send("POST /probe HTTP/1.0\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n12345").await;
    assert_eq!((statuses, &*received), (vec![200], "POST /probe HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n12345"));
}

#[tokio::test]
async fn paths_as_browsers_send_them_arrive_escaped() {
    let probed = Probed::start().await;
    assert_eq!(status(&get(probed.gateway.http, "a.test", "/posts/[slug]/{id}|a^b?filter[name]=x").await), 200);
    let received = String::from_utf8(probed.received.lock().clone()).unwrap();
    assert!(received.starts_with("GET /posts/%5Bslug%5D/%7Bid%7D%7Ca%5Eb?filter[name]=x HTTP/1.1\r\n"), "{received}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_up_to_the_bad_one() {
    let probed = Probed::start().await;
    let good = "GET /good HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let (statuses, received) = probed.send(&format!("{good}{good}GET / HTTP/1.1\r\nHost : a.test\r\n\r\n{SMUGGLED}")).await;
    assert_eq!((statuses, received), (vec![200, 200, 400], good.repeat(2)));
}
