//! Why a request goes where it goes: each location of the host it selects, and what keeps it from taking the request.
//!
//! It decides nothing: it reads the compiled router. `carrick check --request` prints it.

use std::fmt;

use super::{Head, Location, Mismatch};
use crate::model::table::HostPattern;

/// How a decision came about.
pub struct Explanation<'r> {
    /// The host that was selected; `None`: no host takes the name, which is 404.
    pub host: Option<&'r HostPattern>,
    /// The locations of that host, in order of precedence. None of the verdicts is `Taken`: 404.
    pub candidates: Vec<(&'r Location, Verdict<'r>)>,
    /// Index of the one that serves, as [`super::Decision::Location`] has it.
    pub taken: Option<usize>,
}

/// What becomes of a location in a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'r> {
    /// It serves the request.
    Taken,
    /// It would, but one before it does.
    Shadowed,
    /// It does not take the request.
    Refused(Mismatch<'r>),
}

impl<'r> Explanation<'r> {
    /// Goes through the locations of a host, in order, each with its index.
    pub(super) fn of(host: Option<&'r HostPattern>, locations: impl Iterator<Item = (usize, &'r Location)>, head: &Head<'_>) -> Self {
        let mut taken = None;
        let candidates = locations.map(|(index, location)| {
            let verdict = match (location.mismatch(head), taken) {
                (Some(mismatch), _) => Verdict::Refused(mismatch),
                (None, Some(_)) => Verdict::Shadowed,
                (None, None) => {
                    taken = Some(index);
                    Verdict::Taken
                }
            };
            (location, verdict)
        });
        let candidates = candidates.collect();
        Self { host, candidates, taken }
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Taken => f.write_str("takes it"),
            Verdict::Shadowed => f.write_str("would take it, after the one that does"),
            Verdict::Refused(mismatch) => mismatch.fmt(f),
        }
    }
}

/// A line for the host, then one a location.
impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(host) = self.host else { return f.write_str("no route takes this host: 404") };
        write!(f, "host {host}")?;
        for (location, verdict) in &self.candidates {
            let mark = if *verdict == Verdict::Taken { '>' } else { ' ' };
            write!(f, "\n{mark} {} of {} ({}) {verdict}", location.spec.label, location.spec.route, location.spec.path)?;
        }
        if self.taken.is_none() {
            f.write_str("\nno location takes this request: 404")?;
        }
        Ok(())
    }
}
