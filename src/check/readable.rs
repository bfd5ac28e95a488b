//! Plain data as YAML for people: no absent fields, spans of time as they are written in a WsRoute.
//!
//! It never knows what it prints. `check` shows locations by it, the golden tests whole tables.

use serde::Serialize;
use serde_json::Value;

use crate::api;

/// A value of the model as YAML, without what is absent or empty.
pub fn readable(value: &impl Serialize) -> String {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    simplify(&mut value);
    serde_saphyr::to_string(&value).unwrap_or_default()
}

fn simplify(value: &mut Value) {
    if let Some(duration) = duration(value) {
        *value = Value::String(duration.to_string());
        return;
    }
    match value {
        Value::Array(elements) => elements.iter_mut().for_each(simplify),
        Value::Object(fields) => {
            fields.values_mut().for_each(simplify);
            fields.retain(|_, field| !is_empty(field));
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(elements) => elements.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// What serde makes of `std::time::Duration`.
fn duration(value: &Value) -> Option<api::Duration> {
    let fields = value.as_object().filter(|fields| fields.len() == 2)?;
    let nanoseconds = u32::try_from(fields.get("nanos")?.as_u64()?).ok()?;
    Some(api::Duration(std::time::Duration::new(fields.get("secs")?.as_u64()?, nanoseconds)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_fields_go_and_durations_are_words() {
        let value = json!({"idle": std::time::Duration::from_secs(90), "host": null, "hosts": [], "list": [1]});
        assert_eq!(readable(&value), "idle: 1m30s\nlist:\n- 1\n");
    }
}
