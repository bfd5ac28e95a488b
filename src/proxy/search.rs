//! The search for an endpoint that can be connected to: one after another is picked, and those that can't are counted and passed over.
//!
//! It never knows protocols, nor how an endpoint is connected to. `forward` searches for requests and handshakes, `tcp` for layer 4.

use std::sync::Arc;

use crate::{
    balance::{Ask, Attempt, Endpoint, PickError, Symptom, Target, Tried},
    dial::{DialError, TlsFault},
    telemetry::LocationMetrics,
};

/// A search among the endpoints of one target.
pub struct Search<'a> {
    target: &'a Target,
    ask: Ask,
    /// Counts their failures.
    metrics: &'a LocationMetrics,
    tried: Tried,
    /// What the last one failed with.
    last: Last,
}

/// What the endpoint that was tried last failed with, as far as clients are told.
#[derive(Clone, Copy, Debug)]
enum Last {
    Refused,
    TimedOut,
    Tls(TlsFault),
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
    /// Every one that was not tried has as many connections as it may.
    #[error("every endpoint has as many connections as it may")]
    Full,
    /// All were tried in vain.
    #[error("no endpoint could be connected to")]
    ConnectFailed,
    /// All were tried in vain, and the last one did not answer in time.
    #[error("no endpoint could be connected to")]
    ConnectTimeout,
    /// All were tried in vain, and the last one's TLS is not what it must be.
    #[error("no endpoint could be connected to: the last one {0}")]
    Tls(TlsFault),
    /// The fault is ours: the next one would fail as well.
    #[error(transparent)]
    Exhausted(DialError),
}

impl<'a> Search<'a> {
    /// One that has tried nothing yet.
    pub fn new(target: &'a Target, ask: Ask, metrics: &'a LocationMetrics) -> Self {
        Self { target, ask, metrics, tried: Tried::default(), last: Last::Refused }
    }

    /// The next endpoint to connect to.
    pub fn pick(&self) -> Result<Attempt, Unreached> {
        self.target.attempt(&self.ask, &self.tried).map_err(|error| match error {
            PickError::NoBackends => Unreached::NoBackends,
            PickError::NoReadyEndpoint => Unreached::NoReadyEndpoint,
            PickError::Full => Unreached::Full,
            PickError::AllTried => match self.last {
                Last::Refused => Unreached::ConnectFailed,
                Last::TimedOut => Unreached::ConnectTimeout,
                Last::Tls(fault) => Unreached::Tls(fault),
            },
        })
    }

    /// An endpoint could not be connected to. It is not picked again, and its failure is counted; where the fault is ours, the search ends.
    pub fn pass_over(&mut self, mut attempt: Attempt, error: DialError) -> Result<(), Unreached> {
        let endpoint = attempt.endpoint();
        tracing::info!(pool = %endpoint.key.pool, %error, "endpoint passed over");
        if error.is_ours() {
            return Err(Unreached::Exhausted(error));
        }
        self.metrics.endpoint_failures.inc(error.token());
        self.last = match error {
            DialError::Timeout(_) => Last::TimedOut,
            DialError::Tls(_, fault, _) => Last::Tls(fault),
            _ => Last::Refused,
        };
        self.tried.add(endpoint);
        attempt.failed(Symptom::Connect, error.token());
        Ok(())
    }

    /// An endpoint was connected to and is not to be picked again; what it failed with was counted.
    pub fn leave(&mut self, endpoint: &Arc<Endpoint>) {
        self.tried.add(endpoint);
    }
}
