//! `spec.defaults` under the fields of a location: merged one level down, scalars and lists replaced.
//!
//! It never knows what a field means. `location` calls it before it reads any policy field.

use serde_json::{Map, Value};

use crate::api::Policy;

/// The policy of a location in force.
pub(super) fn merge(own: &Policy, defaults: Option<&Policy>) -> Policy {
    let Some(defaults) = defaults else { return own.clone() };
    let mut defaults = defaults.clone();
    // A location that says how the path changes means instead of the default way, not beside it.
    if let (Some(rewrite), Some(own)) = (&mut defaults.rewrite, &own.rewrite)
        && (own.prefix.is_some() || own.regex.is_some())
    {
        (rewrite.prefix, rewrite.regex, rewrite.replacement) = (None, None, None);
    }
    let (Value::Object(mut merged), Value::Object(defaults)) = (as_json(own), as_json(&defaults)) else { return own.clone() };
    for (name, default) in defaults {
        match (merged.get_mut(&name), default) {
            (None, default) => {
                merged.insert(name, default);
            }
            (Some(Value::Object(field)), Value::Object(default)) => fill(field, default),
            (Some(_), _) => {}
        }
    }
    // Both sides were Policies, and no field of one fits another.
    serde_json::from_value(Value::Object(merged)).unwrap_or_else(|_| own.clone())
}

fn fill(field: &mut Map<String, Value>, default: Map<String, Value>) {
    for (name, value) in default {
        field.entry(name).or_insert(value);
    }
}

fn as_json(policy: &Policy) -> Value {
    serde_json::to_value(policy).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(own: Value, defaults: Value) -> Value {
        let policy = |value| serde_json::from_value::<Policy>(value).unwrap();
        as_json(&merge(&policy(own), Some(&policy(defaults))))
    }

    #[test]
    fn fields_are_merged_one_level_down() {
        let defaults = json!({"timeouts": {"idle": "5m", "connect": "1s"}, "websocket": {"origins": ["a.example"]}});
        let own = json!({"timeouts": {"idle": "1m"}, "websocket": {"reconnectCode": 1013}});
        let both = json!({"timeouts": {"idle": "1m", "connect": "1s"}, "websocket": {"reconnectCode": 1013, "origins": ["a.example"]}});
        assert_eq!(merged(own, defaults), both);
    }

    #[test]
    fn lists_and_what_lies_deeper_are_replaced() {
        let defaults = json!({"upgrades": ["tcp"], "websocket": {"messages": {"maxSize": "1Mi"}}});
        let own = json!({"upgrades": ["SPDY/3.1"], "websocket": {"messages": {"perSecond": 5}}});
        assert_eq!(merged(own.clone(), defaults), own);
    }

    #[test]
    fn another_way_to_rewrite_takes_the_place_of_the_default_one() {
        let defaults = json!({"rewrite": {"prefix": "/app", "host": "app.example"}});
        let own = json!({"rewrite": {"regex": "a", "replacement": "b"}});
        assert_eq!(merged(own, defaults), json!({"rewrite": {"regex": "a", "replacement": "b", "host": "app.example"}}));
    }
}
