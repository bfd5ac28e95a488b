//! Carrick: a WebSocket-first ingress controller.
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
pub mod live;
pub mod manifests;
pub mod model;
pub mod proxy;
pub mod router;
pub mod telemetry;
pub mod translate;
pub mod tunnel;
