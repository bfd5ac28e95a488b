//! Backends that go bad: who finds out, how soon nobody is sent there any more, and how they come back.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst},
    },
};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{
    accept_hdr_async, client_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

use crate::support::{
    eventually,
    gateway::Gateway,
    manifest::{all, route, service},
    peers::Echo,
    soon,
};

const WELL: u8 = 0;
/// 500 to every handshake.
const REFUSES: u8 = 1;
/// 101, and gone.
const VANISHES: u8 = 2;

/// A WebSocket server whose mood a test changes. It greets whomever it lets in.
struct Moody {
    at: SocketAddr,
    mood: Arc<AtomicU8>,
    greeted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Moody {
    async fn start(mood: u8) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (mood, greeted) = (Arc::new(AtomicU8::new(mood)), Arc::<AtomicUsize>::default());
        let shared = (mood.clone(), greeted.clone());
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (mood, greeted) = shared.clone();
                tokio::spawn(async move { talk(socket, mood.load(SeqCst), &greeted).await });
            }
        });
        Self { at, mood, greeted, task }
    }

    fn set(&self, mood: u8) {
        self.mood.store(mood, SeqCst);
    }

    fn greeted(&self) -> usize {
        self.greeted.load(SeqCst)
    }
}

impl Drop for Moody {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn talk(socket: TcpStream, mood: u8, greeted: &AtomicUsize) {
    #[allow(clippy::result_large_err)] // the library's own type
    let answer = |_: &Request, response: Response| match mood {
        REFUSES => {
            let mut refusal = ErrorResponse::new(None);
            *refusal.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            Err(refusal)
        }
        _ => Ok(response),
    };
    let Ok(mut socket) = accept_hdr_async(socket, answer).await else { return };
    if mood != VANISHES && socket.send(Message::text("moody")).await.is_ok() {
        greeted.fetch_add(1, SeqCst);
        while let Some(Ok(_)) = socket.next().await {}
    }
}

fn site(endpoints: &[SocketAddr], health: &str) -> String {
    let location = format!("locations:\n- {{path: /, backends: [{{service: app, port: 80}}], healthCheck: {health}}}");
    all([service("app", endpoints), route("app", &location)])
}

/// Whether a client that comes now is let in and greeted. It leaves then.
async fn is_served(gateway: &Gateway) -> bool {
    let socket = TcpStream::connect(gateway.http).await.unwrap();
    match soon("an answer", client_async("ws://a.test/", socket)).await {
        Ok((mut socket, _)) => matches!(soon("a greeting", socket.next()).await, Some(Ok(Message::Text(_)))),
        Err(_) => false,
    }
}

async fn failures(gateway: &Gateway, clients: usize) -> usize {
    let mut failed = 0;
    for _ in 0..clients {
        failed += usize::from(!is_served(gateway).await);
    }
    failed
}

async fn ejections(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric(&format!("carrick_endpoint_ejections_total{{reason=\"{reason}\"}}")).await
}

async fn unhealthy(gateway: &Gateway, cause: &str) -> f64 {
    gateway.metric(&format!("carrick_pool_endpoints_unhealthy{{pool=\"default/app:80\",cause=\"{cause}\"}}")).await
}

#[tokio::test]
async fn a_pod_that_answers_500_to_handshakes_is_out_after_three() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let ill = Moody::start(WELL).await;
    let gateway = Gateway::start(&site(&[one.at, two.at, ill.at], "{passive: {failTimeout: 1h}}")).await;
    assert_eq!(failures(&gateway, 30).await, 0);
    assert!(ill.greeted() > 0);
    ill.set(REFUSES);
    let failed = failures(&gateway, 100).await;
    assert_eq!((failed, ejections(&gateway, "server_error").await), (3, 1.0));
    assert_eq!(failures(&gateway, 100).await, 0, "none after that");
    let table = gateway.admin("/debug/table").await;
    assert!(table.contains("\"healthy\": false") && table.contains("\"resting\": 1"), "{table}");
}

#[tokio::test]
async fn a_storm_finds_out_at_once() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let ill = Moody::start(REFUSES).await;
    let gateway = Gateway::start(&site(&[one.at, two.at, ill.at], "{passive: {failTimeout: 1h}}")).await;
    let storm = |clients: usize| {
        let gateway = &gateway;
        async move { futures_util::future::join_all((0..16).map(|_| failures(gateway, clients))).await.into_iter().sum::<usize>() }
    };
    // Those on their way when the third failed may fail as well.
    let failed = storm(20).await;
    assert!((3..3 + 16).contains(&failed), "{failed} of 320 failed");
    assert_eq!(ejections(&gateway, "server_error").await, 1.0);
    assert_eq!(storm(20).await, 0, "none after that");
}

#[tokio::test]
async fn one_that_recovers_comes_back_after_one_trial() {
    let (one, ill) = (Echo::start("one").await, Moody::start(REFUSES).await);
    let gateway = Gateway::start(&site(&[one.at, ill.at], "{passive: {maxFails: 1, failTimeout: 300ms}}")).await;
    eventually("it rests", async || {
        is_served(&gateway).await;
        ejections(&gateway, "server_error").await >= 1.0
    })
    .await;
    ill.set(WELL);
    eventually("it serves", async || {
        is_served(&gateway).await;
        ill.greeted() > 0
    })
    .await;
    eventually("nothing is held against it", async || unhealthy(&gateway, "resting").await == 0.0).await;
    assert_eq!(failures(&gateway, 20).await, 0);
}

#[tokio::test]
async fn one_that_is_gone_right_after_its_101_is_out() {
    let (one, ill) = (Echo::start("one").await, Moody::start(VANISHES).await);
    let gateway = Gateway::start(&site(&[one.at, ill.at], "{passive: {failTimeout: 1h}}")).await;
    eventually("it is out", async || {
        is_served(&gateway).await;
        ejections(&gateway, "tunnel").await == 1.0
    })
    .await;
    assert_eq!(failures(&gateway, 50).await, 0);
}

#[tokio::test]
async fn a_port_where_nobody_listens_costs_no_client_and_is_out() {
    let one = Echo::start("one").await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Gateway::start(&site(&[one.at, dead], "{passive: {failTimeout: 1h}}")).await;
    assert_eq!(failures(&gateway, 50).await, 0, "the next one is tried");
    assert_eq!(ejections(&gateway, "refused").await, 1.0);
    assert_eq!(unhealthy(&gateway, "resting").await, 1.0);
}

#[tokio::test]
async fn the_last_one_is_never_out_by_failures_and_0_is_off() {
    let ill = Moody::start(REFUSES).await;
    let gateway = Gateway::start(&site(&[ill.at], "{passive: {maxFails: 1}}")).await;
    assert_eq!(failures(&gateway, 5).await, 5);
    ill.set(WELL);
    assert_eq!(failures(&gateway, 5).await, 0, "the moment it is well it serves");
    let one = Echo::start("one").await;
    ill.set(REFUSES);
    gateway.change(&site(&[one.at, ill.at], "{passive: {maxFails: 0}}")).await;
    assert!(failures(&gateway, 40).await > 3);
    assert_eq!(ejections(&gateway, "server_error").await, 0.0);
}

#[tokio::test]
async fn handshakes_of_our_own_find_out_before_clients_do() {
    let (one, ill) = (Echo::start("one").await, Moody::start(WELL).await);
    let active = "{active: {type: WebSocket, path: /ready, interval: 1s, unhealthy: 1}}";
    let gateway = Gateway::start(&site(&[one.at, ill.at], active)).await;
    eventually("it is asked", async || gateway.metric("carrick_health_checks_total{result=\"well\"}").await >= 2.0).await;
    ill.set(REFUSES);
    eventually("it is out", async || unhealthy(&gateway, "failing").await == 1.0).await;
    assert!(gateway.metric("carrick_health_checks_total{result=\"status\"}").await >= 1.0);
    assert_eq!(ejections(&gateway, "check").await, 1.0);
    assert_eq!(failures(&gateway, 30).await, 0, "nobody else had to try");
    ill.set(WELL);
    eventually("it is back", async || unhealthy(&gateway, "failing").await == 0.0).await;
    assert_eq!(failures(&gateway, 30).await, 0);
}

#[tokio::test]
async fn when_checks_find_nobody_well_everybody_serves() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    // They answer no GET but a handshake.
    let active = "{active: {type: HTTP, path: /ready, interval: 1s, unhealthy: 1}}";
    let gateway = Gateway::start(&site(&[one.at, two.at], active)).await;
    eventually("both are out", async || unhealthy(&gateway, "failing").await == 2.0).await;
    assert_eq!(failures(&gateway, 20).await, 0);
    let table = gateway.admin("/debug/table").await;
    assert!(table.contains("\"panic\": true"), "{table}");
    // Checks end with the route that asks for them.
    gateway.change(&site(&[one.at, two.at], "{}")).await;
    eventually("nothing is held against them", async || unhealthy(&gateway, "failing").await == 0.0).await;
}
