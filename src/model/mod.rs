//! The vocabulary between the two halves: plain data that says what is to be served, compared as whole values.
//!
//! It never knows Kubernetes, sockets or time. `translate` makes it, `router`, `balance`, `live` and `proxy` read it.

pub mod balancing;
pub mod bygone;
pub mod cert;
pub mod health;
pub mod id;
pub mod keys;
pub mod limits;
pub mod path;
pub mod pattern;
pub mod pod;
pub mod route;
pub mod sight;
pub mod table;
pub mod tcp;
pub mod tls;
pub mod upstream;

pub use cert::Cert;
pub use id::{EndpointKey, LocationKey, ObjectRef, PoolKey};
pub use table::Table;
