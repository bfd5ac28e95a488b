//! Static content through the whole application; conditions, ranges and codings are tested in `proxy::files`.

use tempfile::TempDir;

use crate::support::{
    client::{get, raw, status},
    gateway::Gateway,
    manifest::{all, route},
};

fn page_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    std::fs::create_dir_all(root.join("page/sub")).unwrap();
    std::fs::write(root.join("page/index.html"), "<h1>index</h1>").unwrap();
    std::fs::write(root.join("page/sub/index.html"), "sub").unwrap();
    std::fs::write(root.join("page/app.js"), "js()").unwrap();
    std::fs::write(root.join("secret"), "outside").unwrap();
    std::os::unix::fs::symlink("../secret", root.join("page/link")).unwrap();
    std::fs::write(
        root.join("site.yaml"),
        all([
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: texts}\ndata: {index.html: from the map, a.txt: letter}".to_owned(),
            route("r", "locations:\n- {path: /map, static: {configMap: {name: texts}}}\n- {path: /, static: {directory: page}}"),
        ]),
    )
    .unwrap();
    folder
}

#[tokio::test]
async fn a_folder_and_a_config_map_are_served() {
    let gateway = Gateway::over(page_folder(), &[]).await;
    for (path, code, body) in [
        ("/", 200, "<h1>index</h1>"),
        ("/app.js", 200, "js()"),
        ("/sub/", 200, "sub"),
        ("/sub", 308, ""),
        ("/map/", 200, "from the map"),
        ("/map/a.txt", 200, "letter"),
        ("/map/b.txt", 404, ""),
        ("/none", 404, ""),
    ] {
        let answer = get(gateway.http, "a.test", path).await;
        assert_eq!(status(&answer), code, "{path}");
        assert!(answer.ends_with(body), "{path}: {answer}");
    }
    let script = get(gateway.http, "a.test", "/app.js").await;
    assert!(
        script.contains("Content-Type: text/javascript") && script.contains("Etag: ") && script.contains("Last-Modified: "),
        "{script}"
    );
}

#[tokio::test]
async fn nothing_outside_the_folder_is_reached() {
    let gateway = Gateway::over(page_folder(), &[]).await;
    for path in [
        "/link",
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/sub/..%2f..%2fsecret",
        "/sub/../../secret",
        "/..;/secret",
        "//secret",
        "/%00secret",
        "/.%2e/secret",
    ] {
        let answer = raw(gateway.http, format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert!((400..=404).contains(&status(&answer)) && !answer.contains("outside"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn other_methods_are_refused_and_head_has_no_body() {
    let gateway = Gateway::over(page_folder(), &[]).await;
    let answer = raw(gateway.http, b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx").await;
    assert!(status(&answer) == 405 && answer.contains("Allow: GET, HEAD"), "{answer}");
    let answer = raw(gateway.http, b"HEAD /app.js HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    assert!(status(&answer) == 200 && answer.contains("Content-Length: 4\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}
