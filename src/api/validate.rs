//! What the API server would refuse by the schema alone: types, bounds, patterns, unknown fields. For objects that never met one.
//!
//! It knows JSON and the CustomResourceDefinition, no other object; CEL rules are not here. `manifests` asks for unknown
//! fields, `translate` for values that no API server would have let in.

use std::{collections::BTreeMap, fmt, sync::LazyLock};

use regex::Regex;
use serde_json::Value;

/// Something in an object that its schema does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where: `spec`, `locations`, `2`, `path`.
    pub path: Vec<String>,
    /// What is wrong there.
    pub kind: FaultKind,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The schema has no such field.
    UnknownField,
    /// The value is out of bounds; in words that go on after the field's name.
    Value(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.path.iter().enumerate() {
            match step.parse::<usize>() {
                Ok(index) => write!(f, "[{index}]")?,
                Err(_) if position == 0 => f.write_str(step)?,
                Err(_) => write!(f, ".{step}")?,
            }
        }
        match &self.kind {
            FaultKind::UnknownField => f.write_str(" is no field of a WsRoute"),
            FaultKind::Value(message) => write!(f, " {message}"),
        }
    }
}

/// Everything in `spec` that the schema does not allow.
pub fn validate(spec: &Value) -> Vec<Fault> {
    static SPEC: LazyLock<Node> = LazyLock::new(|| Node::compile(&super::schema::spec_schema()));
    let mut faults = Vec::new();
    SPEC.check(spec, &mut vec!["spec".to_owned()], &mut faults);
    faults
}

/// One level of a structural schema, with its patterns compiled.
#[derive(Default)]
struct Node {
    kind: Kind,
    choices: Vec<Value>,
    pattern: Option<Regex>,
    length: (usize, usize),
    range: (f64, f64),
    items: Option<Box<Node>>,
    /// `None`: an object without declared fields, which takes any.
    properties: Option<BTreeMap<String, Node>>,
    additional: Option<Box<Node>>,
    required: Vec<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Any,
    String,
    Integer,
    Number,
    Boolean,
    Array,
    Object,
    IntOrString,
}

impl Node {
    fn compile(schema: &Value) -> Self {
        let kind = match schema["type"].as_str() {
            _ if schema["x-kubernetes-int-or-string"] == true => Kind::IntOrString,
            Some("string") => Kind::String,
            Some("integer") => Kind::Integer,
            Some("number") => Kind::Number,
            Some("boolean") => Kind::Boolean,
            Some("array") => Kind::Array,
            Some("object") => Kind::Object,
            _ => Kind::Any,
        };
        let count = |keys: &[&str], otherwise: usize| {
            keys.iter().find_map(|key| schema[*key].as_u64()).map_or(otherwise, |bound| usize::try_from(bound).unwrap_or(usize::MAX))
        };
        let children =
            |object: &serde_json::Map<String, Value>| object.iter().map(|(key, child)| (key.clone(), Self::compile(child))).collect();
        Self {
            kind,
            choices: schema["enum"].as_array().cloned().unwrap_or_default(),
            pattern: schema["pattern"].as_str().and_then(|pattern| Regex::new(pattern).ok()),
            length: (count(&["minLength", "minItems", "minProperties"], 0), count(&["maxLength", "maxItems", "maxProperties"], usize::MAX)),
            range: (schema["minimum"].as_f64().unwrap_or(f64::MIN), schema["maximum"].as_f64().unwrap_or(f64::MAX)),
            items: schema.get("items").map(|items| Box::new(Self::compile(items))),
            properties: schema["properties"].as_object().map(children),
            additional: schema.get("additionalProperties").filter(|more| more.is_object()).map(|more| Box::new(Self::compile(more))),
            required: schema["required"].as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        }
    }

    fn check(&self, value: &Value, path: &mut Vec<String>, faults: &mut Vec<Fault>) {
        if value.is_null() {
            return; // the API server drops null where a field is not nullable
        }
        if let Some(wrong) = self.wrong(value) {
            faults.push(Fault { path: path.clone(), kind: FaultKind::Value(wrong) });
            return;
        }
        match value {
            Value::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    let Some(items) = &self.items else { break };
                    path.push(index.to_string());
                    items.check(element, path, faults);
                    path.pop();
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields {
                    path.push(name.clone());
                    match self.properties.as_ref().and_then(|known| known.get(name)).or(self.additional.as_deref()) {
                        Some(child) => child.check(field, path, faults),
                        None if self.properties.is_some() => faults.push(Fault { path: path.clone(), kind: FaultKind::UnknownField }),
                        None => {}
                    }
                    path.pop();
                }
            }
            _ => {}
        }
    }

    /// What is wrong with the value itself, not with what it holds.
    fn wrong(&self, value: &Value) -> Option<String> {
        let right_type = match self.kind {
            Kind::Any => true,
            Kind::String => value.is_string(),
            Kind::Integer => value.is_i64() || value.is_u64(),
            Kind::Number => value.is_number(),
            Kind::Boolean => value.is_boolean(),
            Kind::Array => value.is_array(),
            Kind::Object => value.is_object(),
            Kind::IntOrString => value.is_string() || value.is_i64() || value.is_u64(),
        };
        if !right_type {
            return Some("has a value of the wrong type".to_owned());
        }
        if !self.choices.is_empty() && !self.choices.contains(value) {
            let choices: Vec<String> =
                self.choices.iter().map(|choice| choice.as_str().map_or(choice.to_string(), str::to_owned)).collect();
            return Some(format!("is {value}: it takes one of {}", choices.join(", ")));
        }
        let (least, most) = self.length;
        let outside = |length: usize, what: &str| {
            (length < least)
                .then(|| format!("has {length} {what}: at least {least}"))
                .or_else(|| (length > most).then(|| format!("has {length} {what}: at most {most}")))
        };
        match value {
            Value::String(text) => outside(text.chars().count(), "characters").or_else(|| {
                let pattern = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text))?;
                Some(format!("is {value}, which does not match {pattern}"))
            }),
            Value::Array(elements) => outside(elements.len(), "elements"),
            Value::Object(fields) => outside(fields.len(), "fields")
                .or_else(|| self.required.iter().find(|name| !fields.contains_key(*name)).map(|name| format!("lacks {name}"))),
            Value::Number(number) => {
                let (least, most) = self.range;
                let number = number.as_f64()?;
                (number < least)
                    .then(|| format!("is {value}: at least {least}"))
                    .or_else(|| (number > most).then(|| format!("is {value}: at most {most}")))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(spec: Value) -> Vec<String> {
        validate(&spec).iter().map(Fault::to_string).collect()
    }

    #[test]
    fn a_route_within_bounds_has_no_fault() {
        assert_eq!(
            faults(json!({"hosts": ["a.example"], "locations": [{"path": "/ws", "backends": [{"service": "app", "port": 80}]}]})),
            [""; 0]
        );
    }

    #[test]
    fn faults_name_the_field_and_the_bound() {
        let faults = faults(json!({
            "hosts": ["UPPER.example"],
            "locations": [{"path": "/", "redirekt": {}, "backends": [{"service": "app", "port": 80, "weight": 10001}]}],
        }));
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].starts_with("spec.hosts[0] is \"UPPER.example\", which does not match"), "{faults:?}");
        assert_eq!(faults[1], "spec.locations[0].backends[0].weight is 10001: at most 10000");
        assert_eq!(faults[2], "spec.locations[0].redirekt is no field of a WsRoute");
    }

    #[test]
    fn the_wrong_type_is_a_fault() {
        assert_eq!(faults(json!({"hosts": "a.example"})), ["spec.hosts has a value of the wrong type"]);
    }
}
