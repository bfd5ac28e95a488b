//! The way to the API server: a kubeconfig, or the pod's service account.
//!
//! It never knows what is asked. `app` connects once; the tasks of this module share the client.

use std::path::PathBuf;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use thiserror::Error;

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
    /// Asks it.
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
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    let config = match (&access.kubeconfig, &access.context) {
        (Some(file), _) => Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?,
        (None, Some(_)) => Config::from_kubeconfig(&options).await?,
        (None, None) => Config::infer().await?,
    };
    let namespace = config.default_namespace.clone();
    Ok(Connection { client: Client::try_from(config)?, namespace })
}
