//! What storms of handshakes do to those who are no part of them: a route over its limit, a backend that goes bad, clients that come back by TLS.
//!
//! Carrick is a process of its own with one worker (`CARRICK_BINARY` names another one); backends and clients are this one. Prints the rows of
//! docs/performance.md. `cargo bench --bench storms`

#![allow(clippy::disallowed_methods, reason = "peers are tasks that end with the bench")]

#[path = "../tests/it/support/manifest.rs"]
#[allow(dead_code, reason = "tests need more of it")]
mod manifest;
#[path = "../tests/it/support/process.rs"]
mod process;
#[path = "../tests/it/support/tls.rs"]
#[allow(dead_code, reason = "tests need more of it")]
mod tls;

use std::{
    env, fs,
    future::Future,
    io::Write as _,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use manifest::{all, route, service};
use process::{Process, measured};
use tls::{Identity, client, connect_with};

/// Bounds a step, so that what does not come ends the run.
async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), step).await.unwrap_or_else(|_| panic!("did not come: {what}"))
}

/// The nonce of RFC 6455 1.2.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// `carrick standalone` over these manifests.
struct Carrick {
    process: Process,
    http: SocketAddr,
    https: SocketAddr,
    _folder: TempDir,
}

impl Carrick {
    async fn start(manifests: &str, flags: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("site.yaml"), manifests).unwrap();
        let mut process = Process::start(
            Command::new(measured())
                .args(["standalone", "--bind", "127.0.0.1", "--http-port", "0", "--https-port", "0", "--ops-bind", "127.0.0.1:0"])
                .args(["--admin-bind", "off", "--workers", "1", "--log", "off", "--manifests"])
                .arg(folder.path())
                .args(flags),
        );
        let (http, https, ops) = (process.port("http").await, process.port("https").await, process.port("ops").await);
        let carrick = Self { process, http, https, _folder: folder };
        while exchange(&mut TcpStream::connect(ops).await.unwrap(), "GET /readyz HTTP/1.1\r\nHost: ops\r\n\r\n").await != 200 {
            tokio::task::yield_now().await;
        }
        carrick
    }

    /// Processor time of all its threads so far.
    fn processor(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let nanos = |thread: fs::DirEntry| -> u64 {
            let stat = fs::read_to_string(thread.path().join("schedstat")).unwrap();
            stat.split(' ').next().unwrap().parse().unwrap()
        };
        Duration::from_nanos(threads.map(|thread| nanos(thread.unwrap())).sum())
    }
}

/// A server that answers handshakes with 101, or with 500 while it is bad, and reads to the end of each connection.
struct Backend {
    at: SocketAddr,
    bad: Arc<AtomicBool>,
}

impl Backend {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, bad) = (listener.local_addr().unwrap(), Arc::<AtomicBool>::default());
        let mood = Arc::clone(&bad);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let bad = mood.load(Relaxed);
                tokio::spawn(answer(socket, bad));
            }
        });
        Self { at, bad }
    }
}

async fn answer(mut socket: TcpStream, bad: bool) -> Option<()> {
    let head = read_head(&mut socket).await?;
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))?;
    let answer = match bad {
        true => "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_owned(),
        false => format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        ),
    };
    socket.write_all(answer.as_bytes()).await.ok()?;
    let mut rest = [0; 256];
    while socket.read(&mut rest).await.ok()? > 0 {}
    Some(())
}

/// A header section, and what came with it.
async fn read_head(socket: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if socket.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

/// The status of an answer; 0 where there is none.
async fn exchange(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> u16 {
    let asked = socket.write_all(request.as_bytes()).await;
    let answer = if asked.is_ok() { read_head(socket).await } else { None };
    answer.and_then(|answer| answer.get(9..12)?.parse().ok()).unwrap_or(0)
}

fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// Connects, shakes hands and leaves: the status.
async fn visit(at: SocketAddr, request: &str) -> u16 {
    match TcpStream::connect(at).await {
        Ok(mut socket) => exchange(&mut socket, request).await,
        Err(_) => 0,
    }
}

/// So many visits a second, whether or not those before are done, for as long as it goes on after so many: when each came, and its status.
async fn storm(at: SocketAddr, path: &str, per_second: u32, goes_on: impl Fn(usize) -> bool) -> Vec<(Instant, u16)> {
    let request = Arc::new(handshake(path));
    let mut visits = JoinSet::new();
    let mut turns = interval(Duration::from_secs(1) / per_second);
    turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut begun, mut seen) = (0, Vec::new());
    while goes_on(begun) {
        let came = turns.tick().await;
        let request = Arc::clone(&request);
        visits.spawn(async move { (came, visit(at, &request).await) });
        begun += 1;
        while let Some(done) = visits.try_join_next() {
            seen.push(done.unwrap());
        }
    }
    while let Some(done) = visits.join_next().await {
        seen.push(done.unwrap());
    }
    seen
}

/// Runs on a thread of its own: what it measures does not wait for what this process does beside it.
fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> impl Future<Output = T> {
    let running = tokio::task::spawn_blocking(|| runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work));
    async { running.await.unwrap() }
}

/// Handshakes one after the other, 100 a second: how long each took, sorted.
async fn latencies(at: SocketAddr, path: &'static str, count: usize) -> Vec<Duration> {
    let request = handshake(path);
    let mut turns = interval(Duration::from_millis(10));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut took = Vec::with_capacity(count);
    while took.len() < count {
        turns.tick().await;
        let began = Instant::now();
        assert_eq!(visit(at, &request).await, 101);
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took
}

fn say(row: &str) {
    let _ = writeln!(std::io::stdout(), "{row}");
}

fn micros(sorted: &[Duration]) -> String {
    [50, 95, 99].map(|share| format!("{}", sorted[(sorted.len() - 1) * share / 100].as_micros())).join(" | ")
}

/// A route that lets in 200 a second gets 2,000: what another route's handshakes wait.
async fn limited_route() {
    let (busy, calm) = (Backend::start().await, Backend::start().await);
    let site = all([
        service("busy", &[busy.at]),
        service("calm", &[calm.at]),
        route(
            "app",
            "locations:\n- {path: /busy, backends: [{service: busy, port: 80}], limits: {handshakesPerSecond: 200, burst: 200}}\n\
             - {path: /calm, backends: [{service: calm, port: 80}]}",
        ),
    ]);
    let carrick = Carrick::start(&site, &[]).await;
    let at = carrick.http;
    let measured = || apart(latencies(at, "/calm", 900));
    say("| handshakes of a calm route, µs | median | 95 % | 99 % |\n|---|---|---|---|");
    for round in 1..=3 {
        let alone = measured().await;
        let over = Arc::<AtomicBool>::default();
        let is_over = Arc::clone(&over);
        let raging = apart(async move { storm(at, "/busy", 2000, |_| !is_over.load(Relaxed)).await });
        let beside = measured().await;
        over.store(true, Relaxed);
        let seen = raging.await;
        let count = |status| seen.iter().filter(|(_, seen)| *seen == status).count();
        let (let_in, refused) = (count(101), count(429));
        let failed = seen.len() - let_in - refused;
        say(&format!("| {round}: alone | {} |", micros(&alone)));
        say(&format!("| {round}: beside a storm of {let_in} let in, {refused} x 429, {failed} failed | {} |", micros(&beside)));
    }
}

/// One of four backends goes bad under 1,000 handshakes a second.
async fn bad_backend() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await, Backend::start().await];
    let locations =
        "locations:\n- {path: /, backends: [{service: app, port: 80}], healthCheck: {passive: {maxFails: 3, failTimeout: 10s}}}";
    let site = all([service("app", &backends.each_ref().map(|backend| backend.at)), route("app", locations)]);
    let carrick = Carrick::start(&site, &[]).await;
    let (at, bad) = (carrick.http, Arc::clone(&backends[1].bad));
    let (went_bad, seen) = apart(async move {
        let before = storm(at, "/", 1000, |begun| begun < 2000).await;
        assert!(before.iter().all(|(_, status)| *status == 101));
        bad.store(true, Relaxed);
        (Instant::now(), storm(at, "/", 1000, |begun| begun < 8000).await)
    })
    .await;
    let errors: Vec<_> = seen.iter().filter(|(_, status)| *status != 101).collect();
    let last = errors.iter().map(|(came, _)| came.saturating_duration_since(went_bad)).max().unwrap_or_default();
    say("\n| handshakes after a backend of four went bad, at 1,000 a second | errors | the last of them |\n|---|---|---|");
    say(&format!("| {} | {} | {} ms after |", seen.len(), errors.len(), last.as_millis()));
}

/// Clients with tickets come back to another replica than the one that gave them.
async fn returning_clients() {
    const CLIENTS: usize = 2000;
    let (backend, identity) = (Backend::start().await, Identity::new("a.test"));
    let spec = "hosts: [a.test]\ntls: {certificates: [{secretName: a}]}\nlocations:\n- {path: /, backends: [{service: app, port: 80}]}";
    let site = all([service("app", &[backend.at]), identity.secret("a"), route("app", spec)]);
    let seed = TempDir::new().unwrap();
    let seed = seed.path().join("seed");
    fs::write(&seed, STANDARD.encode([7; 32])).unwrap();
    let flags = ["--keys-file", seed.to_str().unwrap()];
    let replicas = [Carrick::start(&site, &flags).await, Carrick::start(&site, &flags).await];
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(&identity, &["http/1.1"])).collect();
    say("\n| wss handshakes | resumed | processor µs each |\n|---|---|---|");
    for (replica, what) in replicas.iter().zip(["first, at one replica", "reconnects, at the other"]) {
        let before = replica.processor();
        let mut resumed = 0;
        // So many at once as a storm leaves in flight.
        for some in clients.chunks(50) {
            let mut visits = JoinSet::new();
            some.iter().for_each(|config| _ = visits.spawn(secure_visit(replica.https, Arc::clone(config))));
            while let Some(kind) = visits.join_next().await {
                resumed += usize::from(kind.unwrap() == HandshakeKind::Resumed);
            }
        }
        let each = (replica.processor() - before) / u32::try_from(CLIENTS).unwrap();
        say(&format!("| {CLIENTS} {what} | {resumed} | {} |", each.as_micros()));
    }
}

async fn secure_visit(at: SocketAddr, config: Arc<ClientConfig>) -> HandshakeKind {
    let mut socket = connect_with(at, "a.test", config).await.unwrap();
    // Its tickets come with the answer.
    assert_eq!(exchange(&mut socket, &handshake("/")).await, 101);
    socket.get_ref().1.handshake_kind().unwrap()
}

fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // `cargo test --all-targets` starts benches, too: it asks whether they run, not how fast.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        limited_route().await;
        bad_backend().await;
        returning_clients().await;
    });
}
