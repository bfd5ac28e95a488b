//! `carrick tunnels` as a process, against the admin port of a real gateway with real sockets.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    client::{close_code, text, websocket},
    eventually,
    gateway::Gateway,
    manifest::{all, route, service},
    peers::Echo,
};

const CARRICK: &str = env!("CARGO_BIN_EXE_carrick");

/// Two routes to one server.
async fn gateway(echo: &Echo) -> Gateway {
    let locations = "locations: [{path: /, backends: [{service: app, port: 80}]}]";
    let routes = ["a", "b"].map(|name| route(name, &format!("hosts: [{name}.test]\n{locations}")));
    Gateway::start(&all([service("app", &[echo.at]), all(routes)])).await
}

/// What a command says of this gateway.
async fn run(gateway: &Gateway, program: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.arg("tunnels").args(words).args(["--admin", &gateway.admin_address().to_string()]).stdin(Stdio::null());
    // The gateway answers on other threads, but whoever waits here must not hold this one.
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn tunnels(gateway: &Gateway, words: &[&str]) -> String {
    let done = run(gateway, Path::new(CARRICK), words).await;
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

async fn json(gateway: &Gateway, words: &[&str]) -> Value {
    serde_json::from_str(&tunnels(gateway, &[words, &["-o", "json"]].concat()).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_every_socket_and_the_filters_those_they_name() {
    let echo = Echo::start("echo").await;
    let gateway = gateway(&echo).await;
    let mut sockets = Vec::new();
    for host in ["a", "a", "b"] {
        let mut socket = websocket(gateway.http, &format!("ws://{host}.test/")).await;
        text(&mut socket).await;
        sockets.push(socket);
    }
    sockets[2].send(Message::text("x".repeat(500))).await.unwrap();
    text(&mut sockets[2]).await;

    let listed = json(&gateway, &["list", "--sort", "bytes"]).await;
    assert_eq!(listed["replicas"][0]["open"], 3);
    let routes: Vec<_> = listed["tunnels"].as_array().unwrap().iter().map(|row| row["route"].as_str().unwrap()).collect();
    assert_eq!(routes, ["default/b", "default/a", "default/a"], "{listed}");
    assert!(listed["tunnels"][0]["bytes_received"].as_u64().unwrap() > 500, "{listed}");

    let table = tunnels(&gateway, &["list", "--route", "default/b"]).await;
    let lines: Vec<_> = table.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("REPLICA") && lines[1].contains(&echo.at.to_string()), "{table}");
    assert_eq!(tunnels(&gateway, &["list", "--service", "other"]).await, "no tunnels\n");
    let cut = run(&gateway, Path::new(CARRICK), &["list", "--limit", "1"]).await;
    assert!(String::from_utf8_lossy(&cut.stderr).contains("1 of 3 are shown"), "{cut:?}");

    let top = tunnels(&gateway, &["top", "--times", "2", "--interval", "10ms", "--route-namespace", "default"]).await;
    assert_eq!(top.matches("3 open, 3 match, 1 replica\n").count(), 2, "{top}");
    assert!(!top.contains('\u{1b}'), "no terminal, no screen: {top}");
    assert_eq!(tunnels(&gateway, &["top"]).await.matches("IN/s").count(), 1, "once where nobody watches");
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_and_kill_end_what_is_named_and_nobody_by_mistake() {
    let echo = Echo::start("echo").await;
    let gateway = gateway(&echo).await;
    let mut drained = websocket(gateway.http, "ws://a.test/").await;
    let mut killed = websocket(gateway.http, "ws://b.test/").await;
    text(&mut drained).await;
    text(&mut killed).await;

    let refused = run(&gateway, Path::new(CARRICK), &["drain"]).await;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("say --all"), "{refused:?}");
    let said = tunnels(&gateway, &["drain", "--route", "default/a"]).await;
    assert!(said.contains("all told to come back   1\n"), "{said}");
    assert_eq!(close_code(&mut drained).await, 1012);
    killed.send(Message::text("still here")).await.unwrap();
    assert_eq!(text(&mut killed).await, "still here");

    let mut third = websocket(gateway.http, "ws://a.test/").await;
    text(&mut third).await;
    assert_eq!(json(&gateway, &["kill", "--all", "--state", "open"]).await["replicas"][0]["closing"], 2);
    for socket in [&mut killed, &mut third] {
        assert!(!matches!(socket.next().await, Some(Ok(Message::Close(_)))), "nobody is told");
    }
    eventually("the backend saw all end", async || echo.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_says_what_a_socket_waits_for() {
    let echo = Echo::start("echo").await;
    let gateway = gateway(&echo).await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let mut socket = websocket(gateway.http, "ws://a.test/").await;
        text(&mut socket).await;
        sockets.push(socket);
    }
    tunnels(&gateway, &["drain", "--all", "--over", "2h"]).await;
    assert_eq!(close_code(&mut sockets[0]).await, 1012);
    sockets.remove(0);
    eventually("one of them waits", async || {
        let listed = json(&gateway, &["list", "--state", "ordered", "--reason", "operator"]).await;
        let rows = listed["tunnels"].as_array().unwrap().clone();
        rows.len() == 1 && rows[0]["closes_in_seconds"].as_f64().is_some_and(|left| left > 3000.0 && left <= 3600.0)
    })
    .await;
    eventually("the table says when", async || tunnels(&gateway, &["list"]).await.contains("closes in 59m")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_reached_is_said() {
    let echo = Echo::start("echo").await;
    let gateway = gateway(&echo).await;
    let refused = run(&gateway, Path::new(CARRICK), &["list", "--reason", "whim"]).await;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("pod_terminating"), "{refused:?}");
    let nobody = Command::new(CARRICK).args(["tunnels", "list", "--admin", "127.0.0.1:1"]).output().unwrap();
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(!nobody.status.success() && said.contains("127.0.0.1:1 can not be reached"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn linked_as_a_plugin_it_is_kubectl_carrick() {
    let folder = TempDir::new().unwrap();
    let plugin = folder.path().join("kubectl-carrick");
    symlink(CARRICK, &plugin).unwrap();
    let help = Command::new(&plugin).args(["tunnels", "drain", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).contains("Usage: kubectl carrick tunnels drain"), "{help:?}");
    let echo = Echo::start("echo").await;
    let gateway = gateway(&echo).await;
    let listed = run(&gateway, &plugin, &["list"]).await;
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "no tunnels\n");
}
