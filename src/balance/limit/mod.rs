//! What is open at one location, and whether it may be one more: connections, connections of a client, new ones a second.
//!
//! It never knows requests or tunnels: whoever is let in holds a [`Slot`] to its end. `live` makes a [`Limiter`] for each configuration of
//! a location; `proxy` asks it. What is counted belongs to the location ([`Account`]) and outlives every configuration.
//!
//! Counts are reserved, never looked at first and taken later: no number of handshakes at the same time passes a limit. A lower limit, or a
//! smaller part of it, closes nothing: it lets nobody in until enough have left.

mod budget;
pub mod clients;
pub mod queue;
mod rate;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use self::{
    budget::Budget,
    clients::{Client, Clients},
    queue::Queue,
    rate::Arrivals,
};
use super::Share;
use crate::model::{LocationKey, ObjectRef, limits::Limits, route::Rate};

/// What is open at one location, or layer-4 route, whatever its configuration.
#[derive(Debug)]
pub struct Account {
    /// Counted without a limit as well, so that one that is set later is exact.
    open: AtomicU32,
    clients: Clients,
    arrivals: Arrivals,
    retries: Budget,
    /// The beginning of the time that `arrivals` and `retries` count in.
    since: Instant,
    queue: Queue,
}

/// The accounts of all locations that are served or have something open. Two routes of a namespace may name a location alike: each has its own.
#[derive(Debug, Default)]
pub(super) struct Accounts(Mutex<HashMap<(LocationKey, ObjectRef), Weak<Account>>>);

/// The limits of a location as they are configured, with what they are held against.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    account: Arc<Account>,
    share: Arc<Share>,
}

/// Counts as open at its location, and for its client where clients are limited, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    account: Arc<Account>,
    client: Option<Client>,
}

/// Which limit keeps somebody out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// `limits.connections`.
    #[error("as many connections are open as limits.connections allows")]
    Connections,
    /// `limits.connectionsPerClient`.
    #[error("the client has as many connections open as limits.connectionsPerClient allows")]
    PerClient,
    /// `limits.handshakesPerSecond`; its turn would come after this time, if all that were kept out came back one after the other.
    #[error("more connections come than limits.handshakesPerSecond allows")]
    Rate(Duration),
}

impl Account {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            open: AtomicU32::new(0),
            clients: Clients::default(),
            arrivals: Arrivals::default(),
            retries: Budget::default(),
            since: Instant::now(),
            queue: Queue::default(),
        })
    }

    /// How many are open.
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    fn enter(self: &Arc<Self>, client: Option<(Client, u32)>, limit: Option<u32>) -> Result<Slot, Over> {
        let limit = limit.unwrap_or(u32::MAX);
        if client.is_some_and(|(client, limit)| !self.clients.enter(client, limit)) {
            return Err(Over::PerClient);
        }
        if self.open.fetch_update(Relaxed, Relaxed, |open| (open < limit).then(|| open + 1)).is_err() {
            if let Some((client, _)) = client {
                self.clients.leave(client);
            }
            return Err(Over::Connections);
        }
        Ok(Slot { account: Arc::clone(self), client: client.map(|(client, _)| client) })
    }

    /// Those who wait for an endpoint.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Whether what failed may be tried again at `now`. It counts as done then.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.retries.spend(self.nanos(now))
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.since).as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

impl Accounts {
    /// The account of a location, the same one for as long as somebody holds it.
    pub(super) fn of(&self, key: &LocationKey, route: &ObjectRef) -> Arc<Account> {
        let mut accounts = self.0.lock();
        let account = accounts.entry((key.clone(), route.clone())).or_default();
        account.upgrade().unwrap_or_else(|| {
            let new = Account::new();
            *account = Arc::downgrade(&new);
            new
        })
    }

    /// Forgets those that nobody holds.
    pub(super) fn forget_unused(&self) {
        self.0.lock().retain(|_, account| account.strong_count() > 0);
    }
}

impl Limiter {
    pub(super) fn new(limits: Limits, account: Arc<Account>, share: Arc<Share>) -> Self {
        Self { limits, account, share }
    }

    /// What is counted.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Lets one more in at `now`, or says which limit it is over. Who is kept out costs nobody else anything.
    pub fn enter(&self, client: IpAddr, now: Instant) -> Result<Slot, Over> {
        let per_client = self.limits.connections_per_client.map(|limit| (Client::from(client), limit));
        let slot = self.account.enter(per_client, self.limits.connections.map(|limit| self.share.of(limit)))?;
        // Last: what another limit keeps out takes nothing of the rate.
        if let Some(Rate { per_second, burst }) = self.limits.arrivals {
            let part = Rate { per_second: self.share.of(per_second), burst: self.share.of(burst) };
            self.account.arrivals.take(part, self.account.nanos(now)).map_err(Over::Rate)?;
        }
        self.account.retries.earn();
        Ok(slot)
    }
}

impl Slot {
    /// A slot at no location: for what holds slots and is tested alone.
    pub fn detached() -> Self {
        let account = Account::new();
        account.open.fetch_add(1, Relaxed);
        Self { account, client: None }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.account.open.fetch_sub(1, Relaxed);
        if let Some(client) = self.client {
            self.account.clients.leave(client);
        }
    }
}

#[cfg(test)]
mod tests;
