//! The API server of these tests does what a real one does, where that matters to us.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams, PostParams, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, DynamicObject, WatchEvent},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};

use crate::support::{
    api_server::{ApiServer, Fault, Times},
    soon,
};

async fn client(api: &ApiServer) -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(api.kubeconfig()).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()).unwrap()
}

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{value: {value}}}}}\ndata: {{key: {value}}}")
}

#[tokio::test]
async fn lists_come_by_pages_and_old_pages_are_gone() {
    let api = ApiServer::start();
    for name in ["a", "b", "c"] {
        api.apply(&config_map(name, "x"));
    }
    let maps: Api<ConfigMap> = Api::all(client(&api).await);
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    let rest = maps.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
    assert_eq!((first.items.len(), rest.items.len(), rest.metadata.continue_), (2, 1, None));
    api.expire();
    assert!(maps.list(&ListParams::default().continue_token(&token)).await.unwrap_err().to_string().contains("too old"));
    assert_eq!(maps.list_metadata(&ListParams::default().fields("metadata.name=b")).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_watch_tells_what_happens_to_what_it_selects_until_it_is_gone() {
    let api = ApiServer::start();
    let maps: Api<ConfigMap> = Api::all(client(&api).await);
    let version = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let watch = maps.watch(&WatchParams::default().labels("value=x"), &version).await.unwrap();
    pin_mut!(watch);
    api.apply(&config_map("a", "x"));
    api.apply(&config_map("b", "y"));
    api.apply(&config_map("a", "y"));
    api.bookmark();
    assert!(
        matches!(soon("a", watch.try_next()).await.unwrap(), Some(WatchEvent::Added(map)) if map.metadata.name.as_deref() == Some("a"))
    );
    assert!(matches!(soon("a gone", watch.try_next()).await.unwrap(), Some(WatchEvent::Deleted(_))));
    assert!(matches!(soon("the bookmark", watch.try_next()).await.unwrap(), Some(WatchEvent::Bookmark(_))));
    api.expire();
    assert!(matches!(soon("410", watch.try_next()).await.unwrap(), Some(WatchEvent::Error(status)) if status.code == 410));
    assert!(soon("the end", watch.next()).await.is_none());
}

#[tokio::test]
async fn a_watcher_goes_on_after_a_stop() {
    let api = ApiServer::start();
    let maps: Api<ConfigMap> = Api::all(client(&api).await);
    let objects = watcher(maps, watcher::Config::default()).default_backoff().applied_objects().filter_map(async |object| object.ok());
    pin_mut!(objects);
    api.apply(&config_map("a", "x"));
    soon("a", objects.next()).await.unwrap();
    api.stop();
    api.apply(&config_map("b", "x"));
    api.resume();
    soon("b", objects.next()).await.unwrap();
}

#[tokio::test]
async fn stale_writes_and_wrong_objects_are_conflicts() {
    let api = ApiServer::start();
    api.apply(&config_map("a", "x"));
    let maps: Api<ConfigMap> = Api::namespaced(client(&api).await, "default");
    let mut map = maps.get("a").await.unwrap();
    api.apply(&config_map("a", "y"));
    let code = |error: kube::Error| match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    };
    assert_eq!(code(maps.replace("a", &PostParams::default(), &map).await.unwrap_err()), 409);
    map.metadata.resource_version = None;
    map.metadata.uid = Some("another".to_owned());
    assert_eq!(code(maps.replace("a", &PostParams::default(), &map).await.unwrap_err()), 409);
    assert_eq!(code(maps.create(&PostParams::default(), &map).await.unwrap_err()), 409);
    assert_eq!(code(maps.get("z").await.unwrap_err()), 404);
    api.fail("get configmaps", Fault::RetryAfter(0), Times::Once);
    api.fail("get configmaps", Fault::Status(403), Times::Once);
    assert_eq!(code(maps.get("a").await.unwrap_err()), 403); // kube waits out a 429 by itself
    assert!(api.count("get configmaps") >= 4 && api.writes() == 3);
}

#[tokio::test]
async fn an_applied_status_replaces_what_the_same_manager_applied() {
    let api = ApiServer::start();
    api.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80, protocol: TCP}]}");
    let services: Api<DynamicObject> = Api::namespaced_with(client(&api).await, "default", &ApiResource::erase::<Service>(&()));
    let apply = async |manager: &str, conditions: Value| {
        let patch = json!({"apiVersion": "v1", "kind": "Service", "status": {"conditions": conditions}});
        services.patch_status("web", &PatchParams::apply(manager), &Patch::Apply(&patch)).await.map(|_| ())
    };
    apply("one", json!([{"type": "A", "status": "True"}, {"type": "B", "status": "True"}])).await.unwrap();
    apply("two", json!([{"type": "C", "status": "True"}])).await.unwrap();
    apply("one", json!([{"type": "B", "status": "False"}])).await.unwrap();
    let written = api.get("services", "default", "web");
    assert_eq!(written["status"]["conditions"], json!([{"type": "B", "status": "False"}, {"type": "C", "status": "True"}]));
    assert_eq!(written["spec"]["ports"][0]["port"], 80);
    assert!(apply("two", json!([{"type": "B", "status": "True"}])).await.unwrap_err().to_string().contains("conflict"));
    apply("one", json!([])).await.unwrap();
    assert_eq!(api.get("services", "default", "web")["status"]["conditions"], json!([{"type": "C", "status": "True"}]));
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let last = version(&api.get("services", "default", "web"));
    apply("two", json!([{"type": "C", "status": "True"}])).await.unwrap();
    assert_eq!(version(&api.get("services", "default", "web")), last, "what changes nothing makes no revision");
}

#[tokio::test]
async fn a_frozen_server_answers_when_it_thaws_and_a_lost_answer_never() {
    let api = ApiServer::start();
    let maps: Api<ConfigMap> = Api::namespaced(client(&api).await, "default");
    let map = ConfigMap { metadata: kube::api::ObjectMeta { name: Some("a".into()), ..Default::default() }, ..Default::default() };
    api.fail("create configmaps", Fault::Lost, Times::Once);
    maps.create(&PostParams::default(), &map).await.unwrap_err();
    api.wait_for("the map whose answer was lost", "configmaps", "default", "a", |map| !map.is_null()).await;
    api.freeze();
    let get = maps.get("a");
    pin_mut!(get);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut get).await.is_err());
    api.thaw();
    soon("the answer", get).await.unwrap();
    api.not_serving("configmaps");
    assert!(maps.get("a").await.unwrap_err().to_string().contains("404"));
}
