//! Golden translations: what a set of manifests means, as a table and the status of every route, in words a person can read.
//!
//! `tests/golden/NAME.in.yaml` and every file of `examples/` is an input, `tests/golden/NAME.out.yaml` what it must come to.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use carrick::{
    check::readable,
    manifests,
    model::{ObjectRef, Table},
    translate::{Change, ClassFilter, Event, Index, Lookup, Options, RouteStatus, Translated},
};
use proptest::prelude::*;
use serde::Serialize;

/// Set it to write what comes out as the new truth, then read the difference.
const UPDATE: &str = "UPDATE_GOLDEN";

/// How the first line of an input names flags that it is translated with: `# options: require-grants class=carrick`.
const OPTIONS: &str = "# options: ";

/// What a golden file holds.
#[derive(Serialize)]
struct Golden<'a> {
    faults: Vec<String>,
    statuses: &'a BTreeMap<ObjectRef, RouteStatus>,
    departed: &'a BTreeSet<ObjectRef>,
    wanted: BTreeMap<&'static str, &'a BTreeSet<ObjectRef>>,
    table: &'a Table,
}

fn translate(changes: impl IntoIterator<Item = Change>, options: &Options) -> Translated {
    let mut index = Index::default();
    for change in changes {
        index.apply(change);
    }
    index.translate(options)
}

/// The options that an input names, as flags of the controller would set them.
fn options(input: &Path) -> Options {
    let text = fs::read_to_string(input).unwrap_or_default();
    let words = text.lines().next().and_then(|line| line.strip_prefix(OPTIONS)).unwrap_or_default();
    let controller: Arc<str> = "carrick.dev/controller".into();
    words.split_whitespace().fold(Options::default(), |options, word| match word.split_once('=').unwrap_or((word, "")) {
        ("controller", "") => Options { class: ClassFilter::Controller(controller.clone()), ..options },
        ("class", name) => Options { class: ClassFilter::Class { name: name.into(), controller: controller.clone() }, ..options },
        ("require-grants", "") => Options { require_grants: true, ..options },
        ("tcp-ports", "off") => Options { tcp_ports: None, ..options },
        ("look-up", "") => Options { lookup: Lookup::OnDemand, ..options },
        _ => panic!("{} names no option in {word}", input.display()),
    })
}

/// As a cluster tells it: certificates alone are listed, other Secrets and ConfigMaps are looked up.
fn as_listed(change: Change) -> Change {
    match change {
        Change::ConfigMap(_) => Change::ConfigMap(Event::Reset(Vec::new())),
        Change::Secret(Event::Reset(mut secrets)) => {
            secrets.retain(|secret| secret.type_.as_deref() == Some("kubernetes.io/tls"));
            Change::Secret(Event::Reset(secrets))
        }
        change => change,
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The inputs with the name of what they must come to.
fn inputs() -> Vec<(PathBuf, String)> {
    let of = |folder: &str, ending: &'static str, prefix: &'static str| {
        let mut found: Vec<(PathBuf, String)> = fs::read_dir(root().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?.strip_suffix(ending)?.to_owned();
                Some((path, format!("{prefix}{name}")))
            })
            .collect();
        found.sort();
        found
    };
    let mut inputs = of("tests/golden", ".in.yaml", "");
    inputs.extend(of("examples", ".yaml", "example-"));
    inputs.push((root().join("examples/standalone"), "example-standalone".to_owned()));
    inputs
}

fn render(input: &Path) -> String {
    let (changes, faults) = manifests::read(&[input.to_owned()]);
    let options = options(input);
    let translated = match options.lookup {
        Lookup::Told => translate(changes, &options),
        Lookup::OnDemand => translate(changes.into_iter().map(as_listed), &options),
    };
    // Where the tree lies is no part of the truth.
    let faults = faults.iter().map(|fault| format!("line {}: {}", fault.line, fault.reason)).collect();
    let Translated { table, statuses, departed, wanted, .. } = &translated;
    let wanted = BTreeMap::from([("config_maps", &wanted.config_maps), ("secrets", &wanted.secrets)]);
    readable(&Golden { faults, statuses, departed, wanted, table })
}

#[test]
fn every_input_comes_to_its_golden_output() {
    let mut wrong = Vec::new();
    for (input, name) in inputs() {
        let golden = root().join("tests/golden").join(format!("{name}.out.yaml"));
        let now = render(&input);
        if env::var_os(UPDATE).is_some() {
            fs::write(&golden, &now).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != now {
            wrong.push(format!("{}\n{now}", golden.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "differs from its golden file; if that is meant, run with {UPDATE}=1 and read the difference:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_golden_output_is_without_its_input() {
    let names: Vec<String> = inputs().into_iter().map(|(_, name)| format!("{name}.out.yaml")).collect();
    for entry in fs::read_dir(root().join("tests/golden")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".out.yaml") || names.contains(&name), "{name} has no input");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// All golden inputs at once, their kinds told in any order, some of them twice: the same table.
    #[test]
    fn the_order_of_changes_does_not_matter(order in Just((0..18_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let paths: Vec<PathBuf> = inputs().into_iter().map(|(path, _)| path).collect();
        let (changes, _) = manifests::read(&paths);
        let expected = translate(changes.clone(), &Options::default());
        let shuffled = translate(order.into_iter().map(|position| changes[position % changes.len()].clone()), &Options::default());
        prop_assert_eq!(expected, shuffled);
    }
}
