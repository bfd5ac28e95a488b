//! What the schema has and this version does not act on. Each such field is named, and its location not served: nothing is ignored silently.
//!
//! It never knows what the fields do. `location` and `layer4` call it; whoever builds a field takes its line away.

use crate::api::{Policy, TcpRoute};

/// Whether a location hands requests to backends: what is about endpoints and tunnels has no meaning elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serves {
    /// From backends.
    Backends,
    /// An answer of its own: files or a redirect.
    Itself,
}

/// Fields of a location that are not supported yet. A value that means "off" is no use of a field.
pub(super) fn of_policy(policy: &Policy, serves: Serves) -> Vec<&'static str> {
    let mut fields = Vec::new();
    if serves == Serves::Backends {
        fields.extend(given("healthCheck", policy.health_check.as_ref()));
    }
    fields
}

/// Fields of a `tcp` entry that are not supported yet.
pub(super) fn of_tcp(tcp: &TcpRoute) -> Vec<&'static str> {
    given("healthCheck", tcp.health_check.as_ref()).into_iter().collect()
}

fn given<T: Default + PartialEq>(name: &'static str, field: Option<&T>) -> Option<&'static str> {
    field.is_some_and(|field| *field != T::default()).then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(policy: serde_json::Value, serves: Serves) -> Vec<&'static str> {
        of_policy(&serde_json::from_value(policy).unwrap(), serves)
    }

    #[test]
    fn every_field_of_a_later_issue_is_named() {
        let policy = json!({
            "loadBalancing": {"policy": "Random", "slowStart": "10s", "maxConnectionsPerEndpoint": 5, "rebalance": {}},
            "affinity": {"header": "X-User"},
            "healthCheck": {"passive": {"maxFails": 1}},
            "drain": {"by": "Application", "clientSpread": "5s"},
        });
        assert_eq!(fields(policy.clone(), Serves::Backends).len(), 1);
        assert_eq!(fields(policy, Serves::Itself), [""; 0]);
    }

    #[test]
    fn off_and_empty_are_no_use_of_a_field() {
        let policy = json!({
            "loadBalancing": {"policy": "RoundRobin", "slowStart": "0s"},
            "timeouts": {"hold": "0s", "idle": "5m"},
        });
        assert_eq!(fields(policy, Serves::Backends), [""; 0]);
    }
}
