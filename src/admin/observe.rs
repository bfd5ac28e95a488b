//! What a scrape reads from elsewhere: open tunnels, certificates, pools.
//!
//! It never counts on the data path. `/metrics` asks it.

use std::collections::BTreeMap;

use crate::{
    balance::PoolView,
    live::Snapshot,
    model::{
        ObjectRef, PoolKey,
        upstream::{EndpointState, PoolSpec},
    },
    telemetry::metrics::{CertificateExpiry, Detail, LocationLabels, Observed, PoolSize},
    tunnel::Registry,
};

/// How things stand now.
pub(super) fn observe(snapshot: &Snapshot, health: &BTreeMap<PoolKey, PoolView>, registry: &Registry, detail: Detail) -> Observed {
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
        pools: table.pools.iter().map(|(pool, spec)| size(pool.to_string().into(), spec, health.get(pool))).collect(),
        endpoint_limits: endpoint_limits(snapshot).collect(),
    }
}

/// Of locations and layer-4 routes that limit the connections to an endpoint.
fn endpoint_limits(snapshot: &Snapshot) -> impl Iterator<Item = (LocationLabels, u64)> {
    let labels = |route: &ObjectRef, location: &str| LocationLabels {
        route_namespace: (&*route.namespace).into(),
        route: (&*route.name).into(),
        location: location.into(),
    };
    let locations = snapshot.served.iter().filter_map(move |served| {
        let spec = &served.location.spec;
        Some((labels(&spec.route, &spec.label), served.target.as_ref()?.endpoint_limit()?.into()))
    });
    let tcp = snapshot
        .tcp
        .iter()
        .filter_map(move |served| Some((labels(&served.route.route, &served.route.label), served.target.endpoint_limit()?.into())));
    locations.chain(tcp)
}

fn size(pool: Box<str>, spec: &PoolSpec, health: Option<&PoolView>) -> PoolSize {
    let count = |state| spec.endpoints.iter().filter(|endpoint| endpoint.state == state).count() as u64;
    PoolSize {
        pool,
        ready: count(EndpointState::Ready),
        draining: count(EndpointState::Draining),
        not_ready: count(EndpointState::NotReady),
        resting: health.map_or(0, |view| view.resting as u64),
        failing: health.map_or(0, |view| view.failing as u64),
    }
}
