//! What was tried again, why, and what came of it.
//!
//! `proxy` counts, `expose` prints; both labels are words of this file.

use super::counter::Counter;

/// Why something was tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retried {
    /// An endpoint could not be connected to.
    Connect,
    /// A handshake was cut before any byte of its answer.
    Cut,
    /// An idle connection was closed at the other end while the request was on its way.
    Stale,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// This time it went well.
    Ok,
    /// It did not.
    Failed,
    /// It was not done: the budget is spent.
    OverBudget,
}

/// Counts by both.
#[derive(Debug, Default)]
pub struct Retries([[Counter; Retry::ALL.len()]; Retried::ALL.len()]);

impl Retried {
    const ALL: [Self; 3] = [Self::Connect, Self::Cut, Self::Stale];

    fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Cut => "cut",
            Self::Stale => "stale",
        }
    }
}

impl Retry {
    const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::OverBudget];

    /// What came of something that gave this.
    pub fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Ok } else { Self::Failed }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::OverBudget => "over_budget",
        }
    }
}

impl Retries {
    /// Counts one.
    pub fn inc(&self, reason: Retried, result: Retry) {
        self.0[reason as usize][result as usize].inc();
    }

    /// How many were counted.
    pub fn get(&self, reason: Retried, result: Retry) -> u64 {
        self.0[reason as usize][result as usize].get()
    }

    /// All that are not zero: the labels `reason` and `result`, and the count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let cells = Retried::ALL.into_iter().flat_map(|reason| Retry::ALL.map(|result| (reason, result)));
        cells.map(|(reason, result)| (reason.label(), result.label(), self.get(reason, result))).filter(|(.., count)| *count > 0)
    }
}
