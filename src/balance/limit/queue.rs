//! Those who wait at one location while no endpoint is ready: in the order in which they came, one woken at a time.
//!
//! It never knows what they are. `live` tells where the location leads to whenever that changes; `proxy` has handshakes wait. Who is dropped
//! while it waits leaves the queue.
//!
//! Only the first one looks for endpoints. When there is one it has the [`Turn`], and the next one gets it when it is dropped: there is no herd,
//! whatever their number, and nobody overtakes.

use std::{
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use tokio::sync::{MutexGuard, Notify};

use crate::balance::Target;

/// The queue of a location.
#[derive(Debug, Default)]
pub struct Queue {
    /// Given to those who wait in the order in which they asked, as tokio promises of its locks.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicU32,
    leads_to: parking_lot::Mutex<Weak<Target>>,
    changed: Notify,
}

/// A place in the queue, until it is dropped.
#[derive(Debug)]
pub struct Waiting<'q>(&'q Queue);

/// The first place: nobody else is let go while it is held.
#[derive(Debug)]
pub struct Turn<'q> {
    _turn: MutexGuard<'q, ()>,
    _place: Waiting<'q>,
}

impl Queue {
    /// From now on the location leads there.
    pub fn lead_to(&self, target: &Arc<Target>) {
        *self.leads_to.lock() = Arc::downgrade(target);
        self.changed.notify_waiters();
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.load(Relaxed) == 0
    }

    /// A place at the end of the queue; `None` where `most` wait already.
    pub fn join(&self, most: u32) -> Option<Waiting<'_>> {
        self.waiting.fetch_update(Relaxed, Relaxed, |waiting| (waiting < most).then(|| waiting + 1)).ok()?;
        Some(Waiting(self))
    }
}

impl<'q> Waiting<'q> {
    /// Done when it is the first and an endpoint is ready.
    pub async fn turn(self) -> (Arc<Target>, Turn<'q>) {
        let turn = Turn { _turn: self.0.turn.lock().await, _place: self };
        let queue = turn._place.0;
        loop {
            let mut changed = pin!(queue.changed.notified());
            // Before the look: a change after it is not missed.
            changed.as_mut().enable();
            let target = queue.leads_to.lock().upgrade();
            if let Some(target) = target.filter(|target| target.is_ready()) {
                return (target, turn);
            }
            changed.await;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
