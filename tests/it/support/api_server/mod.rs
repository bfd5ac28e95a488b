//! A Kubernetes API server in this process, on a socket of its own: enough of one for every request that Carrick makes.
//!
//! It lists by pages, watches, forgets (410), applies with field managers, refuses stale writes (409), and does wrong whatever a
//! test asks of it. It runs on a thread of its own, so that a test that blocks never stops it. Tests write as nobody's client:
//! what they do is not counted.

mod faults;
mod fields;
mod http;
mod kind;
mod select;
mod store;
mod watch;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use ::http::{HeaderMap, header};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::{Builder, Runtime},
    sync::watch::Sender,
};
use tokio_util::sync::CancellationToken;

pub use faults::{Fault, Times};
use kind::Kind;
use select::Selection;
use store::{Part, Store, Write};

/// The server. It ends with the test.
pub struct ApiServer {
    shared: Arc<Shared>,
    at: SocketAddr,
    /// Cancelled when it is stopped: connections end without a word.
    life: Mutex<CancellationToken>,
    /// Tells by its end that the port is free again.
    port: Mutex<Option<Receiver<()>>>,
    runtime: Option<Runtime>,
    folder: TempDir,
}

/// What its connections share.
struct Shared {
    store: Mutex<Store>,
    faults: Mutex<faults::Faults>,
    pulse: Sender<Pulse>,
    requests: Mutex<BTreeMap<String, usize>>,
    watching: Mutex<BTreeMap<&'static str, usize>>,
}

/// What watches wake up for.
#[derive(Clone, Debug, Default)]
struct Pulse {
    revision: u64,
    bookmarks: u64,
    frozen: bool,
}

impl ApiServer {
    /// Starts an empty one.
    pub fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("api-server").enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            faults: Mutex::default(),
            pulse: Sender::new(Pulse::default()),
            requests: Mutex::default(),
            watching: Mutex::default(),
        });
        let listener = listen("127.0.0.1:0".parse().unwrap(), &runtime);
        let at = listener.local_addr().unwrap();
        let folder = TempDir::new().unwrap();
        let server = Self { shared, at, life: Mutex::default(), port: Mutex::default(), runtime: Some(runtime), folder };
        server.write_kubeconfig("token: of-the-tests");
        server.serve(listener);
        server
    }

    /// A kubeconfig file for it, with the namespace `carrick-system`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Writes the kubeconfig anew with these credentials, such as `tokenFile: /path`.
    pub fn write_kubeconfig(&self, user: &str) {
        let at = self.at;
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: 'http://{at}'}}}}]\n\
             users: [{{name: test, user: {{{user}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test, namespace: carrick-system}}}}]\n"
        );
        std::fs::write(self.kubeconfig(), text).unwrap();
    }

    /// A folder that goes away with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Creates or replaces the objects of these manifests, as an administrator does. A status that is not given stays.
    pub fn apply(&self, manifests: &str) {
        for object in serde_saphyr::from_multiple::<Value>(manifests).unwrap() {
            let kind = Kind::of_manifest(object["kind"].as_str().unwrap());
            let text = |field: &str| object["metadata"][field].as_str();
            let namespace = if kind.namespaced { text("namespace").unwrap_or("default") } else { "" };
            let name = (namespace.to_owned(), text("name").unwrap().to_owned());
            self.shared.store.lock().write(kind, name, Part::Whole, &Write::Put, &object).unwrap();
        }
        self.shared.tell();
    }

    /// Deletes an object. The namespace of a kind of the cluster is empty.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let name = (namespace.to_owned(), name.to_owned());
        self.shared.store.lock().delete(Kind::named(plural), &name, &Value::Null).unwrap();
        self.shared.tell();
    }

    /// An object as it stands; null where there is none.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Value {
        let object = self.shared.store.lock().get(Kind::named(plural), &(namespace.to_owned(), name.to_owned()));
        object.map_or(Value::Null, |object| (*object).clone())
    }

    /// All objects of a kind.
    pub fn list(&self, plural: &str) -> Vec<Value> {
        let selection = Selection::new(Kind::named(plural).plural, "", "", "");
        self.shared.store.lock().list(&selection, None, usize::MAX).0.iter().map(|object| (**object).clone()).collect()
    }

    /// Waits until an object, or null where it is not there, is as it should be, and gives it back.
    pub async fn wait_for(&self, what: &str, plural: &str, namespace: &str, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut pulse = self.shared.pulse.subscribe();
        let wait = async {
            loop {
                let object = self.get(plural, namespace, name);
                if is(&object) {
                    return object;
                }
                pulse.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        waited.unwrap_or_else(|_| panic!("never came true: {what}, of {:#}", self.get(plural, namespace, name)))
    }

    /// How many requests there were of a verb and resource, as RBAC spells them: `patch wsroutes/status`.
    pub fn count(&self, of: &str) -> usize {
        self.shared.requests.lock().get(of).copied().unwrap_or_default()
    }

    /// Requests that wanted to change something, but for the Lease.
    pub fn writes(&self) -> usize {
        let is_write =
            |of: &str| ["create", "update", "patch", "delete"].iter().any(|verb| of.starts_with(verb)) && !of.ends_with(" leases");
        self.shared.requests.lock().iter().filter(|(of, _)| is_write(of)).map(|(_, count)| count).sum()
    }

    /// How many watches of a kind are open.
    pub fn watching(&self, plural: &str) -> usize {
        self.shared.watching.lock().get(plural).copied().unwrap_or_default()
    }

    /// Refuses connections from now on, and cuts those that are open.
    pub fn stop(&self) {
        self.life.lock().cancel();
        if let Some(port) = self.port.lock().take() {
            // Nothing is ever sent: the error is the end that is waited for.
            let _ = port.recv();
        }
    }

    /// Serves again after [`stop`](Self::stop), on the same port, with all that it had.
    pub fn resume(&self) {
        let runtime = self.runtime.as_ref().unwrap();
        *self.life.lock() = CancellationToken::new();
        self.serve(listen(self.at, runtime));
    }

    /// Takes requests and answers none, nor tells watches anything, until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.shared.pulse.send_modify(|pulse| pulse.frozen = true);
    }

    /// Goes on with all that waited.
    pub fn thaw(&self) {
        self.shared.pulse.send_modify(|pulse| pulse.frozen = false);
    }

    /// Forgets what happened so far: open watches and old pages are 410 Gone.
    pub fn expire(&self) {
        self.shared.store.lock().forget();
        self.shared.tell();
    }

    /// Sends a bookmark to every watch.
    pub fn bookmark(&self) {
        self.shared.pulse.send_modify(|pulse| pulse.bookmarks += 1);
    }

    /// Requests of this verb and resource, `*` for any, meet a fault.
    pub fn fail(&self, of: &str, fault: Fault, times: Times) {
        self.shared.faults.lock().add(of, fault, times);
    }

    /// Every answer takes so long.
    pub fn slow(&self, delay: Duration) {
        self.shared.faults.lock().delay = delay;
    }

    /// This kind is not known: its CRD is not installed.
    pub fn not_serving(&self, plural: &str) {
        self.shared.faults.lock().not_served.insert(Kind::named(plural).plural.to_owned());
    }

    /// Every request without this bearer token is 401.
    pub fn require_token(&self, token: &str) {
        self.shared.faults.lock().token = Some(token.to_owned());
    }

    /// No faults any more.
    pub fn heal(&self) {
        self.shared.faults.lock().clear();
    }

    fn serve(&self, listener: TcpListener) {
        let (shared, life) = (Arc::clone(&self.shared), self.life.lock().clone());
        let (held, port) = channel::<()>();
        *self.port.lock() = Some(port);
        self.runtime.as_ref().unwrap().spawn(async move {
            let _held = held;
            let listener = listener; // declared later, dropped first
            loop {
                let socket = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = life.cancelled() => return,
                };
                let (shared, life) = (Arc::clone(&shared), life.clone());
                tokio::spawn(async move {
                    let serving = http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service_fn(|request| http::answer(shared.clone(), request)));
                    tokio::select! { _ = serving => {}, () = life.cancelled() => {} }
                });
            }
        });
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.life.lock().cancel();
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Shared {
    fn tell(&self) {
        let revision = self.store.lock().revision;
        self.pulse.send_modify(|pulse| pulse.revision = revision);
    }

    async fn thawed(&self) {
        // It lives as long as the sender, which is ours.
        let _ = self.pulse.subscribe().wait_for(|pulse| !pulse.frozen).await;
    }

    fn count(&self, verb: &str, permission: &str) {
        *self.requests.lock().entry(format!("{verb} {permission}")).or_default() += 1;
    }

    fn is_authorised(&self, headers: &HeaderMap) -> bool {
        let Some(token) = self.faults.lock().token.clone() else { return true };
        headers.get(header::AUTHORIZATION).is_some_and(|value| value == format!("Bearer {token}").as_str())
    }
}

/// The port is taken again at once after a stop, whatever its old connections are waiting for.
fn listen(at: SocketAddr, runtime: &Runtime) -> TcpListener {
    let _inside = runtime.enter();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    socket.listen(64).unwrap()
}
