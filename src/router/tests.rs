//! The compiled router against one that reads the rules line by line.

use std::collections::BTreeMap;

use http::HeaderValue;
use proptest::prelude::*;

use super::{explain::Verdict, *};
use crate::model::{
    ObjectRef,
    balancing::Balancing,
    route::{Action, Match, PathPattern, Proxy, UpgradeMatch, ValueMatch, ValuePattern},
    table::{HostTls, TlsVersion},
    tcp::TcpTls,
};

fn location(name: &str, path: PathPattern, matching: Match) -> Arc<route::Location> {
    Arc::new(route::Location {
        key: LocationKey { namespace: "default".into(), identity: name.into() },
        route: ObjectRef::new("default", "shop"),
        label: name.into(),
        path,
        matching,
        action: Action::Unavailable,
        request_headers: route::HeaderEdits::default(),
        response_headers: route::HeaderEdits::default(),
        access: Default::default(),
    })
}

fn prefix(path: &str) -> PathPattern {
    PathPattern::Prefix(path.into())
}

fn exact(path: &str) -> PathPattern {
    PathPattern::Exact(path.into())
}

fn host(pattern: HostPattern, locations: Vec<Arc<route::Location>>) -> Host {
    Host { listener: "default".into(), host: pattern, tls: None, locations }
}

fn named(name: &str) -> HostPattern {
    match name.strip_prefix("*.") {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None if name == "*" => HostPattern::Any,
        None => HostPattern::Exact(name.into()),
    }
}

/// The name of the location that a GET goes to.
fn get(router: &Router, host: Option<&str>, raw: &str) -> Option<String> {
    let (path, headers) = (path::normalise(raw).unwrap(), HeaderMap::new());
    let head = Head { listener: "default", host, path: &path, query: None, method: &Method::GET, headers: &headers, websocket: false };
    match router.decide(&head) {
        Decision::Location(index) => Some(router.locations()[index].spec.label.to_string()),
        Decision::NotFound => None,
    }
}

#[test]
fn prefixes_take_whole_elements_and_the_longest_wins() {
    let locations = vec![
        location("exact", exact("/ws"), Match::default()),
        location("regex", PathPattern::RegularExpression("/[0-9]+".into()), Match::default()),
        location("deep", prefix("/ws/a"), Match::default()),
        location("ws", prefix("/ws"), Match::default()),
        location("admin", prefix("/admin"), Match::default()),
        location("root", prefix(""), Match::default()),
    ];
    let router = Router::compile(&Table { hosts: vec![host(HostPattern::Any, locations)], ..Table::default() });
    for (path, expected) in [
        ("/ws", "exact"),
        ("/ws/", "ws"),
        ("/ws/a", "deep"),
        ("/ws/a/b", "deep"),
        ("/ws/ab", "ws"),
        ("/wsx", "root"),
        ("/", "root"),
        ("/42", "regex"),
        ("/42/", "root"),
        ("/admin;x", "admin"),
        ("/%61dmin", "admin"),
        ("/ws/../admin", "admin"),
        ("//admin", "admin"),
        ("/ws%2F..a", "root"),
    ] {
        assert_eq!(get(&router, None, path).as_deref(), Some(expected), "{path}");
    }
}

#[test]
fn a_host_is_selected_before_its_locations_are_tried() {
    let table = Table {
        hosts: vec![
            host(named("a.example.com"), vec![location("a", prefix("/a"), Match::default())]),
            host(named("*.example.com"), vec![location("wild", prefix(""), Match::default())]),
        ],
        ..Table::default()
    };
    let router = Router::compile(&table);
    assert_eq!(get(&router, Some("a.example.com"), "/a").as_deref(), Some("a"));
    assert_eq!(get(&router, Some("a.example.com"), "/b"), None);
    assert_eq!(get(&router, Some("b.example.com"), "/b").as_deref(), Some("wild"));
    assert_eq!(get(&router, Some("example.com"), "/a"), None);
    assert_eq!(get(&router, None, "/a"), None);
}

#[test]
fn a_listener_serves_its_own_hosts_alone() {
    let internal = Host { listener: "internal".into(), ..host(HostPattern::Any, vec![location("a", prefix(""), Match::default())]) };
    let router = Router::compile(&Table { hosts: vec![internal], ..Table::default() });
    assert_eq!(get(&router, None, "/"), None);
    assert!(router.host("internal", None).is_some() && router.host("default", None).is_none());
}

#[test]
fn a_location_of_many_hosts_is_one_and_is_taken_over_when_it_stays_the_same() {
    let shared = location("shared", prefix(""), Match::default());
    let again = Arc::new((*shared).clone());
    let mut table = Table { hosts: vec![host(named("a"), vec![shared.clone()]), host(named("b"), vec![again])], ..Table::default() };
    let router = Router::compile(&table);
    assert_eq!(router.locations().len(), 1);
    table.hosts.push(host(named("c"), vec![location("other", prefix(""), Match::default())]));
    let next = router.recompile(&table);
    assert_eq!(next.locations().len(), 2);
    assert!(Arc::ptr_eq(&router.locations()[0], &next.locations()[0]));
}

#[test]
fn locations_of_one_name_in_two_routes_stay_two() {
    let (one, two) = (location("ws", prefix("/one"), Match::default()), location("ws", prefix("/two"), Match::default()));
    let router = Router::compile(&Table { hosts: vec![host(HostPattern::Any, vec![one, two])], ..Table::default() });
    assert_eq!(router.locations().len(), 2);
}

fn cert(names: &[&str]) -> Arc<Cert> {
    let made = rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&private).unwrap();
    let key = Arc::new(CertifiedKey::new(vec![made.cert.der().clone()], key));
    Arc::new(Cert::new(key, &private, names.iter().map(|name| (*name).into()).collect(), 0))
}

#[test]
fn the_certificate_follows_the_name() {
    let secret = |name: &str| ObjectRef::new("default", name);
    let tls = |certificates: &[&str]| {
        Some(HostTls {
            certificates: certificates.iter().map(|name| secret(name)).collect(),
            redirect: true,
            min_version: TlsVersion::V1_3,
            client_auth: None,
        })
    };
    let certs: BTreeMap<_, _> = [("one", cert(&["a.test"])), ("wild", cert(&["*.test"])), ("default", cert(&["other"]))]
        .into_iter()
        .map(|(name, cert)| (secret(name), cert))
        .collect();
    let table = Table {
        hosts: vec![
            Host { tls: tls(&["missing", "one", "wild"]), ..host(named("*.test"), vec![]) },
            Host { tls: tls(&["missing"]), ..host(named("later.example"), vec![]) },
            host(named("plain.example"), vec![]),
        ],
        default_cert: Some(secret("default")),
        certs: certs.clone(),
        ..Table::default()
    };
    let router = Router::compile(&table);
    let is = |sni: Option<&str>, name: &str| Arc::ptr_eq(router.certificate("default", sni).unwrap(), &certs[&secret(name)].key);
    assert!(is(Some("a.test"), "one") && is(Some("b.test"), "wild"));
    assert!(is(Some("b.a.test"), "one"), "no name covers it: the first");
    assert!(is(Some("later.example"), "default") && is(Some("plain.example"), "default") && is(None, "default"));
    assert!(router.host_tls("default", Some("a.test")).is_some_and(|tls| tls.redirect && tls.min_version == TlsVersion::V1_3));
    assert!(router.host_tls("default", Some("later.example")).is_some_and(|tls| !tls.redirect), "no redirect before the certificate");
    assert!(router.host_tls("default", Some("plain.example")).is_none());
    assert!(Router::compile(&Table::default()).certificate("default", None).is_none());
}

fn tcp_route(name: &str, hosts: &[&str], tls: TcpTls) -> Arc<TcpRoute> {
    Arc::new(TcpRoute {
        route: ObjectRef::new("default", "db"),
        hosts: hosts.iter().map(|host| named(host)).collect(),
        tls,
        backends: Vec::new(),
        ..TcpRoute::plain(name)
    })
}

#[test]
fn layer_four_goes_by_port_and_name() {
    let terminate = TcpTls::Terminate(HostTls { certificates: vec![], redirect: false, min_version: TlsVersion::V1_2, client_auth: None });
    let table = Table {
        hosts: vec![host(named("web.test"), vec![]), host(HostPattern::Any, vec![])],
        tcp: BTreeMap::from([
            (TcpPort::Number(9000), vec![tcp_route("plain", &["*"], TcpTls::None)]),
            (
                TcpPort::Number(9001),
                vec![tcp_route("a", &["a.test", "b.test"], TcpTls::Passthrough), tcp_route("wild", &["*.test"], terminate)],
            ),
            (TcpPort::Https("default".into()), vec![tcp_route("db", &["*.test"], TcpTls::Passthrough)]),
        ]),
        ..Table::default()
    };
    let router = Router::compile(&table);
    let label = |port: &TcpPort, sni: Option<&str>| router.tcp(port, sni).map(|index| router.tcp_routes()[index].label.to_string());
    let (plain, named, https) = (TcpPort::Number(9000), TcpPort::Number(9001), TcpPort::Https("default".into()));
    assert_eq!(label(&plain, None).as_deref(), Some("plain"));
    assert_eq!(label(&named, Some("b.test")).as_deref(), Some("a"));
    assert_eq!(label(&named, Some("c.test")).as_deref(), Some("wild"));
    assert_eq!((label(&named, None), label(&named, Some("a.example"))), (None, None));
    assert_eq!(label(&https, Some("db.test")).as_deref(), Some("db"));
    assert_eq!(label(&https, Some("web.test")), None, "the host of layer 7 is more specific");
    assert_eq!(label(&https, Some("a.example")), None);
    assert_eq!(label(&TcpPort::Number(1), None), None);
    assert!(!router.tcp_needs_sni(&plain) && router.tcp_needs_sni(&named) && router.tcp_needs_sni(&https));
    let wild = router.tcp(&named, Some("c.test")).unwrap();
    assert!(router.tcp_tls(wild).is_some() && router.tcp_tls(wild - 1).is_none());
}

#[test]
fn an_explanation_says_why_not() {
    let handshakes = Match { upgrade: UpgradeMatch::WebSocket, ..Match::default() };
    let locations = vec![
        location("chat", prefix("/ws"), handshakes),
        location("page", prefix("/ws"), Match::default()),
        location("root", prefix(""), Match::default()),
        location("other", prefix("/other"), Match::default()),
    ];
    let router = Router::compile(&Table { hosts: vec![host(named("*.test"), locations)], ..Table::default() });
    let (path, headers) = (path::normalise("/ws").unwrap(), HeaderMap::new());
    let head = Head {
        listener: "default",
        host: Some("a.test"),
        path: &path,
        query: None,
        method: &Method::GET,
        headers: &headers,
        websocket: false,
    };
    let explanation = router.explain(&head);
    assert_eq!(
        explanation.to_string(),
        "host *.test\n  chat of default/shop (/ws) takes WebSocket handshakes only\n> page of default/shop (/ws) takes it\n  root of default/shop (/) would take it, after the one that does\n  other of default/shop (/other) takes other paths"
    );
    assert_eq!(router.explain(&Head { host: None, ..head }).to_string(), "no route takes this host: 404");
}

#[test]
fn subprotocols_and_upgrades_pass_as_listed() {
    let proxy = Proxy {
        backends: Vec::new(),
        balancing: Balancing::default(),
        health: Default::default(),
        rewrite: None,
        host: None,
        timeouts: route::Timeouts {
            connect: std::time::Duration::ZERO,
            handshake: std::time::Duration::ZERO,
            response: None,
            idle: None,
            hold: None,
        },
        websocket: route::WebSocket {
            subprotocols: vec!["mqtt".into()],
            origins: vec![],
            reconnect_code: 1012,
            max_age: None,
            frames: None,
        },
        upgrades: vec!["spdy/3.1".into()],
        limits: Default::default(),
        drain: route::Drain::default(),
        rebalance: None,
    };
    let mut spec = (*location("a", prefix("/a"), Match::default())).clone();
    spec.action = Action::Proxy(Box::new(proxy));
    let compiled = Location::compile(Arc::new(spec));
    assert!(compiled.passes_subprotocol("mqtt") && !compiled.passes_subprotocol("chat"));
    assert!(compiled.passes_upgrade("SPDY/3.1") && !compiled.passes_upgrade("h2c"));
    assert_eq!(compiled.rest(&path::normalise("/a;x/b;y/").unwrap()), "/b/");
    assert_eq!(compiled.rest(&path::normalise("/a").unwrap()), "");
}

/// The rules as they are written, one after the other.
fn linear(table: &Table, head: &Head<'_>) -> Option<Arc<str>> {
    let takes = |host: &&Host| *host.listener == *head.listener && super::takes(&host.host, head.host);
    let host = table.hosts.iter().filter(takes).max_by_key(|host| specificity(&host.host))?;
    let found = host.locations.iter().find(|location| {
        let path = head.path.matching();
        let path_matches = match &location.path {
            PathPattern::Exact(wanted) => **wanted == *path,
            PathPattern::Prefix(prefix) => path == &**prefix || path.starts_with(&format!("{prefix}/")),
            PathPattern::RegularExpression(regex) => regex::Regex::new(&format!("^(?:{regex})$")).unwrap().is_match(path),
        };
        let header = |wanted: &ValueMatch| match &wanted.value {
            ValuePattern::Exact(value) => head.headers.get(&*wanted.name).is_some_and(|found| found == &**value),
            ValuePattern::Regex(_) => false,
        };
        path_matches
            && (location.matching.methods.is_empty() || location.matching.methods.iter().any(|method| **method == *head.method.as_str()))
            && location.matching.headers.iter().all(header)
            && match location.matching.upgrade {
                UpgradeMatch::Either => true,
                UpgradeMatch::WebSocket => head.websocket,
                UpgradeMatch::None => !head.websocket,
            }
    });
    found.map(|location| location.label.clone())
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "ab", ""]), 0..4).prop_map(|elements| {
        let path: String = elements.iter().filter(|element| !element.is_empty()).map(|element| format!("/{element}")).collect();
        if elements.last().is_none_or(|last| last.is_empty()) { path + "/" } else { path }
    })
}

fn any_location() -> impl Strategy<Value = (PathPattern, Match)> {
    let path = prop_oneof![
        any_path().prop_map(|path| PathPattern::Exact(path.into())),
        any_path().prop_map(|path| PathPattern::Prefix(path.trim_end_matches('/').into())),
        prop::sample::select(vec!["/a.*", "/[ab]", ".*/c", "/a|/b/c"]).prop_map(|regex| PathPattern::RegularExpression(regex.into())),
    ];
    let methods = prop::sample::subsequence(vec!["GET", "POST"], 0..2);
    let header = prop::option::weighted(0.3, prop::sample::select(vec!["1", "2"]));
    let upgrade = prop::sample::select(vec![UpgradeMatch::Either, UpgradeMatch::Either, UpgradeMatch::WebSocket, UpgradeMatch::None]);
    (path, methods, header, upgrade).prop_map(|(path, methods, header, upgrade)| {
        let value = |value: &str| ValueMatch { name: "x-v".into(), value: ValuePattern::Exact(value.into()) };
        let methods = methods.into_iter().map(Into::into).collect();
        (path, Match { methods, headers: header.map(value).into_iter().collect(), upgrade, ..Match::default() })
    })
}

const HOSTS: [&str; 6] = ["*", "*.test", "*.a.test", "a.test", "b.a.test", "test"];

fn any_table() -> impl Strategy<Value = Table> {
    let locations = prop::collection::vec(any_location(), 0..8);
    let hosts = prop::sample::subsequence(HOSTS.to_vec(), 0..HOSTS.len());
    (hosts, prop::collection::vec(locations, HOSTS.len())).prop_map(|(hosts, locations)| {
        let hosts = hosts.into_iter().zip(locations).map(|(pattern, specs)| {
            let named = specs.into_iter().enumerate().map(|(n, (path, matching))| location(&format!("{pattern}#{n}"), path, matching));
            host(self::named(pattern), named.collect())
        });
        Table { hosts: hosts.collect(), ..Table::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_compiled_router_decides_as_the_rules_read(
        table in any_table(),
        requests in prop::collection::vec(
            (prop::sample::select(vec!["a.test", "b.a.test", "c.a.test", "x.y.test", "test", "other", ""]), any_path(), any::<bool>(), any::<bool>(), 0..3),
            16,
        ),
    ) {
        let router = Router::compile(&table);
        for (host, raw, post, websocket, value) in requests {
            let path = path::normalise(&raw).unwrap();
            let headers = HeaderMap::from_iter((value > 0).then(|| (http::HeaderName::from_static("x-v"), HeaderValue::from(value))));
            let head = Head {
                listener: "default",
                host: Some(host).filter(|host| !host.is_empty()),
                path: &path,
                query: None,
                method: if post { &Method::POST } else { &Method::GET },
                headers: &headers,
                websocket,
            };
            let decided = match router.decide(&head) {
                Decision::Location(index) => Some(router.locations()[index].spec.label.clone()),
                Decision::NotFound => None,
            };
            prop_assert_eq!(&decided, &linear(&table, &head));
            let explanation = router.explain(&head);
            prop_assert_eq!(decided, explanation.taken.map(|index| router.locations()[index].spec.label.clone()));
            prop_assert_eq!(explanation.taken.is_some(), explanation.candidates.iter().any(|(_, verdict)| *verdict == Verdict::Taken));
        }
    }
}
