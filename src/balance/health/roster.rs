//! The endpoints of one pool and who of them rests: never more than half of those that are ready, and each is tried by one request at a time. Pure.
//!
//! It never knows sockets, clocks or what a request is. `PoolHealth` tells it what happened and carries out the changes it names.
//! Times are milliseconds of the balancer's clock.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Check, Proof, Rules, Symptom,
    account::{Account, Standing},
};

/// All endpoints of a pool that are known, by number.
#[derive(Debug, Default)]
pub(super) struct Roster {
    rules: Rules,
    members: BTreeMap<u32, Member>,
    changes: Vec<Change>,
}

/// One endpoint.
#[derive(Debug, Default)]
pub(super) struct Member {
    pub(super) account: Account,
    /// It takes requests, as far as the cluster says.
    pub(super) ready: bool,
}

/// What became of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Its number.
    pub(super) number: u32,
    /// What is to be done.
    pub(super) turn: Turn,
}

/// What became of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is picked no more.
    Out,
    /// It had its trial, and rests again.
    OutAgain,
    /// It is picked again.
    In,
}

impl Roster {
    /// By these rules, and with these endpoints ready, from now on.
    pub(super) fn arrange(&mut self, rules: Rules, ready: &BTreeSet<u32>) {
        for number in ready {
            self.members.entry(*number).or_default();
        }
        self.rules = rules;
        let numbers: Vec<u32> = self.members.keys().copied().collect();
        for number in numbers {
            let checks = self.rules.checks.clone();
            let unwatched = self.rules.passive.is_none();
            self.with(number, |member| {
                member.ready = ready.contains(&number);
                member.account.watch(&checks);
                if unwatched {
                    member.account.pardon();
                }
            });
        }
        self.relieve();
    }

    /// The rules in force.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// An endpoint is gone.
    pub(super) fn forget(&mut self, number: u32) {
        self.members.remove(&number);
        self.relieve();
    }

    /// A request failed on an endpoint. Of one that rests nothing is new, but for the outcome of its trial.
    pub(super) fn failed(&mut self, number: u32, now: u64, symptom: Symptom, trial: bool) {
        let Some(passive) = self.rules.passive else { return };
        let room = self.has_room();
        let Some(member) = self.members.get_mut(&number) else { return };
        match member.account.standing {
            Standing::In => {
                let enough = member.account.fail(now, symptom, &passive);
                // One that is out by its checks takes no room.
                if enough && member.ready && (room || member.account.is_failing()) {
                    self.with(number, |member| member.account.rest(now, &passive));
                }
            }
            Standing::Trial if trial => {
                member.account.fail(now, symptom, &passive);
                member.account.rest(now, &passive);
                self.changes.push(Change { number, turn: Turn::OutAgain });
            }
            Standing::Trial | Standing::Out { .. } => {}
        }
    }

    /// A request went well on an endpoint.
    pub(super) fn succeeded(&mut self, number: u32, now: u64, proof: Proof, trial: bool) {
        let Some(passive) = self.rules.passive else { return };
        let Some(member) = self.members.get_mut(&number) else { return };
        match member.account.standing {
            Standing::In => member.account.succeed(proof),
            Standing::Trial if trial => self.with(number, |member| member.account.come_back(now, proof, &passive)),
            Standing::Trial | Standing::Out { .. } => {}
        }
    }

    /// Nobody will know how a trial went: the next request may be one.
    pub(super) fn abandoned(&mut self, number: u32, now: u64) {
        if let Some(member) = self.members.get_mut(&number)
            && member.account.standing == Standing::Trial
        {
            member.account.standing = Standing::Out { until: now };
        }
    }

    /// A check went well, or not.
    pub(super) fn checked(&mut self, number: u32, check: &Check, well: bool) {
        self.with(number, |member| {
            member.account.checked(check, well);
        });
        self.relieve();
    }

    /// Whether an endpoint may be tried by one request. If so, that one is to tell how it went.
    pub(super) fn claim(&mut self, number: u32, now: u64) -> bool {
        let Some(member) = self.members.get_mut(&number).filter(|member| member.is_due(now)) else { return false };
        member.account.standing = Standing::Trial;
        true
    }

    /// When the next endpoint may be tried; `u64::MAX` is never.
    pub(super) fn due(&self) -> u64 {
        self.members.values().filter_map(Member::due).min().unwrap_or(u64::MAX)
    }

    /// What became of endpoints since it was asked last.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// An endpoint.
    pub(super) fn get(&self, number: u32) -> Option<&Member> {
        self.members.get(&number)
    }

    /// All of them, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Member)> {
        self.members.iter().map(|(number, member)| (*number, member))
    }

    /// Whether successes of an endpoint count against failures.
    pub(super) fn is_open(&self, number: u32) -> bool {
        self.get(number).is_some_and(|member| member.account.is_open())
    }

    /// How many are ready, and how many of these are out.
    pub(super) fn counts(&self) -> (usize, usize) {
        let ready = self.members.values().filter(|member| member.ready);
        ready.fold((0, 0), |(all, out), member| (all + 1, out + usize::from(member.account.is_out())))
    }

    /// Whether one more may rest.
    fn has_room(&self) -> bool {
        let (ready, out) = self.counts();
        (out + 1) * 2 <= ready
    }

    /// Takes back rests, those that would end first, until no more than half is out, or none is left to take back: what its checks took out stays out.
    fn relieve(&mut self) {
        loop {
            let (ready, out) = self.counts();
            let resting = self.members.iter().filter(|(_, member)| member.ready && !member.account.is_failing());
            let until = |member: &Member| match member.account.standing {
                Standing::In => None,
                Standing::Trial => Some(0),
                Standing::Out { until } => Some(until),
            };
            let first = resting.filter_map(|(number, member)| Some((until(member)?, *number))).min();
            let Some((_, number)) = first.filter(|_| out * 2 > ready) else { return };
            self.with(number, |member| member.account.pardon());
        }
    }

    /// Changes an endpoint, and notes if it is out or in by that.
    fn with(&mut self, number: u32, change: impl FnOnce(&mut Member)) {
        let Some(member) = self.members.get_mut(&number) else { return };
        let was_out = member.account.is_out();
        change(member);
        match (was_out, member.account.is_out()) {
            (false, true) => self.changes.push(Change { number, turn: Turn::Out }),
            (true, false) => self.changes.push(Change { number, turn: Turn::In }),
            _ => {}
        }
    }
}

impl Member {
    /// When it may be tried. One whose checks fail is not tried on a client's request.
    fn due(&self) -> Option<u64> {
        match self.account.standing {
            Standing::Out { until } if self.ready && !self.account.is_failing() => Some(until),
            _ => None,
        }
    }

    fn is_due(&self, now: u64) -> bool {
        self.due().is_some_and(|due| due <= now)
    }
}
