//! The way to the API server: a kubeconfig, or the pod's service account.
//!
//! It never knows what is asked. `app` connects once; the tasks of this module share the client.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{task::spawn_blocking, time::Instant};
use tower::service_fn;

/// A connection that is not there after this: the network between nodes answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Credentials are read anew at most this often, however many requests fail.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// Whose credentials.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A kubeconfig file; else `KUBECONFIG`, the pod's service account, `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it; else its current one.
    pub context: Option<String>,
}

/// A cluster that can be asked.
#[derive(Clone)]
pub struct Connection {
    /// Asks it. Every failure is told at once: whoever asks decides when to ask again.
    pub client: Client,
    /// The namespace that is our own: the pod's, or that of the context.
    pub namespace: String,
}

/// No cluster can be asked.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// A file or context that is not there, or can't be read.
    #[error("the kubeconfig can not be used: {0}; name another with --kubeconfig and --context")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// Neither a kubeconfig nor a service account.
    #[error("no cluster is known here: {0}; give --kubeconfig, or run in a pod with a service account")]
    Nowhere(#[from] kube::config::InferConfigError),
    /// Certificates or credentials that can't be used.
    #[error("the cluster's credentials can not be used: {0}")]
    Credentials(#[from] kube::Error),
}

/// Prepares to ask a cluster. Nothing is sent yet: an API server that is down is no error.
pub async fn connect(access: &Access) -> Result<Connection, ConnectError> {
    let config = config(access).await?;
    let namespace = config.default_namespace.clone();
    let credentials = Arc::new(Credentials {
        access: access.clone(),
        current: Mutex::new(Current { client: Client::try_from(config)?, read: Instant::now() }),
    });
    let service = service_fn(move |request| Arc::clone(&credentials).send(request));
    Ok(Connection { client: Client::new(service, namespace.clone()), namespace })
}

async fn config(access: &Access) -> Result<Config, ConnectError> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    let mut config = match (&access.kubeconfig, &access.context) {
        (Some(file), _) => Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?,
        (None, Some(_)) => Config::from_kubeconfig(&options).await?,
        (None, None) => Config::infer().await?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Its retries would hide for a minute that the API server refuses.
    config.default_retry = false;
    Ok(config)
}

/// Credentials that are read anew when they no longer do: a token that expired, a CA that was rotated, a kubeconfig that was rewritten.
struct Credentials {
    access: Access,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    read: Instant,
}

impl Credentials {
    async fn send(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        let client = self.current.lock().client.clone();
        let answer = client.send(request).await;
        if answer.as_ref().map_or(true, |answer| answer.status() == StatusCode::UNAUTHORIZED) {
            self.renew().await;
        }
        answer
    }

    async fn renew(&self) {
        {
            let mut current = self.current.lock();
            if current.read.elapsed() < RENEW_EVERY {
                return;
            }
            current.read = Instant::now();
        }
        // What can't be read now may be half written: what there was stays.
        let Ok(config) = config(&self.access).await else { return };
        // A credential plugin is a command, which would stop this thread.
        if let Ok(Ok(client)) = spawn_blocking(move || Client::try_from(config)).await {
            self.current.lock().client = client;
        }
    }
}
