//! `carrick probe`: one GET, again and again until it is answered well.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    runtime::Builder,
    time::{Instant, sleep, timeout},
};

use super::print;
use crate::cli::Probe;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// Of a status line: whatever speaks there, it is not read for ever.
const LONGEST_LINE: u64 = 1024;

/// Asks until the answer is good, or the time is over.
pub fn run(probe: &Probe) -> anyhow::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let until = Instant::now() + probe.within.0;
        loop {
            let late = |_| Err(anyhow!("{} did not answer in {} s", probe.url, PATIENCE.as_secs()));
            match timeout(PATIENCE, ask(&probe.url)).await.unwrap_or_else(late) {
                Ok(line) => return print(&format!("{line}\n")),
                Err(_) if Instant::now() < until => sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    })
}

/// The status line of one answer below 500.
async fn ask(url: &http::Uri) -> anyhow::Result<String> {
    let authority = url.authority().filter(|_| url.scheme_str() == Some("http"));
    let authority = authority.with_context(|| format!("{url} is no URL of plain HTTP such as http://localhost:9180/readyz"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let mut socket = TcpStream::connect((host, authority.port_u16().unwrap_or(80)))
        .await
        .with_context(|| format!("{authority} can not be connected to"))?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(socket.take(LONGEST_LINE)).read_line(&mut line).await?;
    let line = line.trim_end();
    match line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok()) {
        Some(status) if status < 500 => Ok(line.to_owned()),
        Some(_) => bail!("{url} answers {line}"),
        None => bail!("{url} does not answer as HTTP/1.1"),
    }
}
