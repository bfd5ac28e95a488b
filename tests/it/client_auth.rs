//! Certificates of clients: who is let in, what backends are told, and that no name opens the door of another.

use std::{net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, HandshakeKind, client::Resumption};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::support::{
    authority::{Authority, Signed, expired},
    client::{get, raw, rest, status},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service},
    peers::{Scripted, nobody},
    soon,
    tls::{Identity, connect_with},
};

/// A host with this `clientAuth`, whose backend tells the head of each request.
fn host(name: &str, host: &str, auth: &str) -> String {
    let spec = format!(
        "hosts: [{host}]\ntls: {{certificates: [{{secretName: {host}}}], redirect: false{auth}}}\nlocations:\n- {{path: /, backends: [{{service: app, port: 80}}]}}"
    );
    route(name, &spec)
}

const REQUIRE: &str = ", clientAuth: {caSecret: {name: ca}}";
const OPTIONAL: &str = ", clientAuth: {caSecret: {name: ca}, mode: Optional}";

/// An HTTP server that answers with the head that it got.
async fn mirror() -> SocketAddr {
    Scripted::start().await.each(async |mut socket: TcpStream| {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match socket.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len());
            let _ = socket.write_all(&[answer.as_bytes(), &head].concat()).await;
        }
    })
}

/// A client that trusts the host, and shows this certificate if there is one.
fn config(trusts: &Identity, shows: Option<&Signed>) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls::pki_types::pem::PemObject::pem_slice_iter(trusts.certificate.as_bytes()).map(Result::unwrap));
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match shows {
        Some(signed) => builder.with_client_auth_cert(vec![signed.der.clone()], signed.private()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

async fn ask(socket: &mut TlsStream<TcpStream>, host: &str, more: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
    let _ = socket.write_all(request.as_bytes()).await;
    rest(socket).await
}

/// What a client gets that asks `a.test` in its own name: the answer, or what TLS says against it.
async fn asked(gateway: &Gateway, config: &Arc<ClientConfig>) -> Result<String, String> {
    let mut socket = connect_with(gateway.https(), "a.test", config.clone()).await.map_err(|error| error.to_string())?;
    let _ = socket.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    match soon("an answer or an alert", socket.read_to_end(&mut answer)).await {
        Err(error) if answer.is_empty() => Err(error.to_string()),
        _ => Ok(String::from_utf8(answer).unwrap()),
    }
}

#[tokio::test]
async fn who_has_no_certificate_of_ours_is_told_so_in_the_handshake() {
    let (a, ours, theirs) = (Identity::new("a.test"), Authority::new("ours"), Authority::new("theirs"));
    let manifests = all([a.secret("a.test"), ours.secret("ca"), service("app", &[mirror().await]), host("a", "a.test", REQUIRE)]);
    let gateway = Gateway::start(&manifests).await;
    let refused = async |signed: Option<Signed>| asked(&gateway, &config(&a, signed.as_ref())).await.unwrap_err();
    assert!(refused(None).await.contains("CertificateRequired"));
    assert!(refused(Some(theirs.client("eve"))).await.contains("UnknownCA"));
    assert!(refused(Some(ours.sign(&[], expired))).await.contains("CertificateExpired"));
    assert_eq!(status(&asked(&gateway, &config(&a, Some(&ours.client("alice")))).await.unwrap()), 200);
    for reason in ["missing", "unknown_issuer", "expired"] {
        let series = format!("carrick_connections_refused_total{{reason=\"client_certificate_{reason}\"}}");
        assert_eq!(gateway.metric(&series).await, 1.0, "{series}");
    }
    let plain = get(gateway.http, "a.test", "/").await;
    assert_eq!(status(&plain), 403, "{plain}");
    assert!(plain.contains("X-Carrick-Reason: client_certificate"));
}

#[tokio::test]
async fn a_backend_is_told_who_the_client_is_and_by_nobody_else() {
    let (a, ours) = (Identity::new("a.test"), Authority::new("ours"));
    let manifests = all([a.secret("a.test"), ours.secret("ca"), service("app", &[mirror().await]), host("a", "a.test", OPTIONAL)]);
    let gateway = Gateway::start(&manifests).await;
    let forged =
        "X-Client-Cert-Verified: SUCCESS\r\nX-Client-Cert-Subject: CN=admin\r\nClient-Cert: :YQ==:\r\nx_client_cert_subject: CN=admin\r\n";
    let alice = config(&a, Some(&ours.client("alice, O=Admin")));
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut socket = connect_with(gateway.https(), "a.test", alice.clone()).await.unwrap();
        let told = ask(&mut socket, "a.test", forged).await;
        assert_eq!(socket.get_ref().1.handshake_kind(), Some(kind));
        assert!(told.contains("\r\nX-Client-Cert-Verified: SUCCESS\r\n"), "{told}");
        assert!(told.contains("\r\nX-Client-Cert-Subject: CN=alice\\, O=Admin\r\n"), "{told}");
        assert!(told.contains("\r\nX-Client-Cert-San: URI:spiffe://test/14\r\n"), "{told}");
        assert!(told.contains("\r\nClient-Cert: :MII") && !told.contains("=admin"), "{told}");
    }
    for told in [asked(&gateway, &config(&a, None)).await.unwrap(), get(gateway.http, "a.test", "/").await] {
        assert!(told.contains("\r\nX-Client-Cert-Verified: NONE\r\n") && !told.contains("Subject"), "{told}");
    }
}

#[tokio::test]
async fn a_connection_for_one_host_is_none_for_another_that_asks_something_else() {
    let (a, b, ours) = (Identity::new("a.test"), Identity::new("b.test"), Authority::new("ours"));
    let hosts = [host("a", "a.test", ""), host("b", "b.test", REQUIRE)];
    let manifests =
        all([a.secret("a.test"), b.secret("b.test"), ours.secret("ca"), service("app", &[mirror().await])].iter().chain(&hosts));
    let gateway = Gateway::start(&manifests).await;
    let mut through_a = connect_with(gateway.https(), "a.test", config(&a, None)).await.unwrap();
    let answer = ask(&mut through_a, "b.test", "").await;
    assert_eq!(status(&answer), 421, "{answer}");
    assert!(answer.contains("X-Carrick-Reason: misdirected") && answer.contains("Connection: close"), "{answer}");
    let alice = config(&b, Some(&ours.client("alice")));
    let mut through_b = connect_with(gateway.https(), "b.test", alice.clone()).await.unwrap();
    assert_eq!(status(&ask(&mut through_b, "a.test", "").await), 421);
    let mut through_b = connect_with(gateway.https(), "b.test", alice).await.unwrap();
    assert_eq!(status(&ask(&mut through_b, "b.test", "").await), 200);
}

#[tokio::test]
async fn neither_a_session_nor_a_connection_outlives_its_authorities() {
    let (a, old, new) = (Identity::new("a.test"), Authority::new("old"), Authority::new("new"));
    let mirror = mirror().await;
    let manifests = |ca: &Authority| all([a.secret("a.test"), ca.secret("ca"), service("app", &[mirror]), host("a", "a.test", REQUIRE)]);
    let gateway = Gateway::start(&manifests(&old)).await;
    let alice = config(&a, Some(&old.client("alice")));
    assert_eq!(status(&asked(&gateway, &alice).await.unwrap()), 200);
    let mut kept = connect_with(gateway.https(), "a.test", alice.clone()).await.unwrap();
    assert_eq!(kept.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    gateway.change(&manifests(&new)).await;
    assert_eq!(status(&ask(&mut kept, "a.test", "").await), 421);
    assert!(asked(&gateway, &alice).await.unwrap_err().contains("UnknownCA"));
}

#[tokio::test]
async fn without_its_authorities_a_host_lets_nobody_in() {
    let (a, ours) = (Identity::new("a.test"), Authority::new("ours"));
    let manifests = |more: &str| all([a.secret("a.test"), service("app", &[mirror_at()]), host("a", "a.test", REQUIRE), more.to_owned()]);
    let gateway = Gateway::start(&manifests("")).await;
    let alice = config(&a, Some(&ours.client("alice")));
    assert!(asked(&gateway, &alice).await.unwrap_err().contains("UnknownCA"));
    assert!(asked(&gateway, &config(&a, None)).await.unwrap_err().contains("CertificateRequired"));
    gateway.change(&manifests(&ours.secret("ca"))).await;
    assert_eq!(status(&asked(&gateway, &alice).await.unwrap()), 502, "nobody is behind it");
}

/// Where nobody answers.
fn mirror_at() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn layer_4_asks_for_certificates_as_well() {
    let (a, ours, port) = (Identity::new("a.test"), Authority::new("ours"), nobody().await.port());
    let spec = format!(
        "tcp:\n- port: {port}\n  tls: {{mode: Terminate, certificates: [{{secretName: a}}], clientAuth: {{caSecret: {{name: ca}}}}}}\n  backends: [{{service: app, port: 80}}]"
    );
    let _gateway = Gateway::start(&all([a.secret("a"), ours.secret("ca"), service("app", &[mirror().await]), route("tcp", &spec)])).await;
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the port is open", async || TcpStream::connect(at).await.is_ok()).await;
    let mut socket = connect_with(at, "a.test", config(&a, Some(&ours.client("alice")))).await.unwrap();
    socket.write_all(b"GET /deep HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 12];
    soon("an answer", socket.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
    let mut socket = connect_with(at, "a.test", config(&a, None)).await.unwrap();
    let refused = soon("an alert", socket.read_u8()).await.unwrap_err();
    assert!(refused.to_string().contains("CertificateRequired"), "{refused}");
}

#[tokio::test]
async fn an_acme_challenge_is_answered_over_plain_http_all_the_same() {
    let (a, ours) = (Identity::new("a.test"), Authority::new("ours"));
    let manifests = all([a.secret("a.test"), ours.secret("ca"), service("app", &[mirror().await]), host("a", "a.test", REQUIRE)]);
    let gateway = Gateway::start(&manifests).await;
    assert_eq!(status(&get(gateway.http, "a.test", "/.well-known/acme-challenge/token").await), 200);
    let around = raw(gateway.http, b"GET /.well-known/acme-challenge/../../x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&around), 403);
}
