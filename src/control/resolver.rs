//! DNS for `backends[].address`: every name again and again, the last good answer kept.
//!
//! It never knows routes: the loop says which names are wanted, and takes its answers as Changes.

use std::{collections::BTreeMap, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::lookup_host,
    time::{Instant, timeout},
};
use tracing::warn;

use crate::translate::Change;

/// DNS has no push; half a minute is the time to live that clusters use.
const EVERY: Duration = Duration::from_secs(30);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// Longer than the system's resolver takes to ask two servers.
const PATIENCE: Duration = Duration::from_secs(12);

type Answer = (Arc<str>, Result<Vec<SocketAddr>, String>);

/// The names wanted, and when to ask for each.
#[derive(Default)]
pub(super) struct Resolver {
    due: BTreeMap<Arc<str>, Instant>,
    asked: FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>,
}

impl Resolver {
    /// From now on these are wanted; new ones are asked for at once.
    pub(super) fn want<'a>(&mut self, names: impl Iterator<Item = &'a Arc<str>>) {
        let now = Instant::now();
        self.due = names.map(|name| (name.clone(), self.due.get(name).copied().unwrap_or(now))).collect();
    }

    /// The next answer. Dropped in between, it goes on where it was.
    pub(super) async fn next(&mut self) -> Change {
        loop {
            self.ask();
            let next = self.due.values().min().copied();
            let answer = tokio::select! {
                Some(answer) = self.asked.next() => answer,
                () = super::due(next) => continue,
            };
            if let Some(change) = self.answered(answer) {
                return change;
            }
        }
    }

    fn ask(&mut self) {
        let now = Instant::now();
        for (name, due) in self.due.iter_mut().filter(|(_, due)| **due <= now) {
            // Replicas that started together must not ask together for ever.
            *due = now + PATIENCE + EVERY.mul_f64(0.8 + 0.4 * fastrand::f64());
            self.asked.push(Box::pin(resolve(name.clone())));
        }
    }

    fn answered(&mut self, (name, answer): Answer) -> Option<Change> {
        let due = self.due.get_mut(&name)?;
        match answer {
            Ok(addresses) => {
                *due -= PATIENCE;
                Some(Change::Address { host_port: name, addresses })
            }
            Err(error) => {
                *due = Instant::now() + AGAIN;
                warn!(address = %name, error, "can't resolve: the last good answer stays");
                None
            }
        }
    }
}

async fn resolve(name: Arc<str>) -> Answer {
    let answer = match timeout(PATIENCE, lookup_host(&*name)).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<SocketAddr> = found.collect();
            addresses.sort_unstable();
            addresses.dedup();
            if addresses.is_empty() { Err("no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    };
    (name, answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wanted_name_is_resolved_at_once() {
        let mut resolver = Resolver::default();
        let name: Arc<str> = "localhost:80".into();
        resolver.want([&name].into_iter());
        let Change::Address { host_port, addresses } = resolver.next().await else { panic!("an address was asked for") };
        assert_eq!(host_port, name);
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    }

    #[tokio::test]
    async fn an_answer_for_a_name_no_longer_wanted_is_dropped() {
        let mut resolver = Resolver::default();
        let gone = ("gone:80".into(), Ok(Vec::new()));
        assert!(resolver.answered(gone).is_none());
    }
}
