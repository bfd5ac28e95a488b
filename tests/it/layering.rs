//! The import rules of docs/architecture.md: read from the sources, so that a shortcut fails a test instead of a review.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

/// A module, the modules of ours that it may name, and the crates that it must not.
const RULES: &[(&str, &[&str], &[&str])] = &[
    ("model", &[], &["kube", "k8s_openapi", "tokio", "hyper", "arc_swap"]),
    ("api", &[], &["tokio", "hyper"]),
    ("translate", &["api", "model"], &["tokio", "hyper", "fastrand"]),
    ("k8s", &["api", "model", "translate", "telemetry"], &["hyper"]),
    ("manifests", &["api", "model", "translate", "telemetry"], &["hyper"]),
    ("control", &["model", "translate", "live", "telemetry"], &["hyper"]),
    ("router", &["model"], &["kube", "k8s_openapi", "tokio", "hyper", "arc_swap"]),
    ("telemetry", &["model"], &["kube", "hyper", "arc_swap"]),
    ("dial", &["model", "telemetry"], &["kube", "hyper"]),
    ("balance", &["model", "dial", "telemetry"], &["hyper", "kube", "arc_swap"]),
    ("check", &["api", "manifests", "model", "router", "translate"], &["tokio", "hyper"]),
    ("live", &["model", "router", "balance", "dial", "telemetry"], &["kube", "hyper"]),
    ("tunnel", &["model", "balance", "telemetry"], &["kube", "hyper", "arc_swap"]),
    ("proxy", &["model", "router", "live", "balance", "dial", "tunnel", "telemetry"], &["kube", "k8s_openapi", "arc_swap"]),
    ("admin", &["api", "model", "live", "tunnel", "balance", "telemetry"], &["kube", "arc_swap"]),
    ("sight", &["api", "model"], &["kube", "k8s_openapi", "hyper", "arc_swap"]),
    ("demo", &[], &["kube"]), // servers as anybody would write them
];

#[test]
fn modules_import_only_what_the_architecture_allows() {
    let crates = Regex::new(r"\b(kube|k8s_openapi|tokio|hyper|arc_swap|fastrand)::").unwrap();
    let breaches: Vec<String> = RULES
        .iter()
        .flat_map(|(module, ours, never)| sources(module).into_iter().map(move |file| (module, ours, never, file)))
        .flat_map(|(module, ours, never, file)| {
            let text = code(&file);
            let mut named: Vec<String> = modules_named(&text).filter(|name| name != module && !ours.contains(&name.as_str())).collect();
            named.extend(crates.captures_iter(&text).map(|found| found[1].to_owned()).filter(|name| never.contains(&name.as_str())));
            named
                .into_iter()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(move |name| format!("{}: {module} must not name {name}", file.display()))
        })
        .collect();
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn every_module_has_its_rule() {
    let all = ["app", "cli"]; // these see everything
    for entry in fs::read_dir(source_root()).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        let known =
            all.contains(&name.as_str()) || RULES.iter().any(|(module, ..)| *module == name) || ["lib", "main"].contains(&name.as_str());
        assert!(known, "src/{name} has no import rule: add it to RULES and to docs/architecture.md");
    }
}

#[test]
fn only_live_names_arc_swap() {
    let naming: BTreeSet<PathBuf> = walk(&source_root()).into_iter().filter(|file| code(file).contains("arc_swap::")).collect();
    assert!(naming.iter().all(|file| file.starts_with(source_root().join("live"))), "{naming:?}");
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The files of a module, be it one file or a folder.
fn sources(module: &str) -> Vec<PathBuf> {
    let file = source_root().join(format!("{module}.rs"));
    let files = if file.exists() { vec![file] } else { walk(&source_root().join(module)) };
    assert!(!files.is_empty(), "src/{module} is gone: take its rule away");
    files
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// A file without its comments and its tests, which may look further.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The top modules in `crate::name` and `use crate::{name::…, name::{…}}`.
fn modules_named(text: &str) -> impl Iterator<Item = String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => names.extend(word(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && c.is_alphabetic() => {
                            names.extend(word(&list[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names.into_iter().filter(|name| name.chars().next().is_some_and(char::is_lowercase))
}

fn word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}
