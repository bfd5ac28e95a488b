//! Carrick: a WebSocket-first ingress controller.
//!
//! ```text
//! manifests ── Change ──► control ──► translate ──► Table ──► live.publish        one thread
//!                                                                 │
//!                                                          Arc<Snapshot>          one pointer
//!                                                                 │
//! accept ──► proxy: listen ► conn ► http ► decide ► pick ► forward │ upgrade │ files │ tcp
//!                                                                 └──► tunnel      one worker per CPU
//! ```
//!
//! `docs/architecture.md` tells the whole; which module may name which is a test, `tests/it/layering.rs`.
#![forbid(unsafe_code)]

pub mod admin;
pub mod api;
pub mod app;
pub mod balance;
pub mod check;
pub mod cli;
pub mod control;
pub mod demo;
pub mod dial;
pub mod k8s;
pub mod live;
pub mod manifests;
pub mod model;
pub mod proxy;
pub mod router;
pub mod sight;
pub mod telemetry;
pub mod translate;
pub mod tunnel;
