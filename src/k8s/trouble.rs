//! A request that goes wrong again and again, said once each time that it goes wrong differently.
//!
//! It never decides whether to try again. The loops of this module own one for each thing they do.

use std::fmt::Display;

use tracing::{info, warn};

/// What is wrong with one thing.
#[derive(Debug)]
pub(super) struct Trouble {
    what: String,
    last: Option<String>,
}

impl Trouble {
    /// Nothing is wrong yet. `what` says what it will be, such as "service default/web can not be watched".
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), last: None }
    }

    /// It went wrong.
    pub(super) fn say(&mut self, why: &impl Display) {
        let why = why.to_string();
        if self.last.as_ref() != Some(&why) {
            warn!("{}, and is tried again: {why}", self.what);
            self.last = Some(why);
        }
    }

    /// It went well.
    pub(super) fn is_over(&mut self) {
        if self.last.take().is_some() {
            info!("no longer true: {}", self.what);
        }
    }
}
