//! One location, made ready: what a request needs of it is parsed, resolved and compiled here, never while a request waits.
//!
//! It never knows sockets or bodies. `Router` compiles it; `proxy` applies it.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::path::{NormalPath, PathError};
use crate::model::route;

/// A compiled location.
pub struct Location {
    /// What it was compiled from.
    pub spec: Arc<route::Location>,
    /// Applied to the request before it goes to a backend.
    pub request_headers: HeaderEdits,
    /// Applied to every answer.
    pub response_headers: HeaderEdits,
    /// Value of Cache-Control of a static location.
    pub cache_control: Option<HeaderValue>,
    /// The fixed Host sent to the backend; the client's where absent.
    pub host: Option<HeaderValue>,
}

/// Compiled edits of a header section: first `remove`, then `set`, then `add`.
#[derive(Debug, Default)]
pub struct HeaderEdits {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

/// What a request is asked for behind its host: path and query as they go to a backend. Prints as a target in origin form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// In normalised form.
    pub path: Cow<'a, str>,
    /// What follows `?`.
    pub query: Option<Cow<'a, str>>,
}

/// Where a request came to, for the Location of a redirect and for `SameHost`.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// `http` or `https`, by the effective scheme.
    pub scheme: &'a str,
    /// The host that the client named, without port.
    pub host: &'a str,
    /// The port that the client sees; left out where it is the scheme's own.
    pub port: Option<u16>,
}

impl HeaderEdits {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Edits a header section.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

impl Location {
    /// What goes to the backend for a request that this location took.
    pub fn rewrite<'a>(&self, path: &'a NormalPath<'_>, query: Option<&'a str>) -> Result<Target<'a>, PathError> {
        Ok(Target { path: Cow::Borrowed(path.as_str()), query: query.map(Cow::Borrowed) })
    }

    /// What follows the location's path: the name of a static file, without leading slash, still percent-encoded, without parameters.
    pub fn rest<'a>(&self, path: &'a NormalPath<'_>) -> &'a str {
        path.matching().trim_start_matches('/')
    }

    /// Status and Location of a redirect; `None` where the location is none.
    ///
    /// `ports` are the public ones of http and https: what stands in for the request's port when the scheme changes.
    pub fn redirect(
        &self,
        _came_to: Origin<'_>,
        _ports: PublicPorts,
        _path: &NormalPath<'_>,
        _query: Option<&str>,
    ) -> Option<(http::StatusCode, HeaderValue)> {
        None
    }

    /// Whether a handshake with this Origin may open a WebSocket. Ask only where there is an Origin: without one it may.
    pub fn allows_origin(&self, _origin: &[u8], _came_to: Origin<'_>) -> bool {
        true
    }

    /// Whether an offered subprotocol is passed on to the backend.
    pub fn passes_subprotocol(&self, _offer: &str) -> bool {
        true
    }

    /// Whether this token of Upgrade (any case), other than `websocket`, passes as opaque bytes.
    pub fn passes_upgrade(&self, _token: &str) -> bool {
        false
    }
}

/// The ports by which clients reach a listener.
#[derive(Clone, Copy, Debug)]
pub struct PublicPorts {
    /// Of plain HTTP.
    pub http: u16,
    /// Of HTTPS.
    pub https: u16,
}
