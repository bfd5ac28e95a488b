//! Hosts, ports and Services that a namespace may not have any more: whoever came by them is sent back at once, and nobody else is.

use std::net::SocketAddr;

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{
    api_server::{ApiServer, Fault, Times},
    client::{close_code, get, rest, status, still_echoes, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, service},
    peers::{Echo, Scripted, nobody},
};

const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\n\
                     metadata: {name: carrick, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}\n\
                     spec: {controller: carrick.dev/controller}";

/// A WsRoute of a namespace.
fn of(namespace: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: carrick.dev/v1alpha1\nkind: WsRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}")
}

/// Service and endpoint in a namespace.
fn in_namespace(namespace: &str, objects: &str) -> String {
    objects.replace("metadata: {", &format!("metadata: {{namespace: {namespace}, "))
}

#[tokio::test]
async fn a_delegation_that_is_withdrawn_ends_what_came_by_it() {
    let (own, team) = (Echo::start("own").await, Echo::start("team").await);
    let services = all([service("own", &[own.at]), in_namespace("team", &service("app", &[team.at]))]);
    let owner = |delegate: &str| {
        of("default", "owner", &format!("{{hosts: [a.test], {delegate} locations: [{{path: /, backends: [{{service: own, port: 80}}]}}]}}"))
    };
    let theirs = of("team", "theirs", "{hosts: [a.test], locations: [{path: /team, backends: [{service: app, port: 80}]}]}");
    let gateway = Gateway::start(&all([services.clone(), owner("delegate: [{namespaces: [team]}],"), theirs.clone()])).await;
    let mut kept = websocket(gateway.http, "ws://a.test/").await;
    let mut ended = websocket(gateway.http, "ws://a.test/team").await;
    assert_eq!((text(&mut kept).await, text(&mut ended).await), ("own".into(), "team".into()));
    gateway.change(&all([services, owner(""), theirs])).await;
    assert_eq!(close_code(&mut ended).await, 1012);
    still_echoes(&mut kept).await;
}

#[tokio::test]
async fn a_path_that_a_delegation_no_longer_covers_ends_what_came_by_it() {
    let (own, team) = (Echo::start("own").await, Echo::start("team").await);
    let services = all([service("own", &[own.at]), in_namespace("team", &service("app", &[team.at]))]);
    let owner = |paths: &str| {
        let delegate = format!("delegate: [{{namespaces: [team], paths: [{paths}]}}]");
        of(
            "default",
            "owner",
            &format!("{{hosts: [a.test], {delegate}, locations: [{{path: /, backends: [{{service: own, port: 80}}]}}]}}"),
        )
    };
    let backends = "backends: [{service: app, port: 80}]";
    let theirs = of("team", "theirs", &format!("{{hosts: [a.test], locations: [{{path: /one, {backends}}}, {{path: /two, {backends}}}]}}"));
    let gateway = Gateway::start(&all([services.clone(), owner("/one, /two"), theirs.clone()])).await;
    let mut kept = websocket(gateway.http, "ws://a.test/one").await;
    let mut ended = websocket(gateway.http, "ws://a.test/two").await;
    assert_eq!((text(&mut kept).await, text(&mut ended).await), ("team".into(), "team".into()));
    gateway.change(&all([services, owner("/one"), theirs])).await;
    assert_eq!(close_code(&mut ended).await, 1012);
    still_echoes(&mut kept).await;
}

#[tokio::test]
async fn a_reference_grant_that_is_withdrawn_ends_what_goes_to_that_service() {
    let (own, other) = (Echo::start("own").await, Echo::start("other").await);
    let services = all([service("own", &[own.at]), in_namespace("other", &service("chat", &[other.at]))]);
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\n\
                 spec: {from: [{group: carrick.dev, kind: WsRoute, namespace: default}], to: [{group: '', kind: Service}]}";
    let backends = "[{service: own, port: 80}, {service: chat, namespace: other, port: 80}]";
    let site = of("default", "r", &format!("{{locations: [{{path: /, loadBalancing: {{policy: RoundRobin}}, backends: {backends}}}]}}"));
    let gateway = Gateway::start(&all([services.clone(), site.clone(), grant.to_owned()])).await;
    let mut sockets = [websocket(gateway.http, "ws://a.test/").await, websocket(gateway.http, "ws://a.test/").await];
    let mut names = [text(&mut sockets[0]).await, text(&mut sockets[1]).await];
    if names[0] != "own" {
        sockets.swap(0, 1);
        names.swap(0, 1);
    }
    assert_eq!(names, ["own", "other"]);
    gateway.change(&all([services, site])).await;
    assert_eq!(close_code(&mut sockets[1]).await, 1012);
    still_echoes(&mut sockets[0]).await;
}

fn granted(hosts: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, annotations: {{carrick.dev/hosts: '{hosts}', carrick.dev/tcp-ports: '{ports}'}}}}"
    )
}

#[tokio::test]
async fn a_host_or_port_that_is_granted_no_more_ends_what_came_by_it() {
    let (echo, mut raw) = (Echo::start("echo").await, Scripted::start().await);
    let port = nobody().await.port();
    let api = ApiServer::start();
    api.fail("* leases", Fault::Status(403), Times::Always);
    let location = "locations: [{path: /, backends: [{service: app, port: 80}]}]";
    api.apply(&all([
        CLASS.to_owned(),
        granted("a.test, b.test", &port.to_string()),
        service("app", &[echo.at]),
        service("raw", &[raw.at]),
        of("default", "a", &format!("{{hosts: [a.test], {location}}}")),
        of("default", "b", &format!("{{hosts: [b.test], {location}}}")),
        of("default", "tcp", &format!("{{tcp: [{{port: {port}, backends: [{{service: raw, port: 80}}]}}]}}")),
    ]));
    let gateway = Gateway::controller(&api, &["--require-grants", "--tcp-ports", "1024-65535"]);
    gateway.published().await;
    let mut ended = websocket(gateway.http, "ws://a.test/").await;
    let mut kept = websocket(gateway.http, "ws://b.test/").await;
    assert_eq!((text(&mut ended).await, text(&mut kept).await), ("echo".into(), "echo".into()));
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the port is open", async || TcpStream::connect(at).await.is_ok()).await;
    let mut client = TcpStream::connect(at).await.unwrap();
    client.write_all(b"!").await.unwrap();
    eventually("both are joined", async || gateway.admin("/debug/tunnels").await.contains("tcp:")).await;

    api.apply(&granted("b.test", ""));
    assert_eq!(close_code(&mut ended).await, 1012);
    assert_eq!(rest(&mut client).await, "", "a FIN is all that layer 4 can say");
    eventually("the host is refused", async || status(&get(gateway.http, "a.test", "/").await) == 404).await;
    still_echoes(&mut kept).await;
    drop(raw.accept().await);
}
