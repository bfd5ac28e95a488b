//! What operators, probes and other replicas ask: `/livez /readyz /metrics /pods` on the ops port; `/debug/table`, `/debug/tunnels`, `/drain`
//! and `/kill` on the admin port.
//!
//! It never changes a configuration and never knows where one comes from. `app` starts both ports, on the control runtime.

mod ask;
mod observe;
mod server;
mod tunnels;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Response, StatusCode, Uri, header, uri::Authority};
use http_body_util::Full;
use tokio::runtime::Handle;

pub use self::{ask::ask_for_pods, server::serve};
use crate::{
    balance::PoolView,
    live::Live,
    model::{PoolKey, pod::PodTunnels, sight},
    telemetry::{Metrics, expose, metrics::Detail},
    tunnel::{Reason, Registry},
};

/// Pods in an answer to `/pods`: those that go away, then those with most tunnels. A longer one would not be read (`ask`).
const PODS: usize = 16_384;

/// A data side that does not take up a task in this time is not ready.
const ROUND_TRIP: Duration = Duration::from_secs(2);

/// Which port it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// For probes and Prometheus.
    Ops,
    /// For people; on loopback, so that who may forward a port to it is who may look.
    Admin,
}

/// What answers are made from. Cheap to clone.
#[derive(Clone)]
pub struct State {
    live: Arc<Live>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    data: Handle,
    detail: Detail,
}

impl State {
    /// Reads what is served and who is connected. `ready` is taken back when the shutdown begins; `data` is the runtime of the data side.
    pub fn new(live: Arc<Live>, registry: Arc<Registry>, metrics: Arc<Metrics>, ready: Arc<AtomicBool>, data: Handle) -> Self {
        Self { live, registry, metrics, ready, data, detail: Detail::default() }
    }

    /// Whether `/metrics` tells endpoints apart.
    pub fn with_detail(self, detail: Detail) -> Self {
        Self { detail, ..self }
    }

    async fn answer(&self, role: Role, method: &Method, uri: &Uri) -> Answer {
        let known = match role {
            Role::Ops => matches!(uri.path(), "/livez" | "/readyz" | "/metrics" | "/pods"),
            Role::Admin => matches!(uri.path(), "/debug/table" | "/debug/tunnels" | "/drain" | "/kill"),
        };
        if !known {
            return text(StatusCode::NOT_FOUND, role.paths());
        }
        let reason = match uri.path() {
            "/drain" => Some(Reason::Operator),
            "/kill" => Some(Reason::Killed),
            _ => None,
        };
        match (reason, method) {
            (Some(reason), &Method::POST) => return self.close_tunnels(uri.query().unwrap_or_default(), reason),
            (Some(_), _) => return not_allowed("only POST is answered here\n", "POST"),
            (None, &Method::GET | &Method::HEAD) => {}
            (None, _) => return not_allowed("only GET and HEAD are answered here\n", "GET, HEAD"),
        }
        match uri.path() {
            "/livez" => text(StatusCode::OK, "live\n"),
            "/readyz" => self.readiness().await,
            "/metrics" => self.scrape(),
            "/pods" => pods(self.registry.pods()),
            "/debug/table" => self.table(),
            _ => self.tunnels(uri.query().unwrap_or_default()),
        }
    }

    /// Ready is who serves a configuration, is not about to end, and whose data side takes up work.
    async fn readiness(&self) -> Answer {
        if !self.ready.load(Relaxed) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "not ready: shutting down\n");
        }
        if self.live.load().generation == 0 {
            return text(StatusCode::SERVICE_UNAVAILABLE, "not ready: no configuration was read yet\n");
        }
        match tokio::time::timeout(ROUND_TRIP, self.data.spawn(std::future::ready(()))).await {
            Ok(Ok(())) => text(StatusCode::OK, "ready\n"),
            Ok(Err(_)) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the data side has ended\n"),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the data side does not answer\n"),
        }
    }

    fn scrape(&self) -> Answer {
        let snapshot = Arc::clone(&self.live.load());
        let health = self.live.balancer().health();
        match expose::expose(&self.metrics, observe::observe(&snapshot, &health, &self.registry, self.detail)) {
            Ok(page) => answer(StatusCode::OK, expose::CONTENT_TYPE, page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics could not be printed: {error}\n")),
        }
    }

    fn table(&self) -> Answer {
        #[derive(serde::Serialize)]
        struct Shown<'a> {
            generation: u64,
            table: &'a crate::model::Table,
            /// By pool.
            health: BTreeMap<PoolKey, PoolView>,
        }
        let snapshot = Arc::clone(&self.live.load());
        json(&Shown { generation: snapshot.generation, table: &snapshot.table, health: self.live.balancer().health() })
    }

    fn tunnels(&self, query: &str) -> Answer {
        match query.parse::<tunnels::Query>() {
            Ok(query) => json(&self.registry.page(&query.selection, query.sort, query.after, query.limit)),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }

    fn close_tunnels(&self, query: &str, reason: Reason) -> Answer {
        let query = match query.parse::<tunnels::Query>() {
            Ok(query) => query,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        if query.is_unsaid() {
            return text(
                StatusCode::BAD_REQUEST,
                "this would be every tunnel: name some by route, location, service, endpoint, client or another filter, or say all=true\n",
            );
        }
        let closing = self.registry.close(&query.selection, query.over, reason);
        tracing::info!(tunnels = closing, reason = reason.label(), "an operator closes tunnels");
        json(&sight::Closing { closing: closing as u64 })
    }
}

impl Role {
    fn paths(self) -> &'static str {
        match self {
            Role::Ops => "there are /livez, /readyz, /metrics and /pods here\n",
            Role::Admin => "there are /debug/table, /debug/tunnels, and for POST /drain and /kill here\n",
        }
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    answer
}

fn not_allowed(body: &'static str, allow: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, body);
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

/// On one line: replicas read it, every few seconds.
fn pods(mut pods: Vec<PodTunnels>) -> Answer {
    if pods.len() > PODS {
        pods.sort_by_key(|pod| (pod.departure.is_none(), std::cmp::Reverse(pod.open)));
        pods.truncate(PODS);
    }
    match serde_json::to_vec(&pods) {
        Ok(list) => answer(StatusCode::OK, "application/json", list),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer could not be printed: {error}\n")),
    }
}

fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(page) => answer(StatusCode::OK, "application/json", page),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer could not be printed: {error}\n")),
    }
}

/// Whether a Host may ask a port that is bound to loopback: a page of the web that rebinds its name to 127.0.0.1 may not read what it shows.
fn may_ask(bound: SocketAddr, host: Option<&str>) -> bool {
    if !bound.ip().to_canonical().is_loopback() {
        return true;
    }
    let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{balance::Balancer, model::Table, telemetry::AccessLog};

    struct Port {
        address: SocketAddr,
        state: State,
    }

    impl Port {
        async fn start(role: Role) -> Self {
            let metrics = Arc::<Metrics>::default();
            let live = Live::new(Balancer::new(), metrics.clone());
            let registry = Registry::new(AccessLog::off());
            let state = State::new(live, registry, metrics, Arc::new(AtomicBool::new(true)), Handle::current());
            let address = serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), state.clone(), role).unwrap();
            Self { address, state }
        }

        async fn ask(&self, head: &str) -> (u16, String) {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head.split(' ').nth(1).unwrap().parse().unwrap(), body.into())
        }

        async fn get(&self, target: &str) -> (u16, String) {
            self.ask(&format!("GET {target} HTTP/1.1\r\nHost: localhost")).await
        }
    }

    #[tokio::test]
    async fn ready_from_the_first_configuration_to_the_shutdown() {
        let port = Port::start(Role::Ops).await;
        assert_eq!(port.get("/livez").await.0, 200);
        assert_eq!(port.get("/readyz").await, (503, "not ready: no configuration was read yet\n".into()));
        port.state.live.publish(Table::default());
        assert_eq!(port.get("/readyz").await, (200, "ready\n".into()));
        port.state.ready.store(false, Relaxed);
        assert_eq!(port.get("/readyz").await, (503, "not ready: shutting down\n".into()));
    }

    #[tokio::test]
    async fn a_data_side_that_has_ended_is_not_ready() {
        let mut port = Port::start(Role::Ops).await;
        port.state.live.publish(Table::default());
        let data = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        port.state.data = data.handle().clone();
        assert_eq!(port.state.readiness().await.status(), 200);
        data.shutdown_background();
        assert_eq!(port.state.readiness().await.status(), 503);
    }

    #[tokio::test]
    async fn each_port_answers_its_own_paths_and_only_reads() {
        let ops = Port::start(Role::Ops).await;
        let (status, page) = ops.get("/metrics").await;
        assert!(status == 200 && page.contains("carrick_generation 0\n") && page.ends_with("# EOF\n"), "{page}");
        assert_eq!(ops.get("/debug/table").await.0, 404);
        assert_eq!(ops.ask("POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0").await.0, 405);
        assert_eq!(ops.ask("HEAD /metrics HTTP/1.1\r\nHost: x").await, (200, String::new()));
        assert_eq!(ops.get("/pods").await, (200, "[]".into()));
        assert_eq!(ops.ask("HEAD /pods HTTP/1.1\r\nHost: x").await, (200, String::new()));
        let admin = Port::start(Role::Admin).await;
        let (status, table) = admin.get("/debug/table").await;
        let table: serde_json::Value = serde_json::from_str(&table).unwrap();
        assert_eq!((status, &table["generation"], table["table"]["hosts"].is_array()), (200, &0.into(), true));
        let (status, tunnels) = admin.get("/debug/tunnels?sort=bytes&limit=5").await;
        assert_eq!((status, serde_json::from_str::<serde_json::Value>(&tunnels).unwrap()["matching"].as_u64()), (200, Some(0)));
        assert_eq!(admin.get("/debug/tunnels?sort=size").await.0, 400);
        assert_eq!(admin.get("/metrics").await.0, 404);
        assert_eq!(admin.get("/pods").await.0, 404);
        let post = async |target: &str, more: &str| {
            admin.ask(&format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0{more}")).await
        };
        assert_eq!(admin.get("/drain").await.0, 405);
        assert_eq!(post("/drain", "").await.0, 400, "not everybody by mistake");
        assert_eq!(post("/kill?all=true", "").await, (200, "{\n  \"closing\": 0\n}".into()));
        assert_eq!(post("/kill?all=true", "\r\nOrigin: http://localhost").await.0, 403, "not from a page");
    }

    #[tokio::test]
    async fn a_rebound_name_can_not_read_the_loopback_port() {
        let admin = Port::start(Role::Admin).await;
        assert_eq!(admin.ask("GET /debug/table HTTP/1.1\r\nHost: evil.example").await.0, 403);
        assert_eq!(admin.ask("GET /debug/table HTTP/1.0").await.0, 403);
        for host in ["localhost:9181", "127.0.0.1:1", "[::1]:9181", "LOCALHOST"] {
            assert_eq!(admin.ask(&format!("GET /debug/table HTTP/1.1\r\nHost: {host}")).await.0, 200, "{host}");
        }
        let ops = Port::start(Role::Ops).await;
        assert_eq!(ops.ask("GET /livez HTTP/1.1\r\nHost: evil.example").await.0, 200, "probes name the pod as they like");
    }
}
