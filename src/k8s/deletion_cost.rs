//! `--pod-deletion-cost`: Pods say how many sockets it would cost to delete them, so that a ReplicaSet that shrinks takes the emptiest ones.
//!
//! It never decides which Pod goes: the ReplicaSet controller reads the annotation when it has to choose. The leader alone runs it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{peers::Replicas, trouble::Trouble};
use crate::{
    model::{ObjectRef, PoolKey, Table, pod::PodRef, upstream::EndpointState},
    telemetry::Metrics,
    translate::Translated,
};

/// Kubernetes' own; a number of 32 bits, 0 where it is not there.
const ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Between two looks at what all replicas have.
const ROUND: Duration = Duration::from_secs(5);
/// Between two writes: ten a second, however many Pods there are.
const PACE: Duration = Duration::from_millis(100);
/// Writes of one round; the Pods that changed least wait for the next.
const WRITES: usize = 100;
/// A cost that has changed by less than this share is as good as the old one. Any first socket counts, and any last one.
const SHARE: u64 = 10;
/// One write.
const REQUEST: Duration = Duration::from_secs(10);
/// After one that was refused, for want of the right to it perhaps.
const PAUSE: Duration = Duration::from_secs(60);

/// Keeps the costs, for as long as we lead.
pub(super) async fn keep(
    client: &Client,
    manager: String,
    replicas: &Replicas,
    latest: watch::Receiver<Arc<Translated>>,
    metrics: &Metrics,
) {
    let writer = Writer { client, params: PatchParams { field_manager: Some(manager), ..PatchParams::default() }, metrics };
    let mut costs = Costs::default();
    let mut trouble = Trouble::new("what it costs to delete a Pod can not be written");
    loop {
        let survey = replicas.survey().await;
        let is_whole = survey.missing.is_empty();
        let due = costs.due(&Listed::of(&latest.borrow().table), &survey.open(), is_whole);
        for (pod, cost) in due {
            match writer.write(&pod, cost).await {
                Ok(()) => costs.written(pod, cost),
                Err(why) => {
                    trouble.say(&why);
                    sleep(PAUSE).await;
                    break;
                }
            }
            trouble.is_over();
            sleep(PACE).await;
        }
        sleep(ROUND).await;
    }
}

struct Writer<'a> {
    client: &'a Client,
    params: PatchParams,
    metrics: &'a Metrics,
}

impl Writer<'_> {
    /// Writes one cost. A Pod that is no more, or another one now, is none to write to, and no error.
    async fn write(&self, pod: &PodRef, cost: u64) -> Result<(), String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let mut patch = json!({"metadata": {"annotations": {ANNOTATION: cost.to_string()}}});
        if !pod.uid.is_empty() {
            // A StatefulSet gives the name again: the API server refuses to change a UID.
            patch["metadata"]["uid"] = (*pod.uid).into();
        }
        let written = timeout(REQUEST, pods.patch_metadata(&pod.name, &self.params, &Patch::Merge(patch))).await;
        let (result, done) = match written {
            Ok(Ok(_)) => ("written", Ok(())),
            Ok(Err(Error::Api(status))) if matches!(status.code, 404 | 409 | 422) => ("gone", Ok(())),
            Ok(Err(error)) => ("failed", Err(format!("{}/{}: {error}", pod.namespace, pod.name))),
            Err(_) => ("failed", Err(format!("{}/{}: no answer in time", pod.namespace, pod.name))),
        };
        self.metrics.deletion_cost_writes.inc(result);
        done
    }
}

/// The Pods of each Service that stay, as the table has them.
#[derive(Debug, Default)]
struct Listed(BTreeMap<ObjectRef, BTreeSet<PodRef>>);

impl Listed {
    fn of(table: &Table) -> Self {
        let mut listed = Self::default();
        for (key, pool) in &table.pools {
            let PoolKey::Service { service, .. } = key else { continue };
            let staying = pool.endpoints.iter().filter(|endpoint| endpoint.state != EndpointState::Draining);
            let pods = staying.filter_map(|endpoint| PodRef::of(key, endpoint.pod.as_ref()?));
            listed.0.entry(service.clone()).or_default().extend(pods);
        }
        listed
    }
}

/// What was written, and what is to be.
#[derive(Debug, Default)]
struct Costs {
    written: BTreeMap<PodRef, u64>,
}

impl Costs {
    /// The costs to be written, those first that have changed most. Where a replica was not heard a sum may be too small, and none is lowered.
    ///
    /// A leader does not know what the last one wrote: of Services with sockets it writes each Pod's cost once, 0 too.
    fn due(&mut self, listed: &Listed, open: &HashMap<PodRef, u64>, is_whole: bool) -> Vec<(PodRef, u64)> {
        let count = |pod: &PodRef| open.get(pod).copied().unwrap_or(0).min(i32::MAX as u64);
        let all: BTreeSet<&PodRef> = listed.0.values().flatten().collect();
        self.written.retain(|pod, _| all.contains(pod));
        let in_use: BTreeSet<&PodRef> = listed.0.values().filter(|pods| pods.iter().any(|pod| count(pod) > 0)).flatten().collect();
        let mut due: Vec<(&PodRef, u64, u64)> = Vec::new();
        for pod in all {
            let cost = count(pod);
            let weight = match self.written.get(pod) {
                None if in_use.contains(pod) && (is_whole || cost > 0) => u64::MAX,
                Some(&written) if is_worth(written, cost) && (is_whole || cost > written) => written.abs_diff(cost),
                _ => continue,
            };
            due.push((pod, cost, weight));
        }
        due.sort_by_key(|(_, _, weight)| std::cmp::Reverse(*weight));
        due.into_iter().take(WRITES).map(|(pod, cost, _)| (pod.clone(), cost)).collect()
    }

    fn written(&mut self, pod: PodRef, cost: u64) {
        self.written.insert(pod, cost);
    }
}

/// Whether a cost is another one now.
fn is_worth(written: u64, cost: u64) -> bool {
    written != cost && written.abs_diff(cost) * SHARE >= written.max(cost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::upstream::{EndpointSpec, Pod as PodOf, PoolSpec};

    fn pod(name: &str) -> PodRef {
        PodRef { namespace: "default".into(), name: name.into(), uid: format!("uid-{name}").into() }
    }

    fn listed(services: &[(&str, &[&str])]) -> Listed {
        let pods = |names: &[&str]| names.iter().map(|name| pod(name)).collect();
        Listed(services.iter().map(|(service, names)| (ObjectRef::new("default", *service), pods(names))).collect())
    }

    fn open(counts: &[(&str, u64)]) -> HashMap<PodRef, u64> {
        counts.iter().map(|(name, count)| (pod(name), *count)).collect()
    }

    /// What is written now, with all of it done.
    fn write(costs: &mut Costs, listed: &Listed, counts: &[(&str, u64)], is_whole: bool) -> Vec<(String, u64)> {
        let due = costs.due(listed, &open(counts), is_whole);
        due.iter().for_each(|(pod, cost)| costs.written(pod.clone(), *cost));
        let mut due: Vec<_> = due.into_iter().map(|(pod, cost)| (pod.name.to_string(), cost)).collect();
        due.sort();
        due
    }

    fn costs(of: &[(&str, u64)]) -> Vec<(String, u64)> {
        of.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect()
    }

    #[test]
    fn pods_of_services_with_sockets_have_a_cost_and_no_others() {
        let listed = listed(&[("chat", &["a", "b"]), ("shop", &["c"])]);
        let mut known = Costs::default();
        assert_eq!(write(&mut known, &listed, &[("a", 7), ("gone", 3)], true), costs(&[("a", 7), ("b", 0)]));
        assert_eq!(write(&mut known, &listed, &[("a", 7), ("gone", 3)], true), []);
        assert_eq!(write(&mut known, &listed, &[], true), costs(&[("a", 0)]), "what we wrote and is no more true");
    }

    #[test]
    fn a_small_change_of_many_is_none_and_of_few_is_one() {
        let listed = listed(&[("chat", &["a", "b"])]);
        let mut known = Costs::default();
        write(&mut known, &listed, &[("a", 1000), ("b", 2)], true);
        assert_eq!(write(&mut known, &listed, &[("a", 1099), ("b", 3)], true), costs(&[("b", 3)]));
        assert_eq!(write(&mut known, &listed, &[("a", 1112), ("b", 0)], true), costs(&[("a", 1112), ("b", 0)]));
    }

    #[test]
    fn while_a_replica_is_silent_no_cost_is_lowered() {
        let listed = listed(&[("chat", &["a", "b", "c"])]);
        let mut known = Costs::default();
        write(&mut known, &listed, &[("a", 10), ("b", 10)], true);
        assert_eq!(write(&mut known, &listed, &[("a", 5), ("b", 20)], false), costs(&[("b", 20)]));
        assert_eq!(write(&mut known, &listed, &[("a", 5), ("b", 20)], true), costs(&[("a", 5)]));
    }

    #[test]
    fn a_round_has_its_bound_and_begins_with_what_changed_most() {
        let names: Vec<String> = (0..WRITES + 50).map(|number| format!("pod-{number:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let listed = listed(&[("chat", &names)]);
        let mut known = Costs::default();
        let all: Vec<_> = names.iter().map(|name| (*name, 10)).collect();
        assert_eq!(write(&mut known, &listed, &all, true).len(), WRITES);
        assert_eq!(write(&mut known, &listed, &all, true).len(), 50);
        let more: Vec<_> = names.iter().enumerate().map(|(number, name)| (*name, 20 + number as u64)).collect();
        assert!(write(&mut known, &listed, &more, true).iter().any(|(name, _)| name == names.last().unwrap()));
    }

    #[test]
    fn a_pod_that_goes_has_no_cost() {
        let endpoint = |name: &str, state| EndpointSpec {
            pod: Some(Arc::new(PodOf { name: name.into(), uid: format!("uid-{name}").into() })),
            ..EndpointSpec::new("10.0.0.1:80".parse().unwrap(), state)
        };
        let endpoints = vec![endpoint("a", EndpointState::Draining), endpoint("b", EndpointState::NotReady)];
        let key = PoolKey::Service { service: ObjectRef::new("default", "chat"), port: "ws".into() };
        let table = Table { pools: BTreeMap::from([(key, Arc::new(PoolSpec { endpoints }))]), ..Table::default() };
        assert_eq!(write(&mut Costs::default(), &Listed::of(&table), &[("a", 7), ("b", 3)], true), costs(&[("b", 3)]));
    }
}
