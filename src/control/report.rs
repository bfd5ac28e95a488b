//! What a cluster shows as conditions, said in the log, a line where a status changed, and counted.
//!
//! It never decides anything. The loop calls it after each translation.

use std::collections::BTreeMap;

use tracing::{info, warn};

use crate::{
    model::ObjectRef,
    telemetry::Metrics,
    translate::{Options, RouteStatus, Translated},
};

/// Logs what is different.
pub(super) fn log(last: &Translated, next: &Translated, options: &Options) {
    // What names an object that is being looked up is told when that has been found, or not.
    for (route, status) in changed(&last.statuses, &next.statuses).filter(|(_, status)| status.settled) {
        log_route(route, status);
    }
    last.statuses.keys().filter(|route| !next.statuses.contains_key(route)).for_each(|route| info!(wsroute = %route, "gone"));
    if let Some(secret) = &options.default_tls_secret
        && next.table.default_cert.is_none()
        && !next.unanswered.secrets.contains(secret)
        && (last.table.default_cert.is_some() || last.statuses.is_empty() || last.unanswered.secrets.contains(secret))
    {
        warn!(%secret, "no certificate in the secret of --default-tls-secret: HTTPS answers with the one made at start");
    }
}

/// Counts the routes that are not served as they ask for.
pub(super) fn count(translated: &Translated, metrics: &Metrics) {
    let wrong = translated.statuses.values().filter(|status| !status.is_good()).count();
    metrics.config_errors.set(i64::try_from(wrong).unwrap_or(i64::MAX));
}

fn changed<'a>(
    last: &'a BTreeMap<ObjectRef, RouteStatus>,
    next: &'a BTreeMap<ObjectRef, RouteStatus>,
) -> impl Iterator<Item = (&'a ObjectRef, &'a RouteStatus)> {
    next.iter().filter(|(route, status)| last.get(route) != Some(status))
}

fn log_route(route: &ObjectRef, status: &RouteStatus) {
    if status.is_good() {
        info!(wsroute = %route, "accepted");
    }
    for condition in status.problems() {
        warn!(wsroute = %route, condition = condition.type_, status = condition.status, reason = condition.reason, "{}", condition.message);
    }
    for location in &status.locations {
        warn!(wsroute = %route, location = location.name, reason = location.reason, "not served");
    }
}
