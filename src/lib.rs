//! Carrick: a WebSocket-first ingress controller.
#![forbid(unsafe_code)]

pub mod model;
pub mod proxy;
pub mod telemetry;
