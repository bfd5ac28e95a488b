//! Events (events.k8s.io/v1) on WsRoutes, Services and Pods: what a user must see where they look first, in `kubectl describe`.
//!
//! It never decides what is news. `status`, `tcp_service` and `drains` hand it on; the leader alone runs it.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, Error,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{allowance::Allowances, status::News, trouble::Trouble};
use crate::telemetry::Metrics;

/// Events that wait; more are dropped, because the statuses say it all.
const WAITING: usize = 256;
/// Of one object at once.
const BURST: u32 = 10;
/// After that, one in so long.
const REFILL: Duration = Duration::from_secs(60);
/// `note`, by the API server's validation.
const NOTE: usize = 1024;
/// `reason`, by the same.
const REASON: usize = 128;
/// What of the object's name is in that of its Event, which has 253 characters as well.
const NAME: usize = 230;
const REQUEST: Duration = Duration::from_secs(10);

/// Something to be said about an object.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    pub(super) regarding: ObjectReference,
    /// Another object that it has to do with.
    pub(super) related: Option<ObjectReference>,
    /// What we were about.
    pub(super) action: &'static str,
    pub(super) repeated: Repeated,
    pub(super) news: News,
}

/// What becomes of news that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeated {
    /// The same words once more are one more of a series.
    Counted,
    /// It is said once of each object, whoever leads and in whatever words.
    Never,
}

/// Where Events are handed in.
#[derive(Clone, Debug)]
pub(super) struct Notices {
    sender: mpsc::Sender<Notice>,
    metrics: Arc<Metrics>,
}

impl Notices {
    /// Hands in what the translation of an object has come to, or drops it where too many wait.
    pub(super) fn post(&self, regarding: ObjectReference, news: News) {
        self.tell(Notice { regarding, related: None, action: "Translate", repeated: Repeated::Counted, news });
    }

    /// Hands one in, or drops it where too many wait.
    pub(super) fn tell(&self, notice: Notice) {
        if self.sender.try_send(notice).is_err() {
            self.metrics.events.inc("dropped");
        }
    }
}

/// Writes what is handed in, one after another.
pub(super) struct Recorder {
    client: Client,
    /// `--controller-name`.
    controller: String,
    notices: mpsc::Receiver<Notice>,
    metrics: Arc<Metrics>,
    allowances: Allowances<String>,
}

impl Recorder {
    pub(super) fn new(client: Client, controller: String, metrics: Arc<Metrics>) -> (Notices, Self) {
        let (sender, notices) = mpsc::channel(WAITING);
        let recorder = Self { client, controller, notices, metrics: Arc::clone(&metrics), allowances: Allowances::new(BURST, REFILL) };
        (Notices { sender, metrics }, recorder)
    }

    pub(super) async fn run(mut self) {
        let mut trouble = Trouble::new("Events can not be written");
        while let Some(notice) = self.notices.recv().await {
            if self.allowances.take(identity(&notice.regarding), Instant::now()).is_err() {
                self.metrics.events.inc("dropped");
                continue;
            }
            match timeout(REQUEST, self.write(notice)).await {
                Ok(Ok(())) => {
                    trouble.is_over();
                    self.metrics.events.inc("written");
                }
                Ok(Err(error)) => {
                    trouble.say(&error);
                    self.metrics.events.inc("failed");
                }
                Err(_) => {
                    trouble.say(&"no answer in time");
                    self.metrics.events.inc("failed");
                }
            }
        }
    }

    /// Creates the Event, or counts it into the series of the one that says the same of the same object, if it is to be counted.
    async fn write(&self, notice: Notice) -> Result<(), Error> {
        let namespace = notice.regarding.namespace.clone().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let repeated = notice.repeated;
        let event = event(&self.controller, notice, MicroTime(Timestamp::now()));
        match events.create(&PostParams::default(), &event).await {
            Err(Error::Api(status)) if status.is_already_exists() && repeated == Repeated::Never => return Ok(()),
            Err(Error::Api(status)) if status.is_already_exists() => {}
            created => return created.map(|_| ()),
        }
        let name = event.metadata.name.unwrap_or_default();
        let count = events.get(&name).await?.series.map_or(1, |series| series.count) + 1;
        let series = EventSeries { count, last_observed_time: MicroTime(Timestamp::now()) };
        events.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"series": series}))).await.map(|_| ())
    }
}

/// What tells one object from every other: its UID, or its name where nobody said.
fn identity(regarding: &ObjectReference) -> String {
    let uid = regarding.uid.clone().filter(|uid| !uid.is_empty());
    uid.unwrap_or_else(|| {
        [&regarding.kind, &regarding.namespace, &regarding.name].map(|part| part.as_deref().unwrap_or_default()).join("/")
    })
}

/// The Event of a notice. Its name is made of what it says, so that whoever leads finds it again.
fn event(controller: &str, notice: Notice, now: MicroTime) -> Event {
    let Notice { regarding, related, action, repeated, news } = notice;
    let type_ = if news.is_bad { "Warning" } else { "Normal" };
    let words = if repeated == Repeated::Counted { news.note.as_str() } else { "" };
    let said = [type_, &news.reason, words, &identity(&regarding)].join("\0");
    let hash: String = Sha256::digest(said).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let about: String = regarding.name.iter().flat_map(|name| name.chars()).take(NAME).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{hash}", about.trim_end_matches(['.', '-']))),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        regarding: Some(regarding),
        related,
        type_: Some(type_.to_owned()),
        reason: Some(bounded(&news.reason, REASON)),
        note: Some(bounded(&news.note, NOTE)),
        action: Some(action.to_owned()),
        event_time: Some(now),
        reporting_controller: Some(controller.to_owned()),
        reporting_instance: Some(bounded(controller, REASON)),
        ..Event::default()
    }
}

/// The first so many bytes, at the end of a character.
fn bounded(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(name: &str, note: &str) -> Notice {
        let regarding = ObjectReference { name: Some(name.into()), namespace: Some("default".into()), ..ObjectReference::default() };
        let news = News { is_bad: true, reason: "ServiceNotFound".into(), note: note.into() };
        Notice { regarding, related: None, action: "Translate", repeated: Repeated::Counted, news }
    }

    fn name(notice: Notice) -> String {
        event("carrick.dev/controller", notice, MicroTime(Timestamp::UNIX_EPOCH)).metadata.name.unwrap()
    }

    #[test]
    fn the_same_news_have_the_same_name() {
        assert_eq!(name(notice("shop", "no chat")), name(notice("shop", "no chat")));
        assert_ne!(name(notice("shop", "no chat")), name(notice("shop", "no app")));
        assert!(name(notice("shop", "no chat")).starts_with("shop."));
        let once = |note| name(Notice { repeated: Repeated::Never, ..notice("shop", note) });
        assert_eq!(once("51 sockets"), once("50 sockets"), "in whatever words");
    }

    #[test]
    fn names_and_notes_stay_within_what_the_api_server_takes() {
        let long = format!("{}.{}", "a".repeat(229), "b".repeat(23));
        let event = event("carrick.dev/controller", notice(&long, &"ß".repeat(1000)), MicroTime(Timestamp::UNIX_EPOCH));
        assert!(event.metadata.name.is_some_and(|name| name.len() <= 253 && !name.contains("..")));
        assert_eq!(event.note.map(|note| note.len()), Some(1024));
    }
}
