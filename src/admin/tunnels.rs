//! The queries of `/debug/tunnels`, `/drain` and `/kill`: one form for all three.
//!
//! It never looks at tunnels: the registry is asked for what the query means. `State` reads them here.

use std::{str::FromStr, time::Duration};

use ipnet::IpNet;
use percent_encoding::percent_decode_str;

use crate::{
    api,
    model::{
        ObjectRef,
        sight::{Sort, State},
    },
    tunnel::{
        Reason,
        sight::{Place, Position, Selection, ServiceName},
    },
};

/// Rows of an answer, where the query does not say.
const LIMIT: usize = 100;

/// Rows of one answer at most: they are built in memory, a kilobyte each.
const MOST: usize = 1000;

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(super) struct Query {
    pub(super) selection: Selection,
    /// Every tunnel is meant where no filter is given: for what can't be taken back, it must be said.
    all: bool,
    /// What is closed is closed over this time.
    pub(super) over: Duration,
    pub(super) sort: Sort,
    pub(super) limit: usize,
    pub(super) after: Option<Position>,
}

/// What a query has to be.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "the query has {0:?}; there are route=NAMESPACE/NAME, namespace=NAME (of the route), location=LABEL, service=[NAMESPACE/]NAME[:PORT], endpoint=IP, IP:PORT or POD, client=IP or CIDR, state=open, ordered or closing, reason=WORD ({reasons}), min_age=DURATION or SECONDS, min_idle= likewise, min_bytes=N; for /debug/tunnels sort=age, bytes, idle, frames or rtt, limit=N up to {MOST}, after=the `next` of the last answer; for /drain and /kill over=DURATION and all=true",
    reasons = Reason::ALL.map(Reason::label).join(", ")
)]
pub(super) struct UnknownParameter(String);

impl Default for Query {
    fn default() -> Self {
        Self { selection: Selection::default(), all: false, over: Duration::ZERO, sort: Sort::Age, limit: LIMIT, after: None }
    }
}

impl FromStr for Query {
    type Err = UnknownParameter;

    fn from_str(text: &str) -> Result<Self, UnknownParameter> {
        let mut query = Self::default();
        for parameter in text.split('&').filter(|parameter| !parameter.is_empty()) {
            query.take(parameter).ok_or_else(|| UnknownParameter(parameter.into()))?;
        }
        Ok(query)
    }
}

impl Query {
    fn take(&mut self, parameter: &str) -> Option<()> {
        let (name, value) = parameter.split_once('=')?;
        let value = percent_decode_str(value).decode_utf8().ok()?;
        let wanted = &mut self.selection;
        match name {
            "route" => wanted.route = Some(object(&value)?),
            "namespace" => wanted.namespace = Some(value.into()),
            "location" => wanted.location = Some(value.into()),
            "service" => wanted.service = Some(ServiceName(value.into())),
            "endpoint" => wanted.endpoint = Some(Place::of(&value)),
            "client" => wanted.client = Some(network(&value)?),
            "state" => wanted.state = Some(State::of(&value)?),
            "reason" => wanted.reason = Some(Reason::ALL.into_iter().find(|reason| reason.label() == value)?),
            "min_age" => wanted.min_age = duration(&value)?,
            "min_idle" => wanted.min_idle = duration(&value)?,
            "min_bytes" => wanted.min_bytes = value.parse().ok()?,
            "sort" => self.sort = Sort::of(&value)?,
            "limit" => self.limit = value.parse().ok().filter(|limit| *limit <= MOST)?,
            "after" => self.after = Some(value.parse().ok()?),
            "over" => self.over = duration(&value)?,
            "all" => self.all = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    /// Whether the query would mean every tunnel without saying so.
    pub(super) fn is_unsaid(&self) -> bool {
        !self.all && self.selection == Selection::default()
    }
}

fn object(text: &str) -> Option<ObjectRef> {
    let (namespace, name) = text.split_once('/')?;
    Some(ObjectRef::new(namespace, name))
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.to_canonical().into()))
}

fn duration(text: &str) -> Option<Duration> {
    let seconds = || text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    text.parse::<api::Duration>().ok().map(|duration| duration.0).or_else(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        text.parse().unwrap()
    }

    #[test]
    fn every_filter_is_read() {
        let all = "route=default%2Fchat&namespace=default&location=%2Fws&service=default/chat:80&endpoint=chat-0&client=10.0.0.0/8&\
                   state=ordered&reason=pod_terminating&min_age=1m30s&min_idle=2.5&min_bytes=7";
        let selection = Selection {
            route: Some(ObjectRef::new("default", "chat")),
            namespace: Some("default".into()),
            location: Some("/ws".into()),
            service: Some(ServiceName("default/chat:80".into())),
            endpoint: Some(Place::Pod("chat-0".into())),
            client: Some("10.0.0.0/8".parse().unwrap()),
            state: Some(State::Ordered),
            reason: Some(Reason::Terminating),
            min_age: Duration::from_secs(90),
            min_idle: Duration::from_millis(2500),
            min_bytes: 7,
        };
        assert_eq!(query(all), Query { selection, ..Query::default() });
        assert_eq!(query("client=::ffff:192.0.2.1").selection.client, Some("192.0.2.1/32".parse().unwrap()));
        assert_eq!(query("endpoint=[::1]:80").selection.endpoint, Some(Place::Port("[::1]:80".parse().unwrap())));
    }

    #[test]
    fn an_order_and_a_page_are_read() {
        let page = query("sort=rtt&limit=1000&after=17.3");
        assert_eq!((page.sort, page.limit, page.after), (Sort::Rtt, 1000, Some("17.3".parse().unwrap())));
    }

    #[test]
    fn everybody_is_meant_only_if_it_is_said() {
        assert!(query("over=30s").is_unsaid());
        assert!(query("min_age=0").is_unsaid());
        assert!(!query("all=true").is_unsaid());
        assert!(!query("route=default/shop").is_unsaid());
    }

    #[test]
    fn what_is_not_known_is_named() {
        for text in
            ["sort=size", "limit=-1", "limit=1001", "x=1", "route", "route=shop", "min_age=old", "state=shut", "reason=x", "after=1"]
        {
            let error = text.parse::<Query>().unwrap_err();
            assert_eq!(error, UnknownParameter(text.into()));
            assert!(error.to_string().contains("pod_terminating") && error.to_string().contains("limit=N up to 1000"), "{error}");
        }
    }
}
