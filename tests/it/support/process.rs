//! Carrick as a process of its own, and what it says.

use std::{
    env,
    ffi::OsString,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
};

use tokio::sync::mpsc;

use super::soon;

/// The command that is measured; `CARRICK_BINARY` names another, such as an optimised one.
pub fn measured() -> OsString {
    env::var_os("CARRICK_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_carrick").into())
}

/// A running process. Dropping it ends it.
pub struct Process {
    child: Child,
    said: mpsc::UnboundedReceiver<String>,
}

impl Process {
    /// Starts one.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (send, said) = mpsc::unbounded_channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, said }
    }

    /// The next line that holds `mark`.
    pub async fn line_with(&mut self, mark: &str) -> String {
        loop {
            let line = soon(mark, self.said.recv()).await.unwrap_or_else(|| panic!("it ended before it said {mark:?}"));
            if line.contains(mark) {
                return line;
            }
        }
    }

    /// Where its next port is, of those that it says in this order: `http`, `https`, `ops`.
    pub async fn port(&mut self, of: &str) -> SocketAddr {
        let line = self.line_with(&format!("{of} on ")).await;
        line.split(' ').nth(2).unwrap().parse().unwrap()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
