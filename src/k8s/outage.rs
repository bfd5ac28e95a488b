//! What goes wrong between us and the API server, said once in the log for as long as it lasts, and counted each time.
//!
//! It never decides when to ask again. Each watch owns a [`Health`]; all of them share one [`Outage`], because an API server that
//! is away is one piece of news, not one a kind.

use std::{collections::BTreeSet, future::pending, sync::Arc};

use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::{
    kinds::{Need, Resource},
    request::Fault,
};
use crate::{
    model::ObjectRef,
    telemetry::{Metrics, WatchMetrics},
};

/// An API server that does not answer, as all watches see it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    state: Mutex<State>,
    answers: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The watches that it concerns now.
    without: BTreeSet<Id>,
    /// What was said since it began.
    said: BTreeSet<&'static str>,
}

/// Kind and namespace.
type Id = (&'static str, Arc<str>);

/// The state of one watch.
pub(super) struct Health {
    id: Id,
    resource: &'static Resource,
    outage: Arc<Outage>,
    /// What was said about this kind alone since it was last well.
    said: BTreeSet<&'static str>,
    metrics: Arc<WatchMetrics>,
}

impl Health {
    /// Of a watch that has not begun. `namespace` is `None` where it is all of them.
    pub(super) fn new(resource: &'static Resource, namespace: Option<&Arc<str>>, outage: Arc<Outage>, metrics: &Metrics) -> Self {
        let namespace = namespace.cloned().unwrap_or_default();
        let metrics = metrics.watch(resource.kind, &namespace);
        Self { id: (resource.kind, namespace), resource, outage, said: BTreeSet::new(), metrics }
    }

    /// The counters of the watch.
    pub(super) fn metrics(&self) -> &WatchMetrics {
        &self.metrics
    }

    /// It is listed, and changes come in.
    pub(super) fn well(&mut self) {
        self.metrics.up.set(1);
        if !self.said.is_empty() {
            self.said.clear();
            info!(kind = self.id.0, namespace = &*self.id.1, "listed and watched now");
        }
        self.answered();
    }

    /// The API server answers this watch, be it with a refusal that is the kind's own.
    fn answered(&self) {
        let mut outage = self.outage.state.lock();
        if outage.without.remove(&self.id) && outage.without.is_empty() && !outage.said.is_empty() {
            outage.said.clear();
            info!("the API server answers again: everything is up to date");
        }
        self.outage.answers.notify_waiters();
    }

    /// Waits until the API server answers another watch, if it was away for this one.
    pub(super) async fn answers_again(&self, fault: &Fault) {
        match fault {
            Fault::Unreachable(_) | Fault::Silent => self.outage.answers.notified().await,
            _ => pending().await,
        }
    }

    /// It can't be listed or watched.
    pub(super) fn ill(&mut self, fault: &Fault) {
        self.metrics.errors.inc(fault.reason());
        // A kind that is not there has nothing to tell.
        let absent = self.resource.need == Need::Optional && fault.is(StatusCode::NOT_FOUND);
        self.metrics.up.set(absent.into());
        if fault.is(StatusCode::FORBIDDEN) || fault.is(StatusCode::NOT_FOUND) {
            self.answered();
            if self.said.insert(fault.reason()) {
                self.say(fault);
            }
            return;
        }
        let mut outage = self.outage.state.lock();
        outage.without.insert(self.id.clone());
        if outage.said.insert(fault.reason()) {
            warn!("{fault}; what was read last is served until it answers again");
        }
    }

    /// A right or a definition that is missing.
    fn say(&self, fault: &Fault) {
        let (kind, namespace, name) = (self.id.0, &*self.id.1, self.resource.full_name());
        match self.resource.need {
            Need::Optional if fault.is(StatusCode::NOT_FOUND) => info!(kind, "the API server does not know {name}: there are none"),
            Need::Installed(by) if fault.is(StatusCode::NOT_FOUND) => {
                warn!(kind, "the API server does not know {name}, which is waited for; install it with: {by}");
            }
            Need::Required if fault.is(StatusCode::NOT_FOUND) => warn!(kind, "the API server does not know {name}, which is waited for"),
            Need::Optional => warn!(kind, namespace, "the right to list and watch {name} is missing, there are none without it: {fault}"),
            Need::Required | Need::Installed(_) => {
                warn!(kind, namespace, "the right to list and watch {name} is missing, which is waited for: {fault}");
            }
        }
    }

    /// A watch that broke off; whether anything is wrong shows when it is asked for again.
    pub(super) fn interrupted(&self, fault: &Fault) {
        self.metrics.errors.inc(fault.reason());
        debug!(kind = self.id.0, namespace = &*self.id.1, "the watch broke off: {fault}");
    }

    /// An object that can't be read is left out.
    pub(super) fn torn(&self, object: &ObjectRef) {
        self.metrics.errors.inc("unreadable_object");
        warn!(kind = self.id.0, %object, "this object can not be read and counts as not there");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{k8s::kinds::Watched as _, translate::objects::Service};

    fn health(outage: &Arc<Outage>, namespace: &str, metrics: &Metrics) -> Health {
        Health::new(Service::RESOURCE, Some(&namespace.into()), outage.clone(), metrics)
    }

    #[test]
    fn an_outage_is_one_piece_of_news_until_everything_is_well() {
        let (outage, metrics) = (Arc::<Outage>::default(), Metrics::default());
        let (mut a, mut b) = (health(&outage, "a", &metrics), health(&outage, "b", &metrics));
        let away = Fault::Unreachable("connection refused".into());
        a.ill(&away);
        b.ill(&away);
        a.ill(&away);
        assert_eq!(outage.state.lock().said.len(), 1);
        a.well();
        assert!(!outage.state.lock().said.is_empty(), "b is without it still");
        b.well();
        assert!(outage.state.lock().said.is_empty());
        assert_eq!(metrics.watch("Service", "a").errors.get("unreachable"), 2);
        assert_eq!(metrics.watch("Service", "a").up.get(), 1);
    }

    #[test]
    fn a_missing_right_is_a_kinds_own_and_a_lost_position_is_no_news() {
        let (outage, metrics) = (Arc::<Outage>::default(), Metrics::default());
        let mut health = health(&outage, "", &metrics);
        health.well();
        let refused = |code| Fault::Refused { code, message: "".into(), retry_after: None };
        health.interrupted(&refused(StatusCode::GONE));
        assert_eq!(health.metrics().up.get(), 1);
        health.ill(&Fault::Silent);
        health.ill(&refused(StatusCode::FORBIDDEN));
        assert_eq!(health.metrics().up.get(), 0);
        assert!(outage.state.lock().without.is_empty());
    }
}
