//! ConfigMaps and Secrets that routes name, looked up one by one: most of a cluster's are nobody's business.
//!
//! Their names and versions alone are watched, and only while a route names one; a version that moves is read again. It never
//! knows what they are for. `watch` runs it beside the kinds that are read whole; `list` asks once.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
};

use futures_util::{StreamExt as _, future::join, stream::FuturesUnordered};
use http::StatusCode;
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::{debug, warn};

use super::{
    at,
    backoff::Backoff,
    kinds::{OTHER_SECRETS, Resource, Watched},
    list_watch::{News, Version, follow},
    request::{self, Fault},
    watch::Watcher,
};
use crate::{
    model::ObjectRef,
    translate::{
        Change, Event, Translated, Wanted,
        objects::{ConfigMap, Secret},
    },
};

/// Objects that are asked for at the same time.
const AT_ONCE: usize = 8;

/// A kind that is looked up by name.
pub(super) trait LookedUp: Watched {
    /// Where it is.
    const BY_NAME: &'static Resource;
    /// Those of this kind.
    fn wanted(wanted: &Wanted) -> &BTreeSet<ObjectRef>;
    /// What `control` is told.
    fn found(event: Event<Self>) -> Change;
}

impl LookedUp for ConfigMap {
    const BY_NAME: &'static Resource = ConfigMap::RESOURCE;

    fn wanted(wanted: &Wanted) -> &BTreeSet<ObjectRef> {
        &wanted.config_maps
    }

    fn found(event: Event<Self>) -> Change {
        Change::ConfigMap(event)
    }
}

impl LookedUp for Secret {
    const BY_NAME: &'static Resource = OTHER_SECRETS;

    fn wanted(wanted: &Wanted) -> &BTreeSet<ObjectRef> {
        &wanted.secrets
    }

    fn found(event: Event<Self>) -> Change {
        Change::OtherSecret(event)
    }
}

/// Tells of every wanted object whether it is there and what is in it, and again when that changes.
pub(super) async fn run(watcher: Watcher, latest: watch::Receiver<Arc<Translated>>) {
    // They are looked up when the first translation names them: nothing waits for a list of them.
    if watcher.changes.send(Change::ConfigMap(Event::Reset(Vec::new()))).await.is_ok() {
        let gone = watcher.changes.clone();
        let config_maps = Lookup::<ConfigMap>::new(watcher.clone()).run(latest.clone());
        let secrets = Lookup::<Secret>::new(watcher).run(latest);
        tokio::select! {
            _ = join(config_maps, secrets) => {}
            () = gone.closed() => {}
        }
    }
}

/// Asks for one object; `None` where there is none.
pub(super) async fn look_up<T: LookedUp>(client: &Client, name: &ObjectRef) -> Result<Option<(T, Option<String>)>, Fault> {
    match request::get(client, T::BY_NAME, &name.namespace, &name.name).await {
        Ok(wire) => Ok(Some(T::read(wire))),
        Err(fault) if fault.is(StatusCode::NOT_FOUND) => Ok(None),
        Err(fault) => Err(fault),
    }
}

type Answer<T> = (ObjectRef, Result<Option<(T, Option<String>)>, Fault>);
type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One wanted object.
#[derive(Default)]
struct Known {
    /// The version that was told, `None` of an object that is not there; nothing before the first answer.
    told: Option<Option<String>>,
    /// The log knows that it can't be read.
    said: bool,
}

/// The wanted objects of one kind.
struct Lookup<T> {
    watcher: Watcher,
    known: BTreeMap<ObjectRef, Known>,
    /// To be asked for.
    due: BTreeSet<ObjectRef>,
    /// Asked for, and not answered.
    asked: FuturesUnordered<Task<Answer<T>>>,
    in_flight: BTreeSet<ObjectRef>,
    /// Could not be read, all of them to be asked for again at `again`.
    failed: BTreeSet<ObjectRef>,
    again: Option<Instant>,
    backoff: Backoff,
    /// The watches of versions; none while nothing is wanted.
    watches: FuturesUnordered<Task<()>>,
    moved: Option<mpsc::Receiver<(usize, News<Version>)>>,
}

impl<T: LookedUp> Lookup<T> {
    fn new(watcher: Watcher) -> Self {
        Self {
            watcher,
            known: BTreeMap::new(),
            due: BTreeSet::new(),
            asked: FuturesUnordered::new(),
            in_flight: BTreeSet::new(),
            failed: BTreeSet::new(),
            again: None,
            backoff: Backoff::default(),
            watches: FuturesUnordered::new(),
            moved: None,
        }
    }

    async fn run(mut self, mut latest: watch::Receiver<Arc<Translated>>) {
        loop {
            self.ask();
            let changes = tokio::select! {
                changed = latest.changed() => match changed {
                    Ok(()) => {
                        let latest = latest.borrow_and_update().clone();
                        self.want(T::wanted(&latest.wanted), T::wanted(&latest.unanswered))
                    }
                    Err(_) => return,
                },
                Some((name, answer)) = self.asked.next() => self.answered(name, answer).into_iter().collect(),
                Some(news) = next(&mut self.moved) => {
                    self.moved(news);
                    Vec::new()
                }
                Some(()) = self.watches.next() => Vec::new(),
                () = at(self.again) => {
                    self.again = None;
                    self.due.append(&mut self.failed);
                    Vec::new()
                }
            };
            for event in changes {
                if self.watcher.changes.send(T::found(event)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// From now on these are wanted. Whoever forgot the answer since, because nothing wanted it in between, is told again.
    fn want(&mut self, wanted: &BTreeSet<ObjectRef>, unanswered: &BTreeSet<ObjectRef>) -> Vec<Event<T>> {
        self.known.retain(|name, _| wanted.contains(name));
        self.due.retain(|name| wanted.contains(name));
        self.failed.retain(|name| wanted.contains(name));
        let mut changes = Vec::new();
        for name in wanted {
            let new = !self.known.contains_key(name);
            let known = self.known.entry(name.clone()).or_default();
            let forgotten = known.told.is_some() && unanswered.contains(name);
            if !new && !forgotten {
                continue;
            }
            if self.watcher.scope.has(&name.namespace) {
                self.due.insert(name.clone());
            } else {
                // Nobody gave the right to look.
                known.told = Some(None);
                changes.push(Event::Delete(name.clone()));
            }
        }
        self.watch_versions();
        changes
    }

    fn watch_versions(&mut self) {
        if self.known.is_empty() {
            self.watches.clear();
            self.moved = None;
        } else if self.moved.is_none() {
            let (told, moved) = mpsc::channel(AT_ONCE);
            for (number, place) in self.watcher.scope.places(T::BY_NAME).into_iter().enumerate() {
                let health = self.watcher.health(T::BY_NAME, place.as_ref());
                self.watches.push(Box::pin(follow(self.watcher.client.clone(), T::BY_NAME, place, health, number, told.clone())));
            }
            self.moved = Some(moved);
        }
    }

    fn ask(&mut self) {
        while self.asked.len() < AT_ONCE
            && let Some(name) = self.due.iter().find(|name| !self.in_flight.contains(*name)).cloned()
        {
            self.due.remove(&name);
            self.in_flight.insert(name.clone());
            let client = self.watcher.client.clone();
            self.asked.push(Box::pin(async move {
                let answer = look_up(&client, &name).await;
                (name, answer)
            }));
        }
    }

    fn answered(&mut self, name: ObjectRef, answer: Result<Option<(T, Option<String>)>, Fault>) -> Option<Event<T>> {
        self.in_flight.remove(&name);
        let known = self.known.get_mut(&name)?;
        match answer {
            Ok(found) => {
                self.backoff.reset();
                known.said = false;
                let (event, version) = match found {
                    Some((object, version)) => (Event::Apply(object), version),
                    None => (Event::Delete(name), None),
                };
                known.told = Some(version);
                Some(event)
            }
            Err(fault) => {
                let kind = T::BY_NAME.kind;
                if fault.is(StatusCode::FORBIDDEN) && !std::mem::replace(&mut known.said, true) {
                    warn!(kind, %name, "the right to get {} is missing: {fault}; tried again until it is given", T::BY_NAME.full_name());
                }
                debug!(kind, %name, "can't be looked up: {fault}");
                self.failed.insert(name);
                let wait = self.backoff.next(fault.retry_after());
                self.again.get_or_insert(Instant::now() + wait);
                None
            }
        }
    }

    /// Whatever has another version than the one that was told is asked for again.
    fn moved(&mut self, (number, news): (usize, News<Version>)) {
        match news {
            News::Applied(Version { object, version }) => {
                if self.known.get(&object).is_some_and(|known| known.told != Some(version)) {
                    self.due.insert(object);
                }
            }
            News::Deleted(object) => {
                if self.known.get(&object).is_some_and(|known| known.told != Some(None)) {
                    self.due.insert(object);
                }
            }
            News::Listed(versions) => {
                let place = self.watcher.scope.places(T::BY_NAME).swap_remove(number);
                let listed: BTreeMap<ObjectRef, Option<String>> = versions.into_iter().map(|tag| (tag.object, tag.version)).collect();
                let here = |name: &ObjectRef| place.as_ref().is_none_or(|place| *name.namespace == **place);
                for (name, known) in self.known.iter().filter(|(name, _)| here(name)) {
                    if known.told.as_ref() != Some(&listed.get(name).cloned().flatten()) {
                        self.due.insert(name.clone());
                    }
                }
            }
        }
    }
}

async fn next<T>(receiver: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => pending().await,
    }
}
