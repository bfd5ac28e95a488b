//! How a location finds out that an endpoint is ill, with every default applied.
//!
//! It never knows endpoints or time. `translate` makes it, `balance` acts on it.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use serde::Serialize;

/// How a location finds out that an endpoint is ill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// By what becomes of requests; `None` is not.
    pub passive: Option<Passive>,
    /// By asking it; `None` is not.
    pub active: Option<Arc<Active>>,
}

/// Rests an endpoint after failures of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Passive {
    /// So many failures rest it.
    pub max_fails: NonZeroU32,
    /// They count for so long, and so long it rests.
    pub fail_timeout: Duration,
}

impl Passive {
    /// The stricter of two in each respect: the fewer failures, the longer time.
    pub fn strictest(self, other: Self) -> Self {
        Self { max_fails: self.max_fails.min(other.max_fails), fail_timeout: self.fail_timeout.max(other.fail_timeout) }
    }
}

/// Asks every endpoint at intervals.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Active {
    /// What is asked.
    pub question: Question,
    /// From the end of one check to the next, give or take a tenth.
    pub interval: Duration,
    /// The whole check may take this long.
    pub timeout: Duration,
    /// So many successes in a row bring it back.
    pub healthy: NonZeroU32,
    /// So many failures in a row take it out.
    pub unhealthy: NonZeroU32,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Question {
    /// A handshake is to be answered with 101 and the right accept hash.
    WebSocket {
        /// Where it goes.
        #[serde(flatten)]
        page: Page,
        /// A Ping after it is to be answered, too.
        ping: bool,
    },
    /// A GET is to be answered with 2xx or 3xx.
    Http(Page),
    /// The connection is to open, TLS included where there is any.
    Tcp,
}

/// Where an HTTP request goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Page {
    /// Its path, in its normalised form.
    pub path: Arc<str>,
    /// Its Host; the endpoint's address where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Arc<str>>,
}
