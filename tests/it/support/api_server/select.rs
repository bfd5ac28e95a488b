//! fieldSelector and labelSelector, as far as clients of ours use them.

use serde_json::Value;

/// Which objects a list or a watch is about.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub plural: &'static str,
    /// Empty is all.
    pub namespace: String,
    fields: Vec<Requirement>,
    labels: Vec<Requirement>,
}

#[derive(Clone, Debug)]
enum Requirement {
    Is(String, String),
    IsNot(String, String),
    Exists(String),
    IsAbsent(String),
}

impl Selection {
    pub fn new(plural: &'static str, namespace: &str, fields: &str, labels: &str) -> Self {
        Self { plural, namespace: namespace.to_owned(), fields: requirements(fields), labels: requirements(labels) }
    }

    /// Whether it is about this object of its kind.
    pub fn takes(&self, object: &Value) -> bool {
        let in_namespace = self.namespace.is_empty() || object["metadata"]["namespace"] == self.namespace.as_str();
        let labels = &object["metadata"]["labels"];
        in_namespace
            && self.fields.iter().all(|field| field.holds(|path| text(path.split('.').fold(object, |value, step| &value[step]))))
            && self.labels.iter().all(|label| label.holds(|key| text(&labels[key])))
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn requirements(selector: &str) -> Vec<Requirement> {
    let parse = |term: &str| {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        if let Some((key, value)) = term.split_once("!=").map(owned) {
            Requirement::IsNot(key, value)
        } else if let Some((key, value)) = term.split_once("==").or(term.split_once('=')).map(owned) {
            Requirement::Is(key, value)
        } else if let Some(key) = term.strip_prefix('!') {
            Requirement::IsAbsent(key.to_owned())
        } else {
            Requirement::Exists(term.to_owned())
        }
    };
    selector.split(',').map(str::trim).filter(|term| !term.is_empty()).map(parse).collect()
}

impl Requirement {
    fn holds(&self, value_of: impl Fn(&str) -> Option<String>) -> bool {
        match self {
            Requirement::Is(key, value) => value_of(key).unwrap_or_default() == *value,
            Requirement::IsNot(key, value) => value_of(key).unwrap_or_default() != *value,
            Requirement::Exists(key) => value_of(key).is_some(),
            Requirement::IsAbsent(key) => value_of(key).is_none(),
        }
    }
}
