//! What the tests stand on: the gateway (all of Carrick in this process, on free ports), peers behind it and clients in front.

pub mod api_server;
pub mod authority;
pub mod client;
pub mod gateway;
pub mod manifest;
pub mod peers;
pub mod process;
pub mod tls;

use std::{future::Future, time::Duration};

/// Waits until a condition holds. Gives up after half a minute, so that a test that would hang fails instead.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let wait = async {
        while !holds().await {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never came true: {what}"));
}

/// Bounds a step of a test: what should come at once fails the test after half a minute instead of hanging it.
pub async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), step).await.unwrap_or_else(|_| panic!("did not come: {what}"))
}
