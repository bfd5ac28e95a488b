//! TLS to backends: which certificates will do, what becomes of those that don't, and what a change of them does to open sockets.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    api_server::ApiServer,
    authority::{Authority, Signed, bundle, expired, tell},
    client::{get, raw, status, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service},
    peers::{Echo, nobody},
    soon,
};

const NAME: &str = "app.default.svc";

fn app(tls: &str) -> String {
    route("app", &format!("locations:\n- {{path: /, backends: [{{service: app, port: 80, tls: {tls}}}]}}"))
}

fn reason(answer: &str) -> &str {
    answer.lines().find_map(|line| line.strip_prefix("X-Carrick-Reason: ")).unwrap_or_else(|| panic!("no refusal: {answer}"))
}

/// What a gateway answers whose backend shows this certificate.
async fn answered(signed: &Signed, clients: Option<&Authority>, tls: &str, more: &[String]) -> String {
    let backend = tell(signed.server(clients)).await;
    let gateway = Gateway::start(&all([service("app", &[backend]), app(tls)].iter().chain(more))).await;
    get(gateway.http, "any.test", "/x").await
}

#[tokio::test]
async fn a_backend_is_verified_by_the_authorities_and_the_name_of_its_service() {
    let authority = Authority::new("ours");
    let told = answered(&authority.sign(&[NAME], |_| {}), None, "{caConfigMap: {name: ca}}", &[authority.config_map("ca")]).await;
    assert!(told.contains(&format!("{NAME} http/1.1 Full 0")), "{told}");
    assert!(told.contains("Host: any.test"), "the client's Host goes on: {told}");
    let tls = "{caSecret: {name: ca}, serverName: other.test}";
    let told = answered(&authority.sign(&["other.test"], |_| {}), None, tls, &[authority.secret("ca")]).await;
    assert!(told.contains("other.test http/1.1"), "{told}");
}

#[tokio::test]
async fn a_certificate_that_will_not_do_is_502_and_says_which() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let ca = [authority.config_map("ca")];
    let tls = "{caConfigMap: {name: ca}}";
    let refused = async |signed: Signed, tls: &str| {
        let answer = answered(&signed, None, tls, &ca).await;
        assert_eq!(status(&answer), 502, "{answer}");
        reason(&answer).to_owned()
    };
    assert_eq!(refused(authority.sign(&[NAME], expired), tls).await, "backend_certificate_expired");
    assert_eq!(refused(authority.sign(&["b.test"], |_| {}), tls).await, "backend_certificate_wrong_name");
    assert_eq!(refused(other.sign(&[NAME], |_| {}), tls).await, "backend_certificate_unknown_issuer");
    assert_eq!(refused(authority.sign(&[NAME], |_| {}), "{}").await, "backend_certificate_unknown_issuer");
    let anything = answered(&other.sign(&["b.test"], expired), None, "{mode: Insecure}", &ca).await;
    assert_eq!(status(&anything), 200, "{anything}");
}

#[tokio::test]
async fn what_speaks_no_tls_is_502() {
    let echo = Echo::start("echo").await;
    let gateway = Gateway::start(&all([service("app", &[echo.at]), app("{mode: Insecure}")])).await;
    let answer = get(gateway.http, "any.test", "/").await;
    assert_eq!((status(&answer), reason(&answer)), (502, "backend_tls"));
}

#[tokio::test]
async fn a_self_signed_certificate_that_is_named_itself_will_do() {
    // What `openssl req -x509` makes says that it is an authority.
    let signed = Authority::itself(NAME);
    let told = answered(&signed, None, "{caConfigMap: {name: ca}}", &[bundle("ConfigMap", "data", "ca", &signed.certificate)]).await;
    assert_eq!(status(&told), 200, "{told}");
    let wrong = Authority::itself("b.test");
    let told = answered(&wrong, None, "{caConfigMap: {name: ca}}", &[bundle("ConfigMap", "data", "ca", &wrong.certificate)]).await;
    assert_eq!(reason(&told), "backend_certificate_wrong_name");
}

#[tokio::test]
async fn a_backend_that_wants_a_certificate_gets_ours() {
    let (authority, clients) = (Authority::new("servers"), Authority::new("clients"));
    let signed = authority.sign(&[NAME], |_| {});
    let objects = [authority.config_map("ca"), clients.client("gateway").secret("ours")];
    let told = answered(&signed, Some(&clients), "{caConfigMap: {name: ca}, clientSecret: {name: ours}}", &objects).await;
    assert_eq!(status(&told), 200, "{told}");
    let told = answered(&signed, Some(&clients), "{caConfigMap: {name: ca}}", &objects).await;
    assert_eq!((status(&told), reason(&told)), (502, "backend_client_certificate"));
}

#[tokio::test]
async fn connections_are_used_again_and_new_ones_resume_the_session() {
    let authority = Authority::new("ours");
    let backend = tell(authority.sign(&[NAME], |_| {}).server(None)).await;
    let manifests =
        |more: &str| all([service("app", &[backend]), authority.config_map("ca"), app("{caConfigMap: {name: ca}}"), more.to_owned()]);
    let gateway = Gateway::start(&manifests("")).await;
    let first = get(gateway.http, "any.test", "/").await;
    assert!(first.contains("Full 0"), "{first}");
    eventually("the connection carries another request", async || get(gateway.http, "any.test", "/").await.contains("Full 1")).await;
    // A configuration that says the same of this backend leaves its connections and its sessions alone.
    gateway.change(&manifests(&route("other", "hosts: [other.test]\nlocations:\n- {path: /, redirect: {path: /x}}"))).await;
    let again = get(gateway.http, "any.test", "/").await;
    assert!(!again.contains("Full 0"), "{again}");
    // A handshake has a connection of its own.
    let handshake = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let told = raw(gateway.http, handshake.as_bytes()).await;
    assert!(told.contains("Resumed 0"), "{told}");
}

#[tokio::test]
async fn a_body_goes_through_whole_both_ways() {
    let authority = Authority::new("ours");
    let config = authority.sign(&[NAME], |_| {}).server(None);
    let (acceptor, listener) = (tokio_rustls::TlsAcceptor::from(config), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let at = listener.local_addr().unwrap();
    const LENGTH: usize = 3_000_017;
    tokio::spawn(async move {
        let mut socket = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        crate::support::client::head(&mut socket).await;
        let mut body = vec![0; LENGTH];
        socket.read_exact(&mut body).await.unwrap();
        socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes()).await.unwrap();
        socket.write_all(&body).await.unwrap();
        socket.flush().await.unwrap();
        let _ = socket.read_u8().await;
    });
    let gateway = Gateway::start(&all([service("app", &[at]), authority.config_map("ca"), app("{caConfigMap: {name: ca}}")])).await;
    let body: Vec<u8> = (0..LENGTH).map(|i| (i % 251) as u8).collect();
    let (mut read, mut write) = TcpStream::connect(gateway.http).await.unwrap().into_split();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\nConnection: close\r\n\r\n");
    let sent = [head.as_bytes(), &body].concat();
    let (_, answer) = tokio::join!(async { write.write_all(&sent).await.unwrap() }, async {
        let mut answer = Vec::new();
        soon("the answer", read.read_to_end(&mut answer)).await.unwrap();
        answer
    });
    assert!(answer.ends_with(&body), "{} bytes came", answer.len());
}

#[tokio::test]
async fn wss_behind_is_ws_in_front_and_open_sockets_outlive_a_change_of_authorities() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let echo = Echo::secured("old", old.sign(&[NAME], |_| {}).server(None)).await;
    let renewed = Echo::secured("new", new.sign(&[NAME], |_| {}).server(None)).await;
    let manifests = |at: SocketAddr, ca: &Authority| all([service("app", &[at]), ca.config_map("ca"), app("{caConfigMap: {name: ca}}")]);
    let gateway = Gateway::start(&manifests(echo.at, &old)).await;
    let mut socket = websocket(gateway.http, "ws://any.test/").await;
    assert_eq!(text(&mut socket).await, "old");
    let big = Message::binary(vec![3; 3 << 20]);
    socket.send(big.clone()).await.unwrap();
    assert_eq!(soon("the echo", socket.next()).await.unwrap().unwrap(), big);

    gateway.change(&manifests(echo.at, &new)).await;
    let refused = get(gateway.http, "any.test", "/").await;
    assert_eq!(reason(&refused), "backend_certificate_unknown_issuer");
    gateway.change(&manifests(renewed.at, &new)).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://any.test/").await).await, "new");
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(text(&mut socket).await, "still here");
    socket.close(None).await.unwrap();
    assert!(matches!(soon("the answer", socket.next()).await, Some(Ok(Message::Close(_)))));
    eventually("the backend's socket is closed", async || echo.open() == 0).await;
}

#[tokio::test]
async fn an_endpoint_with_a_bad_certificate_is_passed_over_and_counted() {
    let authority = Authority::new("ours");
    let good = tell(authority.sign(&[NAME], |_| {}).server(None)).await;
    let bad = tell(authority.sign(&[NAME], expired).server(None)).await;
    let manifests = all([service("app", &[good, bad, nobody().await]), authority.config_map("ca"), app("{caConfigMap: {name: ca}}")]);
    let gateway = Gateway::start(&manifests).await;
    let failures =
        "carrick_endpoint_failures_total{route_namespace=\"default\",route=\"app\",location=\"/\",reason=\"certificate_expired\"}";
    eventually("the bad one was tried", async || {
        assert_eq!(status(&get(gateway.http, "any.test", "/").await), 200);
        gateway.metric(failures).await > 0.0
    })
    .await;
}

#[tokio::test]
async fn app_protocol_says_that_a_service_speaks_tls() {
    let echo = Echo::secured("echo", Authority::itself(NAME).server(None)).await;
    let speaks = |protocol: &str| service("app", &[echo.at]).replace("port: 80}", &format!("port: 80, appProtocol: {protocol}}}"));
    let plain = route("app", "locations:\n- {path: /, backends: [{service: app, port: 80}]}");
    let gateway = Gateway::start(&all([speaks("kubernetes.io/wss"), plain.clone()])).await;
    let answer = get(gateway.http, "any.test", "/").await;
    assert_eq!(reason(&answer), "backend_certificate_unknown_issuer", "verified by the system's authorities");
    gateway.change(&all([speaks("https"), app("{mode: Insecure}")])).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://any.test/").await).await, "echo");
    gateway.change(&all([speaks("kubernetes.io/h2c"), plain])).await;
    assert_eq!(status(&get(gateway.http, "any.test", "/").await), 503);
}

#[tokio::test]
async fn authorities_of_a_cluster_are_looked_up_and_followed() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let backend = tell(ours.sign(&[NAME], |_| {}).server(None)).await;
    let api = ApiServer::start();
    let class = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\n\
                 metadata: {name: carrick, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}\n\
                 spec: {controller: carrick.dev/controller}";
    api.apply(&all([class.to_owned(), service("app", &[backend]), app("{caSecret: {name: ca}}")]));
    let gateway = Gateway::controller(&api, &[]);
    gateway.published().await;
    let answers = async |expected: u16| {
        let what = format!("an answer of {expected}");
        eventually(&what, async || status(&get(gateway.http, "any.test", "/").await) == expected).await;
    };
    answers(503).await;
    api.apply(&theirs.secret("ca"));
    answers(502).await;
    api.apply(&ours.secret("ca"));
    answers(200).await;
    api.delete("secrets", "default", "ca");
    answers(503).await;
}

#[tokio::test]
async fn layer_4_speaks_tls_to_its_backend() {
    let authority = Authority::new("ours");
    let signed = authority.sign(&[NAME], |_| {});
    let (backend, port) = (tell(signed.server(None)).await, nobody().await.port());
    let tcp =
        route("tcp", &format!("tcp:\n- {{port: {port}, backends: [{{service: app, port: 80, tls: {{caConfigMap: {{name: ca}}}}}}]}}"));
    let _gateway = Gateway::start(&all([service("app", &[backend]), authority.config_map("ca"), tcp])).await;
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the port is open", async || TcpStream::connect(at).await.is_ok()).await;
    let mut socket = TcpStream::connect(at).await.unwrap();
    socket.write_all(b"GET /deep HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 64];
    soon("an answer", socket.read_exact(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains(&format!("{NAME} nothing")), "no ALPN, for nobody knows what is spoken: {answer}");
}
