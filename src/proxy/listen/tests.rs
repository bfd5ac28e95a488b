//! The edge as clients see it: real sockets on any free port, a backend that echoes, no layer 7 beyond a 404.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    sign::CertifiedKey,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{
    balance::Balancer,
    live::Live,
    model::{
        Cert, ObjectRef, PoolKey, Table,
        balancing::{Balancing, Policy},
        keys::{Seed, Seeds},
        route::Backend,
        table::{Host, HostPattern, HostTls, TlsVersion},
        tcp::{ProxyProtocol as Version, TcpRoute, TcpTls},
        upstream::{EndpointSpec, EndpointState, PoolSpec},
    },
    proxy::{ListenerSettings, ProxyProtocol, Settings},
    telemetry::{AccessLog, Metrics},
    tunnel::Registry,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";

struct Edge {
    proxy: Arc<Proxy>,
    listening: Listening,
}

impl Edge {
    async fn start(settings: Settings, table: Table) -> Self {
        let metrics = Arc::<Metrics>::default();
        let live = Live::new(Balancer::new(), Arc::clone(&metrics));
        live.publish(table);
        let proxy = Proxy::new(settings, live, Registry::new(AccessLog::off()), metrics, AccessLog::off());
        let listening = start(&proxy).await.unwrap();
        Self { proxy, listening }
    }

    fn http(&self) -> SocketAddr {
        self.listening.bound().iter().find(|bound| !bound.https).unwrap().address
    }

    fn https(&self) -> SocketAddr {
        self.listening.bound().iter().find(|bound| bound.https).unwrap().address
    }

    async fn tcp_ports(&self, ports: &[u16]) {
        let ports = ports.iter().copied().collect();
        self.listening.tcp_ports().wait_for(|open| *open == ports).await.unwrap();
    }

    fn refused(&self, reason: &str) -> u64 {
        self.proxy.metrics.connections_refused.iter().find(|(name, _)| *name == reason).map_or(0, |(_, count)| count)
    }
}

fn settings() -> Settings {
    Settings { tcp_ports: Some(1..=u16::MAX), ..Settings::default() }
}

fn trusting(proxy_protocol: ProxyProtocol, trusted: &str) -> Settings {
    Settings { proxy_protocol, trusted_proxies: vec![trusted.parse::<IpNet>().unwrap()], ..settings() }
}

/// A port that nobody has. Somebody may take it meanwhile, which no test here has seen.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn route(label: &str, backends: &[SocketAddr]) -> (TcpRoute, PoolKey, Arc<PoolSpec>) {
    let pool = PoolKey::Address(label.into());
    let state = EndpointState::Ready;
    let mut endpoints: Vec<_> = backends.iter().map(|address| EndpointSpec::new(*address, state)).collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    let route = TcpRoute {
        route: ObjectRef::new("default", "edge"),
        backends: vec![Backend { pool: pool.clone(), weight: 1, tls: None }],
        balancing: Balancing { policy: Policy::RoundRobin, ..Balancing::default() },
        ..TcpRoute::plain(label)
    };
    (route, pool, Arc::new(PoolSpec { endpoints }))
}

/// A table with one route of layer 4.
fn layer_4(port: TcpPort, backends: &[SocketAddr], edit: impl FnOnce(&mut TcpRoute)) -> Table {
    let (mut route, pool, spec) = route(&port.to_string(), backends);
    edit(&mut route);
    Table { tcp: [(port, vec![Arc::new(route)])].into(), pools: [(pool, spec)].into(), ..Table::default() }
}

/// A table whose host `shop.test` has a certificate, and the certificate.
fn shop(min_version: TlsVersion) -> (Table, CertificateDer<'static>) {
    let secret = ObjectRef::new("default", "shop-tls");
    let (cert, der) = certificate("shop.test");
    let tls = HostTls { certificates: vec![secret.clone()], redirect: false, min_version, client_auth: None };
    let host = Host { listener: "default".into(), host: HostPattern::Exact("shop.test".into()), tls: Some(tls), locations: vec![] };
    (Table { hosts: vec![host], certs: [(secret, cert)].into(), ..Table::default() }, der)
}

fn certificate(name: &str) -> (Arc<Cert>, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let private = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let der = made.cert.der().clone();
    let key = CertifiedKey::from_der(vec![der.clone()], private.clone_key(), &rustls::crypto::aws_lc_rs::default_provider()).unwrap();
    (Arc::new(Cert::new(Arc::new(key), &private, vec![name.into()], i64::MAX)), der)
}

/// Sends back what it gets; for each connection, until the client is done.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            spawn(async move {
                let (mut from, mut to) = socket.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}

#[allow(clippy::disallowed_methods, reason = "tests own their peers")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// What comes back for `sent`, to the end. A reset counts as the end.
async fn exchange(address: SocketAddr, sent: &[u8]) -> String {
    let mut socket = connect(address).await;
    socket.write_all(sent).await.unwrap();
    to_end(&mut socket).await
}

async fn to_end(socket: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut seen = Vec::new();
    let _ = socket.read_to_end(&mut seen).await;
    String::from_utf8(seen).unwrap()
}

fn client_config(trusted: &CertificateDer<'static>, edit: impl FnOnce(&mut ClientConfig)) -> TlsConnector {
    client_config_for(trusted, rustls::ALL_VERSIONS, edit)
}

fn client_config_for(
    trusted: &CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    edit: impl FnOnce(&mut ClientConfig),
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    edit(&mut config);
    TlsConnector::from(Arc::new(config))
}

async fn tls(connector: &TlsConnector, address: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
    connector.connect(ServerName::try_from(name.to_owned()).unwrap(), connect(address).await).await
}

#[tokio::test]
async fn http_is_spoken_on_any_free_port() {
    let edge = Edge::start(settings(), Table::default()).await;
    assert!(exchange(edge.http(), GET).await.starts_with("HTTP/1.1 404 "));
    assert_eq!(edge.proxy.metrics.connections_accepted.get(), 1);
}

#[tokio::test]
async fn several_listeners_have_their_names() {
    let listener =
        |name: &str, https| ListenerSettings { name: name.into(), http: Some(0), https, public_http_port: None, public_https_port: None };
    let listeners = vec![listener("default", None), listener("internal", Some(0))];
    let edge = Edge::start(Settings { listeners, ..settings() }, Table::default()).await;
    let bound: Vec<_> = edge.listening.bound().iter().map(|bound| (&*bound.listener, bound.https)).collect();
    assert_eq!(bound, [("default", false), ("internal", false), ("internal", true)]);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut settings = settings();
    settings.listeners[0].http = Some(port);
    let metrics = Arc::<Metrics>::default();
    let live = Live::new(Balancer::new(), Arc::clone(&metrics));
    let proxy = Proxy::new(settings, live, Registry::new(AccessLog::off()), metrics, AccessLog::off());
    let error = start(&proxy).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("listener default can not listen on 127.0.0.1:{port}; give it another port")), "{error}");
}

#[tokio::test]
async fn accepted_sockets_inherit_what_a_listener_has() {
    let listener = bind("[::]:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_client, accepted) = tokio::join!(connect(([127, 0, 0, 1], port).into()), listener.accept());
    let (socket, peer) = accepted.unwrap();
    let socket = SockRef::from(&socket);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(120)));
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
    assert!(peer.ip().to_canonical().is_ipv4(), "both families come in by one socket");
}

#[tokio::test]
async fn a_silent_client_is_let_go() {
    let header_timeout = Duration::from_millis(50);
    let edge = Edge::start(Settings { header_timeout, ..settings() }, Table::default()).await;
    for address in [edge.http(), edge.https()] {
        assert_eq!(to_end(&mut connect(address).await).await, "");
    }
    assert_eq!(edge.refused("first_byte_timeout"), 2);
    assert!(exchange(edge.http(), b"GET / HTT").await.starts_with("HTTP/1.1 408 "), "one that began is told");
}

#[tokio::test]
async fn the_certificate_goes_by_the_name() {
    let (table, shop) = shop(TlsVersion::V1_2);
    let edge = Edge::start(settings(), table).await;
    let connector = client_config(&shop, |_| {});
    let mut socket = tls(&connector, edge.https(), "SHOP.test").await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), None);
    socket.write_all(GET).await.unwrap();
    assert!(to_end(&mut socket).await.starts_with("HTTP/1.1 404 "));
    let other = tls(&connector, edge.https(), "other.test").await.unwrap_err();
    assert!(other.to_string().contains("certificate"), "it gets the self-signed one: {other}");
}

#[tokio::test]
async fn a_certificate_is_swapped_without_a_new_port() {
    let (table, _) = shop(TlsVersion::V1_2);
    let edge = Edge::start(settings(), table).await;
    let (renewed, certificate) = shop(TlsVersion::V1_2);
    edge.proxy.live.publish(renewed).unwrap();
    tls(&client_config(&certificate, |_| {}), edge.https(), "shop.test").await.unwrap();
}

#[tokio::test]
async fn a_host_may_ask_for_tls_1_3() {
    let (table, shop) = shop(TlsVersion::V1_3);
    let edge = Edge::start(settings(), table).await;
    let old = client_config_for(&shop, &[&rustls::version::TLS12], |_| {});
    let error = tls(&old, edge.https(), "shop.test").await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    tls(&client_config(&shop, |_| {}), edge.https(), "shop.test").await.unwrap();
}

#[tokio::test]
async fn a_client_of_http_2_alone_gets_an_alert() {
    let (table, shop) = shop(TlsVersion::V1_2);
    let edge = Edge::start(settings(), table).await;
    let connector = client_config(&shop, |config| config.alpn_protocols = vec![b"h2".to_vec()]);
    let error = tls(&connector, edge.https(), "shop.test").await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    let connector = client_config(&shop, |config| config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()]);
    let socket = tls(&connector, edge.https(), "shop.test").await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn a_client_comes_back_with_its_ticket() {
    let (table, shop) = shop(TlsVersion::V1_2);
    let edge = Edge::start(settings(), table).await;
    let connector = client_config(&shop, |config| config.resumption = Resumption::in_memory_sessions(8));
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut socket = tls(&connector, edge.https(), "shop.test").await.unwrap();
        socket.write_all(GET).await.unwrap();
        to_end(&mut socket).await;
        assert_eq!(socket.get_ref().1.handshake_kind(), Some(kind));
    }
}

#[tokio::test]
async fn a_client_comes_back_to_any_replica_that_has_the_seed() {
    let (table, shop) = shop(TlsVersion::V1_2);
    let replicas = [Edge::start(settings(), table.clone()).await, Edge::start(settings(), table.clone()).await];
    let seeds = Seeds { current: Seed([7; 32]), previous: None };
    replicas.iter().for_each(|replica| replica.proxy.keys.replace(&seeds));
    let stranger = Edge::start(settings(), table).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let connector = client_config_for(&shop, &[version], |config| config.resumption = Resumption::in_memory_sessions(8));
        let come_to = async |edge: &Edge| {
            let mut socket = tls(&connector, edge.https(), "shop.test").await.unwrap();
            socket.write_all(GET).await.unwrap();
            to_end(&mut socket).await;
            socket.get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!(come_to(&replicas[0]).await, HandshakeKind::Full);
        assert_eq!(come_to(&replicas[1]).await, HandshakeKind::Resumed);
        assert_eq!(come_to(&replicas[0]).await, HandshakeKind::Resumed);
        assert_eq!(come_to(&stranger).await, HandshakeKind::Full);
    }
}

#[tokio::test]
async fn plain_http_on_the_https_port_is_told_so() {
    let edge = Edge::start(settings(), Table::default()).await;
    let answer = exchange(edge.https(), GET).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 ") && head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
    assert_eq!(exchange(edge.https(), b"\0\0\0\0").await, "");
    assert_eq!(edge.refused("not_tls"), 2);
}

#[tokio::test]
async fn tls_passes_through_beside_terminated_hosts() {
    let (mut table, shop) = shop(TlsVersion::V1_2);
    // The backend is another edge: what it answers went through both.
    let (mut inner, inner_certificate) = self::shop(TlsVersion::V1_2);
    inner.hosts[0].host = HostPattern::Any;
    let inner = Edge::start(settings(), inner).await;
    let (mut route, pool, spec) = route("passthrough", &[inner.https()]);
    route.hosts = vec![HostPattern::Wildcard("inner.test".into()), HostPattern::Exact("shop.test".into())];
    route.tls = TcpTls::Passthrough;
    route.hosts.truncate(1);
    table.tcp.insert(TcpPort::Https("default".into()), vec![Arc::new(route)]);
    table.pools.insert(pool, spec);
    let edge = Edge::start(settings(), table).await;

    let verify = client_config(&inner_certificate, |config| {
        // The name is not in the certificate; that it is the backend's is what counts.
        config.dangerous().set_certificate_verifier(Arc::new(Pinned(inner_certificate.clone())));
    });
    let mut socket = tls(&verify, edge.https(), "a.inner.test").await.unwrap();
    socket.write_all(GET).await.unwrap();
    assert!(to_end(&mut socket).await.starts_with("HTTP/1.1 404 "));
    tls(&client_config(&shop, |_| {}), edge.https(), "shop.test").await.unwrap();
}

/// Accepts exactly one certificate, whatever its names.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl rustls::client::danger::ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        assert_eq!(*end_entity, self.0);
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[tokio::test]
async fn tls_is_ended_at_layer_4_by_name() {
    let port = free_port();
    let secret = ObjectRef::new("default", "db-tls");
    let (cert, der) = certificate("db.test");
    let mut table = layer_4(TcpPort::Number(port), &[echo().await], |route| {
        route.hosts = vec![HostPattern::Exact("db.test".into())];
        let tls = HostTls { certificates: vec![secret.clone()], redirect: false, min_version: TlsVersion::V1_2, client_auth: None };
        route.tls = TcpTls::Terminate(tls);
    });
    table.certs.insert(secret, cert);
    let edge = Edge::start(settings(), table).await;
    edge.tcp_ports(&[port]).await;
    let connector = client_config(&der, |_| {});
    let mut socket = tls(&connector, ([127, 0, 0, 1], port).into(), "db.test").await.unwrap();
    socket.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    socket.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    tls(&connector, ([127, 0, 0, 1], port).into(), "other.test").await.unwrap_err();
    assert_eq!(edge.refused("no_route"), 1);
}

#[tokio::test]
async fn a_layer_4_port_comes_and_goes_and_its_tunnels_stay() {
    let edge = Edge::start(settings(), Table::default()).await;
    let port = free_port();
    edge.proxy.live.publish(layer_4(TcpPort::Number(port), &[echo().await], |_| {})).unwrap();
    edge.tcp_ports(&[port]).await;
    let mut socket = connect(([127, 0, 0, 1], port).into()).await;
    socket.write_all(b"one").await.unwrap();
    let mut heard = [0; 3];
    socket.read_exact(&mut heard).await.unwrap();

    edge.proxy.live.publish(Table::default()).unwrap();
    edge.tcp_ports(&[]).await;
    TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
    socket.write_all(b"two").await.unwrap();
    socket.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"two");
    assert_eq!(edge.proxy.metrics.connections_open.get(), 1, "a tunnel's connection is still counted");
    socket.shutdown().await.unwrap();
    assert_eq!(to_end(&mut socket).await, "", "the end of one direction ends the other only when the backend says so");
}

#[tokio::test]
async fn a_layer_4_port_that_is_taken_harms_nobody_and_is_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, other) = (taken.local_addr().unwrap().port(), free_port());
    let backend = echo().await;
    let mut table = layer_4(TcpPort::Number(port), &[backend], |_| {});
    let rest = layer_4(TcpPort::Number(other), &[backend], |_| {});
    table.tcp.extend(rest.tcp);
    table.pools.extend(rest.pools);
    let edge = Edge::start(settings(), table).await;
    edge.tcp_ports(&[other]).await;
    drop(taken);
    edge.tcp_ports(&[port, other]).await;
}

#[tokio::test]
async fn ports_outside_the_range_stay_closed() {
    let (inside, outside) = (free_port(), free_port());
    let backend = echo().await;
    let mut table = layer_4(TcpPort::Number(outside), &[backend], |_| {});
    table.tcp.extend(layer_4(TcpPort::Number(inside), &[backend], |_| {}).tcp);
    let range: RangeInclusive<u16> = inside..=inside;
    let edge = Edge::start(Settings { tcp_ports: Some(range), ..settings() }, table).await;
    edge.tcp_ports(&[inside]).await;
    TcpStream::connect(("127.0.0.1", outside)).await.unwrap_err();
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over_and_counted() {
    let dead = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let port = free_port();
    let edge = Edge::start(settings(), layer_4(TcpPort::Number(port), &[dead, echo().await], |_| {})).await;
    edge.tcp_ports(&[port]).await;
    for _ in 0..4 {
        let mut socket = connect(([127, 0, 0, 1], port).into()).await;
        socket.write_all(b"hello").await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(to_end(&mut socket).await, "hello");
    }
    let metrics = Arc::clone(&edge.proxy.live.load().tcp[0].metrics);
    let failures: Vec<_> = metrics.endpoint_failures.iter().collect();
    assert!(matches!(failures[..], [("refused", 1..)]), "{failures:?}");
}

#[tokio::test]
async fn without_an_endpoint_a_connection_is_closed_and_counted() {
    let port = free_port();
    let edge = Edge::start(settings(), layer_4(TcpPort::Number(port), &[], |_| {})).await;
    edge.tcp_ports(&[port]).await;
    assert_eq!(to_end(&mut connect(([127, 0, 0, 1], port).into()).await).await, "");
    let metrics = Arc::clone(&edge.proxy.live.load().tcp[0].metrics);
    assert_eq!(metrics.refusals.iter().collect::<Vec<_>>(), [("no_ready_endpoint", 1)]);
}

#[tokio::test]
async fn who_the_client_is_goes_from_proxy_header_to_proxy_header() {
    let port = free_port();
    let table = layer_4(TcpPort::Number(port), &[echo().await], |route| route.proxy_protocol = Some(Version::V1));
    let edge = Edge::start(trusting(ProxyProtocol::Required, "127.0.0.0/8"), table).await;
    edge.tcp_ports(&[port]).await;
    let mut socket = connect(([127, 0, 0, 1], port).into()).await;
    socket.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\nhello").await.unwrap();
    socket.shutdown().await.unwrap();
    // The echo gives back what we sent: our own header, then the client's bytes.
    assert_eq!(to_end(&mut socket).await, "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\nhello");
}

#[tokio::test]
async fn a_proxy_header_stands_before_http_and_before_tls() {
    let (table, shop) = shop(TlsVersion::V1_2);
    let edge = Edge::start(trusting(ProxyProtocol::Required, "127.0.0.1/32"), table).await;
    let header: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";
    assert!(exchange(edge.http(), &[header, GET].concat()).await.starts_with("HTTP/1.1 404 "));
    let mut socket = connect(edge.https()).await;
    socket.write_all(header).await.unwrap();
    let connector = client_config(&shop, |_| {});
    let mut socket = connector.connect(ServerName::try_from("shop.test").unwrap(), socket).await.unwrap();
    socket.write_all(GET).await.unwrap();
    assert!(to_end(&mut socket).await.starts_with("HTTP/1.1 404 "));
    assert_eq!(exchange(edge.http(), GET).await, "", "without one nothing is answered");
    assert_eq!(edge.refused("proxy_header"), 1);
}

#[tokio::test]
async fn a_proxy_header_of_a_stranger_closes_the_connection() {
    let edge = Edge::start(trusting(ProxyProtocol::Optional, "192.0.2.0/24"), Table::default()).await;
    let header: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";
    assert_eq!(exchange(edge.http(), &[header, GET].concat()).await, "");
    assert!(exchange(edge.http(), GET).await.starts_with("HTTP/1.1 404 "), "without one it is served");
    assert_eq!(edge.refused("proxy_header"), 1);
}

#[tokio::test]
async fn accepting_pauses_at_the_limit_and_goes_on_after_it() {
    let edge = Edge::start(Settings { max_connections: 1, ..settings() }, Table::default()).await;
    let mut first = connect(edge.http()).await;
    // Half of a request: it has certainly been accepted once the rest is answered.
    first.write_all(&GET[..10]).await.unwrap();
    let mut second = connect(edge.http()).await;
    second.write_all(GET).await.unwrap();
    let pauses = || edge.proxy.metrics.accept_pauses.iter().find(|(reason, _)| *reason == "max_connections").is_some();
    while !pauses() {
        tokio::task::yield_now().await;
    }
    first.write_all(&GET[10..]).await.unwrap();
    assert!(to_end(&mut first).await.starts_with("HTTP/1.1 404 "));
    drop(first);
    assert!(to_end(&mut second).await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn one_client_has_its_share() {
    let edge = Edge::start(Settings { max_connections_per_client: 1, ..settings() }, Table::default()).await;
    let mut first = connect(edge.http()).await;
    first.write_all(&GET[..10]).await.unwrap();
    assert_eq!(to_end(&mut connect(edge.http()).await).await, "");
    assert_eq!(edge.refused("per_client_limit"), 1);
    first.write_all(&GET[10..]).await.unwrap();
    assert!(to_end(&mut first).await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn closing_is_the_last_act() {
    let edge = Edge::start(settings(), Table::default()).await;
    let (address, mut open) = (edge.http(), connect(edge.http()).await);
    open.write_all(&GET[..10]).await.unwrap();
    while edge.proxy.metrics.connections_open.get() == 0 {
        tokio::task::yield_now().await;
    }
    edge.listening.close().await;
    TcpStream::connect(address).await.unwrap_err();
    open.write_all(&GET[10..]).await.unwrap();
    assert!(to_end(&mut open).await.starts_with("HTTP/1.1 404 "), "what was accepted is served");
}

#[test]
fn errors_of_accept_have_three_classes() {
    assert!(Rest::after(Errno::CONNABORTED.into()).is_none());
    assert!(matches!(Rest::after(Errno::MFILE.into()), Some(Rest::Exhausted(_))));
    assert!(matches!(Rest::after(Errno::NOBUFS.into()), Some(Rest::Exhausted(_))));
    assert!(matches!(Rest::after(Errno::INVAL.into()), Some(Rest::Unknown(_))));
}

/// One for each client that has sent nothing: with the socket's registration and the timer it stays far below 4 kB.
#[tokio::test]
async fn the_task_of_a_silent_client_is_small() {
    let edge = Edge::start(settings(), Table::default()).await;
    let entrance = Arc::new(Entrance {
        listener: "default".into(),
        speaks: Speaks::Http,
        public_port: 80,
        public_http_port: Some(80),
        public_https_port: None,
    });
    let gate = Gate::new(1, 0, Arc::clone(&edge.proxy.metrics));
    let socket = connect(edge.http()).await;
    let peer = edge.http();
    let task = conn::serve(Arc::clone(&edge.proxy), entrance, socket, peer, gate.enter());
    let size = size_of_val(&task);
    assert!(size <= 704, "{size} bytes");
}
