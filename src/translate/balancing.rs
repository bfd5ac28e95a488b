//! `loadBalancing` and `affinity` -> how an endpoint is picked, with every default applied.
//!
//! It never knows endpoints. `location` and `layer4` call it.

use std::{num::NonZeroU32, sync::Arc};

use super::values;
use crate::{
    api::{self, LoadBalancing, LoadBalancingPolicy, SourceIp},
    model::{
        balancing::{Affinity, Balancing, Cookie, Policy, SameSite},
        route::PathPattern,
    },
};

/// Of a cookie.
const NAME: &str = "carrick";
/// Bits of an IPv6 address: what a household or a server has.
const IPV6_PREFIX: u8 = 64;

/// What `loadBalancing` says; the affinity is still to come.
pub(super) fn balancing(spec: Option<&LoadBalancing>) -> Result<Balancing, String> {
    let Some(spec) = spec else { return Ok(Balancing::default()) };
    let limit = spec.max_connections_per_endpoint.map(NonZeroU32::try_from).transpose();
    Ok(Balancing {
        policy: match spec.policy {
            Some(LoadBalancingPolicy::LeastConnections) | None => Policy::LeastConnections,
            Some(LoadBalancingPolicy::RoundRobin) => Policy::RoundRobin,
            Some(LoadBalancingPolicy::Random) => Policy::Random,
        },
        slow_start: spec.slow_start.and_then(api::Duration::non_zero),
        max_connections_per_endpoint: limit.map_err(|_| "loadBalancing.maxConnectionsPerEndpoint is 0: it takes 1 or more".to_owned())?,
        affinity: None,
    })
}

/// What `affinity` of a location says.
pub(super) fn affinity(spec: Option<&api::Affinity>, path: &PathPattern) -> Result<Option<Affinity>, String> {
    let Some(spec) = spec else { return Ok(None) };
    match (&spec.cookie, &spec.header, &spec.query, &spec.source_ip) {
        (None, None, None, None) => Ok(None),
        (Some(spec), None, None, None) => cookie(spec, path).map(|cookie| Some(Affinity::Cookie(cookie))),
        (None, Some(name), None, None) => {
            let name = http::HeaderName::try_from(name.as_str()).map_err(|_| "affinity.header is no name of a header field".to_owned())?;
            Ok(Some(Affinity::Header(name.as_str().into())))
        }
        (None, None, Some(name), None) => Ok(Some(Affinity::Query(name.as_str().into()))),
        (None, None, None, Some(spec)) => source_ip(spec).map(Some),
        _ => Err("affinity takes exactly one of cookie, header, query and sourceIP".to_owned()),
    }
}

/// What `affinity.sourceIP` says.
pub(super) fn source_ip(spec: &SourceIp) -> Result<Affinity, String> {
    match spec.ipv6_prefix.unwrap_or(IPV6_PREFIX) {
        ipv6_prefix @ 1..=128 => Ok(Affinity::SourceIp { ipv6_prefix }),
        other => Err(format!("affinity.sourceIP.ipv6Prefix is {other}: it takes 1 to 128")),
    }
}

fn cookie(spec: &api::CookieAffinity, path: &PathPattern) -> Result<Cookie, String> {
    let name = spec.name.as_deref().unwrap_or(NAME);
    if http::HeaderName::try_from(name).is_err() {
        return Err("affinity.cookie.name is no token".to_owned());
    }
    let same_site = match spec.same_site {
        Some(api::SameSite::Strict) => SameSite::Strict,
        Some(api::SameSite::Lax) | None => SameSite::Lax,
        Some(api::SameSite::None) => SameSite::None,
    };
    if same_site == SameSite::None && spec.secure == Some(false) {
        return Err("affinity.cookie.sameSite None needs secure: browsers drop the cookie else".to_owned());
    }
    Ok(Cookie {
        name: name.into(),
        max_age: spec.max_age.and_then(api::Duration::non_zero),
        path: match &spec.path {
            Some(path) => cookie_path(path)?,
            None => default_path(path),
        },
        same_site,
        // Browsers drop a cookie for all sites that is not Secure.
        secure: if same_site == SameSite::None { Some(true) } else { spec.secure },
    })
}

/// A Path may not end its attribute.
fn cookie_path(path: &str) -> Result<Arc<str>, String> {
    values::path(path).map_err(|wrong| format!("affinity.cookie.path {wrong}"))?;
    match path.contains(';') {
        true => Err("affinity.cookie.path can't have a semicolon".to_owned()),
        false => Ok(path.into()),
    }
}

/// That of the location, where the browser would send it back to all of its paths.
fn default_path(path: &PathPattern) -> Arc<str> {
    match path {
        PathPattern::Prefix(prefix) if !prefix.is_empty() && !prefix.contains(';') => prefix.clone(),
        _ => "/".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn affinity_of(spec: serde_json::Value, path: &str) -> Result<Option<Affinity>, String> {
        affinity(Some(&serde_json::from_value(spec).unwrap()), &PathPattern::Prefix(path.into()))
    }

    fn cookie_of(spec: serde_json::Value, path: &str) -> Cookie {
        match affinity_of(json!({ "cookie": spec }), path) {
            Ok(Some(Affinity::Cookie(cookie))) => cookie,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_cookie_has_its_defaults() {
        let cookie = cookie_of(json!({}), "/chat");
        let expected = Cookie { name: "carrick".into(), max_age: None, path: "/chat".into(), same_site: SameSite::Lax, secure: None };
        assert_eq!(cookie, expected);
        assert_eq!(&*cookie_of(json!({}), "").path, "/");
    }

    #[test]
    fn a_cookie_for_all_sites_is_secure() {
        assert_eq!(cookie_of(json!({"sameSite": "None"}), "").secure, Some(true));
        assert!(affinity_of(json!({"cookie": {"sameSite": "None", "secure": false}}), "").is_err());
    }

    #[test]
    fn exactly_one_of_four_decides() {
        assert_eq!(affinity_of(json!({}), ""), Ok(None));
        assert_eq!(affinity_of(json!({"header": "X-User"}), ""), Ok(Some(Affinity::Header("x-user".into()))));
        assert_eq!(affinity_of(json!({"sourceIP": {}}), ""), Ok(Some(Affinity::SourceIp { ipv6_prefix: 64 })));
        assert!(affinity_of(json!({"header": "X-User", "query": "user"}), "").is_err());
        assert!(affinity_of(json!({"sourceIP": {"ipv6Prefix": 129}}), "").is_err());
        assert!(affinity_of(json!({"cookie": {"path": "/a;b"}}), "").is_err());
    }
}
