//! What a pick costs, lease and its end included, by policy and number of endpoints.

use std::{collections::BTreeMap, sync::Arc};

use carrick::{
    balance::{Balancer, Target, Tried},
    model::{
        ObjectRef, PoolKey, Table,
        route::{Backend, Policy},
        upstream::{EndpointSpec, EndpointState, PoolSpec},
    },
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// Two services, nine to one, with this many endpoints each.
fn target(policy: Policy, endpoints: u16) -> Arc<Target> {
    let pool = |service: &str| PoolKey::Service { service: ObjectRef::new("default", service), port: "80".into() };
    let endpoint = |port| EndpointSpec { address: ([10, 0, 0, 1], port).into(), state: EndpointState::Ready, pod: None };
    let spec = Arc::new(PoolSpec { endpoints: (1..=endpoints).map(endpoint).collect() });
    let table = Table { pools: BTreeMap::from([(pool("app"), spec.clone()), (pool("canary"), spec)]), ..Table::default() };
    let backends = [Backend { pool: pool("app"), weight: 9, tls: None }, Backend { pool: pool("canary"), weight: 1, tls: None }];
    Target::build(&backends, policy, &Balancer::new().reconcile(&table), None)
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for policy in [Policy::LeastConnections, Policy::RoundRobin] {
        for endpoints in [2, 10, 100] {
            let target = target(policy, endpoints);
            let held: Vec<_> = (0..endpoints).map(|_| target.pick(&Tried::default())).collect();
            group.bench_function(BenchmarkId::new(format!("{policy:?}"), endpoints), |bencher| {
                bencher.iter(|| target.pick(&Tried::default()))
            });
            drop(held);
        }
    }
    group.finish();
}

criterion_group!(benches, pick);
criterion_main!(benches);
