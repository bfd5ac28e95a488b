//! How the Rust types become the CustomResourceDefinition: bounds, patterns, rules, and what the derive macros leave to polish.
//!
//! It knows no other object. The types beside it use the words, `carrick crd` and a test the text.

use kube::CustomResourceExt;
use serde_json::Value;

use super::WsRoute;

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
pub(super) const PATH: &str = r"^/[^?#\s]*$";
/// An Origin of `websocket.origins`.
pub(super) const ORIGIN: &str =
    "^(SameHost|[*]|(https?://)?([*][.])?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*(:[0-9]{1,5})?)$";
/// `host:port` with a name, an IPv4 address or an IPv6 address in brackets.
pub(super) const ADDRESS: &str = r"^([a-zA-Z0-9]([-a-zA-Z0-9._]{0,251}[a-zA-Z0-9])?|\[[0-9a-fA-F:.]{2,45}\]):[0-9]{1,5}$";
/// A host name with an optional port: what `rewrite.host` sends as Host.
pub(super) const AUTHORITY: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*(:[0-9]{1,5})?$";
/// An address or a block of them; the translator parses it.
pub(super) const CIDR: &str = "^[0-9a-fA-F:.]{2,45}(/[0-9]{1,3})?$";

/// The CustomResourceDefinition as YAML: `crds/wsroutes.yaml`, the output of `carrick crd`.
pub fn crd_yaml() -> String {
    serde_saphyr::to_string(&crd()).unwrap_or_default()
}

/// The CustomResourceDefinition.
pub(super) fn crd() -> Value {
    serde_json::to_value(WsRoute::crd()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_of_the_kind() {
        assert_eq!(crd().pointer("/spec/names/kind"), Some(&Value::from("WsRoute")));
        assert!(crd_yaml().contains("wsroutes.carrick.dev"));
    }
}
