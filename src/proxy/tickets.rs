//! TLS session tickets that every replica can read: sealed by keys that all of them derive from one seed.
//!
//! It never knows sessions. `tls` makes one [`Tickets`] for each thing that it asks of clients; rustls calls it in handshakes.
//!
//! ```text
//! ticket: epoch (4 bytes) │ nonce (12) │ AES-256-GCM of the session, bound to epoch and context
//! key:    derived from the seed under "session ticket" │ epoch
//! ```

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use rustls::server::ProducesTickets;

use super::keys::{Keyring, derive};
use crate::model::keys::Seed;

/// How long one key seals. It opens for as long again, so that every ticket is good for its lifetime.
const EPOCH: Duration = Duration::from_secs(6 * 3600);
const EPOCH_LEN: usize = 4;

/// Seals and opens the tickets of one TLS configuration.
pub(super) struct Tickets {
    keys: Arc<Keyring>,
    /// What the session was verified by: a ticket of another context is none here.
    context: Box<[u8]>,
}

impl Tickets {
    pub(super) fn new(keys: Arc<Keyring>, context: impl Into<Box<[u8]>>) -> Self {
        Self { keys, context: context.into() }
    }

    fn bound_to(&self, epoch: [u8; EPOCH_LEN]) -> Aad<Vec<u8>> {
        Aad::from([&epoch, &*self.context].concat())
    }

    fn seal(&self, plain: &[u8], epoch: u32) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let epoch = epoch.to_be_bytes();
        let mut ticket = [&epoch[..], &nonce, plain].concat();
        let (_, sealed) = ticket.split_at_mut(EPOCH_LEN + NONCE_LEN);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let key = key(&self.keys.load().seeds.current, epoch)?;
        let tag = key.seal_in_place_separate_tag(nonce, self.bound_to(epoch), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: u32) -> Option<Vec<u8>> {
        let (epoch, rest) = ticket.split_first_chunk::<EPOCH_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let sealed_in = u32::from_be_bytes(*epoch);
        // The next one as well: clocks of replicas differ.
        if !(now.saturating_sub(1)..=now.saturating_add(1)).contains(&sealed_in) {
            return None;
        }
        let keys = self.keys.load();
        std::iter::once(&keys.seeds.current).chain(&keys.seeds.previous).find_map(|seed| {
            let mut session = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let length = key(seed, *epoch)?.open_in_place(nonce, self.bound_to(*epoch), &mut session).ok()?.len();
            session.truncate(length);
            Some(session)
        })
    }
}

/// A few microseconds, beside a handshake's hundreds: no key is kept, and none has to be forgotten.
fn key(seed: &Seed, epoch: [u8; EPOCH_LEN]) -> Option<LessSafeKey> {
    let bytes: [u8; 32] = derive(seed, &[b"session ticket", &epoch]);
    UnboundKey::new(&AES_256_GCM, &bytes).ok().map(LessSafeKey::new)
}

/// Which key seals now. A clock before 1970 is taken for 1970.
fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() / EPOCH.as_secs()).unwrap_or(u32::MAX)
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        EPOCH.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, now())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::keys::Seeds;

    fn seeds(seed: u8) -> Seeds {
        Seeds { current: Seed([seed; 32]), previous: None }
    }

    fn tickets(seed: u8, context: &[u8]) -> Tickets {
        let keys = Arc::<Keyring>::default();
        keys.replace(&seeds(seed));
        Tickets::new(keys, context)
    }

    #[test]
    fn a_replica_with_the_same_seed_opens_what_another_sealed() {
        let ticket = tickets(1, b"host").seal(b"session", 100).unwrap();
        assert_eq!(tickets(1, b"host").open(&ticket, 100).unwrap(), b"session");
        assert_eq!(tickets(2, b"host").open(&ticket, 100), None);
    }

    #[test]
    fn a_ticket_is_good_for_its_lifetime_and_not_for_long() {
        let replica = tickets(1, b"");
        let ticket = replica.seal(b"session", 100).unwrap();
        assert!(replica.open(&ticket, 101).is_some());
        assert!(replica.open(&ticket, 99).is_some(), "a clock that is behind");
        assert!(replica.open(&ticket, 102).is_none() && replica.open(&ticket, 98).is_none());
    }

    #[test]
    fn a_ticket_of_another_context_is_none() {
        let ticket = tickets(1, b"a").seal(b"session", 100).unwrap();
        assert_eq!(tickets(1, b"b").open(&ticket, 100), None);
    }

    #[test]
    fn what_was_touched_or_made_up_is_no_ticket() {
        let replica = tickets(1, b"");
        let ticket = replica.seal(b"session", 100).unwrap();
        for at in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[at] ^= 1;
            assert_eq!(replica.open(&touched, 100), None, "byte {at}");
            assert_eq!(replica.open(&ticket[..at], 100), None, "{at} bytes");
        }
    }

    #[test]
    fn a_seed_that_was_replaced_still_opens() {
        let replica = tickets(1, b"");
        let ticket = replica.seal(b"session", 100).unwrap();
        replica.keys.replace(&seeds(2));
        assert!(replica.open(&ticket, 100).is_some());
        assert!(tickets(2, b"").open(&replica.seal(b"session", 100).unwrap(), 100).is_some(), "the new one seals");
        replica.keys.replace(&seeds(3));
        assert!(replica.open(&ticket, 100).is_none(), "it was replaced twice");
    }
}
