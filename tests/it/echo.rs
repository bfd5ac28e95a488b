//! `carrick echo` as a process, and `carrick probe` beside it: what they say, and how they end.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use futures_util::{SinkExt as _, StreamExt as _};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

struct Echo {
    process: Child,
    address: String,
}

impl Echo {
    fn start(flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_carrick"))
            .args(["echo", "--bind", "127.0.0.1:0", "--name", "server-1"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("server-1 listens on ").unwrap_or_else(|| panic!("{line:?}")).trim_end().to_owned();
        Self { process, address }
    }

    async fn connect(&self) -> WebSocketStream<TcpStream> {
        let (socket, answer) =
            client_async(format!("ws://{}/", self.address), TcpStream::connect(&self.address).await.unwrap()).await.unwrap();
        assert_eq!(answer.headers()["Server"], "server-1");
        socket
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

async fn echoes(socket: &mut WebSocketStream<TcpStream>, message: Message) {
    socket.send(message.clone()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), message);
}

#[tokio::test]
async fn it_echoes_bytes_as_they_are_and_ends_at_once() {
    let mut echo = Echo::start(&[]);
    let mut socket = echo.connect().await;
    echoes(&mut socket, Message::binary(vec![7u8; 70_000])).await;
    echo.signal(Signal::TERM);
    assert!(echo.process.wait().unwrap().success());
    assert!(!matches!(socket.next().await, Some(Ok(_))), "the socket goes with the process");
}

#[tokio::test]
async fn it_lingers_when_told_to() {
    let mut echo = Echo::start(&["--linger", "1h"]);
    let mut socket = echo.connect().await;
    echo.signal(Signal::TERM);
    echoes(&mut socket, Message::text("open")).await;
    echoes(&mut echo.connect().await, Message::text("new")).await;
    echo.signal(Signal::INT);
    assert!(echo.process.wait().unwrap().success());
}

fn probe(url: &str) -> (bool, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_carrick")).args(["probe", url]).output().unwrap();
    let said = if done.status.success() { done.stdout } else { done.stderr };
    (done.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn a_probe_says_what_it_was_answered_or_why_not() {
    let echo = Echo::start(&[]);
    assert_eq!(probe(&format!("http://{}/healthz", echo.address)), (true, "HTTP/1.1 200 OK\n".to_owned()));
    let (well, said) = probe("http://127.0.0.1:1/");
    assert!(!well && said.starts_with("carrick: 127.0.0.1:1 can not be connected to: "), "{said}");
    let (well, said) = probe("ws://127.0.0.1:1/");
    assert!(!well && said.contains("no URL of plain HTTP"), "{said}");
}
