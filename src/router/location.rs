//! One location, made ready: what a request needs of it is parsed, resolved and compiled here, never while a request waits.
//!
//! It never knows sockets or bodies. `Router` compiles it; `proxy` applies it.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use regex::bytes::Regex;

use super::{
    Access, Head,
    matching::{Conditions, Mismatch},
    origin::{Origin, OriginRule, PublicPorts},
    path::{self, NormalPath, PathError},
    rewrite::{Redirecting, Rewriting, Target},
};
use crate::model::{
    pattern,
    route::{self, Action, PathPattern, Proxy},
};

/// A compiled location.
pub struct Location {
    /// What it was compiled from.
    pub spec: Arc<route::Location>,
    /// Applied to the request before it goes to a backend.
    pub request_headers: HeaderEdits,
    /// Applied to every answer of the location.
    pub response_headers: HeaderEdits,
    /// Value of Cache-Control of a static location.
    pub cache_control: Option<HeaderValue>,
    /// Which clients are let in.
    pub access: Access,
    /// The fixed Host sent to the backend; the client's where absent.
    pub host: Option<HeaderValue>,
    pub(super) span: Span,
    /// `None`: they can never hold.
    conditions: Option<Conditions>,
    rewriting: Option<Rewriting>,
    redirecting: Option<Redirecting>,
    origins: Box<[OriginRule]>,
}

/// The paths that a location takes.
pub(super) enum Span {
    Exact(Box<str>),
    Prefix { path: Box<str>, elements: usize },
    Expression(Regex),
    Nothing,
}

/// Compiled edits of a header section: first `remove`, then `set`, then `add`.
#[derive(Debug, Default)]
pub struct HeaderEdits {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

impl Location {
    /// Compiles a location. What is not valid, which the translator keeps out, takes no request and edits nothing.
    pub fn compile(spec: Arc<route::Location>) -> Self {
        let span = Span::compile(&spec.path);
        let proxy = spec.proxy();
        Self {
            request_headers: HeaderEdits::compile(&spec.request_headers),
            response_headers: HeaderEdits::compile(&spec.response_headers),
            cache_control: match &spec.action {
                Action::Static(files) => files.cache_control.as_deref().and_then(|value| HeaderValue::from_str(value).ok()),
                _ => None,
            },
            access: Access::compile(&spec.access),
            host: proxy.and_then(|proxy| proxy.host.as_deref()).and_then(|host| HeaderValue::from_str(host).ok()),
            conditions: Conditions::compile(&spec.matching),
            rewriting: proxy.and_then(|proxy| proxy.rewrite.as_ref()).and_then(Rewriting::compile),
            redirecting: match &spec.action {
                Action::Redirect(redirect) => Some(Redirecting::compile(redirect)),
                _ => None,
            },
            origins: proxy.map(|proxy| proxy.websocket.origins.iter().map(OriginRule::compile).collect()).unwrap_or_default(),
            span,
            spec,
        }
    }

    /// How requests are proxied, where they are.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.spec.proxy()
    }

    /// Why it does not take a request; `None` if it would.
    pub fn mismatch(&self, head: &Head<'_>) -> Option<Mismatch<'_>> {
        let takes_path = match (&self.span, head.path.matching()) {
            (Span::Exact(wanted), path) => **wanted == *path,
            (Span::Prefix { path: prefix, .. }, path) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            (Span::Expression(regex), path) => regex.is_match(path.as_bytes()),
            (Span::Nothing, _) => return Some(Mismatch::Broken),
        };
        if takes_path { self.unmet(head) } else { Some(Mismatch::Path) }
    }

    /// The first condition beside the path that does not hold.
    pub(super) fn unmet(&self, head: &Head<'_>) -> Option<Mismatch<'_>> {
        self.conditions.as_ref().map_or(Some(Mismatch::Broken), |conditions| conditions.mismatch(head))
    }

    /// Whether anything but the path decides.
    pub(super) fn is_conditional(&self) -> bool {
        self.spec.matching != route::Match::default()
    }

    /// What goes to the backend for a request that this location took.
    ///
    /// A Prefix rewrite drops the parameters of the elements it replaces, a Regex rewrite all of them where it matches. A path that becomes one
    /// without normalised form is an error, answered with 400.
    pub fn rewrite<'a>(&self, path: &'a NormalPath<'_>, query: Option<&'a str>) -> Result<Target<'a>, PathError> {
        match &self.rewriting {
            Some(rewriting) => rewriting.apply(path, query, self.elements()),
            None => Ok(Target { path: path.as_str().into(), query: query.map(Into::into) }),
        }
    }

    /// What follows the location's path: empty, or with a slash at its start; still percent-encoded, without parameters.
    ///
    /// After an Exact path nothing follows; of a path that an expression took, all of it does.
    pub fn rest<'a>(&self, path: &'a NormalPath<'_>) -> &'a str {
        match &self.span {
            Span::Exact(_) => "",
            Span::Prefix { elements, .. } => path::after_elements(path.matching(), *elements),
            Span::Expression(_) | Span::Nothing => path.matching(),
        }
    }

    /// Status and Location of a redirect; `None` where the location is none.
    ///
    /// `ports` stand in for the request's port when the scheme changes.
    pub fn redirect(
        &self,
        came_to: Origin<'_>,
        ports: PublicPorts,
        path: &NormalPath<'_>,
        query: Option<&str>,
    ) -> Option<(StatusCode, HeaderValue)> {
        self.redirecting.as_ref()?.apply(came_to, ports, path, query, self.elements())
    }

    /// Whether a handshake with this Origin may open a WebSocket. Ask only where there is an Origin: without one it may.
    pub fn allows_origin(&self, origin: &[u8], came_to: Origin<'_>) -> bool {
        self.origins.is_empty() || self.origins.iter().any(|rule| rule.allows(origin, came_to))
    }

    /// Whether an offered subprotocol is passed on to the backend.
    pub fn passes_subprotocol(&self, offer: &str) -> bool {
        self.proxy().is_none_or(|proxy| {
            let passed = &proxy.websocket.subprotocols;
            passed.is_empty() || passed.iter().any(|name| **name == *offer)
        })
    }

    /// Whether this token of Upgrade (any case), other than `websocket`, passes as opaque bytes.
    pub fn passes_upgrade(&self, token: &str) -> bool {
        self.proxy().is_some_and(|proxy| proxy.upgrades.iter().any(|passed| passed.eq_ignore_ascii_case(token)))
    }

    /// How many elements of the path its own path takes.
    fn elements(&self) -> usize {
        match self.span {
            Span::Prefix { elements, .. } => elements,
            _ => 0,
        }
    }
}

impl Span {
    fn compile(pattern: &PathPattern) -> Self {
        match pattern {
            PathPattern::Exact(path) => Span::Exact(path::configured(path)),
            PathPattern::RegularExpression(regex) => pattern::whole(regex).map_or(Span::Nothing, Span::Expression),
            PathPattern::Prefix(path) => {
                let path: Box<str> = path::configured(path).trim_end_matches('/').into();
                Span::Prefix { elements: path.matches('/').count(), path }
            }
        }
    }
}

impl HeaderEdits {
    fn compile(spec: &route::HeaderEdits) -> Self {
        let pair = |(name, value): &(Arc<str>, Arc<str>)| {
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        };
        Self {
            remove: spec.remove.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect(),
            set: spec.set.iter().filter_map(pair).collect(),
            add: spec.add.iter().filter_map(pair).collect(),
        }
    }

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
