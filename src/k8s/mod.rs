//! The cluster: what it holds comes in as Changes, what became of it goes back as statuses, Events and a Service.
//!
//! The only module with a `kube::Client`. It never knows what is served: it hands [`Change`](crate::translate::Change)s to
//! `control` and reads what came of them from one watch channel. `app` starts its tasks.

mod allowance;
mod backoff;
mod client;
mod deletion_cost;
mod drains;
pub mod election;
mod events;
mod fetch;
pub mod forward;
pub mod keys;
mod kinds;
pub mod leader;
pub mod lease;
mod list;
mod list_watch;
mod merge;
mod outage;
pub mod peers;
pub mod pods;
mod published;
mod request;
mod status;
mod tcp_service;
mod trouble;
pub mod watch;
pub mod zone;

use std::future::pending;

use tokio::time::{Instant, sleep_until};

pub use client::{Access, ConnectError, Connection, connect};
pub use list::{ListError, list, look_up};

/// Done at that time; never, where there is none.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}
