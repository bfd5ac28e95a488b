//! Files change under a running gateway: in force soon, and nobody is harmed whom the change does not concern.

use futures_util::SinkExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    client::{get, status, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service, site},
    peers::Echo,
};

#[tokio::test]
async fn fifty_changes_disturb_no_open_socket() {
    let echo = Echo::start("echo").await;
    let held = site("held", "/held", &[echo.at]);
    let gateway = Gateway::start(&held).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let mut socket = websocket(gateway.http, "ws://a.test/held").await;
        assert_eq!(text(&mut socket).await, "echo");
        sockets.push(socket);
    }
    for k in 0..50 {
        let other = route("other", &format!("hosts: [other.test]\nlocations:\n- {{path: /r{k}, redirect: {{path: /}}}}"));
        gateway.change(&all([held.clone(), other])).await;
        assert_eq!(status(&get(gateway.http, "other.test", &format!("/r{k}")).await), 308);
        let socket = &mut sockets[k % 20];
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(text(socket).await, "still here");
    }
    for socket in &mut sockets {
        socket.send(Message::text("at the end")).await.unwrap();
        assert_eq!(text(socket).await, "at the end");
    }
    assert_eq!(echo.open(), 20);
}

#[tokio::test]
async fn sockets_outlive_their_own_route_being_edited_and_removed() {
    let (blue, green) = (Echo::start("blue").await, Echo::start("green").await);
    let services = all([service("blue", &[blue.at]), service("green", &[green.at])]);
    let to = |name: &str| route("r", &format!("locations:\n- {{path: /, backends: [{{service: {name}, port: 80}}]}}"));
    let gateway = Gateway::start(&all([services.clone(), to("blue")])).await;
    let mut old = websocket(gateway.http, "ws://a.test/").await;
    assert_eq!(text(&mut old).await, "blue");
    gateway.change(&all([services.clone(), to("green")])).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://a.test/").await).await, "green");
    gateway.change(&services).await;
    assert_eq!(status(&get(gateway.http, "a.test", "/").await), 404);
    old.send(Message::text("blue still")).await.unwrap();
    assert_eq!(text(&mut old).await, "blue still");
}

#[tokio::test]
async fn an_equal_configuration_is_not_published_again() {
    let echo = Echo::start("echo").await;
    let manifests = site("app", "/", &[echo.at]);
    let gateway = Gateway::start(&manifests).await;
    let before = gateway.generation();
    gateway.write("site.yaml", &format!("# a comment\n{manifests}\n"));
    // A change that does count, written after it, is the proof that the first one was read.
    gateway.write("more.yaml", &route("more", "hosts: [more.test]\nlocations:\n- {path: /, redirect: {path: /x}}"));
    eventually("the second file in force", async || status(&get(gateway.http, "more.test", "/").await) == 308).await;
    assert_eq!(gateway.generation(), before + 1);
}

#[tokio::test]
async fn a_change_of_endpoints_compiles_no_route() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let gateway = Gateway::start(&site("app", "/", &[one.at])).await;
    let compilations = async || gateway.metric("carrick_router_compilations_total").await;
    let (generation, compiled) = (gateway.generation(), compilations().await);
    gateway.change(&site("app", "/", &[two.at])).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://a.test/").await).await, "two");
    assert_eq!(gateway.generation(), generation + 1);
    assert!(compiled > 0.0 && compilations().await == compiled);
}

#[tokio::test]
async fn a_file_that_does_not_parse_harms_only_itself_and_keeps_its_last_good_state() {
    let (first, second) = (Echo::start("first").await, Echo::start("second").await);
    let gateway = Gateway::start(&site("first", "/first", &[first.at])).await;
    gateway.write("second.yaml", &site("second", "/second", &[second.at]));
    eventually("the new file in force", async || status(&get(gateway.http, "a.test", "/second").await) != 404).await;
    gateway.write("site.yaml", "kind: WsRoute\n  spec: [");
    gateway.write("third.yaml", &route("third", "hosts: [third.test]\nlocations:\n- {path: /, redirect: {path: /x}}"));
    eventually("the file beside it in force", async || status(&get(gateway.http, "third.test", "/").await) == 308).await;
    assert_eq!(text(&mut websocket(gateway.http, "ws://a.test/first").await).await, "first");
    assert_eq!(text(&mut websocket(gateway.http, "ws://a.test/second").await).await, "second");
    std::fs::remove_file(gateway.folder().join("second.yaml")).unwrap();
    eventually("the removed file out of force", async || status(&get(gateway.http, "a.test", "/second").await) == 404).await;
}
