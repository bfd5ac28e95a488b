//! What the API server tells, and fails to tell, becomes what is served: nothing too early, nothing lost, nobody disturbed.

use std::process::{Command, Output};

use crate::support::{
    api_server::{ApiServer, Fault, Times},
    client::{self, get, status, still_echoes, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service, site, slice},
    peers::Echo,
};

const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\n\
                     metadata: {name: carrick, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}\n\
                     spec: {controller: carrick.dev/controller}";

/// Whatever an API server may have, held back one by one: the lists that a first configuration waits for.
const LISTED: [&str; 6] = ["namespaces", "ingressclasses", "services", "endpointslices", "secrets", "wsroutes"];

fn cluster(manifests: &str) -> ApiServer {
    let api = ApiServer::start();
    // Nobody leads, so that the statuses' own watch is not counted with these.
    api.fail("* leases", Fault::Status(403), Times::Always);
    api.apply(&all([CLASS, manifests]));
    api
}

async fn serving(api: &ApiServer, flags: &[&str]) -> Gateway {
    let gateway = Gateway::controller(api, flags);
    gateway.published().await;
    gateway
}

/// A route that answers `path` with a redirect: a location that needs nothing else.
fn redirect(name: &str, path: &str) -> String {
    route(name, &format!("locations:\n- {{path: {path}, redirect: {{path: /elsewhere}}}}"))
}

async fn eventually_answers(gateway: &Gateway, path: &str, expected: u16) {
    let what = format!("{path} answered with {expected}");
    eventually(&what, async || status(&get(gateway.http, "a.test", path).await) == expected).await;
}

#[tokio::test]
async fn nothing_is_served_before_every_kind_was_listed() {
    let echo = Echo::start("echo").await;
    for late in LISTED {
        let api = cluster(&site("app", "/ws", &[echo.at]));
        api.fail(&format!("list {late}"), Fault::Status(500), Times::Always);
        let gateway = Gateway::controller(&api, &[]);
        let failed = format!("carrick_watch_errors_total{{kind=\"{}\",namespace=\"\",reason=\"server_error\"}}", kind(late));
        eventually("the list refused twice", async || gateway.metric(&failed).await >= 2.0).await;
        let others = LISTED.into_iter().filter(|plural| *plural != late);
        for other in others {
            let up = format!("carrick_watch_up{{kind=\"{}\",namespace=\"\"}}", kind(other));
            eventually("the other kinds listed", async || gateway.metric(&up).await == 1.0).await;
        }
        assert_eq!(gateway.generation(), 0, "{late} were not listed");
        assert_eq!(client::status(&gateway.ops("/readyz").await), 503);
        api.heal();
        gateway.published().await;
        assert_eq!(text(&mut websocket(gateway.http, "ws://a.test/ws").await).await, "echo");
    }
}

fn kind(plural: &str) -> &'static str {
    match plural {
        "namespaces" => "Namespace",
        "ingressclasses" => "IngressClass",
        "services" => "Service",
        "endpointslices" => "EndpointSlice",
        "secrets" => "Secret",
        "wsroutes" => "WsRoute",
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_list_of_many_pages_is_read_to_its_end() {
    let api = cluster(CLASS);
    (0..1_203).for_each(|n| api.apply(&redirect(&format!("r{n}"), &format!("/r{n}"))));
    let gateway = serving(&api, &[]).await;
    assert_eq!(api.count("list wsroutes"), 3);
    for n in [0, 500, 1_202] {
        assert_eq!(status(&get(gateway.http, "a.test", &format!("/r{n}")).await), 308, "r{n}");
    }
    assert_eq!(gateway.metric(r#"carrick_watch_objects{kind="WsRoute",namespace=""}"#).await, 1_203.0);
}

#[tokio::test]
async fn what_changes_is_served_and_what_is_gone_is_not() {
    let api = cluster(&redirect("a", "/a"));
    let gateway = serving(&api, &[]).await;
    api.apply(&redirect("b", "/b"));
    eventually_answers(&gateway, "/b", 308).await;
    api.apply(&redirect("a", "/moved"));
    eventually_answers(&gateway, "/moved", 308).await;
    eventually_answers(&gateway, "/a", 404).await;
    api.delete("wsroutes", "default", "b");
    eventually_answers(&gateway, "/b", 404).await;
    assert_eq!(gateway.metric(r#"carrick_watch_objects{kind="WsRoute",namespace=""}"#).await, 1.0);
}

#[tokio::test]
async fn an_endpoint_that_comes_or_goes_compiles_no_router() {
    let (blue, green) = (Echo::start("blue").await, Echo::start("green").await);
    let other = Echo::start("other").await;
    let api = cluster(&all([site("app", "/ws", &[blue.at]), site("other", "/other", &[other.at])]));
    let gateway = serving(&api, &[]).await;
    let mut held = websocket(gateway.http, "ws://a.test/other").await;
    assert_eq!(text(&mut held).await, "other");
    let compiled = gateway.metric("carrick_router_compilations_total").await;
    let lists = api.count("list wsroutes");

    // A rollout: the new one joins, the old one terminates and is gone; the Service's status and labels change meanwhile.
    api.apply(&slice("app", 1, green.at, "ready: true"));
    api.apply(&slice("app", 0, blue.at, "ready: false, serving: true, terminating: true"));
    eventually("a socket to green", async || text(&mut websocket(gateway.http, "ws://a.test/ws").await).await == "green").await;
    api.delete("endpointslices", "default", "app-0");
    api.apply("apiVersion: v1\nkind: Service\nmetadata: {name: app, labels: {rollout: '2'}}\nspec: {ports: [{name: web, port: 80}]}");
    let count = async |state| gateway.metric(&format!("carrick_pool_endpoints{{pool=\"default/app:80\",state=\"{state}\"}}")).await;
    eventually("green alone", async || count("ready").await == 1.0 && count("draining").await == 0.0).await;

    still_echoes(&mut held).await;
    assert_eq!(gateway.metric("carrick_router_compilations_total").await, compiled);
    assert!(gateway.metric(r#"carrick_config_apply_seconds_count{lane="endpoints"}"#).await >= 2.0);
    assert_eq!(gateway.metric(r#"carrick_config_apply_seconds_count{lane="routes"}"#).await, 0.0);
    assert_eq!(api.count("list wsroutes"), lists);
}

#[tokio::test]
async fn a_socket_and_the_configuration_outlive_an_api_server_that_is_gone() {
    let echo = Echo::start("echo").await;
    let api = cluster(&all([site("app", "/ws", &[echo.at]), redirect("gone", "/gone")]));
    let gateway = serving(&api, &[]).await;
    let mut held = websocket(gateway.http, "ws://a.test/ws").await;
    assert_eq!(text(&mut held).await, "echo");
    let up = r#"carrick_watch_up{kind="WsRoute",namespace=""}"#;
    eventually("the watch", async || gateway.metric(up).await == 1.0).await;
    let generation = gateway.generation();

    api.stop();
    eventually("the loss noticed", async || gateway.metric(up).await == 0.0).await;
    still_echoes(&mut held).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://a.test/ws").await).await, "echo");
    assert_eq!(client::status(&gateway.ops("/readyz").await), 200);
    assert_eq!(gateway.generation(), generation);

    // What happens meanwhile, a deletion above all, is caught up with.
    api.delete("wsroutes", "default", "gone");
    api.apply(&redirect("new", "/new"));
    api.resume();
    eventually_answers(&gateway, "/new", 308).await;
    eventually_answers(&gateway, "/gone", 404).await;
    eventually("the watch again", async || gateway.metric(up).await == 1.0).await;
    still_echoes(&mut held).await;
}

#[tokio::test]
async fn an_equal_list_after_an_outage_changes_nothing() {
    let echo = Echo::start("echo").await;
    let api = cluster(&site("app", "/ws", &[echo.at]));
    let gateway = serving(&api, &[]).await;
    let generation = gateway.generation();
    let lists: Vec<usize> = LISTED.iter().map(|plural| api.count(&format!("list {plural}"))).collect();

    api.stop();
    api.expire();
    api.resume();
    for (plural, before) in LISTED.iter().zip(lists) {
        eventually("a new list", async || api.count(&format!("list {plural}")) > before).await;
        eventually("a new watch", async || api.watching(plural) == 1).await;
    }
    // A change behind them all: what the lists said was taken in before it.
    api.apply(&redirect("last", "/last"));
    eventually_answers(&gateway, "/last", 308).await;
    assert_eq!(gateway.generation(), generation + 1);
}

#[tokio::test]
async fn a_history_that_was_forgotten_is_listed_anew_and_no_deletion_is_lost() {
    let api = cluster(&all([redirect("a", "/a"), redirect("b", "/b")]));
    let gateway = serving(&api, &[]).await;
    eventually("the watch", async || api.watching("wsroutes") == 1).await;
    let lists = api.count("list wsroutes");
    api.fail("watch wsroutes", Fault::Status(410), Times::Once);
    api.expire();
    api.delete("wsroutes", "default", "a");
    eventually_answers(&gateway, "/a", 404).await;
    assert_eq!(status(&get(gateway.http, "a.test", "/b").await), 308);
    assert!(api.count("list wsroutes") > lists);
}

#[tokio::test]
async fn a_server_that_is_too_busy_is_asked_again_when_it_wants_to_be() {
    let api = cluster(&redirect("a", "/a"));
    api.fail("list wsroutes", Fault::RetryAfter(1), Times::Once);
    let gateway = serving(&api, &[]).await;
    assert_eq!(api.count("list wsroutes"), 2, "once refused, once answered");
    let busy = r#"carrick_watch_errors_total{kind="WsRoute",namespace="",reason="too_many_requests"}"#;
    assert_eq!(gateway.metric(busy).await, 1.0);
    assert_eq!(status(&get(gateway.http, "a.test", "/a").await), 308);
}

#[tokio::test]
async fn a_definition_that_is_missing_is_waited_for() {
    let api = cluster(&redirect("a", "/a"));
    api.not_serving("wsroutes");
    api.not_serving("referencegrants");
    let gateway = Gateway::controller(&api, &[]);
    let missing = r#"carrick_watch_errors_total{kind="WsRoute",namespace="",reason="not_found"}"#;
    eventually("it was missed", async || gateway.metric(missing).await >= 2.0).await;
    assert_eq!(gateway.generation(), 0);
    api.heal();
    gateway.published().await;
    assert_eq!(status(&get(gateway.http, "a.test", "/a").await), 308);
}

#[tokio::test]
async fn a_right_that_is_missing_is_waited_for_and_one_that_is_lost_costs_nothing() {
    let api = cluster(&redirect("a", "/a"));
    api.fail("list services", Fault::Status(403), Times::Always);
    let gateway = Gateway::controller(&api, &[]);
    let forbidden = r#"carrick_watch_errors_total{kind="Service",namespace="",reason="forbidden"}"#;
    eventually("it was refused", async || gateway.metric(forbidden).await >= 2.0).await;
    assert_eq!(gateway.generation(), 0);
    api.heal();
    gateway.published().await;

    // Lost again, with the watch cut: what was listed stays.
    api.fail("list wsroutes", Fault::Status(403), Times::Always);
    api.fail("watch wsroutes", Fault::Status(403), Times::Always);
    api.stop();
    api.expire();
    api.resume();
    let forbidden = r#"carrick_watch_errors_total{kind="WsRoute",namespace="",reason="forbidden"}"#;
    eventually("it was refused", async || gateway.metric(forbidden).await >= 1.0).await;
    assert_eq!(status(&get(gateway.http, "a.test", "/a").await), 308);
}

#[tokio::test]
async fn a_route_that_can_not_be_read_harms_only_itself() {
    let odd = route("odd", "locations:\n- {path: /odd, pathType: Telepathy, redirect: {path: /}}");
    let api = cluster(&all([redirect("a", "/a"), odd]));
    let gateway = serving(&api, &[]).await;
    assert_eq!(status(&get(gateway.http, "a.test", "/a").await), 308);
    assert_eq!(status(&get(gateway.http, "a.test", "/odd").await), 404);
    // And so does one that turns unreadable while it is watched.
    api.apply(&route("a", "locations: eleven"));
    eventually_answers(&gateway, "/a", 404).await;
    api.apply(&all([redirect("a", "/a"), redirect("odd", "/odd")]));
    eventually_answers(&gateway, "/a", 308).await;
    eventually_answers(&gateway, "/odd", 308).await;
}

#[tokio::test]
async fn an_object_of_another_kind_that_can_not_be_read_counts_as_not_there() {
    let echo = Echo::start("echo").await;
    let odd = "apiVersion: v1\nkind: Service\nmetadata: {name: odd}\nspec: {ports: none}";
    let api = cluster(&all([site("app", "/ws", &[echo.at]), odd.to_owned()]));
    let gateway = serving(&api, &[]).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://a.test/ws").await).await, "echo");
}

#[tokio::test]
async fn some_namespaces_are_served_with_the_rights_of_roles_alone() {
    let echo = Echo::start("echo").await;
    let inside =
        |namespace: &str, manifests: &str| manifests.replace("metadata: {name:", &format!("metadata: {{namespace: {namespace}, name:"));
    let named = |name: &str, path: &str| {
        route(
            name,
            &format!(
                "ingressClassName: carrick\nhosts: [{name}.test]\nlocations:\n- {{path: {path}, backends: [{{service: app, port: 80}}]}}"
            ),
        )
    };
    let api = ApiServer::start();
    for (namespace, name) in [("red", "r"), ("blue", "b"), ("green", "g")] {
        api.apply(&inside(namespace, &all([service("app", &[echo.at]), named(name, "/ws")])));
    }
    let gateway = serving(&api, &["--watch-namespace", "red,blue"]).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://r.test/ws").await).await, "echo");
    assert_eq!(text(&mut websocket(gateway.http, "ws://b.test/ws").await).await, "echo");
    assert_eq!(status(&get(gateway.http, "g.test", "/ws").await), 404);
    for of_cluster in ["list namespaces", "list ingressclasses", "watch namespaces", "watch ingressclasses"] {
        assert_eq!(api.count(of_cluster), 0, "{of_cluster}");
    }
    // One namespace listed anew takes nothing from the other.
    let generation = gateway.generation();
    api.expire();
    api.delete("wsroutes", "blue", "b");
    eventually("blue is gone", async || status(&get(gateway.http, "b.test", "/ws").await) == 404).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://r.test/ws").await).await, "echo");
    assert_eq!(gateway.generation(), generation + 1);
}

#[tokio::test]
async fn a_config_map_that_a_route_names_is_served_as_it_changes() {
    let page = |text: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: page}}\ndata: {{index.html: {text}}}");
    let named = route("site", "locations:\n- {path: /, static: {configMap: {name: page}}}");
    let api = cluster(&redirect("a", "/a"));
    api.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {a: b}");
    let gateway = serving(&api, &[]).await;
    assert_eq!(api.count("list configmaps") + api.count("watch configmaps"), 0, "nobody wants one");

    api.apply(&named);
    eventually_answers(&gateway, "/", 503).await;
    api.apply(&page("one"));
    eventually("the page", async || get(gateway.http, "a.test", "/").await.ends_with("one")).await;
    api.apply(&page("two"));
    eventually("the page changed", async || get(gateway.http, "a.test", "/").await.ends_with("two")).await;
    api.delete("configmaps", "default", "page");
    eventually_answers(&gateway, "/", 503).await;
    assert_eq!(status(&get(gateway.http, "a.test", "/a").await), 308);

    // Changed while nobody told: read anew with the list.
    api.apply(&page("three"));
    eventually("the page again", async || get(gateway.http, "a.test", "/").await.ends_with("three")).await;
    api.stop();
    api.expire();
    api.apply(&page("four"));
    api.resume();
    eventually("the page after an outage", async || get(gateway.http, "a.test", "/").await.ends_with("four")).await;

    // Wanted no more: nothing of the kind is watched.
    api.delete("wsroutes", "default", "site");
    eventually("no watch", async || api.watching("configmaps") == 0).await;
}

#[tokio::test]
async fn a_token_that_expired_is_read_anew() {
    let api = cluster(&redirect("a", "/a"));
    let token = api.folder().join("token");
    std::fs::write(&token, "first").unwrap();
    api.write_kubeconfig(&format!("tokenFile: {}", token.display()));
    api.require_token("first");
    let gateway = serving(&api, &[]).await;
    api.require_token("second");
    api.stop();
    api.resume();
    let refused = r#"carrick_watch_errors_total{kind="WsRoute",namespace="",reason="unauthorized"}"#;
    eventually("it was refused", async || gateway.metric(refused).await >= 1.0).await;
    assert_eq!(status(&get(gateway.http, "a.test", "/a").await), 308);
    std::fs::write(&token, "second").unwrap();
    api.apply(&redirect("b", "/b"));
    eventually_answers(&gateway, "/b", 308).await;
}

fn explain(api: &ApiServer, requests: &[&str]) -> Output {
    let command =
        Command::new(env!("CARGO_BIN_EXE_carrick")).arg("explain").arg("--kubeconfig").arg(api.kubeconfig()).args(requests).output();
    command.unwrap()
}

#[tokio::test]
async fn a_request_is_explained_by_the_objects_of_a_cluster() {
    let page = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: page}\ndata: {index.html: hello, a.css: b}";
    let named = route(
        "site",
        "hosts: [a.test]\nlocations:\n- {path: /, static: {configMap: {name: page}}}\n- {path: /ws, backends: [{service: app, port: 80}]}",
    );
    let endpoint = "10.0.0.7:8080".parse().unwrap();
    let api = cluster(&all([page.to_owned(), service("app", &[endpoint]), named]));
    let explained = explain(&api, &["ws://a.test/ws/room", "POST http://a.test/index.html", "http://other.test/"]);
    let text = String::from_utf8(explained.stdout).unwrap();
    assert!(explained.status.success(), "{text}");
    for expected in ["> /ws of default/site", "10.0.0.7:8080 ready", "one of 2 files of a ConfigMap", "404"] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
}

#[tokio::test]
async fn an_explanation_that_can_not_be_had_says_why_in_one_sentence() {
    let api = cluster(CLASS);
    let fails_with = |expected: &str| {
        let explained = explain(&api, &["ws://a.test/"]);
        let text = String::from_utf8(explained.stderr).unwrap();
        assert!(!explained.status.success() && text.contains(expected) && text.lines().count() == 1, "{expected} in\n{text}");
    };
    api.not_serving("wsroutes");
    fails_with("wsroutes.carrick.dev can not be read: the cluster does not know them; install");
    api.heal();
    api.fail("list services", Fault::Status(403), Times::Once);
    fails_with("services can not be read: the API server answers 403");
    api.stop();
    fails_with("the API server can not be reached");
}
