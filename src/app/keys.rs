//! `--keys-file`: the seed of keys from a file, read again so that it can be rotated.
//!
//! It never knows what the keys are for. `server` reads it before anything is served.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{runtime::Handle, time::sleep};

use crate::{
    model::keys::{Seed, Seeds},
    proxy::keys::Keyring,
};

/// How long a rotation may stay unknown.
const READ_EVERY: Duration = Duration::from_secs(60);

/// Has the keys made from the seeds of a file, now and whenever they are others.
pub fn use_file(handle: &Handle, path: &Path, keys: Arc<Keyring>) -> anyhow::Result<()> {
    let seeds = read(path)?;
    keys.replace(&seeds);
    handle.spawn(follow(path.to_owned(), seeds, keys));
    Ok(())
}

/// Reads the seeds of a file: one in a line, the one in force first.
fn read(path: &Path) -> anyhow::Result<Seeds> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--keys-file {} can not be read", path.display()))?;
    parse(&text).with_context(|| format!("--keys-file {} has no seeds", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Seeds> {
    let seed = |line: &str| match STANDARD.decode(line).map(<[u8; 32]>::try_from) {
        Ok(Ok(seed)) => Ok(Seed(seed)),
        _ => bail!("a line is not 32 bytes in base64: make one with `openssl rand -base64 32`"),
    };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(seed);
    let current = lines.next().context("it is empty")??;
    Ok(Seeds { current, previous: lines.next().transpose()? })
}

async fn follow(path: PathBuf, mut known: Seeds, keys: Arc<Keyring>) {
    loop {
        sleep(READ_EVERY).await;
        match read(&path) {
            Ok(seeds) if seeds != known => {
                keys.replace(&seeds);
                known = seeds;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("the keys stay as they were: {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_seed_or_two() {
        let line = |byte| STANDARD.encode([byte; 32]);
        assert_eq!(parse(&format!("{}\n", line(1))).unwrap(), Seeds { current: Seed([1; 32]), previous: None });
        let both = parse(&format!("{}\n\n {} \n", line(1), line(2))).unwrap();
        assert_eq!(both.previous, Some(Seed([2; 32])));
        for bad in ["", "\n", "c2hvcnQ=", "not base64"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
