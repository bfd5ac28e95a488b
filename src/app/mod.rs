//! Wiring only: which command runs what, on which runtime, and in which order it starts and ends.
//!
//! The one module that sees all others; nothing is decided here. `main` calls [`run`], the tests start [`Server`]s.

mod addresses;
mod controlling;
mod echo;
mod keys;
mod probe;
mod server;
mod settings;
mod threads;
mod tunnels;

use std::{
    io::{self, Write as _, stdout},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

pub use addresses::Addresses;
pub use server::{Server, Source};

use crate::{
    api, check,
    cli::{
        ADMIN_BIND, Check, Cluster, Command, Controller, Demo, Explain, Flags, HTTP_PORT, ListenerFlag, OPS_BIND, Port, Publish,
        Standalone, TcpPorts,
    },
    demo, k8s,
    model::Table,
    telemetry::log::{self, LogError},
    translate::{Index, Options, Translated},
};

/// Of the controller: endpoints and load balancers take a while to forget a pod.
const SHUTDOWN_DELAY: Duration = Duration::from_secs(5);

/// Runs one command to its end.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Controller(controller) => run_controller(*controller),
        Command::Standalone(standalone) => run_standalone(*standalone),
        Command::Demo(demo) => run_demo(*demo),
        Command::Echo(echo) => echo::run(&echo),
        Command::Check(check) => run_check(&check),
        Command::Explain(explain) => run_explain(&explain),
        Command::Tunnels(tunnels) => tunnels::run(*tunnels),
        Command::Probe(probe) => probe::run(&probe),
        Command::Crd(crd) => print(&if crd.reference { api::reference_markdown() } else { api::crd_yaml() }),
    }
}

fn run_controller(mut controller: Controller) -> anyhow::Result<ExitCode> {
    let flags = &mut controller.flags;
    start_log(flags)?;
    flags.public_http_port.get_or_insert(80);
    flags.public_https_port.get_or_insert(443);
    flags.tcp_ports.get_or_insert(TcpPorts(None));
    flags.shutdown_delay.get_or_insert(api::Duration(SHUTDOWN_DELAY));
    let flags = flags.clone();
    let server = Server::start(&flags, Source::Cluster(Box::new(controller)))?;
    print(&server.addresses().to_string())?;
    serve_until_signalled(server)
}

fn run_standalone(standalone: Standalone) -> anyhow::Result<ExitCode> {
    let flags = standalone.flags.clone();
    start_log(&flags)?;
    let source = Source::Manifests { paths: standalone.manifests.paths, translation: standalone.manifests.translation };
    let server = Server::start(&flags, source)?;
    print(&server.addresses().to_string())?;
    serve_until_signalled(server)
}

/// The page and its sockets on the recipe's ports, or on free ones where those are taken.
fn run_demo(demo: Demo) -> anyhow::Result<ExitCode> {
    let mut flags = demo.flags;
    start_log(&flags)?;
    let loopback = |port| io::Result::Ok(Publish::On(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(port)?))));
    flags.http_port = Some(flags.http_port.map_or_else(|| free_port(HTTP_PORT).map(Port::Number), Ok)?);
    flags.https_port = flags.https_port.or(Some(Port::Off));
    flags.ops_bind = Some(flags.ops_bind.map_or_else(|| loopback(OPS_BIND.port()), Ok)?);
    flags.admin_bind = Some(flags.admin_bind.map_or_else(|| loopback(ADMIN_BIND.port()), Ok)?);
    let backends = Builder::new_multi_thread().worker_threads(1).thread_name("demo").enable_all().build()?;
    let servers = backends.block_on(demo::servers()).context("the demo's WebSocket servers could not be started")?;
    let tcp_port = free_port(9000)?;
    let server = Server::start(&flags, Source::Text(demo::manifests(&servers, tcp_port)))?;
    server.wait_until_serving();
    print(&demo::welcome(server.addresses().http(), tcp_port))?;
    serve_until_signalled(server)
}

fn run_check(check: &Check) -> anyhow::Result<ExitCode> {
    let report = check::run(&check.paths, &asked(&check.requests, &check.headers, &check.listeners), &settings::check_options(check))?;
    print(&report.to_string())?;
    Ok(if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn asked<'a>(requests: &'a [String], headers: &'a [String], listeners: &[ListenerFlag]) -> check::Asked<'a> {
    check::Asked { requests, headers, listeners: settings::listener_of_port(listeners) }
}

/// What `carrick check --request` says, of the objects of a cluster.
fn run_explain(explain: &Explain) -> anyhow::Result<ExitCode> {
    let options = settings::explain_options(explain);
    // Before anything is asked for: what is no request is the user's mistake.
    let asked = asked(&explain.requests, &explain.headers, &explain.listeners);
    check::explain(&Table::default(), &asked)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let translated = runtime.block_on(translate_cluster(&explain.cluster, &options))?;
    let mut text = String::new();
    for answer in check::explain(&translated.table, &asked)? {
        text.push_str(&answer);
        text.push('\n');
    }
    print(&text)
}

/// What is served of the objects that a cluster has now, looked-up ones among them.
async fn translate_cluster(cluster: &Cluster, options: &Options) -> anyhow::Result<Translated> {
    let connection = k8s::connect(&settings::access(cluster)).await?;
    let scope = settings::scope(cluster);
    let mut index = Index::default();
    for change in k8s::list(&connection, &scope).await? {
        index.apply(change);
    }
    let wanted = index.translate(options).wanted;
    for change in k8s::look_up(&connection, &scope, &wanted).await? {
        index.apply(change);
    }
    Ok(index.translate(options))
}

/// This port of loopback if nobody has it, else any free one.
fn free_port(wanted: u16) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(listener.local_addr()?.port())
}

/// Serves until SIGTERM or Ctrl-C, then drains; a second signal ends the drain.
fn serve_until_signalled(server: Server) -> anyhow::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        let again = async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        server.shut_down(again).await;
        Ok(ExitCode::SUCCESS)
    })
}

fn start_log(flags: &Flags) -> Result<(), LogError> {
    log::init(&flags.log, flags.log_format)
}

/// Standard output for programs that read it; a reader that went away is not an error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
