//! Watches: what happened since a revision, line by line, until the client, the test or the clock ends it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    Pulse, Shared,
    http::{Body, metadata_of, selection, status_of},
    kind::{Kind, Resource},
    select::Selection,
    store::{Happening, Refusal},
};

/// One open watch.
struct Watch {
    shared: Arc<Shared>,
    pulse: tokio::sync::watch::Receiver<Pulse>,
    kind: &'static Kind,
    selection: Selection,
    metadata_only: bool,
    wants_bookmarks: bool,
    /// All up to here was told.
    told: u64,
    bookmarks: u64,
    until: Option<Instant>,
    lines: VecDeque<Bytes>,
    ended: bool,
    _counted: Counted,
}

/// Counts the open watches of a kind, so that a test can wait for them.
struct Counted(Arc<Shared>, &'static str);

impl Counted {
    fn new(shared: &Arc<Shared>, plural: &'static str) -> Self {
        *shared.watching.lock().entry(plural).or_default() += 1;
        Self(Arc::clone(shared), plural)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.watching.lock().entry(self.1).or_default() -= 1;
    }
}

pub fn start(
    shared: &Arc<Shared>,
    resource: &Resource,
    query: &BTreeMap<String, String>,
    metadata_only: bool,
) -> Result<Response<Body>, Refusal> {
    let is_true = |name: &str| query.get(name).is_some_and(|value| value == "true");
    let pulse = shared.pulse.subscribe();
    let bookmarks = pulse.borrow().bookmarks;
    let mut watch = Watch {
        shared: Arc::clone(shared),
        pulse,
        kind: resource.kind,
        selection: selection(resource, query),
        metadata_only,
        wants_bookmarks: is_true("allowWatchBookmarks"),
        told: 0,
        bookmarks,
        until: query.get("timeoutSeconds").and_then(|s| s.parse().ok()).map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        lines: VecDeque::new(),
        ended: false,
        _counted: Counted::new(shared, resource.kind.plural),
    };
    let since = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    if is_true("sendInitialEvents") || since == 0 {
        watch.tell_all_there_is(is_true("sendInitialEvents"));
    } else if since < shared.store.lock().forgotten {
        return Err(too_old(since));
    } else {
        watch.told = since;
    }
    let lines = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok(Frame::data(line)), watch))
    });
    let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
    Ok(response.body(StreamBody::new(Box::pin(lines)).boxed()).expect("a response"))
}

fn too_old(since: u64) -> Refusal {
    Refusal::new(410, format!("too old resource version: {since}"))
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.shared.thawed().await;
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            self.read_log();
            if self.lines.is_empty() {
                let far = Instant::now() + Duration::from_secs(3600);
                tokio::select! {
                    news = self.pulse.changed() => news.ok()?,
                    () = sleep_until(self.until.unwrap_or(far)) => return None,
                }
            }
        }
    }

    fn tell_all_there_is(&mut self, marks_the_end: bool) {
        let store = Arc::clone(&self.shared);
        let store = store.store.lock();
        let (objects, _) = store.list(&self.selection, None, usize::MAX);
        objects.iter().for_each(|object| self.push("ADDED", object));
        self.told = store.revision;
        if marks_the_end {
            self.push_bookmark(json!({"k8s.io/initial-events-end": "true"}));
        }
    }

    fn read_log(&mut self) {
        let pulse = self.pulse.borrow_and_update().clone();
        let shared = Arc::clone(&self.shared);
        let store = shared.store.lock();
        if self.told < store.forgotten {
            self.push("ERROR", &status_of(&too_old(self.told)));
            self.ended = true;
            return;
        }
        let from = store.log.partition_point(|happening| happening.revision <= self.told);
        store.log[from..].iter().filter(|happening| happening.plural == self.kind.plural).for_each(|happening| self.tell(happening));
        self.told = store.revision;
        if self.wants_bookmarks && self.bookmarks < pulse.bookmarks {
            self.push_bookmark(json!({}));
        }
        self.bookmarks = pulse.bookmarks;
    }

    /// An object that a selector no longer takes is gone for this watch.
    fn tell(&mut self, happening: &Happening) {
        let taken = |object: &Option<Arc<Value>>| object.clone().filter(|object| self.selection.takes(object));
        match (taken(&happening.before), taken(&happening.after)) {
            (None, Some(after)) => self.push("ADDED", &after),
            (Some(_), Some(after)) => self.push("MODIFIED", &after),
            (Some(before), None) => {
                let mut last = (*before).clone();
                last["metadata"]["resourceVersion"] = happening.revision.to_string().into();
                self.push("DELETED", &last);
            }
            (None, None) => {}
        }
    }

    fn push_bookmark(&mut self, annotations: Value) {
        let metadata = json!({"resourceVersion": self.told.to_string(), "annotations": annotations, "creationTimestamp": null});
        self.push("BOOKMARK", &json!({"apiVersion": self.kind.api_version(), "kind": self.kind.kind, "metadata": metadata}));
    }

    fn push(&mut self, what: &str, object: &Value) {
        let object = if self.metadata_only && !matches!(what, "ERROR" | "BOOKMARK") { metadata_of(object) } else { object.clone() };
        let mut line = serde_json::to_vec(&json!({"type": what, "object": object})).expect("JSON");
        line.push(b'\n');
        self.lines.push_back(line.into());
    }
}
