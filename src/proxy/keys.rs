//! Keys for what clients keep for us: one for each use, derived from the seed that replicas share, and from the one before it.
//!
//! It never knows where a seed comes from. `app` hands seeds over; affinity encrypts cookies with them, `tickets` sessions, and whoever else
//! needs a key derives one under a label of its own.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand,
};

use super::affinity::cookie::Sealer;
use crate::{
    live::{Guard, Swap},
    model::keys::{Seed, Seeds},
};

/// The keys in force. One of a process.
pub struct Keyring(Swap<Keys>);

/// Seeds, with what is derived from them once.
pub struct Keys {
    /// What other keys are derived from, by [`derive`].
    pub seeds: Seeds,
    /// Encrypts the cookies of affinity.
    pub cookies: Sealer,
}

impl Default for Keyring {
    /// A seed of its own: nobody else can read what it encrypts.
    fn default() -> Self {
        Self(Swap::new(Keys::new(Seeds { current: random(), previous: None })))
    }
}

impl Keyring {
    /// The keys in force now. Drop the guard before the next await.
    pub fn load(&self) -> Guard<Arc<Keys>> {
        self.0.load()
    }

    /// From now on these seeds are in force. What the one before encrypted can still be read.
    pub fn replace(&self, seeds: &Seeds) {
        self.0.replace(|before| Keys::new(before.seeds.followed_by(seeds.clone())));
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}

impl Keys {
    fn new(seeds: Seeds) -> Self {
        Self { cookies: Sealer::new(&seeds), seeds }
    }
}

/// A seed that nobody else has. Without a source of randomness no key is safe: the process ends.
pub fn random() -> Seed {
    let mut seed = [0; 32];
    assert!(rand::fill(&mut seed).is_ok(), "the system gives no randomness");
    Seed(seed)
}

/// A key for one use (HKDF-SHA-256, RFC 5869). Other labels, other keys: knowing one tells nothing of another or of the seed.
pub fn derive<const N: usize>(seed: &Seed, label: &[&[u8]]) -> [u8; N] {
    struct Bytes(usize);
    impl KeyType for Bytes {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut key = [0; N];
    let secret = Salt::new(HKDF_SHA256, b"carrick").extract(&seed.0);
    // It only fails for more than 255 hashes, 8 KiB.
    let filled = secret.expand(label, Bytes(N)).and_then(|key_material| key_material.fill(&mut key));
    assert!(filled.is_ok(), "a key of {N} bytes can't be derived");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_derive_the_same_keys_and_each_use_another() {
        let seed = Seed([7; 32]);
        let cookies: [u8; 32] = derive(&seed, &[b"cookie"]);
        assert_eq!(cookies, derive(&seed, &[b"cookie"]));
        assert_ne!(cookies, derive::<32>(&seed, &[b"ticket", b"\x01"]));
        assert_ne!(derive::<32>(&seed, &[b"ticket", b"\x02"]), derive::<32>(&seed, &[b"ticket", b"\x01"]));
        assert_ne!(cookies, derive::<32>(&random(), &[b"cookie"]));
    }
}
