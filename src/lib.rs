//! Carrick: a WebSocket-first ingress controller.
#![forbid(unsafe_code)]

pub mod model;
pub mod telemetry;
