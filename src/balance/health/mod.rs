//! Which endpoints of a pool get no requests because they are ill: found out by what becomes of requests, and by asking them.
//!
//! It never knows routes or protocols; what is ill it takes out of the picks, and brings back. `Balancer` makes one [`PoolHealth`] a pool,
//! which outlives every configuration as its endpoints do; [`Attempt`]s and [`probe`] tell it what happened.

mod account;
mod attempt;
pub mod probe;
mod roster;
pub(super) mod rules;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::time::Instant;

pub use self::{
    attempt::Attempt,
    view::{EndpointHealth, PoolView},
};
use self::{
    probe::Fault,
    roster::{Roster, Turn},
};
use super::{
    endpoint::Endpoint,
    pool::{Common, handicap},
    slab::Slot,
};
use crate::{
    model::{
        PoolKey,
        health::{Active, Passive},
        tls::BackendTls,
    },
    telemetry::Metrics,
};

/// By which rules the endpoints of a pool are watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rules {
    /// `None`: failures of requests take nothing out.
    pub(crate) passive: Option<Passive>,
    /// What each endpoint is asked.
    pub(crate) checks: Arc<[Arc<Check>]>,
}

/// What an endpoint is asked at intervals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// What, and how often.
    pub active: Arc<Active>,
    /// How TLS is spoken to it; plain where absent.
    pub tls: Option<Arc<BackendTls>>,
}

/// How an endpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symptom {
    /// It could not be connected to.
    Connect,
    /// It was, and did not answer a handshake as a server that is well does.
    Handshake,
    /// It answered with 101, and was gone at once.
    Tunnel,
}

/// How far a request went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It could be connected to.
    Connected,
    /// It answered a handshake.
    Answered,
}

/// The health of the endpoints of one pool.
#[derive(Debug)]
pub(crate) struct PoolHealth {
    key: PoolKey,
    common: Arc<Common>,
    metrics: Arc<Metrics>,
    /// When the next endpoint may be tried, in milliseconds of the balancer's clock: all that a pick reads while nothing is ill.
    due: AtomicU64,
    /// Taken for failures, trials and checks; never for a request that goes well to an endpoint that has not failed.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    roster: Roster,
    /// By number.
    known: HashMap<u32, Known>,
}

/// What is needed of an endpoint without holding it.
#[derive(Debug)]
struct Known {
    slot: Slot,
    address: SocketAddr,
}

impl PoolHealth {
    pub(super) fn new(key: PoolKey, common: Arc<Common>, metrics: Arc<Metrics>) -> Self {
        Self { key, common, metrics, due: AtomicU64::new(u64::MAX), state: Mutex::default() }
    }

    /// By these rules, and with these endpoints ready, from now on. They take requests, unless they were out before.
    pub(super) fn arrange(&self, rules: Rules, ready: &[Arc<Endpoint>]) {
        self.change("", |state| {
            for endpoint in ready {
                let known = || Known { slot: endpoint.slot.clone(), address: endpoint.key.address };
                state.known.entry(endpoint.number).or_insert_with(known);
            }
            state.roster.arrange(rules, &ready.iter().map(|endpoint| endpoint.number).collect::<BTreeSet<_>>());
            // One that is ready again was let in by that.
            for endpoint in ready {
                if state.roster.get(endpoint.number).is_some_and(|member| member.account.is_out()) {
                    endpoint.slot.eject();
                }
            }
        });
    }

    /// An endpoint is gone, and its number will be another's.
    pub(super) fn forget(&self, number: u32) {
        self.change("", |state| {
            state.roster.forget(number);
            state.known.remove(&number);
        });
    }

    /// A request failed on an endpoint. Whether successes are to be told.
    pub(super) fn failed(&self, number: u32, symptom: Symptom, reason: &'static str, on_trial: bool) -> bool {
        let now = self.now();
        self.change(reason, |state| {
            state.roster.failed(number, now, symptom, on_trial);
            state.roster.is_open(number)
        })
    }

    /// A request went well on an endpoint. Whether more of them are to be told.
    pub(super) fn succeeded(&self, number: u32, proof: Proof, on_trial: bool) -> bool {
        let now = self.now();
        self.change("", |state| {
            state.roster.succeeded(number, now, proof, on_trial);
            state.roster.is_open(number)
        })
    }

    /// Nobody will know how the trial of an endpoint went.
    pub(super) fn abandoned(&self, number: u32) {
        let now = self.now();
        self.change("", |state| state.roster.abandoned(number, now));
    }

    /// Whether these rules are in force.
    pub(super) fn has(&self, rules: &Rules) -> bool {
        self.state.lock().roster.rules() == rules
    }

    /// What each endpoint is asked.
    pub(super) fn checks(&self) -> Arc<[Arc<Check>]> {
        self.state.lock().roster.rules().checks.clone()
    }

    /// What a check of an endpoint found.
    pub(super) fn checked(&self, number: u32, check: &Check, found: Result<(), &Fault>) {
        self.change("check", |state| state.roster.checked(number, check, found.is_ok()));
    }

    /// Whether an endpoint may be tried now, by the milliseconds of the balancer's clock.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.due.load(Relaxed) <= now
    }

    /// Has the first of some endpoints that may be tried be tried by whoever asks.
    pub(super) fn claim<'a>(&self, now: u64, endpoints: impl IntoIterator<Item = &'a Arc<Endpoint>>) -> Option<&'a Arc<Endpoint>> {
        let mut endpoints = endpoints.into_iter();
        self.change("", |state| endpoints.find(|endpoint| state.roster.claim(endpoint.number, now)))
    }

    /// How things stand.
    pub(super) fn view(&self) -> PoolView {
        let state = self.state.lock();
        PoolView::of(&state.roster, self.now(), |number| state.known.get(&number).map(|known| known.address))
    }

    fn now(&self) -> u64 {
        self.common.millis(Instant::now())
    }

    /// Changes the state, and carries out what follows for endpoints.
    fn change<R>(&self, reason: &'static str, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        for change in state.roster.changes() {
            let Some(known) = state.known.get(&change.number) else { continue };
            let (pool, endpoint) = (&self.key, known.address);
            match change.turn {
                Turn::Out => {
                    known.slot.eject();
                    self.metrics.endpoint_ejections.inc(reason);
                    tracing::warn!(%pool, %endpoint, reason, "endpoint is out");
                }
                Turn::OutAgain => {
                    self.metrics.endpoint_ejections.inc(reason);
                    tracing::info!(%pool, %endpoint, reason, "endpoint stays out: its trial failed");
                }
                Turn::In => {
                    let others = state.known.iter().filter(|(number, other)| **number != change.number && !other.slot.is_ejected());
                    known.slot.admit(self.now(), handicap(others.map(|(_, other)| &other.slot)));
                    tracing::info!(%pool, %endpoint, "endpoint is back");
                }
            }
        }
        self.due.store(state.roster.due(), Relaxed);
        result
    }
}
