//! How the Rust types become the CustomResourceDefinition: bounds, patterns, rules, and what the derive macros leave to polish.
//!
//! It knows no other object. The types beside it use the words, `carrick crd` and a test the text.

use kube::CustomResourceExt;
use schemars::Schema;
use serde_json::{Value, json};

use super::{Condition, ConditionType, Reason, Status, WsRoute};

/// Names of objects, and of anything else Kubernetes bounds by a DNS subdomain.
pub(super) const NAME: &str = "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$";
/// Namespaces and Services.
pub(super) const LABEL: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
/// A host name without wildcard, in lower case, without port and trailing dot.
pub(super) const HOST: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$";
/// The same, or `*.` before it.
pub(super) const HOST_PATTERN: &str = "^([*][.])?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$";
/// A token of RFC 9110 5.6.2: methods, header and cookie names, subprotocols.
pub(super) const TOKEN: &str = "^[-!#$%&'*+.^_`|~0-9A-Za-z]+$";
/// An upgrade token with an optional version.
pub(super) const UPGRADE: &str = "^[-!#$%&'*+.^_`|~0-9A-Za-z]+(/[-!#$%&'*+.^_`|~0-9A-Za-z]+)?$";
/// A field value without control characters.
pub(super) const FIELD_VALUE: &str = r"^([^\x00-\x1f\x7f]|\t)*$";
/// An absolute path without query and fragment.
pub(super) const PATH: &str = r"^/[^?#;\s]*$";
/// An absolute path, perhaps with a query.
pub(super) const TARGET: &str = r"^/[^?#;\s]*([?][^#\s]*)?$";
/// An Origin of `websocket.origins`.
pub(super) const ORIGIN: &str =
    "^(SameHost|[*]|(https?://)?([*][.])?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*(:[0-9]{1,5})?)$";
/// `host:port` with a name, an IPv4 address or an IPv6 address in brackets.
pub(super) const ADDRESS: &str = r"^([a-zA-Z0-9]([-a-zA-Z0-9._]{0,251}[a-zA-Z0-9])?|\[[0-9a-fA-F:.]{2,45}\]):[0-9]{1,5}$";
/// A host name with an optional port: what `rewrite.host` sends as Host.
pub(super) const AUTHORITY: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*(:[0-9]{1,5})?$";
/// An address or a block of them; the translator parses it.
pub(super) const CIDR: &str = "^[0-9a-fA-F:.]{2,45}(/[0-9]{1,3})?$";

/// Methods are compared as they are, and those in use are in upper case.
pub(super) const METHOD: &str = "^[-!#$%&'*+.^_`|~0-9A-Z]+$";
/// Name of a Service's port: IANA_SVC_NAME has at least one letter.
pub(super) const PORT_NAME: &str = "^[-0-9]*[a-z][-a-z0-9]*$";
/// A number of bytes where it is given as a string.
pub(super) const QUANTITY: &str = "^[0-9]{1,12}(k|M|G|T|Ki|Mi|Gi|Ti)?$";
/// Header fields that frame a message or belong to the handshake.
const OURS: &str =
    "^(?i)(host|connection|keep-alive|proxy-connection|te|trailer|transfer-encoding|upgrade|content-length|sec-websocket-.*)$";

/// One entry of `x-kubernetes-validations`.
pub(super) fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// For a duration that may not be `0s`.
pub(super) fn more_than_zero() -> Value {
    rule("self.matches('[1-9]')", "must be more than 0s")
}

const OURS_MESSAGE: &str =
    "Host (see rewrite.host), Connection, Upgrade, Sec-WebSocket-* and the fields that frame a message are not for edits";

/// For the name of a header field that is edited.
pub(super) fn not_ours() -> Value {
    rule(&format!("!self.matches('{OURS}')"), OURS_MESSAGE)
}

/// For names of header fields that are edited.
pub(super) fn none_ours() -> Value {
    rule(&format!("self.all(name, !name.matches('{OURS}'))"), OURS_MESSAGE)
}

/// Keeps the description of an enum's type from replacing the one of the field, as kube's rewriting of `Option<Enum>` would have it.
pub(super) fn undescribed(schema: &mut Schema) {
    schema.remove("description");
}

/// The CustomResourceDefinition as YAML: `crds/wsroutes.yaml`, the output of `carrick crd`.
pub fn crd_yaml() -> String {
    serde_saphyr::to_string(&crd()).unwrap_or_default()
}

/// The CustomResourceDefinition.
pub(super) fn crd() -> Value {
    let mut crd = serde_json::to_value(WsRoute::crd()).unwrap_or_default();
    if let Some(schema) = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        polish(schema);
        if let Some(status) = schema.pointer_mut("/properties/status") {
            wait_for_a_controller(status);
        }
    }
    crd
}

/// The one default of the schema: a route of which no controller has said anything is not ready. Without it `kubectl wait`, Helm and
/// whatever else follows kstatus take an object without conditions for one that needs nothing more. Nobody owns what a default says, so
/// that the first status replaces it; a time of 1970 and no generation tell it from one that was written.
fn wait_for_a_controller(status: &mut Value) {
    let waiting = Condition {
        last_transition_time: Some("1970-01-01T00:00:00Z".to_owned()),
        ..Condition::new(ConditionType::Ready, Status::Unknown, Reason::Pending, "waiting for a controller")
    };
    status["default"] = json!({});
    status["properties"]["conditions"]["default"] = json!([waiting]);
}

/// The schema of `spec`.
pub(super) fn spec_schema() -> Value {
    crd().pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").cloned().unwrap_or_default()
}

/// What the derive macros write and the API server has no use for: `null` for absent fields (no patch needs it and CEL would have to
/// tell the two apart), formats it warns of, bounds as floating point numbers.
fn polish(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("nullable");
    if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        fields.remove("format");
    }
    for bound in ["minimum", "maximum"] {
        if let Some(value) = fields.get_mut(bound)
            && let Some(number) = value.as_f64()
        {
            *value = json!(number as i64);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(inner) {
            polish(inner);
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(polish);
    }
}
