//! How many replicas share what a limit of the installation allows: each enforces an equal part of it, rounded up.
//!
//! It never knows where the number comes from, nor what is limited. `app` sets it; `limit` and the picks ask it. Until somebody says otherwise
//! there is one replica, as standalone.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The number of replicas that are ready, ourselves included. One of a process, shared by all that has a limit of the installation.
#[derive(Debug)]
pub struct Share(AtomicU32);

impl Default for Share {
    /// All of it is ours.
    fn default() -> Self {
        Self(AtomicU32::new(1))
    }
}

impl Share {
    /// From now on so many replicas share each limit; 0 counts as one, for we are there. What is open stays, whatever becomes of our part.
    pub fn set_replicas(&self, replicas: u32) {
        self.0.store(replicas.max(1), Relaxed);
    }

    /// How many replicas share each limit.
    pub fn replicas(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Our part of a limit: at least 1 of what is not 0, so that a small limit is never nothing.
    pub fn of(&self, limit: u32) -> u32 {
        limit.div_ceil(self.replicas())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_and_none_is_nothing() {
        let share = Share::default();
        assert_eq!(share.of(1000), 1000);
        share.set_replicas(3);
        assert_eq!((share.of(1000), share.of(2), share.of(0), share.of(u32::MAX)), (334, 1, 0, 1_431_655_765));
        share.set_replicas(0);
        assert_eq!(share.of(7), 7);
    }
}
