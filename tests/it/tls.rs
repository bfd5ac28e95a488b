//! HTTPS and wss: certificates by name, swapped live; versions; redirects.

use rustls::ClientConfig;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::client_async;

use crate::support::{
    client::{get, raw, rest, status},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service},
    peers::Echo,
    soon,
    tls::{Identity, client, connect, connect_with},
};

fn https(name: &str, host: &str, more: &str) -> String {
    route(
        name,
        &format!(
            "hosts: [{host}]\ntls: {{certificates: [{{secretName: {name}}}]{more}}}\nlocations:\n- {{path: /, redirect: {{path: /{name}}}}}"
        ),
    )
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn each_name_gets_its_own_certificate_and_a_new_one_without_a_restart() {
    let (a, b) = (Identity::new("a.test"), Identity::new("b.test"));
    let routes = all([https("a", "a.test", ""), https("b", "b.test", "")]);
    let gateway = Gateway::start(&all([a.secret("a"), b.secret("b"), routes.clone()])).await;
    let mut open = connect(gateway.https(), &a).await.unwrap();
    connect(gateway.https(), &b).await.unwrap();
    let renewed = Identity::new("a.test");
    gateway.change(&all([renewed.secret("a"), b.secret("b"), routes])).await;
    connect(gateway.https(), &renewed).await.unwrap();
    assert!(connect(gateway.https(), &a).await.is_err(), "the old certificate is gone");
    open.write_all(REQUEST).await.unwrap();
    assert_eq!(status(&rest(&mut open).await), 308, "who was connected stays");
}

#[tokio::test]
async fn plain_http_is_sent_to_https_only_while_a_certificate_is_served() {
    let a = Identity::new("a.test");
    let gateway = Gateway::with(&["--public-https-port", "443"], &https("a", "a.test", "")).await;
    let location = async || {
        let answer = get(gateway.http, "a.test", "/x?y").await;
        answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().to_owned()
    };
    assert!(location().await.ends_with("/a?y"), "no certificate, no redirect");
    gateway.change(&all([a.secret("a"), https("a", "a.test", "")])).await;
    assert_eq!(location().await, "https://a.test/x?y");
    let challenge = get(gateway.http, "a.test", "/.well-known/acme-challenge/token").await;
    assert!(!challenge.contains("Location: https://"), "{challenge}");
}

#[tokio::test]
async fn a_redirect_to_plain_http_names_the_port_of_the_same_listener() {
    let a = Identity::new("a.test");
    let back = route(
        "back",
        "hosts: [a.test]\ntls: {certificates: [{secretName: a}], redirect: false}\nlocations:\n- {path: /, redirect: {scheme: http}}",
    );
    let gateway = Gateway::start(&all([a.secret("a"), back])).await;
    let mut secure = connect(gateway.https(), &a).await.unwrap();
    secure.write_all(REQUEST).await.unwrap();
    let answer = rest(&mut secure).await;
    assert!(answer.contains(&format!("Location: http://a.test:{}/\r\n", gateway.http.port())), "{answer}");
}

#[tokio::test]
async fn the_lowest_version_is_the_hosts_own() {
    let (old, new) = (Identity::new("old.test"), Identity::new("new.test"));
    let routes = all([https("old", "old.test", ""), https("new", "new.test", ", minVersion: \"1.3\"")]);
    let gateway = Gateway::start(&all([old.secret("old"), new.secret("new"), routes])).await;
    let only_1_2 = |identity: &Identity| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(
            rustls::pki_types::pem::PemObject::pem_slice_iter(identity.certificate.as_bytes()).map(Result::unwrap),
        );
        std::sync::Arc::new(
            ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12]).with_root_certificates(roots).with_no_client_auth(),
        )
    };
    connect_with(gateway.https(), "old.test", only_1_2(&old)).await.unwrap();
    assert!(connect_with(gateway.https(), "new.test", only_1_2(&new)).await.is_err());
    connect(gateway.https(), &new).await.unwrap();
}

#[tokio::test]
async fn http_1_1_is_what_alpn_agrees_on() {
    let a = Identity::new("a.test");
    let gateway = Gateway::start(&all([a.secret("a"), https("a", "a.test", "")])).await;
    let socket = connect_with(gateway.https(), "a.test", client(&a, &["h2", "http/1.1"])).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    assert!(connect_with(gateway.https(), "a.test", client(&a, &["h2"])).await.is_err());
}

#[tokio::test]
async fn an_unknown_name_gets_the_default_certificate_and_404() {
    let (a, fallback) = (Identity::new("a.test"), Identity::new("nobody.test"));
    let manifests = all([a.secret("a"), fallback.secret("fallback"), https("a", "a.test", "")]);
    let gateway = Gateway::with(&["--default-tls-secret", "default/fallback"], &manifests).await;
    let mut socket = connect(gateway.https(), &fallback).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&rest(&mut socket).await), 404);
}

#[tokio::test]
async fn replicas_that_share_keys_resume_each_others_sessions() {
    let a = Identity::new("a.test");
    let manifests = all([a.secret("a"), https("a", "a.test", "")]);
    let folder = tempfile::TempDir::new().unwrap();
    let file = |name: &str, seed: [u8; 32]| {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let path = folder.path().join(name);
        std::fs::write(&path, BASE64_STANDARD.encode(seed)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ours, theirs) = (file("ours", [1; 32]), file("theirs", [2; 32]));
    let replicas = [
        Gateway::with(&["--keys-file", &ours], &manifests).await,
        Gateway::with(&["--keys-file", &ours], &manifests).await,
        Gateway::with(&["--keys-file", &theirs], &manifests).await,
    ];
    let client = client(&a, &["http/1.1"]);
    let mut kinds = Vec::new();
    for replica in [&replicas[0], &replicas[1], &replicas[2], &replicas[0]] {
        let mut socket = connect_with(replica.https(), "a.test", client.clone()).await.unwrap();
        socket.write_all(REQUEST).await.unwrap();
        assert_eq!(status(&rest(&mut socket).await), 308);
        kinds.push(socket.get_ref().1.handshake_kind().unwrap());
    }
    use rustls::HandshakeKind::{Full, Resumed};
    // The last ticket is the stranger's.
    assert_eq!(kinds, [Full, Resumed, Full, Full]);
}

#[tokio::test]
async fn wss_is_ws_over_tls() {
    let (a, echo) = (Identity::new("a.test"), Echo::start("echo").await);
    let spec = "hosts: [a.test]\ntls: {certificates: [{secretName: a}]}\nlocations:\n- {path: /, backends: [{service: app, port: 80}]}";
    let gateway = Gateway::start(&all([a.secret("a"), service("app", &[echo.at]), route("r", spec)])).await;
    let tls = connect(gateway.https(), &a).await.unwrap();
    let (mut socket, _) = soon("the handshake", client_async("wss://a.test/", tls)).await.unwrap();
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    assert_eq!(soon("the greeting", socket.next()).await.unwrap().unwrap(), Message::text("echo"));
    let big = Message::binary(vec![3; 3 << 20]);
    socket.send(big.clone()).await.unwrap();
    assert_eq!(soon("the echo", socket.next()).await.unwrap().unwrap(), big);
    socket.close(None).await.unwrap();
    assert!(matches!(soon("the answer", socket.next()).await, Some(Ok(Message::Close(_)))));
    eventually("the backend's socket is closed", async || echo.open() == 0).await;
}

#[tokio::test]
async fn plain_http_on_the_https_port_ends_the_connection() {
    let gateway = Gateway::start(&https("a", "a.test", "")).await;
    let answer = raw(gateway.https(), REQUEST).await;
    assert!(!answer.contains("HTTP/1.1 2") && !answer.contains("HTTP/1.1 3"), "{answer:?}");
}
