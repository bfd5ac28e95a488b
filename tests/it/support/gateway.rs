//! All of Carrick in this process, on free ports of loopback: fed from a folder of manifests as `carrick standalone` is, or by an
//! API server as `carrick controller` is.

use std::{future, net::SocketAddr, path::Path};

use carrick::{
    app::{Server, Source},
    cli::{Cli, Command},
};
use clap::Parser as _;
use tempfile::TempDir;

use super::{api_server::ApiServer, client, soon};

/// Free ports of loopback.
const PORTS: [&str; 12] = [
    "--bind",
    "127.0.0.1",
    "--http-port",
    "0",
    "--https-port",
    "0",
    "--ops-bind",
    "127.0.0.1:0",
    "--admin-bind",
    "127.0.0.1:0",
    "--workers",
    "2",
];

/// A running gateway. Dropping it ends it at once.
pub struct Gateway {
    server: Option<Server>,
    folder: TempDir,
    /// Plain HTTP of the default listener.
    pub http: SocketAddr,
}

impl Gateway {
    /// Serves these manifests, with the defaults of `carrick standalone`.
    pub async fn start(manifests: &str) -> Self {
        Self::with(&[], manifests).await
    }

    /// Serves these manifests with further flags.
    pub async fn with(flags: &[&str], manifests: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("site.yaml"), manifests).unwrap();
        Self::over(folder, flags).await
    }

    /// Serves what is in this folder.
    pub async fn over(folder: TempDir, flags: &[&str]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let path = folder.path().to_str().unwrap();
        let fixed = ["carrick", "standalone", "--manifests", path];
        let Command::Standalone(standalone) = Cli::parse_from(fixed.iter().chain(&PORTS).chain(flags)).command else { unreachable!() };
        let source = Source::Manifests { paths: standalone.manifests.paths, translation: standalone.manifests.translation };
        let server = Server::start(&standalone.flags, source).unwrap();
        let gateway = Self { http: server.addresses().http().unwrap(), server: Some(server), folder };
        gateway.published().await;
        gateway
    }

    /// Serves what an API server holds, with the defaults of `carrick controller`. Nothing is waited for.
    pub fn controller(api: &ApiServer, flags: &[&str]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = api.kubeconfig();
        let fixed = ["carrick", "controller", "--kubeconfig", kubeconfig.to_str().unwrap()];
        let Command::Controller(controller) = Cli::parse_from(fixed.iter().chain(&PORTS).chain(flags)).command else { unreachable!() };
        let server = Server::start(&controller.flags.clone(), Source::Cluster(controller)).unwrap();
        Self { http: server.addresses().http().unwrap(), server: Some(server), folder: TempDir::new().unwrap() }
    }

    /// Waits until something is served.
    pub async fn published(&self) {
        soon("the first publication", self.server().live().subscribe().wait_for(|generation| *generation > 0)).await.unwrap();
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// HTTPS of the default listener.
    pub fn https(&self) -> SocketAddr {
        self.server().addresses().https().unwrap()
    }

    /// Plain HTTP of a named listener.
    pub fn listener(&self, name: &str) -> SocketAddr {
        self.server().addresses().listener(name).unwrap()
    }

    /// The folder of its manifests, which is also its static root.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Which configuration is in force.
    pub fn generation(&self) -> u64 {
        self.server().live().load().generation
    }

    /// Replaces the manifests and waits until the change is in force.
    pub async fn change(&self, manifests: &str) {
        let mut generation = self.server().live().subscribe();
        generation.mark_unchanged();
        self.write("site.yaml", manifests);
        soon("the change in force", generation.changed()).await.unwrap();
    }

    /// Writes one manifest, and waits for nothing. As an editor does: whole, then renamed into place.
    pub fn write(&self, name: &str, text: &str) {
        let draft = self.folder().join(format!(".{name}.draft"));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.folder().join(name)).unwrap();
    }

    /// Where the ops port is.
    pub fn ops_port(&self) -> SocketAddr {
        self.server().addresses().ops().unwrap()
    }

    /// The answer of the ops port.
    pub async fn ops(&self, path: &str) -> String {
        client::get(self.ops_port(), "ops", path).await
    }

    /// Where the admin port is.
    pub fn admin_address(&self) -> SocketAddr {
        self.server().addresses().admin().unwrap()
    }

    /// The answer of the admin port.
    pub async fn admin(&self, path: &str) -> String {
        client::get(self.admin_address(), "localhost", path).await
    }

    /// What the admin port answers to a POST.
    pub async fn operate(&self, target: &str) -> String {
        let request = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        client::raw(self.admin_address(), request.as_bytes()).await
    }

    /// The value of one series of /metrics, spelled as there; 0 where it is absent.
    pub async fn metric(&self, series: &str) -> f64 {
        let metrics = self.ops("/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// SIGTERM, without the process: done when everything is drained.
    pub async fn shut_down(mut self) {
        let server = self.server.take().unwrap();
        soon("the end of the drain", server.shut_down(future::pending())).await;
    }
}
