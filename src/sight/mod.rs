//! The open tunnels of all replicas together: asked of each admin port, merged, and written for people or programs.
//!
//! It never knows how a replica is reached, nor clusters: it is handed streams and what came over them. `app` calls it for `carrick tunnels`.

pub mod ask;
pub mod rates;
pub mod screen;
pub mod show;

use std::{cmp::Ordering, sync::Arc};

use serde::Serialize;

use crate::model::sight::{Page, Row, Sort};

/// What replicas answered.
#[derive(Clone, Debug, Serialize)]
pub struct Answers<T> {
    /// Those that did, by name.
    #[serde(rename = "replicas")]
    pub reached: Vec<Answer<T>>,
    /// Those that did not.
    pub unreached: Vec<Unreached>,
}

/// What one replica answered.
#[derive(Clone, Debug, Serialize)]
pub struct Answer<T> {
    /// `namespace/pod`, or the address that was asked.
    pub replica: Arc<str>,
    /// What it said.
    #[serde(flatten)]
    pub said: T,
}

/// A replica that said nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Unreached {
    /// `namespace/pod`, or the address that was asked.
    pub replica: Arc<str>,
    /// What was in the way.
    pub why: String,
}

/// A part of the tunnels of all replicas.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// How many there are.
    #[serde(flatten)]
    pub answers: Answers<Count>,
    /// In the order that was asked for.
    pub tunnels: Vec<Seen>,
}

/// Tunnels of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Open.
    pub open: u64,
    /// Of them, those that the filters let through.
    pub matching: u64,
}

/// A tunnel, and whose it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// The replica.
    pub replica: Arc<str>,
    /// The tunnel.
    #[serde(flatten)]
    pub row: Row,
}

impl Listing {
    /// The first `limit` of what all of them have.
    pub fn merge(pages: Answers<Page>, sort: Sort, limit: usize) -> Self {
        let mut tunnels = Vec::new();
        let mut reached = Vec::new();
        for Answer { replica, said: Page { open, matching, tunnels: rows, .. } } in pages.reached {
            tunnels.extend(rows.into_iter().map(|row| Seen { replica: Arc::clone(&replica), row }));
            reached.push(Answer { replica, said: Count { open, matching } });
        }
        tunnels.sort_by(|a, b| most_first(sort, &a.row, &b.row).then_with(|| (&a.replica, a.row.id).cmp(&(&b.replica, b.row.id))));
        tunnels.truncate(limit);
        Self { answers: Answers { reached, unreached: pages.unreached }, tunnels }
    }

    /// All replicas together.
    pub fn total(&self) -> Count {
        let sum = |of: fn(&Count) -> u64| self.answers.reached.iter().map(|answer| of(&answer.said)).sum();
        Count { open: sum(|count| count.open), matching: sum(|count| count.matching) }
    }
}

fn most_first(sort: Sort, a: &Row, b: &Row) -> Ordering {
    let bytes = |row: &Row| row.bytes_received + row.bytes_sent;
    let frames = |row: &Row| row.frames_received + row.frames_sent;
    match sort {
        Sort::Age => b.age_seconds.total_cmp(&a.age_seconds),
        Sort::Bytes => bytes(b).cmp(&bytes(a)),
        Sort::Idle => b.idle_seconds.total_cmp(&a.idle_seconds),
        Sort::Frames => frames(b).cmp(&frames(a)),
        Sort::Rtt => b.rtt_seconds.unwrap_or(-1.0).total_cmp(&a.rtt_seconds.unwrap_or(-1.0)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::sight::State;

    pub(crate) fn row(id: u64, age: f64, bytes: u64) -> Row {
        Row {
            id,
            route: "default/chat".into(),
            location: "/ws".into(),
            service: "default/chat:80".into(),
            endpoint: "10.0.0.7:8080".parse().unwrap(),
            pod: Some("chat-0".into()),
            client: "192.0.2.1:50000".parse().unwrap(),
            age_seconds: age,
            idle_seconds: 0.5,
            bytes_received: bytes,
            bytes_sent: 0,
            frames_received: 3,
            frames_sent: 4,
            rtt_seconds: None,
            state: State::Open,
            reason: None,
            closes_in_seconds: None,
        }
    }

    pub(crate) fn answer<T>(replica: &str, said: T) -> Answer<T> {
        Answer { replica: replica.into(), said }
    }

    pub(crate) fn listing() -> Listing {
        let page = |rows: Vec<Row>| Page { open: 10, matching: rows.len() as u64, next: None, tunnels: rows };
        let ordered = Row { state: State::Ordered, reason: Some("operator".into()), closes_in_seconds: Some(12.4), ..row(2, 7500.0, 2048) };
        let pages = Answers {
            reached: vec![answer("carrick/a", page(vec![row(1, 90.0, 10)])), answer("carrick/b", page(vec![ordered, row(3, 5.0, 70)]))],
            unreached: vec![Unreached { replica: "carrick/c".into(), why: "forbidden".into() }],
        };
        Listing::merge(pages, Sort::Age, 10)
    }

    #[test]
    fn rows_of_all_replicas_are_in_one_order() {
        let whose = |sort, limit| {
            let Listing { answers, tunnels } = listing();
            let pages = answers.reached.into_iter().map(|Answer { replica, said }| {
                let rows = tunnels.iter().filter(|seen| seen.replica == replica).map(|seen| seen.row.clone()).collect();
                Answer { replica, said: Page { open: said.open, matching: said.matching, next: None, tunnels: rows } }
            });
            let merged = Listing::merge(Answers { reached: pages.collect(), unreached: Vec::new() }, sort, limit);
            merged.tunnels.into_iter().map(|seen| (seen.replica.to_string(), seen.row.id)).collect::<Vec<_>>()
        };
        let [one, two, three] = [("carrick/a".to_owned(), 1), ("carrick/b".to_owned(), 2), ("carrick/b".to_owned(), 3)];
        assert_eq!(whose(Sort::Age, 10), [two.clone(), one.clone(), three.clone()]);
        assert_eq!(whose(Sort::Bytes, 2), [two.clone(), three.clone()]);
        assert_eq!(whose(Sort::Rtt, 10), [one, two, three], "by name where they are equal");
        assert_eq!(listing().total(), Count { open: 20, matching: 3 });
    }
}
