//! What became of each WsRoute is written to it: the truth, by one replica, and only when it changes.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    api_server::{ApiServer, Fault, Times},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service},
};

const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\n\
                     metadata: {name: carrick, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}\n\
                     spec: {controller: carrick.dev/controller}";

/// The Service in front of Carrick.
const PUBLISHED: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: edge, namespace: carrick-system, annotations: {example.com/lb: fast}}\n\
                         spec: {type: LoadBalancer, selector: {app: carrick}, externalTrafficPolicy: Local, ports: [{port: 80, protocol: TCP}]}\n";

fn cluster(manifests: &[String]) -> ApiServer {
    let api = ApiServer::start();
    api.apply(&all([CLASS.to_owned(), service("web", &["127.0.0.1:9".parse().unwrap()])].iter().chain(manifests)));
    api
}

/// A route to a port of a Service, on a host called like the route.
fn to(name: &str, service: &str, port: &str) -> String {
    route(name, &format!("hosts: [{name}.test]\nlocations: [{{path: /, backends: [{{service: {service}, port: {port}}}]}}]"))
}

fn condition<'a>(route: &'a Value, type_: &str) -> &'a Value {
    let conditions = route["status"]["conditions"].as_array();
    conditions.and_then(|all| all.iter().find(|condition| condition["type"] == type_)).unwrap_or(&Value::Null)
}

fn is(route: &Value, type_: &str, status: &str, reason: &str) -> bool {
    let condition = condition(route, type_);
    condition["status"] == status
        && condition["reason"] == reason
        && condition["observedGeneration"] == route["metadata"]["generation"]
        && condition["lastTransitionTime"].is_string()
}

/// Waits for a condition of a route, and gives the route back.
async fn becomes(api: &ApiServer, name: &str, type_: &str, status: &str, reason: &str) -> Value {
    let what = format!("{name}: {type_}={status} {reason}");
    api.wait_for(&what, "wsroutes", "default", name, |route| is(route, type_, status, reason)).await
}

async fn is_ready(api: &ApiServer, name: &str) -> Value {
    becomes(api, name, "Ready", "True", "Ready").await
}

/// Waits until this replica leads.
async fn leads(gateway: &Gateway) {
    eventually("the replica leads", async || gateway.metric("carrick_leader").await == 1.0).await;
}

#[tokio::test]
async fn each_route_is_told_what_became_of_it() {
    let conflicting = |name: &str, port: &str| {
        route(
            name,
            &format!(
                "hosts: [same.test]\nlocations: [{{path: /ws, backends: [{{service: web, port: {port}}}]}}, {{path: /{name}, backends: [{{service: web, port: 80}}]}}]"
            ),
        )
    };
    let unreadable =
        "apiVersion: carrick.dev/v1alpha1\nkind: WsRoute\nmetadata: {name: future}\nspec: {locations: [{path: /, pathType: Telepathic}]}";
    let api = cluster(&[
        to("good", "web", "web"),
        to("lost", "nowhere", "80"),
        to("shut", "web", "81"),
        conflicting("one", "80"),
        conflicting("two", "80"),
        unreadable.to_owned(),
    ]);
    let _gateway = Gateway::controller(&api, &[]);

    let good = is_ready(&api, "good").await;
    assert!(is(&good, "Accepted", "True", "Accepted") && is(&good, "ResolvedRefs", "True", "ResolvedRefs"), "{good:#}");
    assert!(is(&good, "Programmed", "True", "Programmed"), "{good:#}");
    assert_eq!(good["status"]["controller"], "carrick.dev/controller");
    assert_eq!(good["status"]["ingressClassName"], "carrick");
    assert_eq!(good["status"]["observedGeneration"], 1);
    assert_eq!(good["status"]["locations"], Value::Null);

    let lost = becomes(&api, "lost", "Ready", "False", "NotReady").await;
    assert!(is(&lost, "ResolvedRefs", "False", "ServiceNotFound") && is(&lost, "Accepted", "True", "Accepted"), "{lost:#}");
    assert!(condition(&lost, "ResolvedRefs")["message"].as_str().unwrap().contains("default/nowhere"));
    assert_eq!(lost["status"]["locations"][0]["reason"], "ServiceNotFound");

    let shut = becomes(&api, "shut", "Ready", "False", "NotReady").await;
    assert!(is(&shut, "ResolvedRefs", "False", "PortNotFound"), "{shut:#}");
    assert!(is_ready(&api, "one").await["status"]["conditions"].as_array().unwrap().len() == 4);
    let two = becomes(&api, "two", "Conflicted", "True", "Conflicted").await;
    assert!(is(&two, "Ready", "True", "Ready"), "its rest is served: {two:#}");
    let future = becomes(&api, "future", "Accepted", "False", "Invalid").await;
    assert!(is(&future, "Programmed", "False", "Invalid") && is(&future, "Ready", "False", "NotReady"), "{future:#}");
}

#[tokio::test]
async fn what_changes_is_written_once_and_what_does_not_never() {
    let api = cluster(&[to("good", "web", "80"), to("lost", "later", "80")]);
    let gateway = Gateway::controller(&api, &[]);
    let good = is_ready(&api, "good").await;
    let lost = becomes(&api, "lost", "Ready", "False", "NotReady").await;
    eventually("nothing is left to be written", async || gateway.metric("carrick_status_pending").await == 0.0).await;
    let written = api.count("patch wsroutes/status");
    assert_eq!(written, 2);

    // Endpoints come and go, what is watched is told again, and a route is labelled.
    api.apply(&service("web", &["127.0.0.1:9".parse().unwrap(), "127.0.0.2:9".parse().unwrap()]));
    api.bookmark();
    api.apply(&to("good", "web", "80").replace("name: good", "name: good, labels: {a: b}"));
    let generation = gateway.generation();
    api.apply(&service("later", &[]));
    let found = is_ready(&api, "lost").await;
    assert!(gateway.generation() > generation);
    assert_eq!(api.count("patch wsroutes/status"), written + 1);
    let transition = |route: &Value, type_: &str| condition(route, type_)["lastTransitionTime"].clone();
    assert_eq!(transition(&lost, "Accepted"), transition(&found, "Accepted"));
    assert_eq!(api.get("wsroutes", "default", "good")["status"], good["status"]);

    // Somebody took it away.
    let mut stripped = api.get("wsroutes", "default", "good");
    stripped["status"] = serde_json::json!({});
    api.apply(&stripped.to_string());
    is_ready(&api, "good").await;
}

#[tokio::test]
async fn a_new_generation_is_not_ready_by_what_was_said_of_the_last() {
    let api = cluster(&[to("shop", "web", "80")]);
    let _gateway = Gateway::controller(&api, &[]);
    is_ready(&api, "shop").await;
    api.apply(&to("shop", "nowhere", "80"));
    let broken = becomes(&api, "shop", "Ready", "False", "NotReady").await;
    assert_eq!((&broken["metadata"]["generation"], &broken["status"]["observedGeneration"]), (&2.into(), &2.into()));
    // Deleted and created again within one look: another object, of generation 1 again.
    api.delete("wsroutes", "default", "shop");
    api.apply(&to("shop", "web", "80"));
    let again = is_ready(&api, "shop").await;
    assert_eq!(again["metadata"]["generation"], 1);
}

#[tokio::test]
async fn of_two_replicas_one_writes_and_the_other_takes_over_at_once_when_it_goes() {
    let api = cluster(&[to("first", "web", "80")]);
    let leader = Gateway::controller(&api, &[]);
    leads(&leader).await;
    let other = Gateway::controller(&api, &[]);
    other.published().await;
    is_ready(&api, "first").await;
    api.apply(&to("second", "web", "80"));
    is_ready(&api, "second").await;
    assert_eq!(other.metric("carrick_leader").await, 0.0);
    assert_eq!(other.metric("carrick_status_writes_total{result=\"written\"}").await, 0.0);
    let writes = api.count("patch wsroutes/status");

    leader.shut_down().await;
    let lease = api.get("leases", "carrick-system", "carrick");
    leads(&other).await;
    assert!(lease["spec"]["leaseTransitions"].as_i64().is_some_and(|transitions| transitions >= 1), "{lease:#}");
    api.apply(&to("third", "web", "80"));
    is_ready(&api, "third").await;
    assert_eq!(api.count("patch wsroutes/status"), writes + 1, "what the first one wrote is not written again");
}

#[tokio::test]
async fn a_leader_that_dies_is_replaced() {
    let api = cluster(&[]);
    let leader = Gateway::controller(&api, &[]);
    leads(&leader).await;
    let other = Gateway::controller(&api, &[]);
    other.published().await;
    drop(leader);
    api.apply(&to("late", "web", "80"));
    is_ready(&api, "late").await;
    assert_eq!(other.metric("carrick_leader_transitions_total").await, 1.0);
}

#[tokio::test]
async fn a_leader_without_an_api_server_leads_no_more_and_serves_on() {
    let api = cluster(&[to("shop", "web", "80")]);
    let gateway = Gateway::controller(&api, &[]);
    is_ready(&api, "shop").await;
    let generation = gateway.generation();
    api.freeze();
    eventually("it gave up", async || gateway.metric("carrick_leader").await == 0.0).await;
    assert_eq!(gateway.generation(), generation);
    api.thaw();
    leads(&gateway).await;
}

#[tokio::test]
async fn writes_that_fail_or_race_are_made_good() {
    let api = cluster(&[]);
    let gateway = Gateway::controller(&api, &[]);
    leads(&gateway).await;
    for (name, fault) in
        [("conflict", Fault::Status(409)), ("error", Fault::Status(500)), ("busy", Fault::RetryAfter(1)), ("lost", Fault::Lost)]
    {
        api.fail("patch wsroutes/status", fault, Times::Once);
        api.apply(&to(name, "web", "80"));
        is_ready(&api, name).await;
    }
    api.slow(Duration::from_millis(300));
    api.apply(&to("slow", "web", "80"));
    is_ready(&api, "slow").await;
    assert_eq!(gateway.metric("carrick_status_writes_total{result=\"conflict\"}").await, 1.0);
    assert!(gateway.metric("carrick_status_writes_total{result=\"failed\"}").await >= 1.0);
}

#[tokio::test]
async fn addresses_are_those_of_the_published_service() {
    let api = cluster(&[to("shop", "web", "80"), PUBLISHED.to_owned()]);
    let _gateway = Gateway::controller(&api, &["--publish-service", "carrick-system/edge"]);
    let shop = is_ready(&api, "shop").await;
    assert_eq!(shop["status"]["loadBalancer"], Value::Null, "its load balancer has none yet");
    api.apply(&format!("{PUBLISHED}status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.1}}, {{hostname: lb.example.com}}]}}}}"));
    let addressed = |route: &Value| route["status"]["loadBalancer"]["ingress"][1]["hostname"] == "lb.example.com";
    let shop = api.wait_for("the addresses", "wsroutes", "default", "shop", addressed).await;
    assert_eq!(shop["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.1");

    let api = cluster(&[to("shop", "web", "80")]);
    let _gateway = Gateway::controller(&api, &["--publish-address", "192.0.2.9,edge.example.com"]);
    let shop = is_ready(&api, "shop").await;
    assert_eq!(shop["status"]["loadBalancer"]["ingress"], serde_json::json!([{"ip": "192.0.2.9"}, {"hostname": "edge.example.com"}]));
}

#[tokio::test]
async fn a_route_that_is_ours_no_more_loses_what_we_said_and_keeps_what_others_say() {
    let api = cluster(&[to("shop", "web", "80")]);
    let _gateway = Gateway::controller(&api, &[]);
    is_ready(&api, "shop").await;
    let mut shop = api.get("wsroutes", "default", "shop");
    shop["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({"type": "Checked", "status": "True", "reason": "Checked", "message": ""}));
    api.apply(&shop.to_string());
    api.apply(&to("shop", "web", "80").replace("spec:\n", "spec:\n  ingressClassName: another\n"));
    let gone = |route: &Value| route["status"]["controller"].is_null();
    let shop = api.wait_for("our status is gone", "wsroutes", "default", "shop", gone).await;
    assert_eq!(shop["status"]["conditions"].as_array().map(Vec::len), Some(1), "{shop:#}");
    assert_eq!(condition(&shop, "Checked")["status"], "True");
}

#[tokio::test]
async fn a_user_sees_events_where_something_turned_bad_and_good_again() {
    let api = cluster(&[to("shop", "web", "80")]);
    let gateway = Gateway::controller(&api, &[]);
    is_ready(&api, "shop").await;
    assert!(api.list("events").is_empty(), "what is good from the start is no news");
    api.apply(&to("shop", "nowhere", "80"));
    eventually("a warning", async || api.list("events").len() == 1).await;
    let event = &api.list("events")[0];
    assert_eq!(
        (&event["type"], &event["reason"], &event["regarding"]["name"]),
        (&"Warning".into(), &"ServiceNotFound".into(), &"shop".into())
    );
    assert_eq!(event["regarding"]["uid"], api.get("wsroutes", "default", "shop")["metadata"]["uid"]);
    assert!(event["note"].as_str().unwrap().contains("default/nowhere"));
    api.apply(&to("shop", "web", "80"));
    eventually("good again", async || api.list("events").iter().any(|event| event["type"] == "Normal")).await;
    // The same once more is one more of a series.
    api.apply(&to("shop", "nowhere", "80"));
    eventually("a series", async || api.list("events").iter().any(|event| event["series"]["count"] == 2)).await;
    assert_eq!(api.list("events").len(), 2);
    eventually("three are counted", async || gateway.metric("carrick_events_total{result=\"written\"}").await == 3.0).await;
}

fn tcp(name: &str, port: u16) -> String {
    route(name, &format!("tcp: [{{port: {port}, backends: [{{service: web, port: 80}}]}}]"))
}

#[tokio::test]
async fn the_ports_of_tcp_entries_have_a_service_of_their_own() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let api = cluster(&[tcp("one", free), PUBLISHED.to_owned()]);
    let flags = ["--publish-service", "carrick-system/edge", "--manage-tcp-service", "--tcp-ports", "1024-65535"];
    let _gateway = Gateway::controller(&api, &flags);
    let is_there = |service: &Value| service["spec"]["ports"][0]["port"] == free;
    let made = api.wait_for("the Service", "services", "carrick-system", "edge-tcp", is_there).await;
    assert_eq!((&made["spec"]["type"], &made["spec"]["selector"]["app"]), (&"LoadBalancer".into(), &"carrick".into()));
    assert_eq!(made["metadata"]["annotations"]["example.com/lb"], "fast");
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], api.get("services", "carrick-system", "edge")["metadata"]["uid"]);
    let written = api.count("update services") + api.count("create services");
    assert_eq!(written, 1);
    api.delete("wsroutes", "default", "one");
    api.wait_for("it is gone", "services", "carrick-system", "edge-tcp", Value::is_null).await;
}

#[tokio::test]
async fn a_service_that_somebody_else_made_is_left_alone() {
    let theirs = "apiVersion: v1\nkind: Service\nmetadata: {name: edge-tcp, namespace: carrick-system}\nspec: {ports: [{port: 1}]}";
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let api = cluster(&[tcp("one", free), PUBLISHED.to_owned(), theirs.to_owned()]);
    let flags = ["--publish-service", "carrick-system/edge", "--manage-tcp-service", "--tcp-ports", "1024-65535"];
    let _gateway = Gateway::controller(&api, &flags);
    eventually("a warning", async || api.list("events").iter().any(|event| event["reason"] == "TcpServiceNotOurs")).await;
    assert_eq!(api.get("services", "carrick-system", "edge-tcp")["spec"]["ports"], serde_json::json!([{"port": 1}]));
    assert_eq!(api.count("update services") + api.count("delete services"), 0);
}

#[tokio::test]
async fn thousands_of_routes_are_written_without_haste() {
    let routes: Vec<String> = (0..300).map(|number| to(&format!("route-{number}"), "web", "80")).collect();
    let api = cluster(&routes);
    let gateway = Gateway::controller(&api, &[]);
    for number in [0, 150, 299] {
        is_ready(&api, &format!("route-{number}")).await;
    }
    eventually("nothing is left to be written", async || gateway.metric("carrick_status_pending").await == 0.0).await;
    assert_eq!(api.count("patch wsroutes/status"), 300);
}
