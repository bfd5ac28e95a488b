//! What became of each WsRoute, written to it by the leader: conditions, addresses, Events.
//!
//! It never decides what is wrong: `translate` says so. `leader` runs it.
//!
//! The leader watches the statuses themselves, with the resourceVersions that the translation never sees: what is there already is
//! not written, what somebody took away is written again, and no write is older than what it replaces.

mod compose;
mod ledger;
mod shown;

use std::{sync::Arc, time::Duration};

use futures_util::{
    future::join_all,
    stream::{FuturesUnordered, StreamExt as _},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Error,
    api::{Patch, PatchParams, Request},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

pub(super) use compose::News;
use ledger::{Ledger, Outcome, Seen, Write};
use shown::{STATUSES, Shown};

use super::{
    at,
    events::Notices,
    leader::{Publish, Settings},
    list_watch::{self, follow},
    outage::{Health, Outage},
    published::{self, Watched},
    trouble::Trouble,
};
use crate::{api::LoadBalancerIngress, telemetry::Metrics, translate::Translated};

/// News of routes that the ledger has not taken yet; behind it, the watch waits.
const NEWS: usize = 64;
/// Writes under way at once.
const AT_ONCE: usize = 8;
/// Between the starts of two writes: thousands of routes take their time, and leave the API server to others.
const PACE: Duration = Duration::from_millis(10);
/// One write.
const REQUEST: Duration = Duration::from_secs(10);

/// Writes on change only, until nothing more will come.
pub(super) async fn write(
    client: &Client,
    settings: &Settings,
    latest: watch::Receiver<Arc<Translated>>,
    published: watch::Receiver<Watched>,
    notices: &Notices,
    metrics: &Metrics,
) {
    Writer { client, settings, metrics, notices }.run(latest, published).await;
}

/// Carries out what the ledger says.
struct Writer<'a> {
    client: &'a Client,
    settings: &'a Settings,
    metrics: &'a Metrics,
    notices: &'a Notices,
}

impl Writer<'_> {
    async fn run(&self, mut latest: watch::Receiver<Arc<Translated>>, mut published: watch::Receiver<Watched>) {
        let mut ledger = Ledger::new(self.settings.controller.clone(), fastrand::u64(..));
        match &self.settings.publish {
            Publish::Nothing => ledger.addressed(Some(Vec::new())),
            Publish::Addresses(addresses) => ledger.addressed(Some(addresses.iter().map(|address| published::address(address)).collect())),
            Publish::Service(_) => {}
        }
        let places = self.places();
        let (told, mut routes) = mpsc::channel(NEWS);
        let outage = Arc::<Outage>::default();
        let mut watches = std::pin::pin!(join_all(places.iter().cloned().enumerate().map(|(number, place)| {
            let health = Health::new(STATUSES, place.as_ref(), Arc::clone(&outage), self.metrics);
            follow::<Shown>(self.client.clone(), STATUSES, place, health, number, told.clone())
        })));
        let mut writing = Trouble::new("the status of a WsRoute could not be written");
        let mut writes = FuturesUnordered::new();
        let mut next_start = Instant::now();
        loop {
            let now = Instant::now();
            // Until the published Service was seen once, every status would be written twice.
            let may_write = self.knows_addresses(&published) && writes.len() < AT_ONCE;
            if may_write
                && next_start <= now
                && let Some(write) = ledger.next(now, Timestamp::now())
            {
                next_start = now + PACE;
                writes.push(self.write(write));
                continue;
            }
            self.metrics.status_pending.set(i64::try_from(ledger.pending()).unwrap_or(i64::MAX));
            let wake = ledger.due(now).map(|due| due.max(next_start)).filter(|_| may_write);
            tokio::select! {
                _ = &mut watches => return,
                Some((place, news)) = routes.recv() => take(news, places[place].as_deref(), &mut ledger),
                Ok(()) = latest.changed() => ledger.translated(latest.borrow_and_update().clone()),
                Ok(()) = published.changed() => {
                    ledger.addressed(addresses(&published.borrow_and_update()));
                }
                Some((write, outcome)) = writes.next() => {
                    let outcome = self.count(&write, outcome, &mut writing);
                    ledger.hear(&write, outcome, Instant::now());
                }
                () = at(wake) => {}
                else => return,
            }
        }
    }

    fn knows_addresses(&self, published: &watch::Receiver<Watched>) -> bool {
        !matches!(self.settings.publish, Publish::Service(_)) || *published.borrow() != Watched::Unknown
    }

    /// What is watched: each namespace by itself, or all.
    fn places(&self) -> Vec<Option<Arc<str>>> {
        match &self.settings.namespaces[..] {
            [] => vec![None],
            namespaces => namespaces.iter().map(|namespace| Some(Arc::from(namespace.as_str()))).collect(),
        }
    }

    async fn write(&self, write: Write) -> (Write, Result<Seen, Error>) {
        let result = timeout(REQUEST, self.send(&write)).await.unwrap_or_else(|_| Err(Error::Service("no answer in time".into())));
        (write, result)
    }

    async fn send(&self, write: &Write) -> Result<Seen, Error> {
        let patch = Patch::Apply(json!({
            "apiVersion": shown::API_VERSION, "kind": shown::KIND,
            // Which no other object of the name ever had; of a status the API server does not compare uids.
            "metadata": {"resourceVersion": write.version},
            "status": write.status,
        }));
        let params = PatchParams::apply(&self.settings.manager()).force();
        let request = Request::new(STATUSES.path(Some(&write.route.namespace)));
        let request = request.patch_subresource("status", &write.route.name, &params, &patch).map_err(Error::BuildRequest)?;
        self.client.request(request).await.map(|wire| Shown::new(wire).seen)
    }

    /// What came of a write, counted and said.
    fn count(&self, write: &Write, result: Result<Seen, Error>, writing: &mut Trouble) -> Outcome {
        let (label, outcome) = match result {
            Ok(seen) => {
                writing.is_over();
                write.news.iter().for_each(|news| self.notices.post(reference(write), news.clone()));
                ("written", Outcome::Written(seen))
            }
            Err(Error::Api(status)) if status.code == 409 => ("conflict", Outcome::Conflict),
            Err(Error::Api(status)) if status.code == 404 => ("gone", Outcome::Gone),
            Err(error) => {
                writing.say(&format!("{}: {error}", write.route));
                ("failed", Outcome::Failed)
            }
        };
        self.metrics.status_writes.inc(label);
        outcome
    }
}

/// Where clients reach the published Service, if that is known.
fn addresses(published: &Watched) -> Option<Vec<LoadBalancerIngress>> {
    match published {
        Watched::Unknown | Watched::Unreadable => None,
        Watched::Absent => Some(Vec::new()),
        Watched::There(service) => Some(published::addresses(service)),
    }
}

/// What a watch tells, for the ledger.
fn take(news: list_watch::News<Shown>, namespace: Option<&str>, ledger: &mut Ledger) {
    match news {
        list_watch::News::Listed(all) => ledger.see_all(namespace, all.into_iter().map(|shown| (shown.route, shown.seen)).collect()),
        list_watch::News::Applied(shown) => ledger.see(shown.route, shown.seen),
        list_watch::News::Deleted(route) => ledger.lose(&route),
    }
}

fn reference(write: &Write) -> ObjectReference {
    ObjectReference {
        api_version: Some(shown::API_VERSION.to_owned()),
        kind: Some(shown::KIND.to_owned()),
        namespace: Some(write.route.namespace.to_string()),
        name: Some(write.route.name.to_string()),
        uid: Some(write.uid.clone()),
        ..ObjectReference::default()
    }
}
