//! No spelling of a request reaches a backend as two, as a part, or as another one: through the whole application, on real sockets.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    client::{raw, status},
    gateway::Gateway,
    manifest::{all, route, service, site},
    peers::Scripted,
};

/// A backend that notes every byte it is sent, and answers each time it has read something.
async fn recorder() -> (std::net::SocketAddr, Arc<Mutex<String>>) {
    let seen = Arc::new(Mutex::new(String::new()));
    let noted = seen.clone();
    let at = Scripted::start().await.each(move |mut server| {
        let noted = noted.clone();
        async move {
            let mut bytes = [0; 8192];
            while let Ok(length @ 1..) = server.read(&mut bytes).await {
                noted.lock().push_str(&String::from_utf8_lossy(&bytes[..length]));
                let _ = server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    });
    (at, seen)
}

/// Heads that somebody reads otherwise: refused, and no backend hears of them.
const AMBIGUOUS: &[&str] = &[
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 5,6",
    "Content-Length: -1",
    "Content-Length: 5 6",
    "Content-Length: 0x5",
    "Content-Length: 1e1",
    "Content-Length : 5",
    "Content-Length\t: 5",
    "Content-Length:\r\n 5",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: chunked;x=y",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding:\r\n chunked",
    "X: y\rTransfer-Encoding: chunked",
    "X: y\0",
    "\0X: y",
    "X\u{7f}: y",
    ": y",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    "Connection: Host",
    "Host: b.test",
    "GET /admin HTTP/1.1",
];

#[tokio::test]
async fn ambiguous_heads_end_before_a_backend_hears_of_them() {
    let (backend, seen) = recorder().await;
    let gateway = Gateway::start(&site("app", "/", &[backend])).await;
    for field in AMBIGUOUS {
        let request = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{field}\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let answer = raw(gateway.http, request.as_bytes()).await;
        assert_eq!(status(&answer), 400, "{field:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{field:?}: {answer}");
        assert_eq!(*seen.lock(), "", "{field:?}");
    }
}

#[tokio::test]
async fn what_the_rfc_reads_for_us_goes_out_in_one_spelling() {
    let (backend, seen) = recorder().await;
    let gateway = Gateway::start(&site("app", "/", &[backend])).await;
    for request in [
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: CHUNKED\r\nContent-Length: 40\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "POST http://a.test/ HTTP/1.1\r\nHost: b.test\r\nContent-Length: 0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ] {
        let answer = raw(gateway.http, request.as_bytes()).await;
        assert_eq!((status(&answer), answer.matches("HTTP/1.1 ").count()), (200, 1), "{request:?}: {answer}");
        let seen = std::mem::take(&mut *seen.lock());
        assert!(seen.starts_with("POST / HTTP/1.1\r\nHost: a.test\r\n") && !seen.contains("admin") && !seen.contains("b.test"), "{seen}");
        assert_eq!(seen.matches("Content-Length").count() + seen.matches("Transfer-Encoding").count(), 1, "{seen}");
    }
    raw(gateway.http, b"POST / HTTP/1.1\nHost: a.test\nContent-Length: 3\nConnection: close\n\nabc").await;
    let seen = seen.lock();
    assert!(seen.ends_with("abc") && seen.matches('\n').count() == seen.matches("\r\n").count(), "{seen}");
}

#[tokio::test]
async fn a_fault_inside_a_body_never_looks_like_its_end() {
    let (backend, seen) = recorder().await;
    let gateway = Gateway::start(&site("app", "/", &[backend])).await;
    for body in [
        "5\r\nhello\r\nx\r\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "5;\nx\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nbad\r\n\r\n",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n"
        );
        let answer = raw(gateway.http, request.as_bytes()).await;
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{body:?}: {answer}");
        let seen = std::mem::take(&mut *seen.lock());
        assert!(!seen.contains("0\r\n\r\n") && !seen.contains("admin"), "{body:?}: {seen}");
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_reaches_another_location() {
    let ((open, _), (admin, seen)) = (recorder().await, recorder().await);
    let spec = "locations:\n- {path: /, backends: [{service: open, port: 80}]}\n- {path: /admin, redirect: {path: /login}}\n- {path: /x, backends: [{service: admin, port: 80}]}";
    let gateway = Gateway::start(&all([service("open", &[open]), service("admin", &[admin]), route("app", spec)])).await;
    for path in ["/admin", "//admin", "/./admin", "/a/../admin", "/%61dmin", "/admin;x=y", "/admin/%2e%2e/admin", "/a/%2E%2E/admin/"] {
        let answer = raw(gateway.http, format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(status(&answer), 308, "{path}: {answer}");
    }
    for path in ["/a/..%2fadmin", "/a/..;/admin", "/..%5cadmin", "/a%00", "/../admin", "/a b", "/%zz"] {
        let answer = raw(gateway.http, format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(status(&answer), 400, "{path}: {answer}");
    }
    assert_eq!(*seen.lock(), "");
}
