//! How an endpoint is picked for a request, with every default applied.
//!
//! It never knows requests or endpoints. `translate` makes it, `balance` picks by it, `proxy` reads by it what of a request decides.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use serde::Serialize;

/// How an endpoint is picked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balancing {
    /// Which endpoint of a pool is next.
    pub policy: Policy,
    /// A new endpoint gets its full share only after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
    /// So many leases at once on one endpoint, in the whole installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections_per_endpoint: Option<NonZeroU32>,
    /// What sends the same client to the same endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
}

/// Which endpoint of a pool is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Policy {
    /// The one with the fewest open leases; ties at random.
    #[default]
    LeastConnections,
    /// One after the other.
    RoundRobin,
    /// The emptier of two.
    Random,
}

/// What sends the same client to the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Affinity {
    /// A cookie of ours names the endpoint.
    Cookie(Cookie),
    /// The value of this header field decides; the name in lower case.
    Header(Arc<str>),
    /// The value of this query parameter decides.
    Query(Arc<str>),
    /// The client's address decides.
    SourceIp {
        /// How many bits of an IPv6 address count.
        ipv6_prefix: u8,
    },
}

/// The cookie that pins an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cookie {
    /// Its name.
    pub name: Arc<str>,
    /// How long the browser keeps it; `None` is until the browser ends.
    pub max_age: Option<Duration>,
    /// Its Path.
    pub path: Arc<str>,
    /// Its SameSite.
    pub same_site: SameSite,
    /// Whether it is Secure; `None` is as the request came.
    pub secure: Option<bool>,
}

/// SameSite of a cookie (RFC 6265bis 4.1.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SameSite {
    /// Only to requests from the same site.
    Strict,
    /// Also to navigations from other sites.
    Lax,
    /// To all.
    None,
}
