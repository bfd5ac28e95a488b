//! What the chart repeats of the tree: `make generate` writes one, whoever makes a release the other.

use std::{fs, path::Path};

fn tree(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_chart_brings_the_definition_of_the_tree() {
    assert!(tree("charts/carrick/crds/wsroutes.yaml") == tree("crds/wsroutes.yaml"), "refresh it: packaging/generate");
}

#[test]
fn one_version_is_named_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = tree("charts/carrick/Chart.yaml");
    for line in [format!("\nversion: {version}\n"), format!("\nappVersion: {version}\n")] {
        assert!(chart.contains(&line), "Chart.yaml lacks {line:?}");
    }
    for path in ["examples/recipe.yaml", "deploy/carrick.yaml"] {
        let text = tree(path);
        let images: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
        assert!(!images.is_empty() && images.iter().all(|image| image.ends_with(&format!("/carrick:{version}"))), "{path}: {images:?}");
    }
}
