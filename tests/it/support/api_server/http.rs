//! The API's HTTP: a request's path, verb and body, and its answer as JSON.

use std::{collections::BTreeMap, convert::Infallible, io, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    Shared,
    faults::Fault,
    kind::Resource,
    select::Selection,
    store::{Name, Part, Refusal, Write},
    watch,
};

pub type Body = BoxBody<Bytes, Infallible>;
type Answer = Result<Response<Body>, Refusal>;

/// Answers one request. An error cuts the connection.
pub async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let Some(resource) = Resource::parse(request.uri().path()) else { return Ok(not_served()) };
    let query = query(request.uri().query().unwrap_or_default());
    let verb = verb(request.method(), &resource, &query);
    let permission = resource.permission();
    shared.count(verb, &permission);
    shared.thawed().await;
    let delay = shared.faults.lock().delay;
    tokio::time::sleep(delay).await;
    if !shared.is_authorised(request.headers()) {
        return Ok(refused(&Refusal::new(401, "Unauthorized"), None));
    }
    if shared.faults.lock().not_served.contains(resource.kind.plural) {
        return Ok(not_served());
    }
    let fault = shared.faults.lock().meet(verb, &permission);
    if let Some((refusal, retry_after)) = fault.as_ref().and_then(Fault::refusal) {
        return Ok(refused(&refusal, retry_after));
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let answer = match verb {
        "watch" => watch::start(&shared, &resource, &query, wants_metadata(&head.headers)),
        "list" => list(&shared, &resource, &query, wants_metadata(&head.headers)),
        "get" => get(&shared, &resource, wants_metadata(&head.headers)),
        "delete" => delete(&shared, &resource, &body),
        _ => write(&shared, resource, verb, &query, &head.headers, &body),
    };
    match fault {
        Some(Fault::Lost) => Err(io::Error::other("the answer is lost")),
        _ => Ok(answer.unwrap_or_else(|refusal| refused(&refusal, None))),
    }
}

fn verb(method: &Method, resource: &Resource, query: &BTreeMap<String, String>) -> &'static str {
    match *method {
        Method::GET if resource.name.is_some() => "get",
        Method::GET if query.get("watch").is_some_and(|watch| matches!(watch.as_str(), "true" | "1")) => "watch",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        _ => "delete",
    }
}

fn query(text: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decode(name), decode(value))).collect()
}

pub fn selection(resource: &Resource, query: &BTreeMap<String, String>) -> Selection {
    let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    Selection::new(resource.kind.plural, &resource.namespace, text("fieldSelector"), text("labelSelector"))
}

fn list(shared: &Shared, resource: &Resource, query: &BTreeMap<String, String>, metadata_only: bool) -> Answer {
    let store = shared.store.lock();
    let (revision, after) = match query.get("continue").filter(|token| !token.is_empty()) {
        None => (store.revision, None),
        Some(token) => {
            let mut parts = token.splitn(3, '/');
            let revision = parts.next().and_then(|revision| revision.parse().ok()).ok_or_else(|| Refusal::new(400, "no such page"))?;
            (revision, Some((parts.next().unwrap_or_default().to_owned(), parts.next().unwrap_or_default().to_owned())))
        }
    };
    if revision < store.forgotten {
        return Err(Refusal::new(410, "The provided continue parameter is too old"));
    }
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let (page, more) = store.list(&selection(resource, query), after, limit);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let token = page.last().filter(|_| more).map(|last| {
        let metadata = &last["metadata"];
        format!("{revision}/{}/{}", text(&metadata["namespace"]), text(&metadata["name"]))
    });
    let items: Vec<Value> = page.iter().map(|object| if metadata_only { metadata_of(object) } else { (**object).clone() }).collect();
    let (api_version, kind) = if metadata_only {
        ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned())
    } else {
        (resource.kind.api_version(), format!("{}List", resource.kind.kind))
    };
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let Some(token) = token {
        metadata["continue"] = token.into();
    }
    Ok(ok(&json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "items": items})))
}

fn get(shared: &Shared, resource: &Resource, metadata_only: bool) -> Answer {
    let object = shared.store.lock().get(resource.kind, &name(resource))?;
    Ok(ok(&if metadata_only { metadata_of(&object) } else { (*object).clone() }))
}

fn delete(shared: &Shared, resource: &Resource, body: &[u8]) -> Answer {
    let options = serde_json::from_slice(body).unwrap_or(Value::Null);
    let gone = shared.store.lock().delete(resource.kind, &name(resource), &options)?;
    shared.tell();
    Ok(ok(&gone))
}

fn write(
    shared: &Shared,
    mut resource: Resource,
    verb: &str,
    query: &BTreeMap<String, String>,
    headers: &HeaderMap,
    body: &[u8],
) -> Answer {
    let sent: Value = serde_json::from_slice(body).map_err(|error| Refusal::new(400, error.to_string()))?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let how = match (verb, content_type) {
        ("create", _) => Write::Create,
        ("update", _) => Write::Replace,
        (_, "application/merge-patch+json") => Write::Merge,
        (_, "application/apply-patch+yaml") => Write::Apply {
            manager: query.get("fieldManager").cloned().ok_or_else(|| Refusal::new(422, "fieldManager is required for apply patch"))?,
            force: query.get("force").is_some_and(|force| force == "true"),
        },
        (_, other) => return Err(Refusal::new(422, format!("{other} is not supported here"))),
    };
    let part = match resource.subresource.as_deref() {
        None => Part::Main,
        Some("status") if resource.kind.has_status => Part::Status,
        Some(other) => return Err(Refusal::new(404, format!("no subresource {other}"))),
    };
    if resource.name.is_none() {
        resource.name = sent["metadata"]["name"].as_str().map(str::to_owned);
    }
    if matches!(how, Write::Apply { .. }) && !sent["metadata"]["managedFields"].is_null() {
        return Err(Refusal::new(400, "metadata.managedFields must be nil"));
    }
    let (object, is_new) = shared.store.lock().write(resource.kind, name(&resource), part, &how, &sent)?;
    shared.tell();
    Ok(json(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &object))
}

fn name(resource: &Resource) -> Name {
    (resource.namespace.clone(), resource.name.clone().unwrap_or_default())
}

fn wants_metadata(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|value| value.to_str().unwrap_or_default().contains("as=PartialObjectMetadata"))
}

/// The object as PartialObjectMetadata.
pub fn metadata_of(object: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
}

pub fn status_of(refusal: &Refusal) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": refusal.message, "reason": refusal.reason, "code": refusal.code,
    })
}

fn refused(refusal: &Refusal, retry_after: Option<u32>) -> Response<Body> {
    let mut response = json(StatusCode::from_u16(refusal.code).expect("a status"), &status_of(refusal));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// What an API server says of a group or kind that it has never heard of.
fn not_served() -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"404 page not found\n")).boxed());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn ok(value: &Value) -> Response<Body> {
    json(StatusCode::OK, value)
}

fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("JSON");
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    response.body(Full::new(body.into()).boxed()).expect("a response")
}
