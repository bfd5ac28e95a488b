//! What becomes of a Pod: asked once, when its endpoint takes nothing new any more and tunnels are open to it.
//!
//! It never watches Pods, which would be the whole cluster's, and never knows tunnels. `app` hands it to `proxy::retire`.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::{
    Connection,
    kinds::{Need, Owner, Resource},
    request::{self, Fault},
    watch::Scope,
};
use crate::model::pod::{Fate, PodRef};

const PODS: &Resource =
    &Resource { kind: "Pod", group: "api/v1", plural: "pods", owner: Owner::Namespace, fields: None, need: Need::Optional };

/// Pods that are asked about at the same time: a rollout ends many at once, and an API server gives a client ten seats or so.
const AT_ONCE: usize = 8;

/// What a Pod has left that ends without having been deleted: nobody writes it down.
const UNWRITTEN: Duration = Duration::from_secs(10);

/// Asks the API server about Pods.
pub struct Pods {
    client: Client,
    scope: Scope,
    seats: Semaphore,
    /// The log knows that the right is missing.
    said: AtomicBool,
}

/// What is read of a Pod.
#[derive(Debug, Default, Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    uid: String,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    reason: String,
}

impl Pods {
    /// Nothing is asked yet.
    pub fn new(connection: &Connection, scope: Scope) -> Self {
        Self { client: connection.client.clone(), scope, seats: Semaphore::new(AT_ONCE), said: AtomicBool::new(false) }
    }

    /// What becomes of a Pod; `None` where that can't be known.
    pub async fn fate(&self, pod: &PodRef) -> Option<Fate> {
        if !self.scope.has(&pod.namespace) {
            return None;
        }
        let _seat = self.seats.acquire().await.ok()?;
        match request::get_dated::<Pod>(&self.client, PODS, &pod.namespace, &pod.name).await {
            Ok((known, now)) => Some(known.fate(&pod.uid, now.unwrap_or_else(Timestamp::now))),
            Err(fault) if fault.is(StatusCode::NOT_FOUND) => Some(Fate::Gone),
            Err(fault) => {
                self.say(pod, &fault);
                None
            }
        }
    }

    fn say(&self, pod: &PodRef, fault: &Fault) {
        if fault.is(StatusCode::FORBIDDEN) && !self.said.swap(true, Ordering::Relaxed) {
            warn!("the right to get pods is missing: {fault}; a pod that ends has {} s then", UNWRITTEN.as_secs());
        }
        debug!(namespace = %pod.namespace, pod = %pod.name, "can't be asked about: {fault}");
    }
}

impl Pod {
    /// By the API server's clock, which wrote the times. A name whose UID is another one is another Pod.
    fn fate(&self, uid: &str, now: Timestamp) -> Fate {
        let Metadata { uid: is, deletion_timestamp, deletion_grace_period_seconds } = &self.metadata;
        if (!uid.is_empty() && is != uid) || matches!(&*self.status.phase, "Failed" | "Succeeded") {
            return Fate::Gone;
        }
        match deletion_timestamp {
            // It contains the grace period already; a clock that went wrong makes it neither negative nor longer than that.
            Some(Time(at)) => {
                let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                Fate::Ends(deletion_grace_period_seconds.map_or(left, |grace| left.min(Duration::from_secs(grace))))
            }
            None if self.is_killed_by_its_node() => Fate::Ends(UNWRITTEN),
            None => Fate::Lives,
        }
    }

    /// A node that shuts down ends its Pods by itself: they are not deleted, and fail in the end.
    fn is_killed_by_its_node(&self) -> bool {
        let is_it = |condition: &Condition| {
            condition.type_ == "DisruptionTarget" && condition.status == "True" && condition.reason == "TerminationByKubelet"
        };
        self.status.conditions.iter().any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-05-01T12:00:00Z";

    fn fate(pod: Value) -> Fate {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        pod.fate("a", NOW.parse().unwrap())
    }

    fn deleted(at: &str, grace: u64) -> Value {
        json!({"metadata": {"uid": "a", "deletionTimestamp": at, "deletionGracePeriodSeconds": grace}, "status": {"phase": "Running"}})
    }

    #[test]
    fn a_deadline_is_the_pods_own() {
        assert_eq!(fate(deleted("2026-05-01T12:00:25Z", 30)), Fate::Ends(Duration::from_secs(25)));
        assert_eq!(fate(deleted("2026-05-01T11:59:00Z", 30)), Fate::Ends(Duration::ZERO), "it has passed");
        assert_eq!(fate(deleted("2026-05-01T13:00:00Z", 30)), Fate::Ends(Duration::from_secs(30)), "a clock is wrong");
        assert_eq!(fate(deleted("2026-05-01T12:00:25Z", 0)), Fate::Ends(Duration::ZERO), "by force");
    }

    #[test]
    fn a_pod_that_runs_lives_unless_its_node_ends_it() {
        assert_eq!(fate(json!({"metadata": {"uid": "a"}})), Fate::Lives);
        let with = |reason| json!([{"type": "Ready", "status": "False"}, {"type": "DisruptionTarget", "status": "True", "reason": reason}]);
        let running = |reason| fate(json!({"metadata": {"uid": "a"}, "status": {"phase": "Running", "conditions": with(reason)}}));
        assert_eq!(running("TerminationByKubelet"), Fate::Ends(UNWRITTEN));
        assert_eq!(running("EvictionByEvictionAPI"), Fate::Lives, "which deletes it, or is refused");
    }

    #[test]
    fn what_has_ended_or_is_another_is_gone() {
        for phase in ["Failed", "Succeeded"] {
            assert_eq!(fate(json!({"metadata": {"uid": "a"}, "status": {"phase": phase}})), Fate::Gone);
        }
        assert_eq!(fate(json!({"metadata": {"uid": "b"}, "status": {"phase": "Running"}})), Fate::Gone);
        let unknown: Pod = serde_json::from_value(json!({"metadata": {"uid": "b"}})).unwrap();
        assert_eq!(unknown.fate("", NOW.parse().unwrap()), Fate::Lives, "a slice without UID");
    }
}
