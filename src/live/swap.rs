//! A value that is replaced as a whole while others read it, without a lock. Beside the snapshot, for what no table has.
//!
//! It never knows the value. `proxy` keeps keys in it, `app` replaces them.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// The value in force.
#[derive(Debug)]
pub struct Swap<T>(ArcSwap<T>);

impl<T> Swap<T> {
    /// One that begins with a value.
    pub fn new(value: T) -> Self {
        Self(ArcSwap::from_pointee(value))
    }

    /// The value in force now. Drop the guard before the next await.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.0.load()
    }

    /// Puts another in its place, made from the one before.
    pub fn replace(&self, next: impl Fn(&T) -> T) {
        self.0.rcu(|before| next(before));
    }
}
