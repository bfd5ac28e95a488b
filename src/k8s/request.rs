//! Questions to the API server and its answers: pages of a list, the lines of a watch, one object.
//!
//! It never asks twice and never logs an answer, which may be a Secret. `list_watch`, `fetch` and `list` ask, and decide what a [`Fault`] means.

use std::{error::Error as _, future::Future, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::{Timestamp, fmt::rfc2822};
use kube::{
    Client,
    client::Body,
    core::{
        Request, WatchEvent,
        params::{GetParams, ListParams, WatchParams},
        response::Status,
    },
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use thiserror::Error;
use tokio::time::timeout;

use super::kinds::Resource;

/// Objects a page: what client-go asks for, and a megabyte or so of JSON.
const PAGE: u32 = 500;

/// For a page, or the head of a watch. An API server queues a request for 15 s at most; one that takes longer than this is frozen.
const PATIENCE: Duration = Duration::from_secs(50);

/// An answer of the API server that is none, in the words of its logs and metrics.
#[derive(Clone, Debug, Error)]
pub(super) enum Fault {
    /// It refuses, with a status.
    #[error("the API server answers {code}: {message}")]
    Refused {
        /// The status of HTTP.
        code: StatusCode,
        /// What it says, on one line.
        message: Box<str>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It can't be reached, or the connection broke.
    #[error("the API server can not be reached: {0}")]
    Unreachable(Box<str>),
    /// It is connected and says nothing.
    #[error("the API server is connected and says nothing")]
    Silent,
    /// It said what nobody asked for.
    #[error("the API server's answer can not be read: {0}")]
    Unreadable(Box<str>),
}

impl Fault {
    /// The value of the label `reason`.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Fault::Refused { code, .. } => match code.as_u16() {
                401 => "unauthorized",
                403 => "forbidden",
                404 => "not_found",
                410 => "gone",
                429 => "too_many_requests",
                500..=599 => "server_error",
                _ => "refused",
            },
            Fault::Unreachable(_) => "unreachable",
            Fault::Silent => "silent",
            Fault::Unreadable(_) => "unreadable",
        }
    }

    /// Whether it answered this.
    pub(super) fn is(&self, status: StatusCode) -> bool {
        matches!(self, Fault::Refused { code, .. } if *code == status)
    }

    /// Whether a watch can't go on from where it is: compacted away, of a history that a restored backup has undone, or before a
    /// change that can't be read. Only a new list helps.
    pub(super) fn is_of_position(&self) -> bool {
        match self {
            Fault::Refused { code, message, .. } => {
                matches!(code.as_u16(), 400 | 410) || (code.as_u16() == 504 && message.contains("resource version"))
            }
            Fault::Unreadable(_) => true,
            Fault::Unreachable(_) | Fault::Silent => false,
        }
    }

    /// When it wants to be asked again.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Fault::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    fn refused(code: StatusCode, status: &Status, retry_after: Option<Duration>) -> Self {
        let stated = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
        Fault::Refused {
            code,
            message: status.message.as_str().into(),
            retry_after: retry_after.or(stated.map(|seconds| Duration::from_secs(seconds.into()))),
        }
    }

    /// The innermost cause says what happened; the layers above only say where.
    fn unreachable(error: &kube::Error) -> Self {
        let mut cause = error.to_string();
        let mut next = error.source();
        while let Some(error) = next {
            cause = error.to_string();
            next = error.source();
        }
        Fault::Unreachable(cause.into())
    }

    fn unreadable(error: &impl ToString) -> Self {
        Fault::Unreadable(error.to_string().into())
    }
}

/// What of each object is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum View {
    /// All of it.
    Whole,
    /// Its metadata.
    Metadata,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
pub(super) struct Page<T> {
    #[serde(default)]
    metadata: ListMetadata,
    /// The objects.
    #[serde(default = "Vec::new", deserialize_with = "null_is_empty")]
    pub(super) items: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

impl<T> Page<T> {
    /// What the next page is asked for with; `None` on the last one.
    pub(super) fn next(&self) -> Option<String> {
        self.metadata.next.clone().filter(|token| !token.is_empty())
    }

    /// What a watch goes on from.
    pub(super) fn position(&self) -> Result<String, Fault> {
        let version = self.metadata.resource_version.clone().filter(|version| !version.is_empty());
        version.ok_or_else(|| Fault::Unreadable("a list without resourceVersion".into()))
    }
}

/// Asks for one page.
pub(super) async fn page<T: DeserializeOwned>(
    client: &Client,
    resource: &Resource,
    namespace: Option<&str>,
    view: View,
    next: Option<String>,
) -> Result<Page<T>, Fault> {
    let params =
        ListParams { field_selector: resource.fields.map(Into::into), limit: Some(PAGE), continue_token: next, ..ListParams::default() };
    let request = Request::new(resource.path(namespace));
    let request = match view {
        View::Whole => request.list(&params),
        View::Metadata => request.list_metadata(&params),
    };
    let request = request.map_err(|error| Fault::unreadable(&error))?;
    object(ask(client, request)).await
}

/// Asks for one object.
pub(super) async fn get<T: DeserializeOwned>(client: &Client, resource: &Resource, namespace: &str, name: &str) -> Result<T, Fault> {
    let request = Request::new(resource.path(Some(namespace))).get(name, &GetParams::default());
    let request = request.map_err(|error| Fault::unreadable(&error))?;
    object(ask(client, request)).await
}

/// The same, and what time it is for the API server: times in its objects are by its clock.
pub(super) async fn get_dated<T: DeserializeOwned>(
    client: &Client,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<(T, Option<Timestamp>), Fault> {
    let request = Request::new(resource.path(Some(namespace))).get(name, &GetParams::default());
    let request = request.map_err(|error| Fault::unreadable(&error))?;
    let mut date = None;
    let answer = async {
        let answer = ask(client, request).await?;
        date = dated(answer.headers());
        Ok(answer)
    };
    let found = object(answer).await?;
    Ok((found, date))
}

/// RFC 9110 section 6.6.1, whose times are those of mail.
fn dated(headers: &HeaderMap) -> Option<Timestamp> {
    rfc2822::parse(headers.get(header::DATE)?.to_str().ok()?).ok().map(|date| date.timestamp())
}

/// Asks what changes from `position` on, for a time after which the API server ends the answer.
pub(super) async fn watch(
    client: &Client,
    resource: &Resource,
    namespace: Option<&str>,
    view: View,
    position: &str,
    lasting: Duration,
) -> Result<Lines, Fault> {
    let params = WatchParams {
        field_selector: resource.fields.map(Into::into),
        timeout: u32::try_from(lasting.as_secs()).ok(),
        bookmarks: true,
        ..WatchParams::default()
    };
    let request = Request::new(resource.path(namespace));
    let request = match view {
        View::Whole => request.watch(&params, position),
        View::Metadata => request.watch_metadata(&params, position),
    };
    let request = request.map_err(|error| Fault::unreadable(&error))?;
    let answer = timeout(PATIENCE, ask(client, request)).await.map_err(|_| Fault::Silent)??;
    Ok(Lines { body: answer.into_body(), read: BytesMut::new(), searched: 0 })
}

/// The answer to a watch: a line a change.
pub(super) struct Lines {
    body: Body,
    read: BytesMut,
    /// This much of `read` has no end of a line.
    searched: usize,
}

impl Lines {
    /// The next change; `None` when the API server has ended the answer. Waits as long as that takes.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<WatchEvent<T>>, Fault> {
        let Some(line) = self.line().await? else { return Ok(None) };
        match serde_json::from_slice(&line) {
            Ok(WatchEvent::Error(status)) => {
                let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Err(Fault::refused(code, &status, None))
            }
            Ok(event) => Ok(Some(event)),
            Err(error) => Err(Fault::unreadable(&error)),
        }
    }

    async fn line(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.read[self.searched..]) {
                let line = self.read.split_to(self.searched + end).freeze();
                self.read.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.read.len();
            match self.body.frame().await {
                Some(Ok(frame)) => self.read.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(Fault::unreachable(&error)),
                // Half a line was cut off by whatever ended the answer: the change comes again.
                None => return Ok(None),
            }
        }
    }
}

async fn ask(client: &Client, request: http::Request<Vec<u8>>) -> Result<Response<Body>, Fault> {
    let answer = client.send(request.map(Body::from)).await.map_err(|error| Fault::unreachable(&error))?;
    let code = answer.status();
    if code.is_success() {
        return Ok(answer);
    }
    let after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
    let body = answer.into_body().collect().await.map_err(|error| Fault::unreachable(&error))?.to_bytes();
    // Priority and Fairness refuses with a line of text.
    let status = serde_json::from_slice(&body).unwrap_or_else(|_| Status::failure(String::from_utf8_lossy(&body).trim(), ""));
    Err(Fault::refused(code, &status, after.map(Duration::from_secs)))
}

async fn object<T: DeserializeOwned>(answer: impl Future<Output = Result<Response<Body>, Fault>>) -> Result<T, Fault> {
    let read = async { answer.await?.into_body().collect().await.map_err(|error| Fault::unreachable(&error)) };
    let body = timeout(PATIENCE, read).await.map_err(|_| Fault::Silent)??.to_bytes();
    serde_json::from_slice(&body).map_err(|error| Fault::unreadable(&error))
}

/// A list without objects is null in Go.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static str) -> Lines {
        Lines { body: Body::from(text.as_bytes().to_vec()), read: BytesMut::new(), searched: 0 }
    }

    fn refused(code: u16, message: &str) -> Fault {
        Fault::Refused { code: StatusCode::from_u16(code).unwrap(), message: message.into(), retry_after: None }
    }

    #[tokio::test]
    async fn a_watch_is_read_line_by_line_and_half_a_line_is_none() {
        let mut lines = lines("{\"type\":\"ADDED\",\"object\":1}\n{\"type\":\"DELETED\",\"object\":2}\n{\"type\":\"ADD");
        assert!(matches!(lines.next::<u8>().await, Ok(Some(WatchEvent::Added(1)))));
        assert!(matches!(lines.next::<u8>().await, Ok(Some(WatchEvent::Deleted(2)))));
        assert!(matches!(lines.next::<u8>().await, Ok(None)));
    }

    #[tokio::test]
    async fn an_error_in_a_watch_is_a_fault_with_its_status() {
        let mut lines = lines("{\"type\":\"ERROR\",\"object\":{\"status\":\"Failure\",\"code\":410,\"message\":\"too old\"}}\n");
        let fault = lines.next::<u8>().await.unwrap_err();
        assert!(fault.is(StatusCode::GONE) && fault.is_of_position());
        assert_eq!(fault.reason(), "gone");
    }

    #[test]
    fn only_a_position_that_is_not_known_asks_for_a_new_list() {
        assert!(refused(504, "Too large resource version: 9, current: 3").is_of_position());
        for fault in [refused(504, "timeout"), refused(500, "etcd"), refused(429, ""), refused(401, ""), Fault::Silent] {
            assert!(!fault.is_of_position(), "{fault}");
        }
    }

    #[test]
    fn the_time_of_an_answer_is_read() {
        let headers = |date: &'static str| HeaderMap::from_iter([(header::DATE, date.parse().unwrap())]);
        assert_eq!(dated(&headers("Fri, 01 May 2026 12:00:05 GMT")), Some("2026-05-01T12:00:05Z".parse().unwrap()));
        assert_eq!((dated(&headers("yesterday")), dated(&HeaderMap::new())), (None, None));
    }

    #[test]
    fn a_list_without_items_is_empty() {
        let page: Page<u8> = serde_json::from_str(r#"{"metadata": {"resourceVersion": "7", "continue": ""}, "items": null}"#).unwrap();
        assert!(page.items.is_empty() && page.next().is_none());
        assert_eq!(page.position().unwrap(), "7");
    }
}
