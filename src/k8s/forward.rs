//! Our own Pods, and a way to their loopback: port-forward, with the rights of whoever asks.
//!
//! It never knows what is said there. `app` asks each of them for `carrick tunnels`.

use std::{net::SocketAddr, pin::Pin};

use http::StatusCode;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::{Api, api::ListParams};
use thiserror::Error;
use tokio::{
    io::DuplexStream,
    time::{Duration, timeout},
};

use super::Connection;

/// Once the stream has ended, what the kubelet has to say of it is here by then.
const CAUSE: Duration = Duration::from_secs(1);

/// A Pod that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Of its admin port; none where that is off.
    pub admin: Option<u16>,
}

/// A Pod that is not to be had.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// The API server shows no Pods.
    #[error("pods can not be listed: {0}")]
    List(#[source] kube::Error),
    /// `--admin-bind=off`.
    #[error("its admin port is off")]
    Off,
    /// Refused by the API server, or by the node.
    #[error("its port {port} can not be forwarded: {cause}")]
    Refused {
        /// The admin port.
        port: u16,
        /// What they say.
        #[source]
        cause: kube::Error,
    },
    /// Nobody listens in the Pod.
    #[error("its port {port} can not be connected to: {cause}")]
    Closed {
        /// The admin port.
        port: u16,
        /// What the node says.
        cause: String,
    },
}

/// The Pods that run, in this namespace or in all that may be seen. `default_port`: of an admin port that nothing is said of.
pub async fn replicas(
    connection: &Connection,
    namespace: Option<&str>,
    selector: &str,
    default_port: u16,
) -> Result<Vec<Replica>, ForwardError> {
    let params = ListParams::default().labels(selector);
    let client = || connection.client.clone();
    let listed = match namespace {
        Some(namespace) => Api::<Pod>::namespaced(client(), namespace).list(&params).await,
        None => match Api::<Pod>::all(client()).list(&params).await {
            // Who may look into one namespace alone means that.
            Err(kube::Error::Api(status)) if status.code == StatusCode::FORBIDDEN.as_u16() => {
                Api::<Pod>::namespaced(client(), &connection.namespace).list(&params).await
            }
            listed => listed,
        },
    };
    Ok(listed.map_err(ForwardError::List)?.items.iter().filter_map(|pod| replica(pod, default_port)).collect())
}

/// A way to the admin port of a Pod.
pub struct Forward {
    /// Leads there.
    pub stream: DuplexStream,
    /// Knows why it ended.
    pub failure: Failure,
}

/// Why a stream ended.
pub struct Failure {
    port: u16,
    told: Pin<Box<dyn Future<Output = Option<String>> + Send>>,
}

impl Forward {
    /// Opens it.
    pub async fn open(connection: &Connection, replica: &Replica) -> Result<Self, ForwardError> {
        let port = replica.admin.ok_or(ForwardError::Off)?;
        let pods = Api::<Pod>::namespaced(connection.client.clone(), &replica.namespace);
        let mut forward = pods.portforward(&replica.pod, &[port]).await.map_err(|cause| ForwardError::Refused { port, cause })?;
        // Of a port that was asked for there is one of each.
        let gone = || ForwardError::Closed { port, cause: "it is not forwarded".into() };
        let told = Box::pin(forward.take_error(port).ok_or_else(gone)?);
        let stream = forward.take_stream(port).ok_or_else(gone)?;
        Ok(Self { stream, failure: Failure { port, told } })
    }
}

impl Failure {
    /// What the node says, where it knows more than that the stream has ended.
    pub async fn cause(self) -> Option<ForwardError> {
        let cause = timeout(CAUSE, self.told).await.ok()??;
        Some(ForwardError::Closed { port: self.port, cause })
    }
}

fn replica(pod: &Pod, default_port: u16) -> Option<Replica> {
    let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let named = || Some((pod.metadata.namespace.clone()?, pod.metadata.name.clone()?));
    let (namespace, name) = named().filter(|_| running)?;
    let containers = pod.spec.as_ref().map(|spec| &*spec.containers).unwrap_or_default();
    let admin = match containers.iter().find_map(admin_bind) {
        Some(bind) => bind.parse().ok().map(|bind: SocketAddr| bind.port()),
        None => Some(default_port),
    };
    Some(Replica { namespace, pod: name, admin })
}

/// What a container's flags say of the admin port, else its environment.
fn admin_bind(container: &Container) -> Option<&str> {
    const FLAG: &str = "--admin-bind";
    let words = || container.command.iter().chain(&container.args).flatten().map(String::as_str);
    let joined = words().find_map(|word| word.strip_prefix(FLAG)?.strip_prefix('='));
    let apart = || words().skip_while(|word| *word != FLAG).nth(1);
    let environment = || container.env.iter().flatten().find(|variable| variable.name == "CARRICK_ADMIN_BIND")?.value.as_deref();
    joined.or_else(apart).or_else(environment)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn admin_of(container: serde_json::Value) -> Option<u16> {
        let pod = json!({
            "metadata": {"namespace": "carrick", "name": "carrick-0"},
            "spec": {"containers": [{"name": "other"}, container]},
            "status": {"phase": "Running"},
        });
        replica(&serde_json::from_value(pod).unwrap(), 9181).unwrap().admin
    }

    #[test]
    fn the_admin_port_is_where_the_pod_says() {
        assert_eq!(admin_of(json!({"name": "carrick"})), Some(9181));
        assert_eq!(admin_of(json!({"name": "carrick", "args": ["controller", "--admin-bind=127.0.0.1:7000"]})), Some(7000));
        assert_eq!(admin_of(json!({"name": "carrick", "command": ["carrick", "--admin-bind", "[::1]:7001"]})), Some(7001));
        assert_eq!(admin_of(json!({"name": "carrick", "env": [{"name": "CARRICK_ADMIN_BIND", "value": "127.0.0.1:7002"}]})), Some(7002));
        assert_eq!(admin_of(json!({"name": "carrick", "args": ["controller", "--admin-bind=off"]})), None);
    }

    #[test]
    fn a_pod_that_does_not_run_is_no_replica() {
        let pod = json!({"metadata": {"namespace": "carrick", "name": "carrick-0"}, "status": {"phase": "Pending"}});
        assert_eq!(replica(&serde_json::from_value(pod).unwrap(), 9181), None);
    }
}
