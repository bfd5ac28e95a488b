//! `healthCheck` of a location or of layer 4, with every default applied.
//!
//! It never knows endpoints. `location` and `layer4` call it.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use super::{location::positive, values};
use crate::{
    api::{self, HealthCheckType},
    model::health::{Active, HealthCheck, Page, Passive, Question},
};

/// A lost packet or two rest nobody.
const MAX_FAILS: u32 = 3;
const FAIL_TIMEOUT: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(10);
/// The shortest interval: every replica asks every endpoint.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
const HEALTHY: u32 = 1;
const UNHEALTHY: u32 = 3;

/// How endpoints are found to be ill. `host` is what the location calls itself towards its backends, where it says so.
pub(super) fn health(spec: Option<&api::HealthCheck>, host: Option<&str>) -> Result<HealthCheck, String> {
    let spec = spec.cloned().unwrap_or_default();
    Ok(HealthCheck {
        passive: passive(&spec.passive.unwrap_or_default())?,
        active: spec.active.map(|active| self::active(&active, host)).transpose()?.map(Arc::new),
    })
}

fn passive(spec: &api::PassiveHealthCheck) -> Result<Option<Passive>, String> {
    let fail_timeout = positive("healthCheck.passive.failTimeout", spec.fail_timeout, FAIL_TIMEOUT)?;
    let max_fails = NonZeroU32::new(spec.max_fails.unwrap_or(MAX_FAILS));
    Ok(max_fails.map(|max_fails| Passive { max_fails, fail_timeout }))
}

fn active(spec: &api::ActiveHealthCheck, host: Option<&str>) -> Result<Active, String> {
    let interval = positive("healthCheck.active.interval", spec.interval, INTERVAL)?;
    if interval < SHORTEST_INTERVAL {
        return Err("healthCheck.active.interval is less than 1s: every replica asks every endpoint that often".to_owned());
    }
    let path = values::path(spec.path.as_deref().unwrap_or("/")).map_err(|wrong| format!("healthCheck.active.path {wrong}"))?;
    let page = || Page { path: path.as_str().into(), host: host.map(Arc::from) };
    let ping = spec.ping.unwrap_or(false);
    let question = match spec.type_.unwrap_or(HealthCheckType::Tcp) {
        HealthCheckType::Tcp if spec.path.is_some() => {
            return Err("healthCheck.active.path is for type WebSocket and HTTP: take it away, or say which of them is asked".to_owned());
        }
        HealthCheckType::Tcp | HealthCheckType::Http if ping => {
            return Err("healthCheck.active.ping is for type WebSocket: take it away, or ask for a WebSocket".to_owned());
        }
        HealthCheckType::Tcp => Question::Tcp,
        HealthCheckType::Http => Question::Http(page()),
        HealthCheckType::WebSocket => Question::WebSocket { page: page(), ping },
    };
    let count = |field: &str, spec: Option<u32>, default| {
        NonZeroU32::new(spec.unwrap_or(default)).ok_or_else(|| format!("healthCheck.active.{field} is 0: write 1 or more"))
    };
    Ok(Active {
        question,
        interval,
        timeout: positive("healthCheck.active.timeout", spec.timeout, TIMEOUT)?,
        healthy: count("healthy", spec.healthy, HEALTHY)?,
        unhealthy: count("unhealthy", spec.unhealthy, UNHEALTHY)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(spec: Value) -> Result<HealthCheck, String> {
        health(Some(&serde_json::from_value(spec).unwrap()), Some("app.example"))
    }

    #[test]
    fn failures_of_requests_count_unless_somebody_says_otherwise() {
        let default = Passive { max_fails: NonZeroU32::new(3).unwrap(), fail_timeout: Duration::from_secs(10) };
        for absent in [health(None, None), of(json!({})), of(json!({"passive": {}}))] {
            assert_eq!(absent.unwrap(), HealthCheck { passive: Some(default), active: None });
        }
        assert_eq!(of(json!({"passive": {"maxFails": 0}})).unwrap().passive, None);
        let strict = of(json!({"passive": {"maxFails": 1, "failTimeout": "1m"}})).unwrap().passive.unwrap();
        assert_eq!((strict.max_fails.get(), strict.fail_timeout), (1, Duration::from_secs(60)));
        assert_eq!(of(json!({"active": {}})).unwrap().passive, Some(default), "asking is no reason not to look");
    }

    #[test]
    fn an_active_check_has_a_default_for_everything() {
        let active = |spec: Value| of(json!({"active": spec})).unwrap().active.unwrap();
        let tcp = active(json!({}));
        assert_eq!((&tcp.question, tcp.interval, tcp.timeout), (&Question::Tcp, INTERVAL, TIMEOUT));
        assert_eq!((tcp.healthy.get(), tcp.unhealthy.get()), (1, 3));
        let page = |path: &str| Page { path: path.into(), host: Some("app.example".into()) };
        assert_eq!(active(json!({"type": "HTTP"})).question, Question::Http(page("/")));
        assert_eq!(active(json!({"type": "WebSocket", "path": "/ws"})).question, Question::WebSocket { page: page("/ws"), ping: false });
        assert_eq!(active(json!({"type": "WebSocket", "ping": true})).question, Question::WebSocket { page: page("/"), ping: true });
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (spec, named) in [
            (json!({"passive": {"failTimeout": "0s"}}), "passive.failTimeout"),
            (json!({"active": {"interval": "500ms"}}), "active.interval"),
            (json!({"active": {"timeout": "0s"}}), "active.timeout"),
            (json!({"active": {"healthy": 0}}), "active.healthy"),
            (json!({"active": {"path": "/"}}), "active.path"),
            (json!({"active": {"type": "TCP", "path": "/"}}), "active.path"),
            (json!({"active": {"type": "HTTP", "path": "/%zz"}}), "active.path"),
            (json!({"active": {"ping": true}}), "active.ping"),
            (json!({"active": {"type": "HTTP", "ping": true}}), "active.ping"),
        ] {
            let wrong = of(spec.clone()).unwrap_err();
            assert!(wrong.contains(named), "{spec}: {wrong}");
        }
    }
}
