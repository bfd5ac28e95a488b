//! Every tunnel of the process: who is open, what it moved, and how to reach it.
//!
//! It never knows sockets or frames. A tunnel enters before its first byte and leaves in `Drop`; `admin` lists, telemetry counts at a scrape,
//! `app` gives orders and waits until it is empty.

mod berths;
mod departures;
mod observe;
mod pods;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use rapidhash::RapidHashMap;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

pub use berths::Berth;
use departures::Departures;

use super::{
    Identity,
    clock::{Clock, Tick},
    close::{End, Reason},
    drain::Order,
    entry::{Entry, State},
};
use crate::telemetry::{AccessLog, access, metrics::Side};

/// Longer than a handshake takes that was begun before an order.
const LATE: Duration = Duration::from_secs(60);
/// Locks are taken when a tunnel opens, when it ends and when somebody looks, never for a message: a few shards are enough.
const SHARDS: usize = 16;

/// The tunnels. One of a process, shared.
pub struct Registry {
    clock: Clock,
    shards: [Mutex<RapidHashMap<u64, Arc<Entry>>>; SHARDS],
    open: AtomicUsize,
    next: AtomicU64,
    panics: AtomicU64,
    emptied: Notify,
    /// The orders that still hold for tunnels that are opened later.
    standing: RwLock<Vec<Standing>>,
    departures: Mutex<Departures>,
    /// How often Pods were told to go.
    departed: watch::Sender<u64>,
    access: AccessLog,
}

/// An order for tunnels that are opened later.
struct Standing {
    order: Order,
    given: Instant,
}

impl Standing {
    /// Whether it means a tunnel whose handshake was begun then. What is asked for after an order knows that it was given: an endpoint
    /// or a location that takes it is back. A shutdown is never over.
    fn holds_for(&self, began: Instant) -> bool {
        self.order.reason == Reason::Shutdown || began <= self.given
    }

    fn is_over(&self, now: Instant) -> bool {
        self.order.reason != Reason::Shutdown && self.given + LATE <= now
    }
}

impl Registry {
    /// An empty registry. Tunnels write their last line to `access`.
    pub fn new(access: AccessLog) -> Arc<Registry> {
        Arc::new(Registry {
            clock: Clock::start(),
            shards: Default::default(),
            open: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            panics: AtomicU64::new(0),
            emptied: Notify::new(),
            standing: RwLock::default(),
            departures: Mutex::default(),
            departed: watch::Sender::new(0),
            access,
        })
    }

    /// How many tunnels are open.
    pub fn len(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Whether no tunnel is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tunnels ended by a panic of ours.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Done when no tunnel is open.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// The number of tunnels that wait for their turn to be closed, by the label of the reason.
    pub fn pending(&self) -> BTreeMap<&'static str, u64> {
        let mut pending = BTreeMap::new();
        self.for_each(|entry| {
            if entry.slot() != Tick::NEVER && entry.state() == State::Open {
                *pending.entry(entry.ordered().reason.label()).or_default() += 1;
            }
        });
        pending
    }

    /// Marks tunnels to be closed, the oldest first, and wakes them. Returns how many. Those whose handshake is under way are marked when they open.
    pub fn drain(&self, order: &Order) -> usize {
        self.stand(order.clone());
        self.mark(order, |entry| order.filter.takes(&entry.identity.location, entry.identity.lease.endpoint()))
    }

    fn mark(&self, order: &Order, takes: impl Fn(&Entry) -> bool) -> usize {
        let mut entries = Vec::new();
        self.for_each(|entry| {
            if takes(entry) {
                entries.push(Arc::clone(entry));
            }
        });
        self.give_turns(order, entries)
    }

    /// Tells each of these tunnels when its turn is, the oldest first. Returns how many there are.
    pub(super) fn give_turns(&self, order: &Order, mut entries: Vec<Arc<Entry>>) -> usize {
        entries.sort_unstable_by_key(|entry| entry.id);
        for (index, entry) in entries.iter().enumerate() {
            self.give(entry, order.turn(index, entries.len()), order);
        }
        entries.len()
    }

    fn give(&self, entry: &Entry, turn: Instant, order: &Order) {
        entry.order(self.clock.tick(turn), order.patience(turn), order.reason);
    }

    /// A handshake that was under way when an order was given opens its tunnel a while after it.
    fn stand(&self, order: Order) {
        let now = Instant::now();
        let mut standing = self.standing.write();
        standing.retain(|known| !known.is_over(now));
        standing.push(Standing { order, given: now });
    }

    pub(super) fn now(&self) -> Tick {
        self.clock.now()
    }

    pub(super) fn instant(&self, tick: Tick) -> Instant {
        self.clock.instant(tick)
    }

    /// Enters a tunnel.
    pub(super) fn enter(&self, identity: Identity, began: Instant) -> Arc<Entry> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry::new(id, self.now(), identity));
        self.open.fetch_add(1, Ordering::AcqRel);
        self.shard(id).lock().insert(id, Arc::clone(&entry));
        // After it is to be seen by `drain`: one of the two marks it.
        let (location, endpoint) = (&entry.identity.location, entry.identity.lease.endpoint());
        let meant = |standing: &&Standing| standing.holds_for(began) && standing.order.filter.takes(location, endpoint);
        for Standing { order, .. } in self.standing.read().iter().filter(meant) {
            self.give(&entry, order.late_turn(Instant::now(), fastrand::f64()), order);
        }
        entry
    }

    /// Removes a tunnel, counts its end and writes its last line. `None` is a panic.
    pub(super) fn leave(&self, entry: &Entry, end: Option<&End>) {
        let removed = self.shard(entry.id).lock().remove(&entry.id);
        let now = self.now();
        match end {
            Some(end) => {
                entry.count_end(end, now);
                self.log(entry, end, now);
            }
            None => {
                self.panics.fetch_add(1, Ordering::Relaxed);
                entry.settle();
                entry.identity.metrics.unclean_ends.inc("panic");
            }
        }
        drop(removed);
        self.note_end(entry, end);
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.emptied.notify_waiters();
        }
    }

    fn log(&self, entry: &Entry, end: &End, now: Tick) {
        let Identity { route, label, lease, client, log, .. } = &entry.identity;
        let Some(handshake) = log else { return };
        self.access.tunnel(&access::Tunnel {
            handshake,
            client: *client,
            route,
            location: label,
            endpoint: lease.endpoint().key.address,
            age: now.since(entry.opened),
            received: entry.bytes(Side::Client),
            sent: entry.bytes(Side::Backend),
            frames_received: entry.frames(Side::Client),
            frames_sent: entry.frames(Side::Backend),
            close_code: end.closes.into_iter().flatten().flatten().next(),
            ended_by: end.by,
            reason: end.reason,
        });
    }

    fn shard(&self, id: u64) -> &Mutex<RapidHashMap<u64, Arc<Entry>>> {
        &self.shards[id as usize % SHARDS]
    }

    fn for_each(&self, mut visit: impl FnMut(&Arc<Entry>)) {
        for shard in &self.shards {
            shard.lock().values().for_each(&mut visit);
        }
    }

    /// Visits every tunnel without a lock: that is held for as long as it takes to count the references of one shard.
    pub(super) fn each(&self, mut visit: impl FnMut(Arc<Entry>)) {
        let mut entries = Vec::new();
        for shard in &self.shards {
            entries.extend(shard.lock().values().cloned());
            entries.drain(..).for_each(&mut visit);
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("open", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Registry {
    /// The endpoint of some tunnel.
    pub(super) fn endpoint_of_first(&self) -> Arc<crate::balance::Endpoint> {
        let mut endpoints = Vec::new();
        self.for_each(|entry| endpoints.push(Arc::clone(entry.identity.lease.endpoint())));
        endpoints.swap_remove(0)
    }
}
