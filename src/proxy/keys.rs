//! The secret that replicas share, as the data side sees it: what they must be able to read of one another is sealed by keys from it.
//!
//! It never knows where the seed is kept. `app` hands it over when it is known; until then, and in standalone, it is this process' own.

use std::{fmt, sync::Arc};

use aws_lc_rs::rand;
use parking_lot::RwLock;
use smallvec::{SmallVec, smallvec};

/// What keys are derived from.
pub type Seed = [u8; 32];

/// The seed in force, and the one before it.
pub struct Keys(RwLock<SmallVec<[Seed; 2]>>);

impl Keys {
    /// A seed that nobody else has.
    pub fn random() -> Arc<Self> {
        let mut seed = Seed::default();
        // It fails only where the system has no randomness, where TLS fails as well.
        let _ = rand::fill(&mut seed);
        Arc::new(Self(RwLock::new(smallvec![seed])))
    }

    /// Seals with this seed from now on; what the last one sealed is still read.
    pub fn share(&self, seed: Seed) {
        let mut seeds = self.0.write();
        if seeds.first() != Some(&seed) {
            seeds.insert(0, seed);
            seeds.truncate(2);
        }
    }

    /// What to seal with. A lock that is written when a seed comes; it is read once a handshake.
    pub fn newest(&self) -> Seed {
        self.0.read().first().copied().unwrap_or_default()
    }

    /// What to read with, the newest first.
    pub fn all(&self) -> SmallVec<[Seed; 2]> {
        self.0.read().clone()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}
