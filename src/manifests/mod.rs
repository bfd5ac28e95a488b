//! The same Changes from files: what `kubectl apply -f` would take, read again whenever it changes.
//!
//! It never knows what an object means. `app` runs [`watch`] for `carrick standalone`, `check` calls [`read`].

mod document;
mod folder;
mod objects;
mod watch;

use std::{fmt, path::PathBuf};

pub use watch::watch;

use crate::translate::Change;
use folder::Folder;

/// Something in a file that can't be used, or not as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong and what to do.
    pub reason: String,
}

/// Whether something is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file, the object or the field has no effect, or only a part of it.
    Wrong,
    /// It has no meaning here, and may well be there.
    Skipped,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.reason)
    }
}

/// Everything in some files and folders, as one list a kind, and what is wrong with it.
pub fn read(paths: &[PathBuf]) -> (Vec<Change>, Vec<Fault>) {
    let mut folder = Folder::new(paths.to_vec());
    let scan = folder.scan();
    (scan.changes, scan.faults)
}

/// The same from a text.
pub fn parse(text: &str) -> (Vec<Change>, Vec<Fault>) {
    Folder::of_text(text)
}
