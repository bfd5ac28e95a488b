//! What `docs/` says of flags, conditions and metrics is what the program has.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    sync::Arc,
};

use carrick::{
    cli::Cli,
    telemetry::{Metrics, expose, metrics::Observed},
};
use clap::{Arg, CommandFactory as _};
use regex::Regex;

/// Set it to write the generated parts anew, as `make generate` does.
const UPDATE: &str = "UPDATE_GOLDEN";
const BEGIN: &str = "<!-- The flags of `carrick controller`: made from it by `make generate`. -->\n";
const END: &str = "<!-- The end of the flags. -->\n";

fn tree(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Of a default that differs by command, this command's.
fn ours(words: &str) -> &str {
    match words.rsplit_once("controller: ") {
        Some((_, ours)) => ours,
        None => words.split("; demo: ").next().unwrap_or(words),
    }
}

/// A flag in a table: how it is written, what it is without, what it does.
fn row(flag: &Arg) -> Option<String> {
    let long = flag.get_long()?;
    assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(&*format!("CARRICK_{}", long.replace('-', "_").to_uppercase())));
    let words: Vec<_> = flag.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let value = match flag.get_action().takes_values() {
        true if !words.is_empty() => format!(" {}", words.join("|")),
        true => flag.get_value_names().unwrap_or_default().iter().map(|name| format!(" {name}")).collect(),
        false => String::new(),
    };
    let help = flag.get_help()?.to_string();
    // A default that depends on the machine or on another flag stands in the text.
    let (text, in_words) = match help.rsplit_once(" [default: ") {
        Some((text, default)) => (text.to_owned(), Some(default.trim_end_matches(']').to_owned())),
        None => (help, None),
    };
    let given = flag.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect::<Vec<_>>().join(", ");
    let default = in_words.map_or(given, |words| ours(&words).to_owned());
    let default = if !flag.get_action().takes_values() { "off" } else { &default };
    let cell = |text: &str| text.replace('|', "\\|");
    Some(format!("| `--{long}{}` | {} | {} |\n", cell(&value), cell(default), cell(&text)))
}

fn flags() -> String {
    let mut cli = Cli::command();
    // clap fills the commands in when it is asked for help.
    cli.build();
    let controller = cli.find_subcommand("controller").unwrap();
    let rows: String = controller.get_arguments().filter(|flag| flag.get_long() != Some("help")).filter_map(row).collect();
    format!("| flag | default | meaning |\n|---|---|---|\n{rows}")
}

#[test]
fn golden_flags_of_the_controller_stand_in_operating() {
    let page = tree("docs/operating.md");
    let (before, rest) = page.split_once(BEGIN).expect("the mark before the flags");
    let (table, after) = rest.split_once(END).expect("the mark after the flags");
    if env::var_os(UPDATE).is_some() {
        fs::write(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md"),
            [before, BEGIN, "\n", &flags(), "\n", END, after].concat(),
        )
        .unwrap();
    } else {
        assert_eq!(table.trim(), flags().trim(), "docs/operating.md is stale: make generate");
    }
}

/// The variants of an enum as its source has them.
fn variants(source: &str, name: &str) -> Vec<String> {
    let (_, body) = source.split_once(&format!("pub enum {name} {{")).unwrap();
    let (body, _) = body.split_once('}').unwrap();
    body.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//") && !line.is_empty())
        .map(|line| line.trim_end_matches(',').to_owned())
        .collect()
}

#[test]
fn every_reason_of_a_condition_has_its_remedy_in_troubleshooting() {
    let page = tree("docs/troubleshooting.md");
    let source = tree("src/api/conditions.rs");
    let reasons = variants(&source, "Reason");
    assert!(reasons.len() > 15, "{reasons:?}");
    let missing: Vec<_> = reasons.iter().filter(|reason| !page.contains(&format!("| `{reason}` |"))).collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md says nothing of {missing:?}");
    let told = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .filter(|(word, _)| word.chars().all(char::is_alphabetic));
    let gone: Vec<_> = told
        .map(|(word, _)| word)
        .filter(|word| word.starts_with(char::is_uppercase))
        .filter(|word| !reasons.iter().any(|reason| reason == word))
        .collect();
    assert!(gone.is_empty(), "docs/troubleshooting.md tells of {gone:?}, which no condition has");
}

/// Every metric that is exposed, and its type.
fn exposed() -> BTreeMap<String, String> {
    let page = expose::expose(&Arc::<Metrics>::default(), Observed::default()).unwrap();
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    families.map(|(name, kind)| (if kind == "counter" { format!("{name}_total") } else { name.to_owned() }, kind.to_owned())).collect()
}

#[test]
fn every_metric_stands_in_metrics_with_its_type() {
    let page = tree("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `carrick_")?.split_once("` | "));
    let told: BTreeMap<String, String> =
        rows.map(|(name, rest)| (format!("carrick_{name}"), rest.split(" |").next().unwrap().to_owned())).collect();
    let exposed = exposed();
    assert!(exposed.len() > 30, "{exposed:?}");
    let differ: Vec<_> = exposed.iter().filter(|(name, kind)| told.get(*name) != Some(kind)).collect();
    assert!(differ.is_empty(), "docs/metrics.md lacks {differ:?}: a row each, `| name | type | labels | meaning |`");
    let gone: Vec<_> = told.keys().filter(|name| !exposed.contains_key(*name)).collect();
    assert!(gone.is_empty(), "docs/metrics.md tells of {gone:?}, which are not exposed");
}

/// The metrics that a text names, as a query would.
fn named(text: &str) -> BTreeSet<String> {
    let names = Regex::new(r"\bcarrick_[a-z0-9_]+").unwrap();
    let series = |name: &str| Regex::new(r"_(bucket|sum|count)$").unwrap().replace(name, "").into_owned();
    names.find_iter(text).map(|name| series(name.as_str())).collect()
}

#[test]
fn dashboard_alerts_and_recipes_ask_for_metrics_that_there_are() {
    let exposed = exposed();
    for path in ["charts/carrick/dashboards/carrick.json", "docs/metrics.md", "docs/operating.md", "docs/troubleshooting.md", "README.md"] {
        let unknown: Vec<_> = named(&tree(path)).into_iter().filter(|name| !exposed.contains_key(name)).collect();
        assert!(unknown.is_empty(), "{path} asks for {unknown:?}");
    }
}
