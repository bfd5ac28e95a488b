//! What a decision costs with 1,000 hosts of 10 locations each, every one cold: the goal is 300 ns, and a little more where conditions are read.

use std::{hint::black_box, sync::Arc};

use carrick::{
    model::{
        LocationKey, ObjectRef, Table,
        route::{Action, HeaderEdits, Location, Match, PathPattern, UpgradeMatch, ValueMatch, ValuePattern},
        table::{Host, HostPattern},
    },
    router::{Decision, Head, Router, path::normalise},
};
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, header};

const HOSTS: usize = 1000;

fn location(host: usize, path: PathPattern, matching: Match) -> Arc<Location> {
    Arc::new(Location {
        key: LocationKey { namespace: "default".into(), identity: format!("{host} {path}").into() },
        route: ObjectRef::new("default", format!("route-{host}")),
        label: path.to_string().into(),
        path,
        matching,
        action: Action::Unavailable,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        access: Default::default(),
    })
}

/// Half of the hosts are wildcards. In order of precedence, as the translator leaves it.
fn table() -> Table {
    let prefix = |path: &str| PathPattern::Prefix(path.into());
    let any = Match::default;
    let handshakes = || Match { upgrade: UpgradeMatch::WebSocket, ..any() };
    let beta = || Match {
        cookies: vec![ValueMatch { name: "beta".into(), value: ValuePattern::Exact("1".into()) }],
        query: vec![ValueMatch { name: "v".into(), value: ValuePattern::Exact("2".into()) }],
        ..any()
    };
    let host = |n: usize| Host {
        listener: "default".into(),
        host: if n.is_multiple_of(2) {
            HostPattern::Exact(format!("shop-{n}.example.com").into())
        } else {
            HostPattern::Wildcard(format!("shop-{n}.example.com").into())
        },
        tls: None,
        locations: vec![
            location(n, PathPattern::Exact("/health".into()), any()),
            location(n, PathPattern::RegularExpression("/users/[0-9]+/avatar".into()), any()),
            location(n, prefix("/api/v1/orders/archive"), any()),
            location(n, prefix("/api/v1/orders"), beta()),
            location(n, prefix("/api/v1"), any()),
            location(n, prefix("/api"), any()),
            location(n, prefix("/chat"), handshakes()),
            location(n, prefix("/chat"), any()),
            location(n, prefix("/assets"), any()),
            location(n, prefix(""), any()),
        ],
    };
    Table { hosts: (0..HOSTS).map(host).collect(), ..Table::default() }
}

fn headers() -> HeaderMap {
    let fields = [
        (header::HOST, "shop.example.com"),
        (header::USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
        (header::ACCEPT, "*/*"),
        (header::ORIGIN, "https://shop.example.com"),
        (header::COOKIE, "session=0123456789abcdef; theme=dark; beta=0"),
    ];
    fields.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
}

fn decide(criterion: &mut Criterion) {
    let router = Router::compile(&table());
    let headers = headers();
    let mut group = criterion.benchmark_group("decide");
    for (name, host, raw, websocket) in [
        ("handshake", "shop-{}.example.com", "/chat/room/7", true),
        ("root prefix", "shop-{}.example.com", "/", false),
        ("exact", "shop-{}.example.com", "/health", false),
        ("expression", "shop-{}.example.com", "/users/42/avatar", false),
        ("cookie differs", "shop-{}.example.com", "/api/v1/orders/7", false),
        ("wildcard", "eu.west.shop-{}.example.com", "/chat", false),
        ("unknown host", "shop-{}.example.org", "/", false),
    ] {
        // Every host in turn: nobody asks a thousand times for the same one.
        let offset = usize::from(host.starts_with("eu"));
        let names: Vec<_> = (0..HOSTS / 2).map(|n| host.replace("{}", &(2 * (n * 7 % 500) + offset).to_string())).collect();
        let path = normalise(raw).unwrap();
        let mut n = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                n = (n + 1) % names.len();
                let (host, query, method) = (Some(&*names[n]), Some("v=1"), &Method::GET);
                let head = Head { listener: "default", host, path: &path, query, method, headers: &headers, websocket };
                let decision = router.decide(black_box(&head));
                assert_eq!(decision == Decision::NotFound, name == "unknown host");
                decision
            });
        });
    }
    group.finish();
}

fn normal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("normalise");
    for raw in ["/chat/room/7", "/api/v1/orders/2024/archive/000123.json", "/a/./b//%7euser/../c"] {
        group.bench_function(raw, |bencher| bencher.iter(|| normalise(black_box(raw))));
    }
    group.finish();
}

fn compile(criterion: &mut Criterion) {
    let table = table();
    let router = Router::compile(&table);
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    group.bench_function("anew", |bencher| bencher.iter(|| Router::compile(&table)));
    group.bench_function("again", |bencher| bencher.iter(|| router.recompile(&table)));
    group.finish();
}

criterion_group!(benches, decide, normal, compile);
criterion_main!(benches);
