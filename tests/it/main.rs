//! The whole application on free ports, with real peers; a file a subject.
#![allow(clippy::disallowed_methods, reason = "tests own their tasks")]

mod api_server;
mod backend_tls;
mod balancing;
mod chart;
mod claims;
mod client_auth;
mod cluster_drains;
mod cluster_memory;
mod cluster_status;
mod cluster_watch;
mod death;
mod docs;
mod drain;
mod drain_grants;
mod drain_pods;
mod echo;
mod files;
mod golden;
mod health;
mod http;
mod layering;
mod limits;
mod mistakes;
mod overload;
mod probes;
mod reload;
mod routing;
mod shutdown;
mod sizes;
mod smuggling;
mod support;
mod tcp;
mod tls;
mod tunnels;
mod upgrade;
