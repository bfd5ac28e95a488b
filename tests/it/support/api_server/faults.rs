//! What a test makes the server do wrong.

use std::{collections::BTreeSet, time::Duration};

use super::store::Refusal;

/// The faults in force.
#[derive(Default)]
pub struct Faults {
    rules: Vec<Rule>,
    pub not_served: BTreeSet<String>,
    pub token: Option<String>,
    pub delay: Duration,
}

/// How often a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    Once,
    Always,
}

/// What happens to a request instead of its answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is refused with this status.
    Status(u16),
    /// It is refused with 429 and these seconds in Retry-After.
    RetryAfter(u32),
    /// It is carried out, and the connection ends without an answer.
    Lost,
}

struct Rule {
    /// Verb and resource, or one of them with `*` for the other.
    of: String,
    fault: Fault,
    times: Times,
}

impl Faults {
    pub fn add(&mut self, of: &str, fault: Fault, times: Times) {
        self.rules.push(Rule { of: of.to_owned(), fault, times });
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The fault that this request meets.
    pub fn meet(&mut self, verb: &str, permission: &str) -> Option<Fault> {
        let at = self.rules.iter().position(|rule| {
            let (of_verb, of_permission) = rule.of.split_once(' ').expect("a verb and a resource");
            [verb, "*"].contains(&of_verb) && [permission, "*"].contains(&of_permission)
        })?;
        let fault = self.rules[at].fault.clone();
        if self.rules[at].times == Times::Once {
            self.rules.remove(at);
        }
        Some(fault)
    }
}

impl Fault {
    /// The answer, if there is one at once.
    pub fn refusal(&self) -> Option<(Refusal, Option<u32>)> {
        match self {
            Fault::Status(code) => Some((Refusal::new(*code, "the test wants it so"), None)),
            Fault::RetryAfter(seconds) => Some((Refusal::new(429, "the test wants it so"), Some(*seconds))),
            Fault::Lost => None,
        }
    }
}
