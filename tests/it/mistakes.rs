//! What an API server refuses is refused without one as well, and what stands in `examples/` is not.

use std::path::{Path, PathBuf};

use carrick::{
    manifests::{self, Severity},
    translate::{Change, Index, Options, RouteStatus},
};
use serde::Deserialize;
use serde_json::{Value, json};

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn statuses(changes: Vec<Change>) -> Vec<RouteStatus> {
    let mut index = Index::default();
    for change in changes {
        index.apply(change);
    }
    index.translate(&Options::default()).statuses.values().cloned().collect()
}

#[derive(Deserialize)]
struct Mistake {
    name: String,
    spec: Value,
}

/// With all that a mistake may name: it is to be refused for itself.
fn around(spec: &Value) -> String {
    let service = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    let route = json!({"apiVersion": "carrick.dev/v1alpha1", "kind": "WsRoute", "metadata": {"name": "mistake"}, "spec": spec});
    let files = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": ""}});
    [service("app"), service("a"), files, route].map(|object| object.to_string()).join("\n---\n")
}

#[test]
fn every_mistake_is_refused_without_an_api_server() {
    let mistakes: Vec<Mistake> = serde_saphyr::from_str(&std::fs::read_to_string(tree("tests/e2e/mistakes.yaml")).unwrap()).unwrap();
    let mut missed = Vec::new();
    for mistake in &mistakes {
        let (changes, faults) = manifests::parse(&around(&mistake.spec));
        if faults.is_empty() && statuses(changes).iter().all(RouteStatus::is_good) {
            missed.push(&mistake.name);
        }
    }
    assert!(missed.is_empty(), "taken: {missed:?}");
}

#[test]
fn every_example_translates_without_complaint() {
    let examples = std::fs::read_dir(tree("examples")).unwrap().map(|entry| entry.unwrap().path());
    for example in examples {
        let (changes, mut faults) = manifests::read(std::slice::from_ref(&example));
        faults.retain(|fault| fault.severity == Severity::Wrong); // a Deployment is nothing of ours
        let statuses = statuses(changes);
        assert!(faults.is_empty() && !statuses.is_empty(), "{}: {faults:?}", example.display());
        // Certificates are self-made, as the example says.
        let complaints = statuses.iter().flat_map(RouteStatus::problems).filter(|condition| condition.reason != "SecretNotFound");
        assert_eq!(complaints.count(), 0, "{}: {statuses:?}", example.display());
    }
}
