//! Policies and affinity through the whole application.

use std::net::SocketAddr;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use crate::support::{
    client::{get, head, raw, rest, status, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service, slice},
    peers::{Echo, Scripted},
};

/// What a server says to the key of [`handshake`].
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

/// A server that answers every request with its name: handshakes, and requests without `sid` as Engine.IO answers the first.
async fn named(name: &'static str) -> SocketAddr {
    Scripted::start().await.each(move |socket| answer(socket, name))
}

async fn answer(mut socket: TcpStream, name: &'static str) {
    let asked = head(&mut socket).await;
    if asked.contains("Upgrade: websocket") {
        socket.write_all(format!("{SWITCHED}X-Name: {name}\r\n\r\n").as_bytes()).await.unwrap();
        rest(&mut socket).await;
        return;
    }
    let body = if asked.contains("sid=") { name.to_owned() } else { format!("0{{\"sid\":\"of-{name}\",\"upgrades\":[]}}") };
    let answer = format!("HTTP/1.1 200 OK\r\nX-Name: {name}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    socket.write_all(answer.as_bytes()).await.unwrap();
}

/// The answer to a handshake with a cookie, and the socket.
async fn handshake(at: SocketAddr, cookie: &str) -> (String, TcpStream) {
    let mut socket = TcpStream::connect(at).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: {cookie}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    (head(&mut socket).await, socket)
}

/// A field of an answer.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Which server answered.
fn who(answer: &str) -> &str {
    field(answer, "X-Name").unwrap_or_else(|| panic!("no server: {answer}"))
}

/// `name=value` of the cookie that an answer sets.
fn cookie(answer: &str) -> Option<String> {
    Some(field(answer, "Set-Cookie")?.split(';').next()?.to_owned())
}

async fn with_cookie(at: SocketAddr, path: &str, cookie: &str) -> String {
    raw(at, format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nCookie: x=y; {cookie}\r\nConnection: close\r\n\r\n").as_bytes()).await
}

fn app(affinity: &str, endpoints: &[SocketAddr]) -> String {
    let spec = format!(
        "locations:\n- {{path: /, backends: [{{service: app, port: 80}}], affinity: {affinity}, loadBalancing: {{policy: RoundRobin}}}}"
    );
    all([service("app", endpoints), route("app", &spec)])
}

#[tokio::test]
async fn a_cookie_pins_a_client_whatever_is_added_and_is_renewed_when_its_endpoint_is_gone() {
    let mut endpoints = [named("a").await, named("b").await].to_vec();
    let gateway = Gateway::start(&app("{cookie: {}}", &endpoints)).await;
    let first = get(gateway.http, "a.test", "/").await;
    assert!(field(&first, "Set-Cookie").unwrap().ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{first}");
    let (home, pin) = (who(&first).to_owned(), cookie(&first).unwrap());
    endpoints.extend([named("c").await, named("d").await]);
    gateway.change(&app("{cookie: {}}", &endpoints)).await;
    for _ in 0..8 {
        let answer = with_cookie(gateway.http, "/", &pin).await;
        assert_eq!((who(&answer), cookie(&answer)), (&*home, None));
    }
    endpoints.remove(if home == "a" { 0 } else { 1 });
    gateway.change(&app("{cookie: {}}", &endpoints)).await;
    let moved = with_cookie(gateway.http, "/", &pin).await;
    let (next, renewed) = (who(&moved).to_owned(), cookie(&moved).unwrap());
    assert_ne!(next, home);
    // The old cookie leads there as well: requests that were on their way together stay together.
    assert_eq!(who(&with_cookie(gateway.http, "/", &pin).await), next);
    assert_eq!(cookie(&with_cookie(gateway.http, "/", &renewed).await), None);
}

/// The conditions of an endpoint that is about to go and still answers.
const TERMINATING: &str = "ready: false, serving: true, terminating: true";

/// A Service with one endpoint that stands so, and others that are ready; a cookie pins its clients.
fn pinning(endpoint: SocketAddr, conditions: &str, ready: &[SocketAddr]) -> String {
    let slices = std::iter::once(slice("app", 7, endpoint, conditions)).chain(ready.iter().map(|at| slice("app", 8, *at, "ready: true")));
    all([
        service("app", &[]),
        all(slices),
        route("app", "locations:\n- {path: /, backends: [{service: app, port: 80}], affinity: {cookie: {}}}"),
    ])
}

#[tokio::test]
async fn a_terminating_endpoint_keeps_its_clients_requests_and_gets_no_new_tunnels() {
    let (going, staying) = (named("going").await, named("staying").await);
    let gateway = Gateway::start(&pinning(going, "ready: true", &[])).await;
    let (first, _held) = handshake(gateway.http, "a=b").await;
    let pin = cookie(&first).unwrap_or_else(|| panic!("{first}"));
    gateway.change(&pinning(going, TERMINATING, &[staying])).await;
    let plain = with_cookie(gateway.http, "/", &pin).await;
    assert_eq!((who(&plain), cookie(&plain)), ("going", None));
    let (second, _held) = handshake(gateway.http, &pin).await;
    assert_eq!((status(&second), who(&second)), (101, "staying"));
    assert!(cookie(&second).is_some_and(|renewed| renewed != pin), "the tunnel has moved: {second}");
    gateway.change(&pinning(going, "ready: false, serving: false, terminating: true", &[staying])).await;
    assert_eq!(who(&with_cookie(gateway.http, "/", &pin).await), "staying");
}

#[tokio::test]
async fn whoever_begins_anew_leaves_a_terminating_endpoint_with_its_cookie() {
    let (listener, staying) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), named("staying").await);
    let going = listener.local_addr().unwrap();
    let listening = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer(socket, "going"));
        }
    });
    let gateway = Gateway::start(&pinning(going, "ready: true", &[])).await;
    let pin = cookie(&get(gateway.http, "a.test", "/").await).unwrap();
    let beginning = "/socket.io/?EIO=4&transport=polling";
    gateway.change(&pinning(going, TERMINATING, &[])).await;
    assert_eq!(who(&with_cookie(gateway.http, beginning, &pin).await), "going", "nobody else is there");
    gateway.change(&pinning(going, TERMINATING, &[staying])).await;

    // What is no beginning is where it was.
    for path in ["/", "/socket.io/?EIO=4&transport=polling&sid=abc", "/hub?id=abc", "/hub/negotiate"] {
        let answer = with_cookie(gateway.http, path, &pin).await;
        assert_eq!((who(&answer), cookie(&answer)), ("going", None), "{path}");
    }
    let begun = with_cookie(gateway.http, beginning, &pin).await;
    assert_eq!(who(&begun), "staying");
    assert!(cookie(&begun).is_some_and(|renewed| renewed != pin), "{begun}");
    let negotiate =
        format!("POST /hub/negotiate?negotiateVersion=1 HTTP/1.1\r\nHost: a.test\r\nCookie: {pin}\r\nConnection: close\r\n\r\n");
    let negotiated = raw(gateway.http, negotiate.as_bytes()).await;
    assert!(who(&negotiated) == "staying" && cookie(&negotiated).is_some(), "{negotiated}");

    // It does not listen any more: whoever is answered by another one stays there.
    listening.abort();
    assert!(listening.await.unwrap_err().is_cancelled());
    let moved = with_cookie(gateway.http, "/", &pin).await;
    assert_eq!(who(&moved), "staying");
    assert!(cookie(&moved).is_some_and(|renewed| renewed != pin), "{moved}");

    // It stays, but for the moment it can't be connected to: it is come back to, but not by a session that has begun elsewhere.
    gateway.change(&pinning(going, "ready: true", &[staying])).await;
    let meanwhile = with_cookie(gateway.http, "/", &pin).await;
    assert_eq!((who(&meanwhile), cookie(&meanwhile)), ("staying", None));
    assert!(cookie(&with_cookie(gateway.http, beginning, &pin).await).is_some());
}

#[tokio::test]
async fn what_a_client_says_leads_to_the_same_endpoint_by_every_replica() {
    let endpoints = [named("a").await, named("b").await, named("c").await];
    for (affinity, path) in [("{query: user}", "/?user="), ("{header: X-User}", "/")] {
        let (one, other) = (Gateway::start(&app(affinity, &endpoints)).await, Gateway::start(&app(affinity, &endpoints)).await);
        let mut seen = std::collections::BTreeSet::new();
        for user in 0..20 {
            let path = if path.ends_with('=') { format!("{path}{user}") } else { path.to_owned() };
            let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nX-User: {user}\r\nConnection: close\r\n\r\n");
            let answer = raw(one.http, request.as_bytes()).await;
            assert_eq!(who(&answer), who(&raw(other.http, request.as_bytes()).await));
            seen.insert(who(&answer).to_owned());
        }
        assert_eq!(seen.len(), 3, "{affinity}");
    }
}

#[tokio::test]
async fn replicas_that_share_a_seed_read_each_other_s_cookies() {
    let endpoints = [named("a").await, named("b").await];
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, BASE64_STANDARD.encode([7; 32])).unwrap();
    let shared = ["--keys-file", file.to_str().unwrap()];
    let manifests = app("{cookie: {}}", &endpoints);
    let [one, other] = [Gateway::with(&shared, &manifests).await, Gateway::with(&shared, &manifests).await];
    let alone = Gateway::start(&manifests).await;
    let first = get(one.http, "a.test", "/").await;
    let pin = cookie(&first).unwrap();
    for _ in 0..4 {
        assert_eq!(who(&with_cookie(other.http, "/", &pin).await), who(&first));
    }
    assert!(cookie(&with_cookie(alone.http, "/", &pin).await).is_some(), "it can't be read without the seed");
}

#[tokio::test]
async fn a_session_that_its_server_named_is_where_it_began() {
    let endpoints = [named("a").await, named("b").await, named("c").await];
    let gateway = Gateway::start(&app("{query: sid}", &endpoints)).await;
    for _ in 0..6 {
        let first = get(gateway.http, "a.test", "/?transport=polling").await;
        let home = who(&first).to_owned();
        for _ in 0..4 {
            assert_eq!(who(&get(gateway.http, "a.test", &format!("/?transport=polling&sid=of-{home}")).await), home);
        }
    }
    assert_eq!(gateway.metric("carrick_learned_sessions").await, 3.0);
}

#[tokio::test]
async fn full_endpoints_spill_and_then_refuse_until_one_has_room() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let spec = "locations:\n- {path: /, backends: [{service: app, port: 80}], loadBalancing: {maxConnectionsPerEndpoint: 2}}";
    let gateway = Gateway::start(&all([service("app", &[a.at, b.at]), route("app", spec)])).await;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let mut socket = websocket(gateway.http, "ws://a.test/").await;
        text(&mut socket).await;
        sockets.push(socket);
    }
    assert_eq!((a.open(), b.open()), (2, 2));
    let refused = get(gateway.http, "a.test", "/").await;
    assert_eq!(status(&refused), 503);
    assert_eq!(field(&refused, "X-Carrick-Reason"), Some("endpoints_full"));
    assert!(field(&refused, "Retry-After").is_some());
    assert_eq!(gateway.metric("carrick_endpoint_connections_limit{route_namespace=\"default\",route=\"app\",location=\"/\"}").await, 2.0);
    drop(sockets.pop());
    eventually("room for one more", async || status(&get(gateway.http, "a.test", "/").await) != 503).await;
}

/// What replicas of a cluster share: the Secret of keys, and who is in which zone.
mod in_a_cluster {
    use super::*;
    use crate::support::api_server::ApiServer;

    const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\n\
                         metadata: {name: carrick, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}\n\
                         spec: {controller: carrick.dev/controller}";
    const KEYS: &str = "--keys-secret=carrick/carrick-keys";

    async fn replica(api: &ApiServer, flags: &[&str]) -> Gateway {
        let gateway = Gateway::controller(api, flags);
        gateway.published().await;
        gateway
    }

    #[tokio::test]
    async fn replicas_make_one_secret_and_read_each_other_s_cookies() {
        let api = ApiServer::start();
        api.apply(&all([CLASS.to_owned(), app("{cookie: {}}", &[named("a").await, named("b").await])]));
        let [one, other] = [replica(&api, &[KEYS]).await, replica(&api, &[KEYS]).await];
        let made = api.wait_for("the seed made", "secrets", "carrick", "carrick-keys", |secret| secret["data"]["seed"].is_string()).await;
        assert_eq!(BASE64_STANDARD.decode(made["data"]["seed"].as_str().unwrap()).unwrap().len(), 32);
        // Until a replica has read the Secret it can't read what the other one wrote.
        eventually("one seed", async || {
            let first = get(one.http, "a.test", "/").await;
            cookie(&with_cookie(other.http, "/", &cookie(&first).unwrap()).await).is_none()
        })
        .await;
        for _ in 0..4 {
            let first = get(one.http, "a.test", "/").await;
            assert_eq!(who(&with_cookie(other.http, "/", &cookie(&first).unwrap()).await), who(&first));
        }
    }

    fn hinted(number: usize, at: SocketAddr, zone: &str) -> String {
        let hints = format!("hints: {{forZones: [{{name: {zone}}}]}}");
        slice("app", number, at, "ready: true").replace("conditions: {ready: true}", &format!("conditions: {{ready: true}}, {hints}"))
    }

    #[tokio::test]
    async fn endpoints_of_our_zone_are_picked_by_flag_or_by_the_node_s_label() {
        let (a, b) = (named("a").await, named("b").await);
        let api = ApiServer::start();
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1, labels: {topology.kubernetes.io/zone: east}}";
        let routed = route("app", "locations:\n- {path: /, backends: [{service: app, port: 80}], loadBalancing: {policy: RoundRobin}}");
        api.apply(&all([CLASS.to_owned(), node.to_owned(), service("app", &[]), hinted(0, a, "east"), hinted(1, b, "west"), routed]));
        for (flags, near) in [(&["--zone=west"][..], "b"), (&["--node-name=node-1"], "a")] {
            let gateway = replica(&api, flags).await;
            eventually("only our zone", async || {
                let (one, two) = (get(gateway.http, "a.test", "/").await, get(gateway.http, "a.test", "/").await);
                who(&one) == near && who(&two) == near
            })
            .await;
        }
    }
}
