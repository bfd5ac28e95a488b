//! What is known of one endpoint's health: its failures of late, whether it rests, and what its checks found. Pure.
//!
//! It never knows other endpoints, and so not whether it may rest: `members` decides that. Times are milliseconds of the balancer's clock.

use std::{collections::VecDeque, sync::Arc};

use super::{Check, Proof, Symptom};
use crate::model::health::Passive;

/// The account of one endpoint. One that is new has nothing against it.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// When it failed, the oldest first; never more than `maxFails`.
    fails: VecDeque<u64>,
    /// What went well since the first of them.
    successes: usize,
    /// One of them came when the connection was there already: that it opens proves nothing.
    deep: bool,
    pub(super) standing: Standing,
    checks: Vec<Watched>,
}

/// Whether it is picked, as far as requests tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is.
    #[default]
    In,
    /// It rests; from then on one request may try it.
    Out { until: u64 },
    /// One request is trying it.
    Trial,
}

/// What one check found.
#[derive(Debug)]
struct Watched {
    check: Arc<Check>,
    failing: bool,
    /// Results in a row that speak against `failing`.
    against: u32,
}

impl Account {
    /// Whether it gets no requests.
    pub(super) fn is_out(&self) -> bool {
        self.standing != Standing::In || self.is_failing()
    }

    /// Whether one of its checks fails.
    pub(super) fn is_failing(&self) -> bool {
        self.checks.iter().any(|watched| watched.failing)
    }

    /// Whether there are failures against which successes count.
    pub(super) fn is_open(&self) -> bool {
        !self.fails.is_empty()
    }

    /// How many failures stand against it.
    pub(super) fn fails(&self) -> usize {
        self.fails.len()
    }

    /// A request failed on it. Whether that is enough for it to rest.
    pub(super) fn fail(&mut self, now: u64, symptom: Symptom, rules: &Passive) -> bool {
        let most = rules.max_fails.get() as usize;
        let oldest = now.saturating_sub(millis(rules.fail_timeout));
        while self.fails.front().is_some_and(|at| *at < oldest) || self.fails.len() >= most {
            self.fails.pop_front();
        }
        if self.fails.is_empty() {
            self.close();
        }
        self.fails.push_back(now);
        self.deep |= symptom != Symptom::Connect;
        if symptom == Symptom::Tunnel {
            // Its 101 was no success after all.
            self.successes = self.successes.saturating_sub(1);
        }
        self.fails.len() >= most
    }

    /// A request went well on it. Failures that are outnumbered by what went well meanwhile are forgotten: it answers most requests, and
    /// the others may be at fault themselves.
    pub(super) fn succeed(&mut self, proof: Proof) {
        if self.deep && proof == Proof::Connected {
            return;
        }
        self.successes += 1;
        if self.successes > self.fails.len() {
            self.close();
        }
    }

    /// It rests.
    pub(super) fn rest(&mut self, now: u64, rules: &Passive) {
        self.standing = Standing::Out { until: now + millis(rules.fail_timeout) };
    }

    /// It is picked again after a trial that went well. A connection alone does not prove that it answers: then one failure is enough.
    pub(super) fn come_back(&mut self, now: u64, proof: Proof, rules: &Passive) {
        self.standing = Standing::In;
        if !self.deep || proof == Proof::Answered {
            return self.close();
        }
        self.fails.clear();
        self.fails.resize(rules.max_fails.get() as usize - 1, now);
        self.successes = 0;
    }

    /// It is picked again, and nothing stands against it.
    pub(super) fn pardon(&mut self) {
        self.standing = Standing::In;
        self.close();
    }

    fn close(&mut self) {
        self.fails.clear();
        self.successes = 0;
        self.deep = false;
    }

    /// These checks are made from now on; what is known of one that stays is kept.
    pub(super) fn watch(&mut self, checks: &[Arc<Check>]) {
        let mut known = std::mem::take(&mut self.checks);
        let of = |check: &Arc<Check>| match known.iter().position(|watched| watched.check == *check) {
            Some(at) => known.swap_remove(at),
            None => Watched { check: check.clone(), failing: false, against: 0 },
        };
        self.checks = checks.iter().map(of).collect();
    }

    /// A check went well, or not. `None`: it is no longer made. Else whether that changed what is known of it.
    pub(super) fn checked(&mut self, check: &Check, well: bool) -> Option<bool> {
        let watched = self.checks.iter_mut().find(|watched| *watched.check == *check)?;
        if well != watched.failing {
            watched.against = 0;
            return Some(false);
        }
        watched.against += 1;
        let enough = if well { check.active.healthy } else { check.active.unhealthy };
        if watched.against < enough.get() {
            return Some(false);
        }
        (watched.failing, watched.against) = (!well, 0);
        Some(true)
    }

    /// Each check, and whether it fails.
    pub(super) fn checks(&self) -> impl Iterator<Item = (&Arc<Check>, bool)> {
        self.checks.iter().map(|watched| (&watched.check, watched.failing))
    }
}

pub(super) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
