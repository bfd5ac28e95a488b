//! How many client connections may be open, in all and for one client.
//!
//! It never knows what a connection is for. `listen` asks it before and after each accept; a connection holds its [`Permit`] to its end,
//! a tunnel included.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{sync::Notify, time::timeout};

use crate::{
    balance::limit::clients::{Client, Clients},
    telemetry::Metrics,
};

/// Descriptors kept for everything that is not a client's connection or its way on: listeners, files, watches, logs.
const KEPT: u64 = 512;

/// Where there is no end of descriptors: a client's connection costs memory too.
const MOST: usize = 1 << 20;

/// Lifts the limit of descriptors to what the process may have; gives the number in force.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!("the limit of descriptors stays at {:?}: {error}", limit.current);
            limit.current.unwrap_or(u64::MAX)
        }
    }
}

/// The default of `--max-connections`: each client's connection may need another one to a backend.
pub fn default_max_connections(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(KEPT) / 2).unwrap_or(MOST).clamp(1, MOST)
}

/// The descriptors that so many client connections may take.
pub fn descriptors_for(connections: u64) -> u64 {
    connections.saturating_mul(2).saturating_add(KEPT)
}

/// Counts client connections.
#[derive(Debug)]
pub struct Gate {
    open: AtomicUsize,
    limit: usize,
    freed: Notify,
    /// 0 is any number.
    per_client: u32,
    clients: Clients,
    metrics: Arc<Metrics>,
}

/// Counts one connection as open until it is dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    /// Whom it is counted for.
    client: Option<Client>,
}

impl Gate {
    /// At most `limit` connections in all, and `per_client` for one client, where that is not 0.
    pub fn new(limit: usize, per_client: u32, metrics: Arc<Metrics>) -> Arc<Self> {
        metrics.connections_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        Arc::new(Self { open: AtomicUsize::new(0), limit, freed: Notify::new(), per_client, clients: Clients::default(), metrics })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Whether no more may be accepted.
    pub fn is_full(&self) -> bool {
        self.open() >= self.limit
    }

    /// Done when a connection was closed, or after `longest`: several wait, and each closed one wakes only one of them.
    pub async fn freed(&self, longest: Duration) {
        let _ = timeout(longest, self.freed.notified()).await;
    }

    /// Counts a connection as open. [`Gate::is_full`] was asked before, and several listeners asking at once may pass the limit by one each.
    pub fn enter(self: &Arc<Self>) -> Permit {
        self.open.fetch_add(1, Relaxed);
        self.metrics.connections_accepted.inc();
        self.metrics.connections_open.inc();
        Permit { gate: Arc::clone(self), client: None }
    }
}

impl Permit {
    /// Counts it for its client too, once it is known who that is. `false`: the client has too many.
    #[must_use]
    pub fn count_for(&mut self, client: IpAddr) -> bool {
        if self.gate.per_client == 0 {
            return true;
        }
        let client = Client::from(client);
        let entered = self.gate.clients.enter(client, self.gate.per_client);
        if entered {
            self.client = Some(client);
        }
        entered
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.gate.clients.leave(client);
        }
        self.gate.open.fetch_sub(1, Relaxed);
        self.gate.metrics.connections_open.dec();
        self.gate.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_has_its_share_and_its_entry_goes_with_its_last_connection() {
        let gate = Gate::new(10, 2, Arc::default());
        let mut permits = [(); 3].map(|()| gate.enter());
        let counted = permits.each_mut().map(|permit| permit.count_for(ip("192.0.2.1")));
        assert_eq!(counted, [true, true, false]);
        assert!(gate.enter().count_for(ip("192.0.2.2")), "another one is not concerned");
        drop(permits);
        assert!(gate.clients.is_empty());
        assert_eq!(gate.open(), 0);
    }

    #[tokio::test]
    async fn a_full_gate_opens_when_a_connection_is_closed() {
        let gate = Gate::new(1, 0, Arc::default());
        let permit = gate.enter();
        assert!(gate.is_full());
        drop(permit);
        gate.freed(Duration::from_secs(3600)).await;
        assert!(!gate.is_full());
    }

    #[test]
    fn half_of_the_descriptors_are_for_clients() {
        assert_eq!(default_max_connections(1024), 256);
        assert_eq!(default_max_connections(100), 1);
        assert_eq!(default_max_connections(u64::MAX), MOST);
    }
}
