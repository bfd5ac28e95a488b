//! Everything that is there now, read once.
//!
//! It never watches and asks nothing twice: the first answer that is none is the end. `app` calls it for `explain`.

use thiserror::Error;

use super::{
    Connection,
    fetch::{self, LookedUp},
    kinds::{Need, Read, Resource, Watched},
    request::{self, Fault, View},
    watch::Scope,
};
use crate::{
    model::ObjectRef,
    translate::{
        Change, Event, Wanted,
        objects::{ConfigMap, EndpointSlice, Ingress, IngressClass, Namespace, ReadRoute, ReferenceGrant, Secret, Service},
    },
};

/// Objects that can't be read.
#[derive(Debug, Error)]
#[error("{what} can not be read: {why}")]
pub struct ListError {
    what: String,
    why: String,
}

/// Lists every kind.
pub async fn list(connection: &Connection, scope: &Scope) -> Result<Vec<Change>, ListError> {
    Ok(vec![
        kind::<Namespace>(connection, scope).await?,
        kind::<IngressClass>(connection, scope).await?,
        kind::<ReferenceGrant>(connection, scope).await?,
        kind::<Service>(connection, scope).await?,
        kind::<EndpointSlice>(connection, scope).await?,
        kind::<Secret>(connection, scope).await?,
        kind::<Ingress>(connection, scope).await?,
        kind::<ReadRoute>(connection, scope).await?,
    ])
}

/// Looks up what routes name beside.
pub async fn look_up(connection: &Connection, scope: &Scope, wanted: &Wanted) -> Result<Vec<Change>, ListError> {
    let mut changes = named::<ConfigMap>(connection, scope, wanted).await?;
    changes.extend(named::<Secret>(connection, scope, wanted).await?);
    Ok(changes)
}

async fn kind<T: Watched>(connection: &Connection, scope: &Scope) -> Result<Change, ListError> {
    let mut objects = Vec::new();
    for place in scope.places(T::RESOURCE) {
        let mut next = None;
        loop {
            let page = match request::page::<Read<T::Wire>>(&connection.client, T::RESOURCE, place.as_deref(), View::Whole, next).await {
                Err(fault) if is_missing(T::RESOURCE, &fault) => break,
                page => page.map_err(|fault| error(T::RESOURCE, &fault))?,
            };
            next = page.next();
            objects.extend(page.items.into_iter().filter_map(|wire| match wire {
                Read::Whole(wire) => Some(T::read(wire).0),
                Read::Torn(_) => None,
            }));
            if next.is_none() {
                break;
            }
        }
    }
    Ok(T::change(Event::Reset(objects)))
}

async fn named<T: LookedUp>(connection: &Connection, scope: &Scope, wanted: &Wanted) -> Result<Vec<Change>, ListError> {
    let mut changes = Vec::new();
    for name in T::wanted(wanted) {
        let found = if scope.has(&name.namespace) { get::<T>(connection, name).await? } else { None };
        changes.push(T::found(found.map_or_else(|| Event::Delete(name.clone()), Event::Apply)));
    }
    Ok(changes)
}

async fn get<T: LookedUp>(connection: &Connection, name: &ObjectRef) -> Result<Option<T>, ListError> {
    let found = fetch::look_up(&connection.client, name).await.map_err(|fault| error(T::BY_NAME, &fault))?;
    Ok(found.map(|(object, _)| object))
}

fn is_missing(resource: &Resource, fault: &Fault) -> bool {
    let missing = fault.is(http::StatusCode::NOT_FOUND) || fault.is(http::StatusCode::FORBIDDEN);
    resource.need == Need::Optional && missing
}

fn error(resource: &Resource, fault: &Fault) -> ListError {
    let why = match resource.need {
        Need::Installed(by) if fault.is(http::StatusCode::NOT_FOUND) => {
            format!("the cluster does not know them; install the CustomResourceDefinition with: {by}")
        }
        _ => fault.to_string(),
    };
    ListError { what: resource.full_name(), why }
}
