//! Pods that go away while sockets are open to them, and Pods that somebody has to choose between: what the leader tells of the sockets of
//! all replicas.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, future::join_all};
use serde_json::Value;
use tokio_tungstenite::{accept_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

use crate::support::{
    api_server::ApiServer,
    client::{Socket, close_code, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service},
    peers::{Echo, Scripted, nobody},
};

const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\n\
                     metadata: {name: carrick, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}\n\
                     spec: {controller: carrick.dev/controller}";
const PEERS: [&str; 2] = ["--peers-service", "carrick-system/peers"];
const READY: &str = "ready: true";
const TERMINATING: &str = "ready: false, serving: true, terminating: true";

/// A Pod of the Service `app`, as its EndpointSlice has it.
fn pod(name: &str, at: SocketAddr, conditions: &str) -> String {
    let (ip, port) = (at.ip(), at.port());
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: app}}}}\n\
         addressType: IPv4\nports: [{{name: web, port: {port}}}]\n\
         endpoints: [{{addresses: [{ip}], conditions: {{{conditions}}}, targetRef: {{kind: Pod, name: {name}, uid: uid-{name}}}}}]"
    )
}

/// Replicas of Carrick, as the EndpointSlices of their Service have them: each with an ops port of its own here.
fn replicas(replicas: &[(&str, SocketAddr)]) -> String {
    all(replicas.iter().map(|(name, ops)| {
        let (ip, port) = (ops.ip(), ops.port());
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}, namespace: carrick-system, labels: {{kubernetes.io/service-name: peers}}}}\n\
             addressType: IPv4\nports: [{{name: ops, port: {port}}}]\n\
             endpoints: [{{addresses: [{ip}], conditions: {{{READY}}}, targetRef: {{kind: Pod, name: {name}}}}}]"
        )
    }))
}

/// A cluster with a route to the Service `app`.
fn cluster(pods: &[String]) -> ApiServer {
    let api = ApiServer::start();
    let to_app = route("shop", "hosts: [a.test]\nlocations: [{path: /, backends: [{service: app, port: 80}]}]");
    api.apply(&all([CLASS.to_owned(), service("app", &[]), to_app].iter().chain(pods)));
    api
}

/// Two replicas, the first of which leads.
async fn two(api: &ApiServer, more: &[&str]) -> (Gateway, Gateway) {
    let flags = [&PEERS[..], more].concat();
    let leader = Gateway::controller(api, &flags);
    eventually("the first leads", async || leader.metric("carrick_leader").await == 1.0).await;
    let other = Gateway::controller(api, &flags);
    api.apply(&replicas(&[("carrick-a", leader.ops_port()), ("carrick-b", other.ops_port())]));
    leader.published().await;
    other.published().await;
    (leader, other)
}

async fn sockets(gateway: &Gateway, count: usize) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = websocket(gateway.http, "ws://a.test/").await;
        text(&mut socket).await;
        sockets.push(socket);
    }
    sockets
}

/// The Events of a reason.
fn told(api: &ApiServer, reason: &str) -> Vec<Value> {
    api.list("events").into_iter().filter(|event| event["reason"] == reason).collect()
}

async fn is_told(api: &ApiServer, reason: &str) -> Value {
    eventually(reason, async || !told(api, reason).is_empty()).await;
    told(api, reason).swap_remove(0)
}

#[tokio::test]
async fn a_drain_is_told_from_its_beginning_to_its_end_with_the_sockets_of_all_replicas() {
    let echo = Echo::start("app-0").await;
    let api = cluster(&[pod("app-0", echo.at, READY)]);
    let (leader, other) = two(&api, &[]).await;
    let mut open = sockets(&leader, 3).await;
    open.extend(sockets(&other, 2).await);
    api.apply(&pod("app-0", echo.at, TERMINATING));
    let closed = join_all(open.iter_mut().map(close_code));
    let (began, codes) = tokio::join!(is_told(&api, "DrainStarted"), closed);
    assert_eq!(codes, [1012; 5]);
    assert_eq!((&began["type"], &began["action"]), (&"Normal".into(), &"Drain".into()));
    assert!(began["note"].as_str().unwrap().starts_with("5 sockets on 2 replicas "), "{began:#}");
    assert!(!began["note"].as_str().unwrap().contains("no answer"), "{began:#}");
    assert_eq!((&began["regarding"]["kind"], &began["regarding"]["name"]), (&"Pod".into(), &"app-0".into()));
    assert_eq!((&began["regarding"]["uid"], &began["metadata"]["namespace"]), (&"uid-app-0".into(), &"default".into()));
    assert_eq!((&began["related"]["kind"], &began["related"]["name"]), (&"WsRoute".into(), &"shop".into()));
    let ended = is_told(&api, "DrainEnded").await;
    assert!(ended["note"].as_str().unwrap().starts_with("all of 5 sockets "), "{ended:#}");
    assert_eq!(other.metric("carrick_events_total{result=\"written\"}").await, 0.0);
    assert_eq!(api.count("patch pods"), 0, "nobody asked for it");
}

#[tokio::test]
async fn a_replica_that_does_not_answer_is_named() {
    let echo = Echo::start("app-0").await;
    let api = cluster(&[pod("app-0", echo.at, READY)]);
    let gateway = Gateway::controller(&api, &PEERS);
    api.apply(&replicas(&[("carrick-a", gateway.ops_port()), ("carrick-lost", nobody().await)]));
    gateway.published().await;
    let _open = sockets(&gateway, 2).await;
    api.apply(&pod("app-0", echo.at, TERMINATING));
    let note = is_told(&api, "DrainStarted").await["note"].as_str().unwrap().to_owned();
    assert!(note.starts_with("2 sockets on 1 replica ") && note.contains("carrick-lost") && !note.contains("carrick-a"), "{note}");
}

/// A server that greets, and ends with all its sockets when it is told to.
async fn hasty(told: &CancellationToken) -> SocketAddr {
    let told = told.clone();
    Scripted::start().await.each(move |socket| {
        let told = told.clone();
        async move {
            let mut socket = accept_async(socket).await.unwrap();
            socket.send(Message::text("here")).await.unwrap();
            told.cancelled().await;
        }
    })
}

#[tokio::test]
async fn a_pod_that_does_not_wait_is_a_warning() {
    let told_to_end = CancellationToken::new();
    let at = hasty(&told_to_end).await;
    let api = cluster(&[pod("app-0", at, READY)]);
    let (leader, other) = two(&api, &[]).await;
    let mut open = sockets(&leader, 2).await;
    open.extend(sockets(&other, 2).await);
    api.apply(&pod("app-0", at, TERMINATING));
    told_to_end.cancel();
    let (codes, warning) = tokio::join!(join_all(open.iter_mut().map(close_code)), is_told(&api, "EndpointGoneBeforeDrain"));
    assert_eq!(codes, [1012; 4]);
    let note = warning["note"].as_str().unwrap();
    assert!(note.starts_with("pod app-0 ended ") && note.ends_with("; add a preStop sleep, or drain by Application"), "{note}");
    assert_eq!((&warning["type"], &warning["regarding"]["name"]), (&"Warning".into(), &"app-0".into()));
    is_told(&api, "DrainEnded").await;
}

#[tokio::test]
async fn a_new_leader_tells_the_end_and_not_the_beginning_again() {
    let echo = Echo::start("app-0").await;
    let api = cluster(&[pod("app-0", echo.at, READY)]);
    let (leader, other) = two(&api, &[]).await;
    let mut open = sockets(&other, 4).await;
    api.apply(&pod("app-0", echo.at, TERMINATING));
    let closed = async { join_all(open.iter_mut().map(close_code)).await };
    let handed_over = async {
        is_told(&api, "DrainStarted").await;
        api.delete("endpointslices", "carrick-system", "carrick-a");
        leader.shut_down().await;
        is_told(&api, "DrainEnded").await
    };
    let (_, ended) = tokio::join!(closed, handed_over);
    assert!(ended["note"].as_str().unwrap().starts_with("all of 4 sockets "), "{ended:#}");
    let began = told(&api, "DrainStarted");
    assert_eq!((began.len(), &began[0]["series"]), (1, &Value::Null), "{began:#?}");
}

#[tokio::test]
async fn a_pod_says_what_it_costs_to_delete_it_and_the_leader_alone_writes_it() {
    let (busy, idle) = (Echo::start("app-0").await, Echo::start("app-1").await);
    let api = cluster(&[pod("app-0", busy.at, READY)]);
    for name in ["app-0", "app-1"] {
        api.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{example.com/theirs: stays}}}}"));
    }
    // The uid that the slice says must be the Pod's.
    let uid = |name: &str| api.get("pods", "default", name)["metadata"]["uid"].as_str().unwrap().to_owned();
    let slice = |name: &str, at| pod(name, at, READY).replace(&format!("uid-{name}"), &uid(name));
    api.apply(&slice("app-0", busy.at));
    let (leader, other) = two(&api, &["--pod-deletion-cost"]).await;
    let _open = (sockets(&leader, 3).await, sockets(&other, 2).await);
    api.apply(&slice("app-1", idle.at));
    let costs =
        |cost: &'static str| move |pod: &Value| pod["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"] == cost;
    let written = api.wait_for("the sum of both replicas", "pods", "default", "app-0", costs("5")).await;
    assert_eq!(written["metadata"]["annotations"]["example.com/theirs"], "stays");
    api.wait_for("a Pod without sockets", "pods", "default", "app-1", costs("0")).await;
    let written = "carrick_deletion_cost_writes_total{result=\"written\"}";
    eventually("both are counted", async || leader.metric(written).await >= 2.0).await;
    assert_eq!(other.metric(written).await, 0.0);
}
