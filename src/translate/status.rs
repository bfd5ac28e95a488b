//! What a cluster shows of a WsRoute: its conditions, and the locations that are not served.
//!
//! It never knows timestamps or who writes it: `k8s::status` adds those, `control` logs it, `check` prints it.

use std::{fmt, sync::Arc};

use serde::Serialize;

use crate::{
    api::{Condition, ConditionType, LocationStatus, Reason, Status},
    model::bygone::Refused,
};

/// Messages of one condition are joined, up to this many.
const MESSAGES: usize = 8;

/// The schema of the status takes no longer message of a location.
const MESSAGE_OF_LOCATION: usize = 4096;
/// The schema of the status takes no longer message of a condition.
const MESSAGE_OF_CONDITION: usize = 32768;

/// The condition that a reason is given in.
fn condition_of(reason: Reason) -> ConditionType {
    match reason {
        Reason::Invalid | Reason::HostNotAllowed | Reason::PortNotAllowed | Reason::ListenerNotFound => ConditionType::Accepted,
        Reason::Conflicted => ConditionType::Conflicted,
        _ => ConditionType::ResolvedRefs,
    }
}

/// What the translation says about one WsRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    /// The generation of the object that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The object's uid: another object of the same name is not what this is about.
    #[serde(skip)]
    pub uid: Option<Arc<str>>,
    /// `Accepted` and `ResolvedRefs`, and `Conflicted` where it is true.
    pub conditions: Vec<Condition>,
    /// Locations and `tcp` entries that are not served.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<LocationStatus>,
    /// The IngressClass in force, to be kept in the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Arc<str>>,
    /// Whether all that it names has been looked up. Until then what is said of references is not to be believed.
    #[serde(skip_serializing_if = "as_usual")]
    pub settled: bool,
    /// Whether any location or `tcp` entry of it is in the table, be it one that answers 503.
    #[serde(skip_serializing_if = "as_usual")]
    pub served: bool,
}

/// Not worth a line for people.
fn as_usual(flag: &bool) -> bool {
    *flag
}

impl RouteStatus {
    /// Whether the whole of the route is served as it asks for.
    pub fn is_good(&self) -> bool {
        self.problems().next().is_none() && self.locations.is_empty()
    }

    /// The conditions that say that something is wrong.
    pub fn problems(&self) -> impl Iterator<Item = &Condition> {
        let is_good = |condition: &Condition| (condition.status == "True") == (condition.type_ != ConditionType::Conflicted.to_string());
        self.conditions.iter().filter(move |condition| !is_good(condition))
    }
}

/// Something wrong with a WsRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Why.
    pub reason: Reason,
    /// What, and the remedy.
    pub message: String,
}

impl Problem {
    /// Says what is wrong.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// A value that no API server would have let in.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Reason::Invalid, message)
    }

    /// The same, said of a location.
    #[must_use]
    pub fn of_location(self, label: &str) -> Self {
        Self { message: format!("location {label}: {}", self.message), ..self }
    }

    /// An object that is being looked up.
    pub fn pending(object: impl fmt::Display) -> Self {
        Self::new(Reason::Pending, format!("{object} is being looked up"))
    }
}

/// Collects what is wrong with one WsRoute while it is translated.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    unserved: Vec<LocationStatus>,
    refused: Vec<Refused>,
}

impl Report {
    /// Something is wrong with the route as a whole, or with a part that is served all the same.
    pub(super) fn add(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// A location or `tcp` entry is not served.
    pub(super) fn unserved(&mut self, name: &str, problem: Problem) {
        let unserved = LocationStatus {
            name: name.to_owned(),
            reason: problem.reason.to_string(),
            message: bounded(problem.message.clone(), MESSAGE_OF_LOCATION),
        };
        if !self.unserved.contains(&unserved) {
            self.unserved.push(unserved);
        }
        self.add(problem);
    }

    /// Something is asked for that others have not granted.
    pub(super) fn refuse(&mut self, refused: Refused) {
        self.refused.push(refused);
    }

    /// All of that.
    pub(super) fn refused(&self) -> &[Refused] {
        &self.refused
    }

    pub(super) fn into_status(self, observed_generation: Option<i64>, uid: Option<Arc<str>>) -> RouteStatus {
        let mut conditions = vec![
            self.condition(ConditionType::Accepted).unwrap_or_else(|| good(ConditionType::Accepted, Reason::Accepted)),
            self.condition(ConditionType::ResolvedRefs).unwrap_or_else(|| good(ConditionType::ResolvedRefs, Reason::ResolvedRefs)),
        ];
        conditions.extend(self.condition(ConditionType::Conflicted));
        RouteStatus { observed_generation, uid, conditions, locations: self.unserved, class: None, settled: true, served: false }
    }

    /// The condition that all problems of a type make together: the reason of the first, the messages of them all.
    fn condition(&self, type_: ConditionType) -> Option<Condition> {
        let mut of_type: Vec<&Problem> = self.problems.iter().filter(|problem| condition_of(problem.reason) == type_).collect();
        of_type.sort_by_key(|problem| problem.reason == Reason::Pending); // what is known says more
        let first = of_type.first()?;
        let messages: Vec<&str> = of_type.iter().take(MESSAGES).map(|problem| problem.message.as_str()).collect();
        let mut message = messages.join("; ");
        if of_type.len() > MESSAGES {
            message.push_str(&format!("; and {} more", of_type.len() - MESSAGES));
        }
        let status = match (type_, first.reason) {
            (ConditionType::Conflicted, _) => Status::True,
            (_, Reason::Pending) => Status::Unknown,
            _ => Status::False,
        };
        Some(Condition::new(type_, status, first.reason, bounded(message, MESSAGE_OF_CONDITION)))
    }
}

/// The first so many characters.
fn bounded(message: String, characters: usize) -> String {
    match message.char_indices().nth(characters) {
        Some((end, _)) => message[..end].to_owned(),
        None => message,
    }
}

fn good(type_: ConditionType, reason: Reason) -> Condition {
    Condition::new(type_, Status::True, reason, "")
}
