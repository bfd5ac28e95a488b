//! Static content: files below the static root, and files that a ConfigMap holds.
//!
//! It never knows connections or backends. `proxy::http` calls it for a location whose action is `Static`.

use std::path::PathBuf;

use http::{HeaderMap, Method, Response};

use super::{body::Body, refuse::Refusal};
use crate::{
    model::route::Static,
    router::{Location, NormalPath},
};

/// How the static root is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One folder a namespace: a route reaches what is below its own.
    Namespaced,
    /// Every route reaches all of it.
    Shared,
}

/// What a request for a file is answered by.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path.
    pub path: &'a NormalPath<'a>,
    /// What follows `?`, as it came.
    pub query: Option<&'a str>,
    /// Its header section.
    pub headers: &'a HeaderMap,
}

/// Answers with files. One for the whole data side.
#[derive(Debug)]
pub struct Files {
    root: Option<PathBuf>,
    layout: Layout,
}

impl Files {
    /// Serves directories below `root`; without one there are only ConfigMaps.
    pub fn new(root: Option<PathBuf>, layout: Layout) -> Self {
        Self { root, layout }
    }

    /// The answer to a request that `location` took, whose action is `content`. Without the location's response headers.
    pub async fn serve(&self, _location: &Location, _content: &Static, _request: &Request<'_>) -> Response<Body> {
        let _ = (&self.root, self.layout);
        Refusal::NotFound.into_response()
    }
}
