//! The search for an endpoint that can be connected to: one after another is picked, and those that can't are counted and passed over.
//!
//! It never knows protocols, nor how an endpoint is connected to. `forward` searches for requests and handshakes, `tcp` for layer 4.

use crate::{
    balance::{Lease, PickError, Target, Tried},
    dial::DialError,
    telemetry::LocationMetrics,
};

/// A search among the endpoints of one target.
pub struct Search<'a> {
    target: &'a Target,
    /// Counts their failures.
    metrics: &'a LocationMetrics,
    tried: Tried,
    /// Whether the last one did not answer in time.
    timed_out: bool,
}

/// Why no endpoint was reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// There is no service, or all weights are 0.
    #[error("no backend has a weight")]
    NoBackends,
    /// No service with a weight has an endpoint that takes new connections.
    #[error("no endpoint is ready")]
    NoReadyEndpoint,
    /// All were tried in vain.
    #[error("no endpoint could be connected to")]
    ConnectFailed,
    /// All were tried in vain, and the last one did not answer in time.
    #[error("no endpoint could be connected to")]
    ConnectTimeout,
    /// The fault is ours: the next one would fail as well.
    #[error(transparent)]
    Exhausted(DialError),
}

impl<'a> Search<'a> {
    /// One that has tried nothing yet.
    pub fn new(target: &'a Target, metrics: &'a LocationMetrics) -> Self {
        Self { target, metrics, tried: Tried::default(), timed_out: false }
    }

    /// The next endpoint to connect to.
    pub fn pick(&self) -> Result<Lease, Unreached> {
        self.target.pick(&self.tried).map_err(|error| match error {
            PickError::NoBackends => Unreached::NoBackends,
            PickError::NoReadyEndpoint => Unreached::NoReadyEndpoint,
            PickError::AllTried if self.timed_out => Unreached::ConnectTimeout,
            PickError::AllTried => Unreached::ConnectFailed,
        })
    }

    /// An endpoint could not be connected to. It is not picked again, and its failure is counted; where the fault is ours, the search ends.
    pub fn pass_over(&mut self, lease: Lease, error: DialError) -> Result<(), Unreached> {
        let endpoint = lease.endpoint();
        tracing::info!(pool = %endpoint.key.pool, %error, "endpoint passed over");
        if error.is_ours() {
            return Err(Unreached::Exhausted(error));
        }
        endpoint.failed();
        self.metrics.endpoint_failures.inc(error.token());
        self.timed_out = matches!(error, DialError::Timeout(_));
        self.tried.add(endpoint);
        Ok(())
    }
}
