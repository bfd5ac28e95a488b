//! Which location a request gets, over real sockets; the rules themselves are tested in `router` and `translate`.

use crate::support::{
    client::{get, raw, status, text, websocket},
    gateway::Gateway,
    manifest::{all, route, service, site},
    peers::{Echo, nobody},
};

#[tokio::test]
async fn the_recipe_sends_each_path_to_its_group() {
    let (app1, app2, chat1, chat2) =
        (Echo::start("app1").await, Echo::start("app2").await, Echo::start("chat1").await, Echo::start("chat2").await);
    let gateway = Gateway::start(&all([site("app", "/wsapp", &[app1.at, app2.at]), site("chat", "/wschat", &[chat1.at, chat2.at])])).await;
    for (path, group) in [("/wsapp", ["app1", "app2"]), ("/wschat/room", ["chat1", "chat2"])] {
        let mut first = websocket(gateway.http, &format!("ws://any.test{path}")).await;
        let mut second = websocket(gateway.http, &format!("ws://any.test{path}")).await;
        let mut names = [text(&mut first).await, text(&mut second).await];
        names.sort();
        assert_eq!(names, group, "fewest open sockets: one each");
    }
    assert_eq!(status(&get(gateway.http, "any.test", "/wsappx").await), 404);
    assert_eq!(status(&get(gateway.http, "any.test", "/").await), 404);
}

#[tokio::test]
async fn hosts_are_told_apart_whatever_port_and_case() {
    let redirect =
        |name: &str, host: &str| route(name, &format!("hosts: [\"{host}\"]\nlocations:\n- {{path: /, redirect: {{path: /{name}}}}}"));
    let gateway = Gateway::start(&all([redirect("exact", "a.test"), redirect("wild", "*.a.test"), redirect("any", "*.b.test")])).await;
    let location = async |host: &str| {
        let answer = get(gateway.http, host, "/").await;
        answer.lines().find_map(|line| line.strip_prefix("Location: ")).map(|url| url.rsplit('/').next().unwrap().to_owned())
    };
    for (host, expected) in [
        ("a.test", Some("exact")),
        ("A.TEST:8080", Some("exact")),
        ("x.a.test", Some("wild")),
        ("x.y.a.test", Some("wild")),
        ("b.test", None),
    ] {
        assert_eq!(location(host).await.as_deref(), expected, "{host}");
    }
}

#[tokio::test]
async fn one_path_may_serve_sockets_and_pages_from_different_services() {
    let (sockets, page) = (Echo::start("sockets").await, crate::support::peers::Scripted::start().await);
    let page = page.each(|mut socket| async move {
        use tokio::io::AsyncWriteExt as _;
        crate::support::client::head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage").await.unwrap();
    });
    let locations = "locations:\n- {path: /, match: {upgrade: WebSocket}, backends: [{service: sockets, port: web}]}\n- {path: /, backends: [{service: page, port: 80}]}";
    let gateway = Gateway::start(&all([service("sockets", &[sockets.at]), service("page", &[page]), route("both", locations)])).await;
    assert!(get(gateway.http, "a.test", "/").await.ends_with("page"));
    let mut socket = websocket(gateway.http, "ws://a.test/").await;
    assert_eq!(text(&mut socket).await, "sockets");
}

#[tokio::test]
async fn no_spelling_of_a_path_reaches_another_location() {
    let gateway =
        Gateway::start(&route("r", "locations:\n- {path: /admin, redirect: {path: /ADMIN}}\n- {path: /, redirect: {path: /PUBLIC}}")).await;
    let reached = async |target: &str| {
        let answer = raw(gateway.http, format!("GET {target} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").as_bytes()).await;
        match status(&answer) {
            308 if answer.contains("/ADMIN") => "admin",
            308 => "public",
            400 => "refused",
            other => panic!("{target}: {other}"),
        }
    };
    for same in
        ["/admin", "//admin", "/./admin", "/x/../admin", "/%61dmin", "/admin/", "/admin;x=1", "/%2e/admin", "/x/%2E%2e/admin", "///admin//"]
    {
        assert_eq!(reached(same).await, "admin", "{same}");
    }
    for odd in ["/x/..%2fadmin", "/x/..;/admin", "/..", "/%2e%2e/admin", "/x%00", "/%zz", "/x/%2e%2e%5cadmin"] {
        assert_eq!(reached(odd).await, "refused", "{odd}");
    }
    assert_eq!(reached("/x%2Fadmin").await, "public", "an encoded slash is data");
}

#[tokio::test]
async fn what_is_missing_harms_only_its_location() {
    let echo = Echo::start("here").await;
    let manifests = all([
        service("here", &[echo.at]),
        service("empty", &[]),
        service("dead", &[nobody().await]),
        route(
            "r",
            "locations:\n- {path: /here, backends: [{service: here, port: 80}]}\n- {path: /gone, backends: [{service: gone, port: 80}]}\n\
             - {path: /empty, backends: [{service: empty, port: 80}]}\n- {path: /dead, backends: [{service: dead, port: 80}]}",
        ),
    ]);
    let gateway = Gateway::start(&manifests).await;
    for (path, expected) in [("/gone", 503), ("/empty", 503), ("/dead", 502), ("/none", 404)] {
        let answer = get(gateway.http, "a.test", path).await;
        assert_eq!(status(&answer), expected, "{path}");
        assert!(answer.contains("X-Carrick-Reason: ") && answer.contains("X-Request-Id: "), "{answer}");
        assert!(!answer.contains("gone/") && !answer.contains("default/"), "no name of a Service: {answer}");
    }
    assert_eq!(text(&mut websocket(gateway.http, "ws://a.test/here").await).await, "here");
    assert_eq!(gateway.metric("carrick_config_errors").await, 1.0, "the one route");
}

#[tokio::test]
async fn weights_split_new_sockets_between_services() {
    let (stable, canary) = (Echo::start("stable").await, Echo::start("canary").await);
    let spec = "locations:\n- path: /\n  backends: [{service: stable, port: 80, weight: 9}, {service: canary, port: 80, weight: 1}]";
    let gateway = Gateway::start(&all([service("stable", &[stable.at]), service("canary", &[canary.at]), route("r", spec)])).await;
    let mut canaries = 0;
    for _ in 0..20 {
        let mut socket = websocket(gateway.http, "ws://a.test/").await;
        canaries += usize::from(text(&mut socket).await == "canary");
    }
    assert_eq!(canaries, 2, "one in ten");
}

#[tokio::test]
async fn a_named_listener_serves_only_who_asks_for_it() {
    let spec = |listeners: &str, to: &str| format!("{listeners}locations:\n- {{path: /, redirect: {{path: /{to}}}}}");
    let routes = all([route("inner", &spec("listeners: [internal]\n", "inner")), route("outer", &spec("", "outer"))]);
    let gateway = Gateway::with(&["--listener", "internal=http:0"], &routes).await;
    assert!(get(gateway.listener("internal"), "a.test", "/").await.contains("/inner\r\n"));
    assert!(get(gateway.http, "a.test", "/").await.contains("/outer\r\n"));
}
