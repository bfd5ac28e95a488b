//! How the endpoints of a pool stand, for people: `/debug/table` and the metrics show it.
//!
//! It never changes anything. `PoolHealth` fills it.

use std::{net::SocketAddr, time::Duration};

use serde::Serialize;

use super::{
    account::Standing,
    roster::{Member, Roster},
};
use crate::model::health::Active;

/// How a pool stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PoolView {
    /// Endpoints that the cluster calls ready.
    pub ready: usize,
    /// Of them those that rest after failures of requests.
    pub resting: usize,
    /// Of them those of which a check fails.
    pub failing: usize,
    /// None of them is well: all serve, as if they were.
    pub panic: bool,
    /// Those of which there is something to tell.
    pub endpoints: Vec<EndpointHealth>,
}

/// How an endpoint stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointHealth {
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it gets requests as long as others can.
    pub healthy: bool,
    /// Failures of requests that stand against it.
    pub fails: usize,
    /// It rests, for so long still; 0 waits for the request that tries it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rests: Option<Duration>,
    /// One request is trying it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub on_trial: bool,
    /// What it is asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckHealth>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckHealth {
    /// What is asked.
    pub check: Active,
    /// Whether it takes the endpoint out.
    pub failing: bool,
}

impl PoolView {
    pub(super) fn of(roster: &Roster, now: u64, address: impl Fn(u32) -> Option<SocketAddr>) -> Self {
        let ready = || roster.iter().filter(|(_, member)| member.ready);
        let count = |is_it: &dyn Fn(&Member) -> bool| ready().filter(|(_, member)| is_it(member)).count();
        let endpoints = ready().filter_map(|(number, member)| EndpointHealth::of(member, now, address(number)?));
        let (all, out) = roster.counts();
        Self {
            ready: all,
            resting: count(&|member| member.account.standing != Standing::In),
            failing: count(&|member| member.account.is_failing()),
            panic: all > 0 && out == all,
            endpoints: endpoints.collect(),
        }
    }
}

impl EndpointHealth {
    /// `None` where there is nothing to tell.
    fn of(member: &Member, now: u64, address: SocketAddr) -> Option<Self> {
        let account = &member.account;
        let checks: Vec<_> = account.checks().map(|(check, failing)| CheckHealth { check: (*check.active).clone(), failing }).collect();
        let rests = match account.standing {
            Standing::Out { until } => Some(Duration::from_millis(until.saturating_sub(now))),
            Standing::In | Standing::Trial => None,
        };
        let on_trial = account.standing == Standing::Trial;
        let shown = Self { address, healthy: !account.is_out(), fails: account.fails(), rests, on_trial, checks };
        (!shown.healthy || shown.fails > 0 || !shown.checks.is_empty()).then_some(shown)
    }
}
