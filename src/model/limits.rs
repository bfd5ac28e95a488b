//! What a location or a layer-4 route lets in: which clients, and how much.
//!
//! Plain data, every default applied, in a canonical order. `translate` makes it, `router` and `balance` act on it.

use ipnet::IpNet;
use serde::Serialize;

use super::route::Rate;

/// Which clients are let in, by address. Sorted, without repetitions, no block of IPv4-mapped addresses: those are IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Only these, unless it is empty.
    pub allow: Vec<IpNet>,
    /// Never these, even if `allow` has them.
    pub deny: Vec<IpNet>,
}

impl Access {
    /// Whether everybody is let in.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

/// How much is let in; `None` is any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Tunnels, or connections of layer 4, at once: in the installation.
    pub connections: Option<u32>,
    /// The same of one client, at one replica.
    pub connections_per_client: Option<u32>,
    /// New ones: in the installation.
    pub arrivals: Option<Rate>,
    /// Bytes of a request's body. Nothing of it holds at layer 4.
    pub request_body: Option<u64>,
}

impl Limits {
    /// Whether there is none.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}
