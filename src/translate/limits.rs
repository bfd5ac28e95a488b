//! `limits` and `access` of a location or a layer-4 entry -> what is let in.
//!
//! It never knows where they stand: errors begin with the field's own name. `location` and `layer4` call it.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::values;
use crate::{
    api,
    model::{
        limits::{Access, Limits},
        route::Rate,
    },
};

/// Bits of an IPv6 address before those that an IPv4-mapped one has of its own (RFC 4291 2.5.5.2).
const MAPPED: u8 = 96;

/// Which clients are let in.
pub(super) fn access(spec: Option<&api::Access>) -> Result<Access, String> {
    let Some(spec) = spec else { return Ok(Access::default()) };
    Ok(Access { allow: blocks("access.allow", spec.allow.as_ref())?, deny: blocks("access.deny", spec.deny.as_ref())? })
}

/// How much is let in.
pub(super) fn limits(spec: Option<&api::Limits>) -> Result<Limits, String> {
    let Some(spec) = spec else { return Ok(Limits::default()) };
    if spec.burst.is_some() && spec.handshakes_per_second.is_none() {
        return Err("limits.burst needs handshakesPerSecond".to_owned());
    }
    let at_least_1 = |field: &str, value: Option<u32>| match value {
        Some(0) => Err(format!("limits.{field} is 0: it takes 1 and more (access.deny lets nobody in)")),
        value => Ok(value),
    };
    let per_second = at_least_1("handshakesPerSecond", spec.handshakes_per_second)?;
    let burst = at_least_1("burst", spec.burst)?;
    Ok(Limits {
        connections: at_least_1("connections", spec.connections)?,
        connections_per_client: at_least_1("connectionsPerClient", spec.connections_per_client)?,
        arrivals: per_second.map(|per_second| Rate { per_second, burst: burst.unwrap_or(per_second) }),
        request_body: spec.request_body.as_ref().map(values::bytes).transpose().map_err(|wrong| format!("limits.requestBody {wrong}"))?,
    })
}

fn blocks(field: &str, spec: Option<&Vec<String>>) -> Result<Vec<IpNet>, String> {
    let mut blocks = spec
        .into_iter()
        .flatten()
        .map(|raw| {
            block(raw).ok_or_else(|| format!("{field} has \"{raw}\": write an address, or a block such as 10.0.0.0/8 or 2001:db8::/32"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    blocks.sort_unstable();
    blocks.dedup();
    Ok(blocks)
}

/// An address alone is the block of it. One inside a block stands for the block.
fn block(raw: &str) -> Option<IpNet> {
    let block = raw.parse::<IpNet>().ok().or_else(|| raw.parse::<IpAddr>().ok().map(IpNet::from))?.trunc();
    match block {
        IpNet::V6(v6) if v6.prefix_len() >= MAPPED => match v6.network().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - MAPPED).ok().map(IpNet::V4),
            None => Some(block),
        },
        _ => Some(block),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of_access(spec: Value) -> Result<Access, String> {
        access(Some(&serde_json::from_value(spec).unwrap()))
    }

    fn of_limits(spec: Value) -> Result<Limits, String> {
        limits(Some(&serde_json::from_value(spec).unwrap()))
    }

    #[test]
    fn blocks_have_one_spelling() {
        let spelled =
            of_access(json!({"allow": ["10.1.2.3/8", "192.0.2.1", "::ffff:10.0.0.0/104", "2001:db8::1/32"], "deny": ["::1"]})).unwrap();
        let texts = |blocks: &[IpNet]| blocks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&spelled.allow), ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]);
        assert_eq!(texts(&spelled.deny), ["::1/128"]);
        assert_eq!(of_access(json!({})).unwrap(), Access::default());
    }

    #[test]
    fn what_is_no_block_is_named() {
        for wrong in ["10.0.0.0/33", "10.0.0", "2001:db8::/129", "1.2.3.4/", ":::"] {
            assert!(of_access(json!({"deny": [wrong]})).unwrap_err().starts_with(&format!("access.deny has \"{wrong}\"")), "{wrong}");
        }
    }

    #[test]
    fn the_burst_is_the_rate_where_nothing_else_is_said() {
        let rate = |spec| of_limits(spec).unwrap().arrivals;
        assert_eq!(rate(json!({"handshakesPerSecond": 20})), Some(Rate { per_second: 20, burst: 20 }));
        assert_eq!(rate(json!({"handshakesPerSecond": 20, "burst": 5})), Some(Rate { per_second: 20, burst: 5 }));
        assert!(of_limits(json!({"burst": 5})).is_err());
    }

    #[test]
    fn a_limit_of_nothing_is_no_limit() {
        assert!(of_limits(json!({"connections": 0})).unwrap_err().contains("limits.connections is 0"));
        assert_eq!(of_limits(json!({"requestBody": "1Ki"})).unwrap().request_body, Some(1024));
        assert_eq!(of_limits(json!({"requestBody": 0})).unwrap().request_body, Some(0), "a location that takes no bodies");
        assert!(of_limits(json!({"requestBody": "1XB"})).is_err());
    }
}
