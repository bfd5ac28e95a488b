//! `docs/wsroute.md`: every field with its type, default and rules, made from the schema.
//!
//! It knows the schema and nothing else, so that the page can't differ from what the API server does. `carrick crd --reference` prints it.

use std::fmt::Write;

use serde_json::Value;

use super::{duration, schema::crd};

const HEAD: &str = "\
# WsRoute

The reference of `carrick.dev/v1alpha1`, kind `WsRoute` (plural `wsroutes`, short name `wsr`, category `carrick`), made from the schema by
`carrick crd --reference > docs/wsroute.md`. `kubectl explain wsroute.spec.locations` says the same in a terminal.

What can be told from the object alone is refused by the API server at `kubectl apply` (*Rules* below a table). What only the cluster can tell,
such as a Service that does not exist, ends in the status. Defaults are applied by Carrick and never written into the object. A
*duration* is one to four numbers with their units `h`, `m`, `s` or `ms`: `90s`, `1h30m`.
";

/// Fields that open their table, in this order; the others follow by name.
const FIRST: [&str; 23] = [
    "ingressClassName",
    "hosts",
    "tls",
    "locations",
    "tcp",
    "secretName",
    "name",
    "key",
    "path",
    "pathType",
    "match",
    "service",
    "port",
    "namespace",
    "address",
    "backends",
    "static",
    "redirect",
    "cookie",
    "scheme",
    "host",
    "active",
    "allow",
];

/// The reference as Markdown: `docs/wsroute.md`, the output of `carrick crd --reference`.
pub fn reference_markdown() -> String {
    let crd = crd();
    let mut page = Page { text: HEAD.to_owned(), written: Vec::new() };
    for part in ["spec", "status"] {
        if let Some(schema) = crd.pointer(&format!("/spec/versions/0/schema/openAPIV3Schema/properties/{part}")) {
            page.object(part, schema);
        }
    }
    page.text
}

struct Page {
    text: String,
    /// The objects that have a section, with its title. An object met again (a Service port, the policy fields of `defaults`) is linked.
    written: Vec<(Value, String)>,
}

impl Page {
    fn object(&mut self, path: &str, schema: &Value) {
        let mut fields: Vec<(&String, &Value)> = schema.get("properties").and_then(Value::as_object).into_iter().flatten().collect();
        fields.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
        // Headings of depth two and three, so that a table of contents stays readable.
        let level = if path.contains(['.', '[']) { "###" } else { "##" };
        let (meaning, _) = meaning_and_default(schema);
        let _ = write!(self.text, "\n{level} {path}\n\n{meaning}\n\n| field | type | default | meaning |\n|---|---|---|---|\n");
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();

        let mut sections = Vec::new();
        for (name, field) in &fields {
            let (meaning, default) = meaning_and_default(field);
            let default = if required.contains(&name.as_str()) { "required" } else { default };
            let kind = match nested(path, name, field) {
                Some(section) => {
                    let written = self.written.iter().find(|(object, _)| *object == section.object);
                    let title = written.map_or(section.path.clone(), |(_, title)| title.clone());
                    let link = format!("[{}](#{})", section.kind, anchor(&title));
                    if written.is_none() {
                        self.written.push((section.object.clone(), title));
                        sections.push(section);
                    }
                    link
                }
                None => kind(field),
            };
            let _ = writeln!(self.text, "| `{name}` | {} | {} | {} |", kind, escaped(default), escaped(meaning));
        }

        // The rules of an object stand in its own section.
        let plain = fields.iter().filter(|(_, field)| field.get("properties").is_none());
        let rules = plain.flat_map(|(name, field)| messages(field).map(move |rule| (Some(name.as_str()), rule)));
        let rules: Vec<_> = messages(schema).map(|rule| (None, rule)).chain(rules).collect();
        if !rules.is_empty() {
            self.text.push_str("\nRules:\n\n");
        }
        for (field, rule) in rules {
            let _ = match field {
                Some(field) => writeln!(self.text, "- `{field}`: {}", escaped(rule)),
                None => writeln!(self.text, "- {}", escaped(rule)),
            };
        }
        // Locations before defaults: the policy fields of both are explained where people look for them.
        sections.sort_by_key(|section| section.path.ends_with(".defaults"));
        for section in sections {
            self.object(&section.path, &section.schema);
        }
    }
}

/// A field whose value is an object, or a list of objects.
struct Nested {
    path: String,
    kind: String,
    schema: Value,
    /// The schema without its description, which is the field's own.
    object: Value,
}

fn nested(parent: &str, name: &str, field: &Value) -> Option<Nested> {
    let (inner, suffix) = match field.get("items") {
        Some(items) => (items, "[]"),
        None => (field, ""),
    };
    inner.get("properties")?;
    let mut object = inner.clone();
    object.as_object_mut().map(|fields| fields.remove("description"));
    let kind = if suffix.is_empty() { "object".to_owned() } else { format!("list of objects{}", at_most(field, "maxItems")) };
    Some(Nested { path: format!("{parent}.{name}{suffix}"), kind, schema: inner.clone(), object })
}

fn kind(schema: &Value) -> String {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values
            .iter()
            .map(|value| format!("`{}`", value.as_str().map_or(value.to_string(), str::to_owned)))
            .collect::<Vec<_>>()
            .join(", ");
    }
    if let Some(items) = schema.get("items") {
        return format!("list of {}{}", kind(items), at_most(schema, "maxItems"));
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return format!("integer{} or string", range(schema));
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") if schema.get("pattern").and_then(Value::as_str) == Some(duration::PATTERN) => "duration".to_owned(),
        Some("integer") => format!("integer{}", range(schema)),
        Some("object") => "map of strings".to_owned(),
        other => other.unwrap_or_default().to_owned(),
    }
}

fn range(schema: &Value) -> String {
    match (schema.get("minimum"), schema.get("maximum")) {
        (Some(minimum), Some(maximum)) => format!(" {minimum} to {maximum}"),
        (Some(minimum), None) => format!(" from {minimum}"),
        _ => String::new(),
    }
}

fn at_most(schema: &Value, bound: &str) -> String {
    schema.get(bound).map(|bound| format!(", at most {bound}")).unwrap_or_default()
}

fn messages(schema: &Value) -> impl Iterator<Item = &str> {
    let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
    rules.filter_map(|rule| rule.get("message").and_then(Value::as_str))
}

/// Takes a description apart: what it says, and what its `[default: …]` says.
fn meaning_and_default(schema: &Value) -> (&str, &str) {
    let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    match description.split_once("[default: ") {
        Some((meaning, default)) => (meaning.trim_end(), default.trim_end().trim_end_matches(']')),
        None => (description.trim_end_matches(" Required."), ""),
    }
}

/// Text as Markdown takes it literally, in a table's cell too.
fn escaped(text: &str) -> String {
    text.replace('*', "\\*").replace('|', "\\|").replace('<', "\\<")
}

/// As GitHub makes it from a heading.
fn anchor(title: &str) -> String {
    title.chars().filter(|character| character.is_ascii_alphanumeric() || *character == '-').collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::{WsRoute, crd_yaml};

    fn spec_schema() -> Value {
        crd().pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").cloned().unwrap()
    }

    #[test]
    fn the_definition_in_the_tree_is_the_generated_one() {
        assert!(include_str!("../../crds/wsroutes.yaml") == crd_yaml(), "refresh it: carrick crd > crds/wsroutes.yaml");
    }

    #[test]
    fn the_reference_in_the_tree_is_the_generated_one() {
        assert!(include_str!("../../docs/wsroute.md") == reference_markdown(), "refresh it: carrick crd --reference > docs/wsroute.md");
    }

    #[test]
    fn every_field_has_a_description() {
        fn check(path: &str, schema: &Value) {
            let Some(fields) = schema.get("properties").and_then(Value::as_object) else { return };
            for (name, field) in fields {
                let path = format!("{path}.{name}");
                assert!(field.get("description").and_then(Value::as_str).is_some_and(|text| text.ends_with(['.', ']'])), "{path}");
                check(&path, field.get("items").unwrap_or(field));
            }
        }
        check("spec", &spec_schema());
    }

    #[test]
    fn every_list_and_string_has_a_bound() {
        fn check(path: &str, schema: &Value) {
            match schema.get("type").and_then(Value::as_str) {
                Some("string") => assert!(schema.get("maxLength").or(schema.get("enum")).is_some(), "{path}"),
                Some("array") => {
                    assert!(schema.get("maxItems").is_some(), "{path}");
                    check(&format!("{path}[]"), &schema["items"]);
                }
                _ => {}
            }
            for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                check(&format!("{path}.{name}"), field);
            }
        }
        check("spec", &spec_schema());
    }

    #[test]
    fn no_field_has_a_default_that_the_api_server_would_store() {
        fn check(schema: &Value) {
            for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let field = field.get("items").unwrap_or(field);
                assert!(field.get("default").is_none(), "{name}");
                check(field);
            }
        }
        check(&spec_schema());
        let status = &crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
        let ready = &status["properties"]["conditions"]["default"][0];
        assert_eq!((&ready["type"], &ready["status"], &status["default"]), (&"Ready".into(), &"Unknown".into(), &serde_json::json!({})));
    }

    #[test]
    fn every_field_of_the_schema_is_read_and_written_back() {
        let routes: Vec<WsRoute> = serde_saphyr::from_multiple(include_str!("../../tests/e2e/every-field.yaml")).unwrap();
        let mut missing = BTreeSet::new();
        fields_of(&spec_schema(), &mut missing);
        for route in &routes {
            let written = serde_json::to_value(&route.spec).unwrap();
            remove_seen(&spec_schema(), &written, &mut missing);
            assert_eq!(serde_json::from_value::<crate::api::WsRouteSpec>(written).unwrap(), route.spec);
        }
        assert!(missing.is_empty(), "{:?}", missing.iter().map(|(_, name)| name).collect::<Vec<_>>());
    }

    /// Every field as its object's schema, so that a type used in many places counts once, and its name.
    fn fields_of(schema: &Value, found: &mut BTreeSet<(String, String)>) {
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            found.insert((schema["properties"].to_string(), name.clone()));
            fields_of(field.get("items").unwrap_or(field), found);
        }
    }

    fn remove_seen(schema: &Value, value: &Value, missing: &mut BTreeSet<(String, String)>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| remove_seen(&schema["items"], item, missing)),
            Value::Object(fields) => {
                for (name, field) in fields {
                    missing.remove(&(schema["properties"].to_string(), name.clone()));
                    remove_seen(&schema["properties"][name], field, missing);
                }
            }
            _ => {}
        }
    }
}
