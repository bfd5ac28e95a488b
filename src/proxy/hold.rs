//! Handshakes that wait while no endpoint is ready: a service that is scaled from nothing, a rollout of one replica.
//!
//! It never knows sockets: hyper watches the client's and drops whoever waits when it goes. `http` asks for the way of each handshake. Plain
//! requests do not wait: whoever loads a page or probes is better told at once.

use std::{future::Future, pin::pin, sync::Arc, task::Poll, time::Duration};

use tokio::time::timeout;

use super::{Proxy, refuse::Refusal};
use crate::{
    balance::{
        Target,
        limit::{Account, queue::Turn},
    },
    telemetry::LocationMetrics,
};

/// Where a handshake goes, and its turn where it had to wait for it.
pub struct Way<'a> {
    /// Picks its endpoint.
    pub target: Arc<Target>,
    /// Whoever waits behind it goes once this is dropped.
    pub turn: Option<Turn<'a>>,
}

/// Counts one that waits until it is dropped.
struct Counted<'a>(&'a LocationMetrics);

/// The way of a handshake, at once or after `hold` at most.
pub async fn way<'a>(
    proxy: &Proxy,
    target: &Arc<Target>,
    hold: Option<Duration>,
    account: &'a Account,
    metrics: &LocationMetrics,
) -> Result<Way<'a>, Refusal> {
    let queue = account.queue();
    let Some(hold) = hold else { return Ok(Way { target: target.clone(), turn: None }) };
    // Whoever comes while others wait waits behind them.
    if !target.may_become_ready() || (target.is_ready() && queue.is_empty()) {
        return Ok(Way { target: target.clone(), turn: None });
    }
    let waiting = queue.join(proxy.settings.max_held_handshakes).ok_or(Refusal::HoldFull)?;
    let _counted = Counted::new(metrics);
    tokio::select! {
        turn = timeout(hold, waiting.turn()) => match turn {
            Ok((target, turn)) => Ok(Way { target, turn: Some(turn) }),
            Err(_) => Err(Refusal::NoReadyEndpoint),
        },
        // Nobody is kept here: another replica may have an endpoint.
        () = proxy.shutting_down() => Err(Refusal::NoReadyEndpoint),
    }
}

/// Drives `step`, and gives the turn to the next one as soon as it has begun: who waited first also connects first, and nobody waits for
/// somebody else's backend.
pub async fn begin<T>(turn: Option<Turn<'_>>, step: impl Future<Output = T>) -> T {
    let (mut step, mut turn) = (pin!(step), turn);
    std::future::poll_fn(|cx| {
        let polled: Poll<T> = step.as_mut().poll(cx);
        turn = None;
        polled
    })
    .await
}

impl<'a> Counted<'a> {
    fn new(metrics: &'a LocationMetrics) -> Self {
        metrics.handshakes_held.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.handshakes_held.dec();
    }
}
