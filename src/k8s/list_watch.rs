//! One kind in one namespace, or in all: listed page by page, then watched, for ever.
//!
//! ```text
//!       ┌─────────── the position is not known any more ───────────┐
//!       ▼                                                          │
//!     list ──► Listed ──► watch ──► Applied, Deleted ──► ended, broken off, refused
//!       ▲                   ▲                                      │
//!       └── backoff         └─────── backoff, the same position ───┘
//! ```
//!
//! It is not kube's `watcher`, because that one does not tell when it has recovered, asks for ever from a position that is
//! answered with 410, and logs what it can't read, which may be a Secret. It never knows what an object means, and loses no
//! deletion: a list is told whole. `watch` and `fetch` have one a kind and namespace.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use kube::{Client, core::WatchEvent};
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    backoff::Backoff,
    kinds::{Need, Read, Resource, Tag, Watched},
    outage::Health,
    request::{self, Fault, View},
};
use crate::model::ObjectRef;

/// How long one watch is asked to last, at most. Nothing else tells an API server that is frozen from one that has no news.
const LASTING: Duration = Duration::from_secs(45);

/// The least part of it: watches that begin together don't end together for ever.
const LASTING_AT_LEAST: f64 = 0.8;

/// By then an API server that is alive has ended it.
const GRACE: Duration = Duration::from_secs(5);

/// A watch that ends sooner, and without a word, is a failure.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// When to ask again for a kind that may be missing.
const MISSING_AGAIN: Duration = Duration::from_secs(60);

/// What is told of one kind in one place.
#[derive(Debug)]
pub(super) enum News<T> {
    /// These are all there are.
    Listed(Vec<T>),
    /// It is there, new or changed.
    Applied(T),
    /// It is gone.
    Deleted(ObjectRef),
}

/// What is followed: the objects of a kind, or only their versions.
pub(super) trait Followed: Send + Sized + 'static {
    /// As it comes.
    type Wire: DeserializeOwned + Send;
    /// How much of it is asked for.
    const VIEW: View;
    /// What is kept, and where a watch goes on after it.
    fn read(wire: Self::Wire) -> (Self, Option<String>);
    /// Its name.
    fn name(&self) -> ObjectRef;
}

impl<T: Watched> Followed for T {
    type Wire = T::Wire;
    const VIEW: View = View::Whole;

    fn read(wire: T::Wire) -> (Self, Option<String>) {
        T::read(wire)
    }

    fn name(&self) -> ObjectRef {
        self.object_ref()
    }
}

/// The name of an object and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// Whose.
    pub(super) object: ObjectRef,
    /// Which.
    pub(super) version: Option<String>,
}

impl Followed for Version {
    type Wire = Tag;
    const VIEW: View = View::Metadata;

    fn read(wire: Tag) -> (Self, Option<String>) {
        let (object, version) = wire.split();
        (Version { object, version: version.clone() }, version)
    }

    fn name(&self) -> ObjectRef {
        self.object.clone()
    }
}

/// Why a list or a watch ended before its time.
enum End {
    /// The API server can't be asked.
    Fault(Fault),
    /// The watch had begun and broke off.
    Interrupted(Fault),
    /// Nobody takes the news any more.
    Closed,
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        End::Fault(fault)
    }
}

/// Follows one kind in one namespace, or in all where it is `None`, until nobody takes the news any more; they go by `number`.
pub(super) async fn follow<T: Followed>(
    client: Client,
    resource: &'static Resource,
    namespace: Option<Arc<str>>,
    health: Health,
    number: usize,
    news: mpsc::Sender<(usize, News<T>)>,
) {
    let gone = news.clone();
    let mut follower =
        Follower { client, resource, namespace, health, number, news, position: None, was_listed: false, backoff: Backoff::default() };
    tokio::select! {
        () = follower.run() => {}
        () = gone.closed() => {}
    }
}

struct Follower<T> {
    client: Client,
    resource: &'static Resource,
    namespace: Option<Arc<str>>,
    health: Health,
    number: usize,
    news: mpsc::Sender<(usize, News<T>)>,
    /// Where the next watch goes on; without one, a list is due.
    position: Option<String>,
    was_listed: bool,
    backoff: Backoff,
}

impl<T: Followed> Follower<T> {
    async fn run(&mut self) {
        loop {
            let fault = match self.list_and_watch().await {
                Ok(()) => continue,
                Err(End::Closed) => return,
                Err(End::Interrupted(fault)) => {
                    self.pause(&fault).await;
                    continue;
                }
                // Nothing is wrong that a new list does not mend.
                Err(End::Fault(fault)) if self.position.is_some() && fault.is_of_position() => {
                    self.position = None;
                    self.pause(&fault).await;
                    continue;
                }
                Err(End::Fault(fault)) => fault,
            };
            self.health.ill(&fault);
            if self.is_missing(&fault) {
                self.position = None;
                self.health.metrics().objects.set(0);
                if self.tell(News::Listed(Vec::new())).await.is_err() {
                    return;
                }
                sleep(MISSING_AGAIN).await;
                continue;
            }
            tokio::select! {
                () = sleep(self.backoff.next(fault.retry_after())) => {}
                () = self.health.answers_again(&fault) => {}
            }
        }
    }

    async fn pause(&mut self, fault: &Fault) {
        self.health.interrupted(fault);
        sleep(self.backoff.next(None)).await;
    }

    /// Whether there are none because the kind is not served. A right that is taken away later is no reason to forget what was listed.
    fn is_missing(&self, fault: &Fault) -> bool {
        let missing = fault.is(StatusCode::NOT_FOUND) || (fault.is(StatusCode::FORBIDDEN) && !self.was_listed);
        self.resource.need == Need::Optional && missing
    }

    async fn list_and_watch(&mut self) -> Result<(), End> {
        if self.position.is_none() {
            self.list().await?;
        }
        self.watch().await
    }

    async fn list(&mut self) -> Result<(), End> {
        let mut objects = Vec::new();
        let mut next = None;
        let position = loop {
            let page = request::page(&self.client, self.resource, self.namespace.as_deref(), T::VIEW, next).await?;
            let position = page.position()?;
            next = page.next();
            objects.extend(page.items.into_iter().filter_map(|wire| self.read(wire).0.ok()));
            if next.is_none() {
                break position;
            }
        };
        self.health.metrics().objects.set(i64::try_from(objects.len()).unwrap_or(i64::MAX));
        self.health.metrics().lists.inc();
        self.tell(News::Listed(objects)).await?;
        self.was_listed = true;
        self.position = Some(position);
        Ok(())
    }

    /// One watch, as long as it lasts.
    async fn watch(&mut self) -> Result<(), End> {
        let began = Instant::now();
        let position = self.position.as_deref().unwrap_or_default();
        let lasting = LASTING.mul_f64(LASTING_AT_LEAST + (1.0 - LASTING_AT_LEAST) * fastrand::f64());
        let mut lines = request::watch(&self.client, self.resource, self.namespace.as_deref(), T::VIEW, position, lasting).await?;
        // The API server answers a watch when it has it: from here on every change comes in.
        self.health.well();
        let mut silent = true;
        loop {
            let event = match timeout(lasting + GRACE, lines.next()).await {
                Err(_) => return Err(Fault::Silent.into()),
                Ok(Err(fault @ Fault::Unreachable(_))) => return Err(End::Interrupted(fault)),
                Ok(event) => event?,
            };
            let Some(event) = event else { break };
            silent = false;
            self.backoff.reset();
            self.take(event).await?;
        }
        if silent && began.elapsed() < TOO_SHORT {
            return Err(End::Interrupted(Fault::Unreachable("it ended as soon as it began".into())));
        }
        self.backoff.reset();
        Ok(())
    }

    async fn take(&mut self, event: WatchEvent<Read<T::Wire>>) -> Result<(), End> {
        let metrics = self.health.metrics();
        let (news, position) = match event {
            WatchEvent::Added(wire) => {
                metrics.objects.inc();
                self.applied(wire)
            }
            WatchEvent::Modified(wire) => self.applied(wire),
            WatchEvent::Deleted(wire) => {
                metrics.objects.dec();
                let (object, position) = self.read(wire);
                (News::Deleted(object.map_or_else(|name| name, |object| object.name())), position)
            }
            WatchEvent::Bookmark(bookmark) => {
                self.position = Some(bookmark.metadata.resource_version);
                return Ok(());
            }
            WatchEvent::Error(_) => return Ok(()), // a fault already
        };
        metrics.events.inc();
        self.tell(news).await?;
        if position.is_some() {
            self.position = position;
        }
        Ok(())
    }

    fn applied(&self, wire: Read<T::Wire>) -> (News<T>, Option<String>) {
        let (object, position) = self.read(wire);
        (object.map_or_else(News::Deleted, News::Applied), position)
    }

    /// The object, or the name of one that can't be read, and the version of either.
    fn read(&self, wire: Read<T::Wire>) -> (Result<T, ObjectRef>, Option<String>) {
        match wire {
            Read::Whole(wire) => {
                let (object, version) = T::read(wire);
                (Ok(object), version)
            }
            Read::Torn(tag) => {
                let (name, version) = tag.split();
                self.health.torn(&name);
                (Err(name), version)
            }
        }
    }

    async fn tell(&self, news: News<T>) -> Result<(), End> {
        self.news.send((self.number, news)).await.map_err(|_| End::Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures_util::stream;
    use http::{Request, Response};
    use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
    use kube::client::Body;
    use tower::service_fn;

    use super::*;
    use crate::{k8s::outage::Outage, telemetry::Metrics, translate::objects::Service};

    const LIST: &str =
        r#"{"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a", "namespace": "default"}, "spec": {}}]}"#;

    type Answer = Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible>;

    fn whole(text: &'static str) -> UnsyncBoxBody<Bytes, Infallible> {
        Full::new(Bytes::from(text)).boxed_unsync()
    }

    /// An API server that answers every list, and every watch with this.
    fn client(watch: fn() -> UnsyncBoxBody<Bytes, Infallible>) -> Client {
        let answer = move |request: Request<Body>| async move {
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            Answer::Ok(Response::new(if is_watch { watch() } else { whole(LIST) }))
        };
        Client::new(service_fn(answer), "default")
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_frozen_is_noticed_within_a_minute() {
        let metrics = Metrics::default();
        let frozen = client(|| StreamBody::new(stream::pending()).boxed_unsync());
        let health = Health::new(Service::RESOURCE, None, Arc::<Outage>::default(), &metrics);
        let watch = metrics.watch("Service", "");
        let (tell, mut news) = mpsc::channel(8);
        let began = Instant::now();
        let noticed = async {
            while watch.errors.get("silent") == 0 {
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = follow::<Service>(frozen, Service::RESOURCE, None, health, 0, tell) => panic!("it goes on for ever"),
            () = noticed => {}
        }
        assert!(began.elapsed() < Duration::from_secs(60));
        let Some((0, News::Listed(services))) = news.recv().await else { panic!("it was listed") };
        assert_eq!(services.len(), 1);
        assert!(news.try_recv().is_err(), "what was listed stays");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_change_that_can_not_be_read_all_is_listed_anew() {
        let metrics = Metrics::default();
        let babbling = client(|| whole("{\"type\": \"ADDED\", \"object\": 7}\n"));
        let health = Health::new(Service::RESOURCE, None, Arc::<Outage>::default(), &metrics);
        let (tell, mut news) = mpsc::channel(8);
        let lists = async {
            for _ in 0..2 {
                assert!(matches!(news.recv().await, Some((0, News::Listed(services))) if services.len() == 1));
            }
        };
        tokio::select! {
            () = follow::<Service>(babbling, Service::RESOURCE, None, health, 0, tell) => panic!("it goes on for ever"),
            () = lists => {}
        }
        assert!(metrics.watch("Service", "").errors.get("unreadable") >= 1);
    }
}
