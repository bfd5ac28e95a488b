//! Sockets whose backend is told to go, or whose route says what becomes of them: each hears it before its end, and nobody else does.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    client::{close_code, get, status, still_echoes, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service, slice},
    peers::Echo,
};

const TERMINATING: &str = "ready: false, serving: true, terminating: true";

fn to(services: &[&str], more: &str) -> String {
    let backends: Vec<String> = services.iter().map(|service| format!("{{service: {service}, port: 80}}")).collect();
    route("r", &format!("locations:\n- path: /\n  backends: [{}]\n{more}", backends.join(", ")))
}

#[tokio::test]
async fn the_sockets_of_a_terminating_pod_are_told_and_the_others_stay() {
    let (old, new) = (Echo::start("old").await, Echo::start("new").await);
    let both = |conditions: &str| {
        let services = service("app", &[]);
        all([
            services,
            slice("app", 0, old.at, conditions),
            slice("app", 1, new.at, "ready: true"),
            to(&["app"], "  loadBalancing: {policy: RoundRobin}"),
        ])
    };
    let gateway = Gateway::start(&both("ready: true")).await;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        let mut socket = websocket(gateway.http, "ws://a.test/").await;
        sockets.push((text(&mut socket).await, socket));
    }
    gateway.change(&both(TERMINATING)).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://a.test/").await).await, "new", "it takes nothing new");
    for (name, socket) in &mut sockets {
        if name == "old" {
            assert_eq!(close_code(socket).await, 1012);
            assert!(socket.next().await.is_none());
        }
    }
    eventually("the old backend saw its sockets end", async || old.open() == 0).await;
    for (_, socket) in sockets.iter_mut().filter(|(name, _)| name == "new") {
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(text(socket).await, "still here");
    }
}

#[tokio::test]
async fn a_backend_that_a_route_no_longer_lists_is_drained_if_the_route_says_so() {
    let (blue, green) = (Echo::start("blue").await, Echo::start("green").await);
    let services = all([service("blue", &[blue.at]), service("green", &[green.at])]);
    let says = "  drain: {onBackendRemoved: Drain}";
    let gateway = Gateway::start(&all([services.clone(), to(&["blue"], says)])).await;
    let mut socket = websocket(gateway.http, "ws://a.test/").await;
    assert_eq!(text(&mut socket).await, "blue");
    gateway.change(&all([services, to(&["green"], says)])).await;
    assert_eq!(close_code(&mut socket).await, 1012);
}

#[tokio::test]
async fn a_backend_that_a_route_no_longer_lists_keeps_its_sockets_until_its_pod_goes() {
    let (blue, green) = (Echo::start("blue").await, Echo::start("green").await);
    let services = |conditions| all([service("blue", &[]), slice("blue", 0, blue.at, conditions), service("green", &[green.at])]);
    let gateway = Gateway::start(&all([services("ready: true"), to(&["blue"], "")])).await;
    let mut socket = websocket(gateway.http, "ws://a.test/").await;
    assert_eq!(text(&mut socket).await, "blue");
    gateway.change(&all([services("ready: true"), to(&["green"], "")])).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://a.test/").await).await, "green");
    still_echoes(&mut socket).await;

    let (generation, compiled) = (gateway.generation(), gateway.metric("carrick_router_compilations_total").await);
    gateway.write("site.yaml", &all([services(TERMINATING), to(&["green"], "")]));
    assert_eq!(close_code(&mut socket).await, 1012);
    assert_eq!(gateway.generation(), generation, "nothing that is served has changed");
    assert_eq!(gateway.metric("carrick_router_compilations_total").await, compiled);
}

#[tokio::test]
async fn sockets_of_a_location_that_is_gone_and_keeps_them_end_with_their_pod() {
    let echo = Echo::start("echo").await;
    let app = |conditions| all([service("app", &[]), slice("app", 0, echo.at, conditions)]);
    let gateway = Gateway::start(&all([app("ready: true"), to(&["app"], "  drain: {onRouteRemoved: Keep}")])).await;
    let mut socket = websocket(gateway.http, "ws://a.test/").await;
    assert_eq!(text(&mut socket).await, "echo");
    gateway.change(&app("ready: true")).await;
    still_echoes(&mut socket).await;
    gateway.write("site.yaml", &app(TERMINATING));
    assert_eq!(close_code(&mut socket).await, 1012);
}

#[tokio::test]
async fn sockets_of_another_location_that_lists_the_pool_no_more_end_with_their_pod() {
    let (shared, other) = (Echo::start("shared").await, Echo::start("other").await);
    let services = |conditions| all([service("shared", &[]), slice("shared", 0, shared.at, conditions), service("other", &[other.at])]);
    let at =
        |path: &str, name: &str| route(&path[1..], &format!("locations: [{{path: {path}, backends: [{{service: {name}, port: 80}}]}}]"));
    let gateway = Gateway::start(&all([services("ready: true"), at("/a", "shared"), at("/b", "shared")])).await;
    let mut socket = websocket(gateway.http, "ws://a.test/a").await;
    assert_eq!(text(&mut socket).await, "shared");
    gateway.change(&all([services("ready: true"), at("/a", "other"), at("/b", "shared")])).await;
    still_echoes(&mut socket).await;
    gateway.change(&all([services(TERMINATING), at("/a", "other"), at("/b", "shared")])).await;
    assert_eq!(close_code(&mut socket).await, 1012);
}

#[tokio::test]
async fn a_route_that_is_replaced_or_moved_or_weighs_nothing_keeps_its_sockets() {
    let echo = Echo::start("echo").await;
    let app = service("app", &[echo.at]);
    let under = |name: &str, weight: u32| {
        route(
            name,
            &format!(
                "locations: [{{path: /, backends: [{{service: app, port: 80, weight: {weight}}}], drain: {{onBackendRemoved: Drain}}}}]"
            ),
        )
    };
    let gateway = Gateway::start(&all([app.clone(), under("r", 1)])).await;
    let mut socket = websocket(gateway.http, "ws://a.test/").await;
    assert_eq!(text(&mut socket).await, "echo");
    // As `kubectl replace --force` does: deleted, then there again.
    gateway.change(&app).await;
    gateway.change(&all([app.clone(), under("r", 1)])).await;
    gateway.change(&all([app.clone(), under("moved", 1)])).await;
    gateway.change(&all([app.clone(), under("moved", 0)])).await;
    assert_eq!(status(&get(gateway.http, "a.test", "/").await), 503, "no weight, nothing new");
    still_echoes(&mut socket).await;
    let tunnels = gateway.admin("/debug/tunnels").await;
    assert!(tunnels.contains("\"state\": \"open\""), "nothing is ordered: {tunnels}");
}

#[tokio::test]
async fn an_endpoint_that_leaves_its_service_keeps_its_sockets() {
    let echo = Echo::start("echo").await;
    let gateway = Gateway::start(&all([service("app", &[echo.at]), to(&["app"], "")])).await;
    let mut socket = websocket(gateway.http, "ws://a.test/").await;
    assert_eq!(text(&mut socket).await, "echo");
    gateway.change(&all([service("app", &[]), to(&["app"], "")])).await;
    assert_eq!(status(&get(gateway.http, "a.test", "/").await), 503);
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(text(&mut socket).await, "still here");
}

#[tokio::test]
async fn a_socket_that_is_too_loud_hears_why() {
    let echo = Echo::start("echo").await;
    let limits = "  websocket: {messages: {maxSize: 1Ki}}";
    let gateway = Gateway::start(&all([service("app", &[echo.at]), to(&["app"], limits)])).await;
    let mut socket = websocket(gateway.http, "ws://a.test/").await;
    text(&mut socket).await;
    socket.send(Message::text("x".repeat(1024))).await.unwrap();
    assert_eq!(text(&mut socket).await.len(), 1024);
    socket.send(Message::text("x".repeat(1025))).await.unwrap();
    assert_eq!(close_code(&mut socket).await, 1009);
    eventually("the backend saw it end", async || echo.open() == 0).await;
}

#[tokio::test]
async fn an_operator_drains_and_kills_what_the_filters_name() {
    let echo = Echo::start("echo").await;
    let routes = [
        route("a", "hosts: [a.test]\nlocations: [{path: /, backends: [{service: app, port: 80}]}]"),
        route("b", "hosts: [b.test]\nlocations: [{path: /, backends: [{service: app, port: 80}]}]"),
    ];
    let gateway = Gateway::start(&all([service("app", &[echo.at]), all(routes)])).await;
    let mut drained = websocket(gateway.http, "ws://a.test/").await;
    let mut killed = websocket(gateway.http, "ws://b.test/").await;
    text(&mut drained).await;
    text(&mut killed).await;
    assert!(gateway.operate("/drain?route=default/a").await.contains("\"closing\": 1"));
    assert_eq!(close_code(&mut drained).await, 1012);
    killed.send(Message::text("still here")).await.unwrap();
    assert_eq!(text(&mut killed).await, "still here");
    gateway.operate("/kill?route=default/b").await;
    assert!(!matches!(killed.next().await, Some(Ok(Message::Close(_)))), "nobody is told");
    eventually("the backend saw both end", async || echo.open() == 0).await;
}

#[tokio::test]
async fn sockets_move_to_an_endpoint_that_was_added() {
    let (old, new) = (Echo::start("old").await, Echo::start("new").await);
    let moves = "  loadBalancing: {rebalance: {maxPercentPerMinute: 100, minAge: 0s}}";
    let gateway = Gateway::start(&all([service("app", &[old.at]), to(&["app"], moves)])).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let mut socket = websocket(gateway.http, "ws://a.test/").await;
        text(&mut socket).await;
        let at = gateway.http;
        clients.spawn(async move {
            loop {
                assert_eq!(close_code(&mut socket).await, 1012);
                socket = websocket(at, "ws://a.test/").await;
                text(&mut socket).await;
            }
        });
    }
    assert_eq!((old.open(), new.open()), (60, 0));
    gateway.change(&all([service("app", &[old.at, new.at]), to(&["app"], moves)])).await;
    eventually("some have moved", async || new.open() >= 3).await;
    eventually("nobody is lost", async || old.open() + new.open() == 60).await;
}
