//! `/debug/tunnels`, `/drain` and `/kill`: which rows, in which order, how many.
//!
//! It never knows tunnels, only their rows. `State` asks it.

use std::{cmp::Reverse, collections::HashSet, str::FromStr, time::Duration};

use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::{api, tunnel::Row};

/// Rows of an answer, where the query does not say.
const LIMIT: usize = 100;

/// The query of `/debug/tunnels`.
#[derive(Debug, PartialEq)]
pub(super) struct Query {
    route: Option<String>,
    location: Option<String>,
    endpoint: Option<String>,
    min_age: f64,
    /// Every tunnel is meant where no filter is given: for what can't be taken back, it must be said.
    all: bool,
    /// A drain is spread over this time.
    over: Duration,
    sort: Sort,
    limit: usize,
    offset: usize,
}

/// The first row is the one with most of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sort {
    Age,
    Bytes,
    Idle,
}

/// What a query has to be.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "the query has {0:?}; there are route=NAMESPACE/NAME, location=LABEL, endpoint=ADDRESS or POD, min_age=SECONDS, sort=age, bytes or idle, limit=N, offset=N; over=DURATION and all=true for /drain and /kill"
)]
pub(super) struct UnknownParameter(String);

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    /// Tunnels open.
    open: usize,
    /// Of them, those that the filters let through.
    matching: usize,
    /// From `offset` on, at most `limit`.
    tunnels: Vec<Row>,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            route: None,
            location: None,
            endpoint: None,
            min_age: 0.0,
            all: false,
            over: Duration::ZERO,
            sort: Sort::Age,
            limit: LIMIT,
            offset: 0,
        }
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
        match name {
            "route" => self.route = Some(value.into()),
            "location" => self.location = Some(value.into()),
            "endpoint" => self.endpoint = Some(value.into()),
            "min_age" => self.min_age = value.parse().ok()?,
            "limit" => self.limit = value.parse().ok()?,
            "offset" => self.offset = value.parse().ok()?,
            "all" => self.all = value.parse().ok()?,
            "over" => self.over = value.parse::<api::Duration>().ok()?.0,
            "sort" => self.sort = Sort::of(&value)?,
            _ => return None,
        }
        Some(())
    }

    /// The rows that are asked for.
    pub(super) fn select(&self, mut rows: Vec<Row>) -> Page {
        let open = rows.len();
        rows.retain(|row| self.takes(row));
        // Stable, and the rows come in the order of their opening: pages do not overlap while nothing changes.
        match self.sort {
            Sort::Age => {}
            Sort::Bytes => rows.sort_by_key(|row| Reverse(row.bytes_received + row.bytes_sent)),
            Sort::Idle => rows.sort_by(|a, b| b.idle_seconds.total_cmp(&a.idle_seconds)),
        }
        let matching = rows.len();
        Page { open, matching, tunnels: rows.into_iter().skip(self.offset).take(self.limit).collect() }
    }

    /// The tunnels that are to be closed, and over which time; `None` where the query would mean every one without saying so.
    pub(super) fn victims(&self, rows: &[Row]) -> Option<(HashSet<u64>, Duration)> {
        let filtered = self.route.is_some() || self.location.is_some() || self.endpoint.is_some() || self.min_age > 0.0;
        let ids = || rows.iter().filter(|row| self.takes(row)).map(|row| row.id).collect();
        (filtered || self.all).then(|| (ids(), self.over))
    }

    fn takes(&self, row: &Row) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        let at = |wanted: &str| row.endpoint.address.to_string() == wanted || row.pod.as_deref() == Some(wanted);
        is(&self.route, &row.route.to_string())
            && is(&self.location, &row.location)
            && self.endpoint.as_deref().is_none_or(at)
            && row.age_seconds >= self.min_age
    }
}

impl Sort {
    fn of(value: &str) -> Option<Self> {
        match value {
            "age" => Some(Sort::Age),
            "bytes" => Some(Sort::Bytes),
            "idle" => Some(Sort::Idle),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EndpointKey, ObjectRef, PoolKey};

    fn row(id: u64, route: &str, pod: &str, bytes: u64) -> Row {
        let address = format!("10.0.0.{id}:80").parse().unwrap();
        Row {
            id,
            route: ObjectRef::new("default", route),
            location: "/ws".into(),
            endpoint: EndpointKey { pool: PoolKey::Address("chat:80".into()), address },
            pod: Some(pod.into()),
            client: "192.0.2.1:1".parse().unwrap(),
            age_seconds: 100.0 - id as f64,
            idle_seconds: id as f64,
            bytes_received: bytes,
            bytes_sent: 0,
            frames_received: 0,
            frames_sent: 0,
            state: "open",
        }
    }

    fn ids(query: &str) -> Vec<u64> {
        let rows = vec![row(1, "chat", "chat-0", 5), row(2, "shop", "shop-0", 50), row(3, "chat", "chat-1", 500)];
        query.parse::<Query>().unwrap().select(rows).tunnels.iter().map(|row| row.id).collect()
    }

    #[test]
    fn rows_are_filtered_sorted_and_paged() {
        for (query, expected) in [
            ("", &[1, 2, 3][..]),
            ("sort=bytes", &[3, 2, 1]),
            ("sort=idle&limit=2", &[3, 2]),
            ("sort=bytes&limit=1&offset=1", &[2]),
            ("route=default%2Fchat", &[1, 3]),
            ("route=default/chat&endpoint=chat-1", &[3]),
            ("endpoint=10.0.0.2:80", &[2]),
            ("location=%2Fws&min_age=97.5", &[1, 2]),
            ("location=/none", &[]),
        ] {
            assert_eq!(ids(query), expected, "{query}");
        }
    }

    #[test]
    fn everybody_is_meant_only_if_it_is_said() {
        let victims = |query: &str| query.parse::<Query>().unwrap().victims(&[row(1, "chat", "chat-0", 5), row(2, "shop", "shop-0", 50)]);
        assert_eq!(victims("over=30s"), None);
        assert_eq!(victims("all=true&over=30s"), Some((HashSet::from([1, 2]), Duration::from_secs(30))));
        assert_eq!(victims("route=default/shop"), Some((HashSet::from([2]), Duration::ZERO)));
    }

    #[test]
    fn what_is_not_known_is_named() {
        for query in ["sort=size", "limit=-1", "x=1", "route", "min_age=old"] {
            assert_eq!(query.parse::<Query>().unwrap_err(), UnknownParameter(query.into()));
        }
    }
}
