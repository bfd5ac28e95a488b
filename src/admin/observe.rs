//! What a scrape reads from elsewhere: open tunnels, certificates, pools.
//!
//! It never counts on the data path. `/metrics` asks it.

use crate::{
    live::Snapshot,
    model::upstream::{EndpointState, PoolSpec},
    telemetry::metrics::{CertificateExpiry, Detail, Observed, PoolSize},
    tunnel::Registry,
};

/// How things stand now.
pub(super) fn observe(snapshot: &Snapshot, registry: &Registry, detail: Detail) -> Observed {
    let table = &snapshot.table;
    let certificates = table.certs.iter().map(|(secret, cert)| CertificateExpiry {
        namespace: (&*secret.namespace).into(),
        secret: (&*secret.name).into(),
        not_after: cert.not_after,
    });
    Observed {
        tunnels: registry.observe(detail),
        drains_pending: registry.pending(),
        tunnel_panics: registry.panics(),
        certificates: certificates.collect(),
        pools: table.pools.iter().map(|(pool, spec)| size(pool.to_string().into(), spec)).collect(),
    }
}

fn size(pool: Box<str>, spec: &PoolSpec) -> PoolSize {
    let count = |state| spec.endpoints.iter().filter(|endpoint| endpoint.state == state).count() as u64;
    PoolSize {
        pool,
        ready: count(EndpointState::Ready),
        draining: count(EndpointState::Draining),
        not_ready: count(EndpointState::NotReady),
    }
}
