//! What a pick costs, lease and its end included, by policy and number of endpoints; and what affinity adds.

use std::{collections::BTreeMap, sync::Arc};

use carrick::{
    balance::{Ask, Balancer, Purpose, Target, Tried, Wish, affinity::key},
    model::{
        ObjectRef, PoolKey, Table,
        balancing::{Balancing, Policy},
        route::Backend,
        upstream::{EndpointSpec, EndpointState, PoolSpec},
    },
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::time::Instant;

/// Two services, nine to one, with this many endpoints each.
fn target(policy: Policy, endpoints: u16) -> Arc<Target> {
    let pool = |service: &str| PoolKey::Service { service: ObjectRef::new("default", service), port: "80".into() };
    let endpoint = |port| EndpointSpec::new(([10, 0, 0, 1], port).into(), EndpointState::Ready);
    let spec = Arc::new(PoolSpec { endpoints: (1..=endpoints).map(endpoint).collect() });
    let table = Table { pools: BTreeMap::from([(pool("app"), spec.clone()), (pool("canary"), spec)]), ..Table::default() };
    let backends = [Backend { pool: pool("app"), weight: 9, tls: None }, Backend { pool: pool("canary"), weight: 1, tls: None }];
    let balancing = Balancing { policy, ..Balancing::default() };
    Target::build(&backends, &balancing, &Balancer::new().reconcile(&table), None)
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    // The time is that of the request: it is known when it is picked for.
    let ask = Ask::anyone(Instant::now(), Purpose::Request);
    for policy in [Policy::LeastConnections, Policy::RoundRobin, Policy::Random] {
        for endpoints in [3, 64, 1000] {
            let target = target(policy, endpoints);
            let held: Vec<_> = (0..endpoints).map(|_| target.pick(&ask, &Tried::default())).collect();
            group.bench_function(BenchmarkId::new(format!("{policy:?}"), endpoints), |bencher| {
                bencher.iter(|| target.pick(&ask, &Tried::default()))
            });
            drop(held);
        }
    }
    for endpoints in [3, 64, 1000] {
        let target = target(Policy::LeastConnections, endpoints);
        let ask = Ask { wish: Wish::Key(key(b"alice")), ..ask };
        group.bench_function(BenchmarkId::new("Affinity", endpoints), |bencher| bencher.iter(|| target.pick(&ask, &Tried::default())));
    }
    group.finish();
}

criterion_group!(benches, pick);
criterion_main!(benches);
