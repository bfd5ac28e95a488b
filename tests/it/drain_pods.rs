//! Pods that end, as the API server tells of them: each has the time that its own object says, and is asked for it once.

use std::net::SocketAddr;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::support::{
    api_server::{ApiServer, Fault, Times},
    client::{self, Socket, close_code, still_echoes, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service},
    peers::Echo,
};

const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\n\
                     metadata: {name: carrick, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}\n\
                     spec: {controller: carrick.dev/controller}";
const READY: &str = "ready: true";
const UNREADY: &str = "ready: false, serving: false, terminating: false";
const TERMINATING: &str = "ready: false, serving: true, terminating: true";

/// A Pod of the Service `app`; `metadata` and `status` are more of it.
fn pod(name: &str, metadata: &str, status: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{metadata}}}\nstatus: {{{status}}}")
}

/// What a deletion writes on a Pod that has so long a grace period, all of which is left.
fn deleted(grace: i64) -> String {
    let at = Timestamp::now().checked_add(SignedDuration::from_secs(grace)).unwrap();
    format!(", deletionTimestamp: '{}', deletionGracePeriodSeconds: {grace}", at.strftime("%Y-%m-%dT%H:%M:%SZ"))
}

/// A cluster with one Service, whose Pods the test tells of.
struct Cluster {
    api: ApiServer,
    gateway: Gateway,
}

impl Cluster {
    /// With these Pods ready, and what the location says beside.
    async fn start(pods: &[(&str, SocketAddr)], flags: &[&str], more: &str) -> Self {
        let api = ApiServer::start();
        api.fail("* leases", Fault::Status(403), Times::Always);
        let location =
            format!("locations:\n- path: /\n  backends: [{{service: app, port: 80}}]\n  loadBalancing: {{policy: RoundRobin}}\n{more}");
        api.apply(&all([CLASS.to_owned(), service("app", &[]), route("r", &location)]));
        for (name, at) in pods {
            api.apply(&pod(name, "", "phase: Running"));
            api.apply(&slice(&api, name, *at, READY));
        }
        let gateway = Gateway::controller(&api, flags);
        gateway.published().await;
        Self { api, gateway }
    }

    /// What the slice of a Pod says of it now.
    fn endpoint(&self, name: &str, at: SocketAddr, conditions: &str) {
        self.api.apply(&slice(&self.api, name, at, conditions));
    }

    async fn open(&self, count: usize) -> Vec<(String, Socket)> {
        let mut sockets = Vec::new();
        for _ in 0..count {
            let mut socket = websocket(self.gateway.http, "ws://a.test/").await;
            sockets.push((text(&mut socket).await, socket));
        }
        sockets
    }

    /// The tunnels to a Pod, as `/debug/tunnels` shows them.
    async fn tunnels(&self, name: &str) -> Vec<Value> {
        let answer = self.gateway.admin(&format!("/debug/tunnels?endpoint={name}")).await;
        let page: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        page["tunnels"].as_array().unwrap().clone()
    }

    /// Waits until all tunnels to a Pod wait for their turn, and tells in how many seconds the first and the last of them have it.
    async fn turns(&self, name: &str) -> (f64, f64) {
        let is_ordered = |tunnel: &Value| tunnel["state"] == "ordered" && tunnel["reason"] == "pod_terminating";
        eventually("all are ordered", async || {
            let tunnels = self.tunnels(name).await;
            !tunnels.is_empty() && tunnels.iter().all(is_ordered)
        })
        .await;
        let turns: Vec<f64> = self.tunnels(name).await.iter().map(|tunnel| tunnel["closes_in_seconds"].as_f64().unwrap()).collect();
        (turns.iter().copied().fold(f64::MAX, f64::min), turns.iter().copied().fold(0.0, f64::max))
    }
}

/// The slice of one Pod, with the UID that the server gave it.
fn slice(api: &ApiServer, name: &str, at: SocketAddr, conditions: &str) -> String {
    let uid = api.get("pods", "default", name)["metadata"]["uid"].as_str().unwrap().to_owned();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: app}}}}\n\
         addressType: IPv4\nports: [{{name: web, port: {}}}]\n\
         endpoints: [{{addresses: [{}], conditions: {{{conditions}}}, targetRef: {{kind: Pod, name: {name}, uid: {uid}}}}}]",
        at.port(),
        at.ip()
    )
}

#[tokio::test]
async fn a_pod_that_ends_has_the_time_that_it_says_and_is_asked_once() {
    let (old, new) = (Echo::start("old").await, Echo::start("new").await);
    let cluster = Cluster::start(&[("old", old.at), ("new", new.at)], &[], "").await;
    let mut sockets = cluster.open(8).await;
    cluster.api.apply(&pod("old", &deleted(3600), "phase: Running"));
    cluster.endpoint("old", old.at, TERMINATING);
    let (first, last) = cluster.turns("old").await;
    assert!(first > 3500.0 && last < 3600.0, "in the last minute, less the margin: {first} {last}");
    assert_eq!(cluster.api.count("get pods"), 1);
    assert_eq!(cluster.gateway.metric("carrick_drains_pending{reason=\"pod_terminating\"}").await, 4.0);
    assert!(cluster.tunnels("new").await.iter().all(|tunnel| tunnel["state"] == "open"));
    assert!(cluster.open(4).await.iter().all(|(name, _)| name == "new"), "it takes nothing new");
    for (_, socket) in &mut sockets {
        still_echoes(socket).await;
    }
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_now() {
    let old = Echo::start("old").await;
    let cluster = Cluster::start(&[("old", old.at)], &[], "").await;
    let mut sockets = cluster.open(3).await;
    cluster.api.apply(&pod("old", &deleted(0), "phase: Running"));
    cluster.endpoint("old", old.at, TERMINATING);
    for (_, socket) in &mut sockets {
        assert_eq!(close_code(socket).await, 1012);
    }
}

#[tokio::test]
async fn a_pod_that_nobody_may_ask_about_has_ten_seconds() {
    let old = Echo::start("old").await;
    let cluster = Cluster::start(&[("old", old.at)], &[], "  drain: {start: 5s}").await;
    cluster.api.fail("get pods", Fault::Status(403), Times::Always);
    let _sockets = cluster.open(4).await;
    cluster.api.apply(&pod("old", &deleted(3600), "phase: Running"));
    cluster.endpoint("old", old.at, TERMINATING);
    let (_, last) = cluster.turns("old").await;
    assert!(last <= 10.0, "{last}");
}

#[tokio::test]
async fn an_endpoint_that_leaves_its_service_ends_with_its_pod_and_not_before() {
    let (failed, relabelled) = (Echo::start("failed").await, Echo::start("relabelled").await);
    let cluster = Cluster::start(&[("failed", failed.at), ("relabelled", relabelled.at)], &[], "").await;
    let mut sockets = cluster.open(2).await;
    sockets.sort_by(|(a, _), (b, _)| a.cmp(b));
    cluster.api.apply(&pod("failed", "", "phase: Failed, reason: Evicted"));
    cluster.api.delete("endpointslices", "default", "failed");
    cluster.api.delete("endpointslices", "default", "relabelled");
    assert_eq!(close_code(&mut sockets[0].1).await, 1012);
    eventually("both were asked", async || cluster.api.count("get pods") == 2).await;
    still_echoes(&mut sockets[1].1).await;
    assert_eq!(cluster.tunnels("relabelled").await[0]["state"], "open");
}

#[tokio::test]
async fn readiness_that_flaps_ends_nothing_but_a_node_that_shuts_down_does() {
    let app = Echo::start("app").await;
    let cluster = Cluster::start(&[("app", app.at)], &[], "  drain: {onEndpointRemoved: Drain}").await;
    let mut sockets = cluster.open(1).await;
    for asked in 1..=2 {
        cluster.endpoint("app", app.at, UNREADY);
        eventually("asked about", async || cluster.api.count("get pods") == asked).await;
        cluster.endpoint("app", app.at, READY);
        eventually("it takes sockets again", async || client::status(&client::get(cluster.gateway.http, "a.test", "/").await) != 503).await;
        still_echoes(&mut sockets[0].1).await;
    }
    let condition = "conditions: [{type: DisruptionTarget, status: 'True', reason: TerminationByKubelet}]";
    cluster.api.apply(&pod("app", "", &format!("phase: Running, {condition}")));
    cluster.endpoint("app", app.at, UNREADY);
    assert_eq!(close_code(&mut sockets[0].1).await, 1012);
}

#[tokio::test]
async fn a_pod_that_ends_while_we_do_has_its_own_deadline() {
    let app = Echo::start("app").await;
    let cluster = Cluster::start(&[("app", app.at)], &["--shutdown-delay", "0s", "--drain-timeout", "30m"], "").await;
    let mut sockets = cluster.open(2).await;
    let Cluster { api, gateway } = cluster;
    let ops = gateway.ops_port();
    let series = |page: String, name: &str| -> f64 {
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map_or(0.0, |value| value.parse().unwrap())
    };
    let scrape = async || client::get(ops, "ops", "/metrics").await;
    assert_eq!(series(scrape().await, "carrick_replica_drain_deadline_seconds"), 0.0);
    let clients = async {
        assert_eq!(close_code(&mut sockets[0].1).await, 1012, "the oldest has the first turn");
        let page = scrape().await;
        assert!(series(page.clone(), "carrick_replica_drain_deadline_seconds") > Timestamp::now().as_second() as f64);
        assert_eq!(series(page, "carrick_drains_pending{reason=\"shutdown\"}"), 1.0);
        api.apply(&pod("app", &deleted(5), "phase: Running"));
        let terminating = slice(&api, "app", app.at, TERMINATING);
        api.apply(&terminating);
        assert_eq!(close_code(&mut sockets[1].1).await, 1012, "long before its turn of the shutdown");
        drop(sockets);
    };
    tokio::join!(gateway.shut_down(), clients);
}
