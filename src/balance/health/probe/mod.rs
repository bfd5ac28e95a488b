//! Asks the endpoints of every pool that has checks, each on its own schedule.
//!
//! It never decides what follows from an answer: `PoolHealth` is told. `app` runs it on the control runtime, where an answer that is taken up
//! late delays no byte; every replica asks for itself, because what it can reach is what its clients can.

mod ask;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

pub use self::ask::Fault;
use self::ask::ask;
use super::Check;
use crate::{
    balance::{Balancer, Endpoint},
    dial::Clients,
    telemetry::Metrics,
};

/// Checks at once on this replica, however many endpoints there are: those beyond wait for their turn. With the default interval and backends
/// that answer in 10 ms that is enough for 60,000 endpoints, and the descriptors are few beside those of clients.
const AT_ONCE: usize = 64;

/// The share of an interval by which it is longer or shorter, so that endpoints that came together are not asked together for ever.
const JITTER: f64 = 0.1;

/// Asks until it is dropped.
pub async fn run(balancer: Arc<Balancer>, metrics: Arc<Metrics>) {
    let (permits, clients) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::<Clients>::default());
    let mut reconciled = balancer.reconciled();
    let mut running: HashMap<(u32, Arc<Check>), AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        reconciled.mark_unchanged();
        let wanted = balancer.checks();
        let keys: HashSet<_> = wanted.iter().map(|(endpoint, check)| (endpoint.number, Arc::clone(check))).collect();
        running.retain(|key, task| {
            let stays = keys.contains(key);
            if !stays {
                task.abort();
            }
            stays
        });
        for (endpoint, check) in wanted {
            let key = (endpoint.number, Arc::clone(&check));
            let attend = || tasks.spawn(attend(endpoint, check, Arc::clone(&permits), Arc::clone(&clients), Arc::clone(&metrics)));
            running.entry(key).or_insert_with(attend);
        }
        loop {
            tokio::select! {
                changed = reconciled.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                // Only what was aborted ends.
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

/// Asks one endpoint one thing, for ever: first at some time within an interval.
async fn attend(endpoint: Arc<Endpoint>, check: Arc<Check>, permits: Arc<Semaphore>, clients: Arc<Clients>, metrics: Arc<Metrics>) {
    let client = check.tls.as_ref().map(|tls| clients.get(tls));
    let interval = check.active.interval;
    sleep(interval.mul_f64(fastrand::f64())).await;
    loop {
        let found = {
            // It is never closed.
            let _permit = permits.acquire().await;
            ask(endpoint.key.address, client.as_deref(), &check.active).await
        };
        metrics.health_checks.inc(found.as_ref().err().map_or("well", Fault::token));
        match &found {
            Ok(()) => endpoint.checked(&check, Ok(())),
            // We could not ask: that says nothing of the endpoint.
            Err(fault) if fault.is_ours() => tracing::warn!(%fault, "health check was not made"),
            Err(fault) => {
                tracing::debug!(endpoint = %endpoint.key, %fault, "health check failed");
                endpoint.checked(&check, Err(fault));
            }
        }
        sleep(jittered(interval)).await;
    }
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0))
}
