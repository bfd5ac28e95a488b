//! By which rules each pool is watched. An endpoint is one to all locations that use it, and so are its rules: the strictest of theirs, and
//! every check that one of them asks for.
//!
//! It never knows endpoints. `Balancer` asks it when a table comes.

use std::{collections::HashMap, sync::Arc};

use super::{Check, Rules};
use crate::model::{
    PoolKey, Table,
    health::{HealthCheck, Passive},
    route::Backend,
};

/// The rules of each pool that the table names.
pub(crate) fn of(table: &Table) -> HashMap<&PoolKey, Rules> {
    let mut drafts: HashMap<&PoolKey, Draft> = HashMap::new();
    let locations = table.hosts.iter().flat_map(|host| &host.locations).filter_map(|location| location.proxy());
    let proxied = locations.map(|proxy| (&proxy.backends, &proxy.health));
    let layer4 = table.tcp.values().flatten().map(|route| (&route.backends, &route.health));
    for (backends, health) in proxied.chain(layer4) {
        for backend in backends {
            drafts.entry(&backend.pool).or_default().add(backend, health);
        }
    }
    drafts.into_iter().map(|(pool, draft)| (pool, Rules { passive: draft.passive, checks: draft.checks.into() })).collect()
}

#[derive(Default)]
struct Draft {
    passive: Option<Passive>,
    checks: Vec<Arc<Check>>,
}

impl Draft {
    fn add(&mut self, backend: &Backend, health: &HealthCheck) {
        self.passive = match (self.passive, health.passive) {
            (Some(one), Some(other)) => Some(one.strictest(other)),
            (one, other) => one.or(other),
        };
        let Some(active) = &health.active else { return };
        let check = Check { active: Arc::clone(active), tls: backend.tls.clone() };
        if !self.checks.iter().any(|known| **known == check) {
            self.checks.push(Arc::new(check));
        }
    }
}
