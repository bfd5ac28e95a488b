//! One try of an endpoint: from the pick until it is known how it went.
//!
//! It never knows protocols. The picks hand it out; `proxy` tells it what became of the request.

use std::sync::Arc;

use super::{Proof, Symptom};
use crate::balance::endpoint::{Endpoint, Lease};

/// A lease whose endpoint has still to show that it is well. Dropped before, nothing is held against it, and a trial is the next request's.
#[derive(Debug)]
pub struct Attempt {
    lease: Lease,
    trial: Trial,
}

/// The endpoint that rested, if it is tried by this request. Dropped untold, the trial is given back.
#[derive(Debug)]
struct Trial(Option<Arc<Endpoint>>);

impl Attempt {
    /// A request as any other.
    pub(crate) fn new(lease: Lease) -> Self {
        Self { lease, trial: Trial(None) }
    }

    /// The request that an endpoint is tried by: nobody else may be trying it.
    pub(crate) fn trial(lease: Lease) -> Self {
        let trial = Trial(Some(Arc::clone(lease.endpoint())));
        Self { lease, trial }
    }

    /// The endpoint that is tried.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.lease.endpoint()
    }

    /// The endpoint failed: refused, timed out, broken handshake. Never for a fault of ours. `reason` is a metric label.
    pub fn failed(&mut self, symptom: Symptom, reason: &'static str) {
        let on_trial = self.trial.told();
        self.endpoint().failed(symptom, reason, on_trial);
    }

    /// The endpoint is well, as far as this proves it.
    pub fn succeeded(&mut self, proof: Proof) {
        let on_trial = self.trial.told();
        self.endpoint().succeeded(proof, on_trial);
    }

    /// What stays open when all is told.
    pub fn into_lease(self) -> Lease {
        self.lease
    }
}

impl Trial {
    /// Whether it was one, now that it is told how it went.
    fn told(&mut self) -> bool {
        self.0.take().is_some()
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(endpoint) = &self.0 {
            endpoint.abandoned();
        }
    }
}
