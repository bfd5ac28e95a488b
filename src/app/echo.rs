//! `carrick echo`: one server of the demo, and how it ends.

use std::process::ExitCode;

use anyhow::Context as _;
use rustix::system::uname;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use super::print;
use crate::{cli::Echo, demo, proxy::listen};

/// Serves until SIGTERM or Ctrl-C, and for as long as it is to linger.
pub fn run(echo: &Echo) -> anyhow::Result<ExitCode> {
    let name = echo.name.clone().unwrap_or_else(|| uname().nodename().to_string_lossy().into_owned());
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anybody can see that it serves: the first process of a pod gets no signal that it does not ask for.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listener =
            listen::bind(echo.bind).with_context(|| format!("{} can not be listened on; choose another with --bind", echo.bind))?;
        print(&format!("{name} listens on {}\n", listener.local_addr()?))?;
        let ended = async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tokio::select! { () = sleep(echo.linger.0) => {}, _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        tokio::select! { () = demo::serve_alone(listener, &name, echo.chat) => {}, () = ended => {} }
        Ok(ExitCode::SUCCESS)
    })
}
