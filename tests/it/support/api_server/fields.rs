//! Server-side apply: an object as a set of fields, and who owns each.
//!
//! Enough of it for one writer beside others: fields that a manager no longer sends are removed unless another one owns them,
//! values of another manager are taken by force alone, and conditions, ports and owner references are maps by their keys.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Who owns which fields.
pub type Owners = BTreeMap<String, BTreeSet<Path>>;

/// The way to a field.
pub type Path = Vec<Step>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Field(String),
    /// The item of a list with these keys, as JSON.
    Item(String),
}

/// Lists whose items have an identity.
fn keys_of(list: &str) -> Option<&'static [&'static str]> {
    match list {
        "conditions" => Some(&["type"]),
        "ports" => Some(&["port", "protocol"]),
        "ownerReferences" => Some(&["uid"]),
        _ => None,
    }
}

/// Applies what a manager sends to an object that is there. An error says what another manager owns.
pub fn apply(object: &mut Value, owners: &mut Owners, manager: &str, sent: &Value, force: bool) -> Result<(), String> {
    let sent = fields(sent);
    let mut fields = fields(object);
    for (path, value) in &sent {
        let differs = fields.get(path).is_some_and(|is| is != value);
        let other = owners.iter().find(|(other, paths)| *other != manager && paths.contains(path));
        if let Some((other, _)) = other.filter(|_| differs && !force) {
            return Err(format!("Apply failed with 1 conflict: conflict with {other:?}: {path:?}"));
        }
    }
    let paths: BTreeSet<Path> = sent.keys().cloned().collect();
    let last = owners.insert(manager.to_owned(), paths.clone()).unwrap_or_default();
    for path in last.difference(&paths) {
        let still_owned = owners.iter().any(|(other, paths)| other != manager && paths.contains(path));
        if !still_owned {
            fields.remove(path);
        }
    }
    for (path, value) in sent {
        if fields.get(&path) != Some(&value) {
            owners.iter_mut().filter(|(other, _)| *other != manager).for_each(|(_, paths)| {
                paths.remove(&path);
            });
        }
        fields.insert(path, value);
    }
    owners.retain(|_, paths| !paths.is_empty());
    *object = with_fields(object, &fields);
    Ok(())
}

/// A write of the whole object: what it changed is nobody's any more.
pub fn disown_changed(owners: &mut Owners, before: &Value, after: &Value) {
    let (before, after) = (fields(before), fields(after));
    for paths in owners.values_mut() {
        paths.retain(|path| before.get(path) == after.get(path));
    }
}

/// Every value that is no map, and no list with keys, by its path; without what identifies the object.
fn fields(object: &Value) -> BTreeMap<Path, Value> {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|name, _| is_field_of_metadata(name));
    }
    let mut fields = BTreeMap::new();
    collect(&mut Vec::new(), &object, &mut fields);
    fields
}

fn collect(path: &mut Path, value: &Value, fields: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                path.push(Step::Field(name.clone()));
                collect(path, value, fields);
                path.pop();
            }
        }
        Value::Array(items) => match list_keys(path) {
            Some(keys) => {
                for item in items {
                    path.push(Step::Item(identity(item, keys)));
                    collect(path, item, fields);
                    path.pop();
                }
            }
            None => {
                fields.insert(path.clone(), value.clone());
            }
        },
        Value::Null => {}
        value => {
            fields.insert(path.clone(), value.clone());
        }
    }
}

fn list_keys(path: &[Step]) -> Option<&'static [&'static str]> {
    match path.last() {
        Some(Step::Field(name)) => keys_of(name),
        _ => None,
    }
}

fn identity(item: &Value, keys: &[&str]) -> String {
    keys.iter().map(|key| item[*key].to_string()).collect()
}

fn is_field_of_metadata(name: &str) -> bool {
    matches!(name, "labels" | "annotations" | "ownerReferences")
}

/// The object with exactly these fields, and the identity it had.
fn with_fields(object: &Value, fields: &BTreeMap<Path, Value>) -> Value {
    let mut built = build(fields.iter().map(|(path, value)| (path.as_slice(), value)));
    for name in ["apiVersion", "kind"] {
        built[name] = object[name].clone();
    }
    let mut metadata = object["metadata"].as_object().cloned().unwrap_or_default();
    metadata.retain(|name, _| !is_field_of_metadata(name));
    metadata.extend(built["metadata"].as_object().cloned().unwrap_or_default());
    built["metadata"] = metadata.into();
    built
}

fn build<'a>(fields: impl Iterator<Item = (&'a [Step], &'a Value)>) -> Value {
    let mut below: BTreeMap<&Step, Vec<(&[Step], &Value)>> = BTreeMap::new();
    let mut own = None;
    for (path, value) in fields {
        match path.split_first() {
            Some((step, rest)) => below.entry(step).or_default().push((rest, value)),
            None => own = Some(value.clone()),
        }
    }
    // An empty map is a value only as long as nothing is in it.
    if let Some(own) = own.filter(|_| below.is_empty()) {
        return own;
    }
    let mut map = Map::new();
    let mut items = Vec::new();
    for (step, fields) in below {
        let value = build(fields.into_iter());
        match step {
            Step::Field(name) => drop(map.insert(name.clone(), value)),
            Step::Item(_) => items.push(value),
        }
    }
    if items.is_empty() { map.into() } else { items.into() }
}
