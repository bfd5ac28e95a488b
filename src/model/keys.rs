//! The secret that replicas share: what cookies and session tickets are encrypted with is derived from it.
//!
//! It never prints itself, and knows no use of it. `k8s` and `app` read it, `proxy::keys` derives from it.

use std::fmt;

/// 32 random bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed(pub [u8; 32]);

/// The seed in force, and the one before it: what that encrypted can still be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// Encrypts.
    pub current: Seed,
    /// Decrypts as well.
    pub previous: Option<Seed>,
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

impl Seeds {
    /// Those that come after these: a seed that was in force before stays readable, whoever put another in its place.
    #[must_use]
    pub fn followed_by(&self, next: Seeds) -> Seeds {
        let before = if next.current == self.current { self.previous.clone() } else { Some(self.current.clone()) };
        Seeds { previous: next.previous.or(before), current: next.current }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(byte: u8) -> Seed {
        Seed([byte; 32])
    }

    #[test]
    fn the_seed_before_stays_readable() {
        let first = Seeds { current: seed(1), previous: None };
        let second = first.followed_by(Seeds { current: seed(2), previous: None });
        assert_eq!(second, Seeds { current: seed(2), previous: Some(seed(1)) });
        assert_eq!(second.followed_by(Seeds { current: seed(2), previous: None }), second);
        let told = second.followed_by(Seeds { current: seed(3), previous: Some(seed(9)) });
        assert_eq!(told.previous, Some(seed(9)));
    }

    #[test]
    fn a_seed_is_never_printed() {
        assert_eq!(format!("{:?}", seed(7)), "Seed(..)");
    }
}
