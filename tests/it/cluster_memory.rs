//! What a cluster's objects cost the controller: the command itself, in a process of its own, before an API server that has many.

use std::{fs, net::SocketAddr, process::Command};

use crate::support::{
    api_server::ApiServer,
    client::get,
    eventually,
    manifest::{all, route},
    process::{Process, measured},
};

const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 10;

/// A kind that is kept as it comes, with the bulk of its metadata, costs more than this alone.
const AT_MOST_KIB: u64 = 40 * 1024;

struct Controller {
    process: Process,
    ops: SocketAddr,
}

impl Controller {
    async fn start(api: &ApiServer) -> Self {
        let off = ["--bind", "127.0.0.1", "--http-port", "0", "--https-port", "off", "--admin-bind", "off", "--ops-bind", "127.0.0.1:0"];
        let mut process =
            Process::start(Command::new(measured()).arg("controller").arg("--kubeconfig").arg(api.kubeconfig()).args(off).args([
                "--workers",
                "2",
                "--log",
                "warn",
            ]));
        let ops = process.port("ops").await;
        Self { process, ops }
    }

    async fn has(&self, series: &str) -> bool {
        get(self.ops, "ops", "/metrics").await.lines().any(|line| line == series)
    }

    async fn serves(&self, hosts: usize) {
        let objects = format!("carrick_watch_objects{{kind=\"WsRoute\",namespace=\"\"}} {hosts}");
        eventually("every route listed", async || self.has(&objects).await).await;
        eventually("served", async || self.has("carrick_config_errors 0").await && !self.has("carrick_generation 0").await).await;
    }

    /// Now, and at most since the start, in KiB.
    fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim_end_matches(" kB").trim().parse().ok()).unwrap();
        (field("VmRSS:"), field("VmHWM:"))
    }
}

/// A Service, its endpoints and its route, with the bulk that objects have in a cluster and nobody reads.
fn objects(number: usize) -> String {
    let bulk = format!("annotations: {{kubectl.kubernetes.io/last-applied-configuration: \"{}\"}}", "x".repeat(1_500));
    let addresses = (0..ENDPOINTS).map(|endpoint| {
        let (high, low) = (number / 200, number % 200);
        format!("{{addresses: [10.{high}.{low}.{endpoint}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: app-{number}-{endpoint}}}}}")
    });
    let addresses = addresses.collect::<Vec<_>>().join(", ");
    all([
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: app-{number}, {bulk}}}\nspec: {{ports: [{{name: web, port: 80}}]}}"),
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: app-{number}-1, labels: {{kubernetes.io/service-name: app-{number}}}, {bulk}}}\n\
             addressType: IPv4\nports: [{{name: web, port: 8080}}]\nendpoints: [{addresses}]"
        ),
        route(
            &format!("app-{number}"),
            &format!("hosts: [app-{number}.test]\nlocations:\n- {{path: /, backends: [{{service: app-{number}, port: web}}]}}"),
        ),
    ])
}

#[tokio::test]
async fn a_thousand_services_and_routes_cost_little() {
    let api = ApiServer::start();
    api.apply(
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\n\
         metadata: {name: carrick, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}\n\
         spec: {controller: carrick.dev/controller}",
    );
    let empty = {
        let controller = Controller::start(&api).await;
        controller.serves(0).await;
        controller.memory().0
    };
    (0..SERVICES).for_each(|number| api.apply(&objects(number)));
    let controller = Controller::start(&api).await;
    controller.serves(SERVICES).await;
    let (now, most) = controller.memory();
    eprintln!(
        "{empty} KiB without objects, {now} KiB with {SERVICES} Services of {ENDPOINTS} endpoints and as many routes, {most} KiB at most"
    );
    assert!(now - empty < AT_MOST_KIB, "{empty} KiB, then {now} KiB");
}
