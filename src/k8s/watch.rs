//! Lists and watches every kind, trimmed as it is parsed, and looks up what routes name beside.
//!
//! It never knows what an object means. `app` starts it; `control` takes the Changes.

use std::{collections::BTreeSet, future::Future, pin::Pin, sync::Arc};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use kube::Client;
use tokio::sync::{mpsc, watch};

use super::{
    Connection, fetch,
    kinds::{Owner, Resource, Watched},
    list_watch::follow,
    merge::Merge,
    outage::{Health, Outage},
};
use crate::{
    telemetry::Metrics,
    translate::{
        Change, Event, Translated,
        objects::{EndpointSlice, Ingress, IngressClass, Namespace, ReadRoute, ReferenceGrant, Secret, Service},
    },
};

/// News of one place that the merging of its kind has not taken yet; behind it, the watch waits.
const NEWS: usize = 64;

/// Which objects are watched.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Only these namespaces, and nothing of the cluster's own; empty is all.
    pub namespaces: Vec<String>,
}

impl Scope {
    /// Where objects of a kind are listed and watched: each namespace, or all at once as `None`. None at all, where it takes a right
    /// that Roles can't give.
    pub(super) fn places(&self, resource: &Resource) -> Vec<Option<Arc<str>>> {
        match (self.namespaces.is_empty(), resource.owner) {
            (true, _) => vec![None],
            (false, Owner::Cluster) => Vec::new(),
            (false, Owner::Namespace) => {
                let distinct: BTreeSet<&str> = self.namespaces.iter().map(String::as_str).collect();
                distinct.into_iter().map(|namespace| Some(namespace.into())).collect()
            }
        }
    }

    /// Whether objects of this namespace may be read.
    pub(super) fn has(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|ours| ours == namespace)
    }
}

/// Tells all there is, and then what changes, until nobody takes it any more. `latest` says what is to be looked up.
pub async fn run(
    connection: Connection,
    scope: Scope,
    changes: mpsc::Sender<Change>,
    latest: watch::Receiver<Arc<Translated>>,
    metrics: Arc<Metrics>,
) {
    let watcher = Watcher { client: connection.client, scope, outage: Arc::default(), metrics, changes };
    let mut kinds: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>> = FuturesUnordered::new();
    kinds.push(Box::pin(watcher.clone().tell::<Namespace>()));
    kinds.push(Box::pin(watcher.clone().tell::<IngressClass>()));
    kinds.push(Box::pin(watcher.clone().tell::<ReferenceGrant>()));
    kinds.push(Box::pin(watcher.clone().tell::<Service>()));
    kinds.push(Box::pin(watcher.clone().tell::<EndpointSlice>()));
    kinds.push(Box::pin(watcher.clone().tell::<Secret>()));
    kinds.push(Box::pin(watcher.clone().tell::<Ingress>()));
    kinds.push(Box::pin(watcher.clone().tell::<ReadRoute>()));
    kinds.push(Box::pin(fetch::run(watcher, latest)));
    while kinds.next().await.is_some() {}
}

/// What all watches share.
#[derive(Clone)]
pub(super) struct Watcher {
    pub(super) client: Client,
    pub(super) scope: Scope,
    pub(super) outage: Arc<Outage>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) changes: mpsc::Sender<Change>,
}

impl Watcher {
    /// The state of one watch.
    pub(super) fn health(&self, resource: &'static Resource, place: Option<&Arc<str>>) -> Health {
        Health::new(resource, place, self.outage.clone(), &self.metrics)
    }

    async fn tell<T: Watched>(self) {
        let places = self.scope.places(T::RESOURCE);
        if places.is_empty() {
            // An error is a reader that has gone: there is nothing more to tell it.
            let _ = self.changes.send(T::change(Event::Reset(Vec::new()))).await;
            return;
        }
        let (told, mut news) = mpsc::channel(NEWS);
        let mut merge = Merge::new(places.len());
        let watches = join_all(places.into_iter().enumerate().map(|(number, place)| {
            let health = self.health(T::RESOURCE, place.as_ref());
            follow::<T>(self.client.clone(), T::RESOURCE, place, health, number, told.clone())
        }));
        let pass_on = async {
            while let Some((number, news)) = news.recv().await {
                for event in merge.take(number, news) {
                    if self.changes.send(T::change(event)).await.is_err() {
                        return;
                    }
                }
            }
        };
        tokio::select! {
            _ = watches => {}
            () = pass_on => {}
            () = self.changes.closed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_alone_see_their_namespaces_and_nothing_of_the_cluster() {
        let scope = Scope { namespaces: vec!["b".into(), "a".into(), "b".into()] };
        assert_eq!(scope.places(Service::RESOURCE), [Some("a".into()), Some("b".into())]);
        assert!(scope.places(IngressClass::RESOURCE).is_empty());
        assert!(scope.has("a") && !scope.has("c"));
        assert_eq!(Scope::default().places(IngressClass::RESOURCE), [None]);
        assert!(Scope::default().has("c"));
    }
}
