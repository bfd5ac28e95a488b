//! What belongs together: keys, endpoints and services as numbers that are equal on every replica and after a restart, and who a key falls to.
//!
//! Rendezvous hashing: each candidate's number is mixed with the key, and the highest wins. Whoever goes takes along its own keys alone, whoever
//! comes takes its share from all. It never knows what a key was made from. `endpoint` and `pool` ask for numbers, `pick` for winners.

use std::net::SocketAddr;

use rapidhash::v3::{RapidSecrets, rapidhash_v3_inline};

use super::Endpoint;
use crate::model::{PoolKey, upstream::Pod};

/// Fixed for all time: another seed would move every client.
const SECRETS: RapidSecrets = RapidSecrets::seed_cpp(0x6361_7272_6963_6b31);

/// Where a request belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Anywhere: the policy picks.
    #[default]
    Anyone,
    /// To whom this key falls.
    Key(u64),
    /// To one endpoint, as long as it is there.
    Pin(Pin),
}

/// An endpoint that was picked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// [`Endpoint::identity`](super::Endpoint::identity).
    pub endpoint: u64,
    /// [`Pool::identity`](super::Pool::identity): the service that is kept when the endpoint is gone.
    pub pool: u64,
    /// What the next endpoint is hashed from when this one is gone: clients of one endpoint go to different ones.
    pub client: u64,
}

impl Pin {
    /// To this endpoint.
    pub fn to(endpoint: &Endpoint, client: u64) -> Self {
        Self { endpoint: endpoint.identity, pool: service(&endpoint.key.pool), client }
    }
}

/// The key of what a request says: the value of a header field, of a query parameter, an address.
pub fn key(bytes: &[u8]) -> u64 {
    hash(bytes)
}

/// Of an endpoint: its Pod where the slice names it, so that all ports of a Pod are one; else its address.
pub(super) fn identity(address: SocketAddr, pod: Option<&Pod>) -> u64 {
    match pod.map(|pod| &*pod.uid).filter(|uid| !uid.is_empty()) {
        Some(uid) => hash(uid.as_bytes()),
        None => hash(address.to_string().as_bytes()),
    }
}

/// Of a service.
pub(super) fn service(key: &PoolKey) -> u64 {
    hash(key.to_string().as_bytes())
}

/// How well a candidate fits a key: the highest of all has it.
pub(super) fn fit(key: u64, candidate: u64) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&key.to_le_bytes());
    both[8..].copy_from_slice(&candidate.to_le_bytes());
    hash(&both)
}

/// The same among candidates with weights: the lowest has it, and each has as many keys as its weight says.
pub(super) fn distance(key: u64, candidate: u64, weight: u32) -> f64 {
    // 53 bits, as many as a double holds; never 0, which has no logarithm.
    let uniform = ((fit(key, candidate) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / f64::from(weight)
}

fn hash(bytes: &[u8]) -> u64 {
    rapidhash_v3_inline::<true, false, false>(bytes, &SECRETS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn winner(key: u64, candidates: &[u64]) -> u64 {
        *candidates.iter().max_by_key(|candidate| fit(key, **candidate)).unwrap()
    }

    #[test]
    fn numbers_are_the_same_in_every_release() {
        let address = "10.0.0.1:8080".parse().unwrap();
        let pod = |uid: &str| Pod { name: "chat-0".into(), uid: uid.into() };
        assert_eq!(key(b"alice"), ALICE);
        assert_eq!(identity(address, None), ADDRESS);
        assert_eq!(identity(address, Some(&pod(""))), ADDRESS, "a slice without UIDs");
        assert_ne!(identity(address, Some(&pod("a"))), ADDRESS);
        assert_eq!(identity(address, Some(&pod("a"))), identity("10.0.0.2:90".parse().unwrap(), Some(&pod("a"))));
    }

    const ALICE: u64 = 13_748_629_486_932_424_782;
    const ADDRESS: u64 = 6_456_119_960_411_809_957;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn an_endpoint_that_goes_takes_along_its_own_keys_alone(count in 2usize..40, gone in 0usize..40, seed: u64) {
            let gone = gone % count;
            let all: Vec<u64> = (0..count as u64).map(|n| hash(&(seed ^ n).to_le_bytes())).collect();
            let left: Vec<u64> = all.iter().copied().filter(|endpoint| *endpoint != all[gone]).collect();
            let keys = 10_000;
            let mut moved = 0;
            for n in 0..keys {
                let key = hash(format!("client-{n}").as_bytes());
                let (before, after) = (winner(key, &all), winner(key, &left));
                if before == all[gone] {
                    moved += 1;
                } else {
                    prop_assert_eq!(before, after);
                }
            }
            prop_assert!(f64::from(moved) <= f64::from(keys) * (1.0 / count as f64 + 0.02), "{} of {}", moved, count);
        }

        #[test]
        fn services_get_keys_by_weight_and_a_canary_that_grows_takes_only_what_it_needs(seed: u64) {
            let (app, canary) = (hash(&seed.to_le_bytes()), hash(&(!seed).to_le_bytes()));
            let is_canary = |key: u64, weight: u32| distance(key, canary, weight) < distance(key, app, 90);
            let keys: Vec<u64> = (0..20_000u32).map(|n| hash(&n.to_le_bytes())).collect();
            let share = |weight| keys.iter().filter(|key| is_canary(**key, weight)).count() as f64 / keys.len() as f64;
            prop_assert!((share(10) - 0.1).abs() < 0.02);
            prop_assert!((share(30) - 0.25).abs() < 0.02);
            prop_assert!(keys.iter().all(|key| !is_canary(*key, 10) || is_canary(*key, 30)));
        }
    }
}
