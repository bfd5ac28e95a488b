//! The Secret whose seed all replicas derive their keys from: made by whoever is first, read by all, and read again, so that it can be rotated.
//!
//! It never knows what the keys are for, and never writes over a Secret that is there. `app` starts it and hands the seeds on.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    ByteString, Resource as _,
    api::{coordination::v1::Lease, core::v1::Secret},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Error, api::PostParams};
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tracing::info;

use super::{Connection, backoff::Backoff, trouble::Trouble};
use crate::model::{
    ObjectRef,
    keys::{Seed, Seeds},
};

/// The key of the seed in force.
const SEED: &str = "seed";
/// The key of the one before it, for whoever rotates by hand.
const PREVIOUS: &str = "previous";
/// One request.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a rotation may stay unknown.
const READ_EVERY: Duration = Duration::from_secs(60);

/// Why there are no seeds.
#[derive(Debug, Error)]
enum KeysError {
    /// It is there, and not as we made it.
    #[error("its {0} is not 32 bytes: delete the secret, so that it is made anew")]
    NoSeed(&'static str),
    /// The API server refuses.
    #[error("{0}")]
    Refused(#[from] Error),
    /// The API server says nothing.
    #[error("no answer in time")]
    Silent,
}

/// Tells the seeds of a Secret whenever they are others, and makes it where it is not there. `fresh` is a seed that nobody else has; the Secret
/// goes when the Lease of this name goes, which belongs to the release.
pub async fn run(connection: Connection, name: ObjectRef, lease: String, fresh: impl Fn() -> Seed, tell: impl Fn(&Seeds)) {
    let secrets = Api::namespaced(connection.client.clone(), &name.namespace);
    let leases = Api::namespaced(connection.client, &name.namespace);
    let mut trouble = Trouble::new(format!("secret {name} with the keys that replicas share can not be read or made"));
    let mut backoff = Backoff::default();
    let mut told = None;
    loop {
        let pause = match read_or_make(&secrets, &name, &leases, &lease, &fresh).await {
            Ok(seeds) => {
                trouble.is_over();
                backoff.reset();
                if told.as_ref() != Some(&seeds) {
                    tell(&seeds);
                    told = Some(seeds);
                }
                READ_EVERY.mul_f64(0.8 + 0.4 * fastrand::f64())
            }
            Err(error) => {
                trouble.say(&error);
                backoff.next(None)
            }
        };
        sleep(pause).await;
    }
}

async fn read_or_make(
    secrets: &Api<Secret>,
    name: &ObjectRef,
    leases: &Api<Lease>,
    lease: &str,
    fresh: impl Fn() -> Seed,
) -> Result<Seeds, KeysError> {
    if let Some(secret) = ask(secrets.get_opt(&name.name)).await? {
        return seeds(&secret);
    }
    // A Secret in another namespace than the Lease belongs to nobody, and so does one that is made by a controller without a release.
    let owner = ask(leases.get_opt(lease)).await.ok().flatten().as_ref().and_then(owner);
    let made = Secret {
        metadata: ObjectMeta {
            name: Some(name.name.to_string()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(SEED.to_owned(), ByteString(fresh().0.to_vec()))])),
        type_: Some("carrick.dev/keys".to_owned()),
        ..Secret::default()
    };
    match ask(secrets.create(&PostParams::default(), &made)).await {
        Ok(made) => {
            info!(secret = %name, "made: replicas share its keys");
            seeds(&made)
        }
        // Another replica was faster.
        Err(KeysError::Refused(Error::Api(status))) if status.code == 409 => seeds(&ask(secrets.get(&name.name)).await?),
        Err(error) => Err(error),
    }
}

fn owner(lease: &Lease) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: Lease::API_VERSION.to_owned(),
        kind: Lease::KIND.to_owned(),
        name: lease.metadata.name.clone()?,
        uid: lease.metadata.uid.clone()?,
        ..OwnerReference::default()
    })
}

async fn ask<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, KeysError> {
    Ok(timeout(REQUEST, request).await.map_err(|_| KeysError::Silent)??)
}

fn seeds(secret: &Secret) -> Result<Seeds, KeysError> {
    let value = |key| secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
    let seed = |key, value: &[u8]| <[u8; 32]>::try_from(value).map(Seed).map_err(|_| KeysError::NoSeed(key));
    Ok(Seeds {
        current: seed(SEED, value(SEED).unwrap_or_default())?,
        previous: value(PREVIOUS).map(|value| seed(PREVIOUS, value)).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(data: &[(&str, &[u8])]) -> Secret {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    #[test]
    fn a_secret_has_a_seed_of_32_bytes_and_may_have_the_one_before() {
        let current = Seed([1; 32]);
        assert_eq!(seeds(&secret(&[("seed", &[1; 32])])).unwrap(), Seeds { current: current.clone(), previous: None });
        let rotated = seeds(&secret(&[("seed", &[1; 32]), ("previous", &[2; 32])])).unwrap();
        assert_eq!(rotated, Seeds { current, previous: Some(Seed([2; 32])) });
    }

    #[test]
    fn what_is_no_seed_is_said() {
        assert!(matches!(seeds(&Secret::default()), Err(KeysError::NoSeed("seed"))));
        assert!(matches!(seeds(&secret(&[("seed", &[1; 32]), ("previous", &[2; 16])])), Err(KeysError::NoSeed("previous"))));
    }
}
