//! The access log: one line for each request, one at the end of each tunnel.
//!
//! It never waits for the disk or pipe that takes the lines: the data path appends to a bounded buffer, a writer task empties it, and
//! what does not fit is dropped and counted. `proxy` and `tunnel` write lines, `app` runs the [`Writer`].

use std::{
    cell::RefCell,
    fmt::{Display, Write as _},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::Notify,
};

use super::{
    log::Format,
    metrics::{Initiator, Metrics},
};
use crate::model::ObjectRef;

/// A request that was answered; all of it is escaped here, so hand in what the client sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asked.
    pub client: SocketAddr,
    /// `X-Request-Id` as sent on.
    pub request_id: &'a [u8],
    /// Method as sent by the client.
    pub method: &'a str,
    /// `http`, `https`, `ws` or `wss`.
    pub scheme: &'a str,
    /// The Host as sent by the client.
    pub host: &'a [u8],
    /// Path and query as sent by the client.
    pub target: &'a [u8],
    /// Status of the answer.
    pub status: u16,
    /// Why it was refused: the token of `X-Carrick-Reason`.
    pub refusal: Option<&'static str>,
    /// The WsRoute and the location's label.
    pub location: Option<(&'a ObjectRef, &'a str)>,
    /// Where it went.
    pub endpoint: Option<SocketAddr>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// From the head of the request to the end of the answer.
    pub took: Duration,
    /// `User-Agent`.
    pub user_agent: Option<&'a [u8]>,
    /// `Referer`.
    pub referer: Option<&'a [u8]>,
}

/// What is known of a tunnel at its handshake and should be said at its end.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    /// `X-Request-Id` as sent on.
    pub request_id: &'a [u8],
    /// `ws` or `wss`; `tcp` or `tls` at layer 4.
    pub scheme: &'a str,
    /// The Host, or the SNI name.
    pub host: &'a [u8],
    /// Path and query as sent by the client; cut where it does not fit.
    pub target: &'a [u8],
}

/// A tunnel that ended.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel<'a> {
    /// What [`AccessLog::handshake`] gave.
    pub handshake: &'a str,
    /// Who opened it.
    pub client: SocketAddr,
    /// The WsRoute.
    pub route: &'a ObjectRef,
    /// The location's label.
    pub location: &'a str,
    /// Where it went.
    pub endpoint: SocketAddr,
    /// From the 101 to the end.
    pub age: Duration,
    /// Bytes client to backend, as on the wire.
    pub received: u64,
    /// Bytes backend to client, as on the wire.
    pub sent: u64,
    /// Frames client to backend.
    pub frames_received: u64,
    /// Frames backend to client.
    pub frames_sent: u64,
    /// Code of the Close that ended it, if one did.
    pub close_code: Option<u16>,
    /// Who ended it.
    pub ended_by: Initiator,
    /// Why it ended: `close`, `idle`, `shutdown`, `reset`…
    pub reason: &'static str,
}

/// Longest text that a tunnel keeps for its last line.
pub const HANDSHAKE_MAX: usize = 256;

/// Bytes of lines that wait for the writer; at 300 bytes a line some 7,000 of them.
const BUFFER_MAX: usize = 2 << 20;

/// The writer lets lines gather this long: one wake-up for many of them.
const GATHER: Duration = Duration::from_millis(20);

/// Where lines go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    format: Format,
    metrics: Arc<Metrics>,
    lines: Mutex<Vec<u8>>,
    filled: Notify,
}

/// The other end: takes lines out and writes them.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

impl AccessLog {
    /// A log that takes no lines.
    pub fn off() -> Self {
        Self { shared: None }
    }

    /// A log in this format, and its other end. Drops are counted in `metrics.access_log_dropped`.
    pub fn new(format: Format, metrics: Arc<Metrics>) -> (Self, Writer) {
        let shared = Arc::new(Shared { format, metrics, lines: Mutex::default(), filled: Notify::new() });
        (Self { shared: Some(shared.clone()) }, Writer { shared })
    }

    /// Whether lines are written at all: what only the log needs can be left out otherwise.
    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// One line for a request.
    pub fn request(&self, request: &Request<'_>) {
        let Some(shared) = &self.shared else { return };
        shared.line("request", |line| {
            line.show("client", request.client);
            line.bytes("id", request.request_id, 64);
            line.bytes("method", request.method.as_bytes(), 32);
            line.bytes("scheme", request.scheme.as_bytes(), 8);
            line.bytes("host", request.host, 256);
            line.bytes("target", request.target, 2048);
            line.number("status", request.status);
            line.optional("refusal", request.refusal, |line, name, token| line.bytes(name, token.as_bytes(), 64));
            line.optional("route", request.location, |line, name, (route, _)| line.show(name, route));
            line.optional("location", request.location, |line, name, (_, label)| line.bytes(name, label.as_bytes(), 256));
            line.optional("endpoint", request.endpoint, Line::show);
            line.number("received", request.received);
            line.number("sent", request.sent);
            line.seconds("seconds", request.took);
            line.optional("agent", request.user_agent, |line, name, agent| line.bytes(name, agent, 256));
            line.optional("referer", request.referer, |line, name, referer| line.bytes(name, referer, 512));
        });
    }

    /// What a tunnel keeps for its last line: at most [`HANDSHAKE_MAX`] bytes. `None` where the log is off.
    pub fn handshake(&self, handshake: &Handshake<'_>) -> Option<Box<str>> {
        let shared = self.shared.as_ref()?;
        let mut text = String::with_capacity(HANDSHAKE_MAX);
        let mut line = Line { format: shared.format, text: &mut text };
        line.bytes("id", handshake.request_id, 48);
        line.bytes("scheme", handshake.scheme.as_bytes(), 8);
        line.bytes("host", handshake.host, 72);
        let left = HANDSHAKE_MAX - line.text.len() - line.overhead("target");
        line.bytes("target", handshake.target, left);
        Some(text.into())
    }

    /// One line for a tunnel that ended.
    pub fn tunnel(&self, tunnel: &Tunnel<'_>) {
        let Some(shared) = &self.shared else { return };
        shared.line("tunnel", |line| {
            line.show("client", tunnel.client);
            line.fragment(tunnel.handshake);
            line.show("route", tunnel.route);
            line.bytes("location", tunnel.location.as_bytes(), 256);
            line.show("endpoint", tunnel.endpoint);
            line.seconds("seconds", tunnel.age);
            line.number("received", tunnel.received);
            line.number("sent", tunnel.sent);
            line.number("frames_received", tunnel.frames_received);
            line.number("frames_sent", tunnel.frames_sent);
            line.optional("close_code", tunnel.close_code, Line::number);
            line.bytes("ended_by", tunnel.ended_by.label().as_bytes(), 16);
            line.bytes("reason", tunnel.reason.as_bytes(), 64);
        });
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A line in the making, and the time down to the second, which many lines share.
#[derive(Default)]
struct Scratch {
    text: String,
    second: Option<i64>,
    stamp: String,
}

impl Shared {
    fn line(&self, kind: &'static str, write: impl FnOnce(&mut Line<'_>)) {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.begin(self.format, kind);
            let mut line = Line { format: self.format, text: &mut scratch.text };
            write(&mut line);
            line.end();
            self.append(scratch.text.as_bytes());
        });
    }

    fn append(&self, line: &[u8]) {
        let mut lines = self.lines.lock();
        if lines.len() + line.len() > BUFFER_MAX {
            drop(lines);
            self.metrics.access_log_dropped.inc();
            return;
        }
        let first = lines.is_empty();
        lines.extend_from_slice(line);
        drop(lines);
        // Only the first line wakes the writer: the ones after it are gathered.
        if first {
            self.filled.notify_one();
        }
    }
}

impl Scratch {
    fn begin(&mut self, format: Format, kind: &str) {
        let now = jiff::Timestamp::now();
        if self.second != Some(now.as_second()) {
            self.second = Some(now.as_second());
            self.stamp = now.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        }
        let (stamp, millis) = (&self.stamp, now.subsec_millisecond());
        self.text.clear();
        // Writing to a String does not fail.
        let _ = match format {
            Format::Text => write!(self.text, "{stamp}.{millis:03}Z {kind}"),
            Format::Json => write!(self.text, r#"{{"time":"{stamp}.{millis:03}Z","kind":"{kind}""#),
        };
    }
}

/// Appends fields: ` name=value` in text, `,"name":value` in JSON. Whatever a value holds, the line stays one line and one object.
struct Line<'a> {
    format: Format,
    text: &'a mut String,
}

impl Line<'_> {
    fn name(&mut self, name: &str) {
        let _ = match self.format {
            Format::Text => write!(self.text, " {name}="),
            Format::Json => write!(self.text, ",\"{name}\":"),
        };
    }

    /// A number: bare in both formats.
    fn number(&mut self, name: &str, value: impl Display) {
        self.name(name);
        let _ = write!(self.text, "{value}");
    }

    fn seconds(&mut self, name: &str, took: Duration) {
        self.number(name, format_args!("{:.6}", took.as_secs_f64()));
    }

    /// A value of our own that needs no escaping: an address, an object's name.
    fn show(&mut self, name: &str, value: impl Display) {
        self.name(name);
        let _ = match self.format {
            Format::Text => write!(self.text, "{value}"),
            Format::Json => write!(self.text, "\"{value}\""),
        };
    }

    fn optional<T>(&mut self, name: &str, value: Option<T>, show: impl FnOnce(&mut Self, &str, T)) {
        if let Some(value) = value {
            show(self, name, value);
        }
    }

    /// Bytes of anybody's, in quotes: at most `max` bytes of line, cut where an escape ends.
    fn bytes(&mut self, name: &str, value: &[u8], max: usize) {
        self.name(name);
        self.text.push('"');
        let end = self.text.len() + max;
        match self.format {
            Format::Text => escape_text(self.text, value, end),
            Format::Json => escape_json(self.text, value, end),
        }
        self.text.push('"');
    }

    /// What [`Line::bytes`] adds around a value.
    fn overhead(&self, name: &str) -> usize {
        name.len() + if self.format == Format::Text { 4 } else { 6 }
    }

    /// Fields written before by another line of the same format.
    fn fragment(&mut self, fields: &str) {
        self.text.push_str(fields);
    }

    fn end(&mut self) {
        self.text.push_str(if self.format == Format::Text { "\n" } else { "}\n" });
    }
}

/// Printable ASCII as it is, every other byte as `\xHH`.
fn escape_text(out: &mut String, value: &[u8], end: usize) {
    for &byte in value {
        match byte {
            b'"' | b'\\' if out.len() + 2 <= end => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' if !matches!(byte, b'"' | b'\\') && out.len() < end => out.push(char::from(byte)),
            0..=0x1f | 0x7f.. if out.len() + 4 <= end => {
                let _ = write!(out, "\\x{byte:02x}");
            }
            _ => return,
        }
    }
}

/// RFC 8259 section 7, and nothing that moves a terminal or ends a line; what is not UTF-8 becomes U+FFFD.
fn escape_json(out: &mut String, value: &[u8], end: usize) {
    for chunk in value.utf8_chunks() {
        let broken = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        for char in chunk.valid().chars().chain(broken) {
            let plain = !char.is_control() && !matches!(char, '"' | '\\' | '\u{2028}' | '\u{2029}');
            match char {
                '"' | '\\' if out.len() + 2 <= end => {
                    out.push('\\');
                    out.push(char);
                }
                _ if plain && out.len() + char.len_utf8() <= end => out.push(char),
                _ if !plain && out.len() + 6 <= end => {
                    let _ = write!(out, "\\u{:04x}", u32::from(char));
                }
                _ => return,
            }
        }
    }
}

impl Writer {
    /// Writes lines until `stop` is done, then what is left, and returns. A sink that fails loses its lines, not the log.
    pub async fn run(self, mut sink: impl AsyncWrite + Unpin, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut batch = Vec::new();
        let mut failing = false;
        loop {
            let stopped = tokio::select! {
                () = self.shared.filled.notified() => false,
                () = &mut stop => true,
            };
            if !stopped {
                tokio::time::sleep(GATHER).await;
            }
            std::mem::swap(&mut batch, &mut *self.shared.lines.lock());
            let written = async {
                sink.write_all(&batch).await?;
                sink.flush().await
            };
            match written.await {
                Ok(()) => failing = false,
                Err(error) => {
                    let lost = memchr::memchr_iter(b'\n', &batch).count();
                    self.shared.metrics.access_log_dropped.add(lost as u64);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "the access log can't be written; lines are dropped until it can");
                    }
                }
            }
            batch.clear();
            if stopped {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;

    fn request<'a>(target: &'a [u8], agent: &'a [u8]) -> Request<'a> {
        Request {
            client: "192.0.2.1:5000".parse().unwrap(),
            request_id: b"7f",
            method: "GET",
            scheme: "http",
            host: b"shop.example.com",
            target,
            status: 200,
            refusal: None,
            location: None,
            endpoint: None,
            received: 0,
            sent: 12,
            took: Duration::from_micros(1500),
            user_agent: Some(agent),
            referer: None,
        }
    }

    fn tunnel<'a>(handshake: &'a str, route: &'a ObjectRef) -> Tunnel<'a> {
        Tunnel {
            handshake,
            client: "[2001:db8::1]:5000".parse().unwrap(),
            route,
            location: "/ws\"app",
            endpoint: "10.0.0.1:80".parse().unwrap(),
            age: Duration::from_secs(3),
            received: 10,
            sent: 20,
            frames_received: 1,
            frames_sent: 2,
            close_code: Some(1000),
            ended_by: Initiator::Client,
            reason: "close",
        }
    }

    async fn lines(format: Format, write: impl FnOnce(&AccessLog)) -> Vec<String> {
        let (log, writer) = AccessLog::new(format, Arc::default());
        write(&log);
        let mut out = Vec::new();
        writer.run(&mut out, std::future::ready(())).await;
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn nothing_a_client_sends_makes_a_second_line_or_field() {
        let attack = b"/a\"\\\n\r\x1b[2J\x00\xff\xe2\x80\xa8 status=500";
        for format in [Format::Text, Format::Json] {
            let lines = lines(format, |log| log.request(&request(attack, attack))).await;
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].chars().all(|char| !char.is_control()), "{lines:?}");
        }
        let text = lines(Format::Text, |log| log.request(&request(attack, b"x"))).await;
        assert!(text[0].contains(r#"target="/a\"\\\x0a\x0d\x1b[2J\x00\xff\xe2\x80\xa8 status=500""#), "{text:?}");
        let json = lines(Format::Json, |log| log.request(&request(attack, b"x"))).await;
        let value: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
        assert_eq!(value["target"], "/a\"\\\n\r\u{1b}[2J\0\u{fffd}\u{2028} status=500");
        assert_eq!((&value["status"], &value["seconds"]), (&200.into(), &0.0015.into()));
    }

    #[tokio::test]
    async fn a_handshake_fits_its_bound_whatever_the_client_sent_and_comes_back_at_the_end() {
        let route = ObjectRef::new("default", "chat");
        for format in [Format::Text, Format::Json] {
            for filler in [&b"a"[..], b"\"", b"\x01", "é".as_bytes(), b"\xff"] {
                let long = filler.repeat(3000);
                let lines = lines(format, |log| {
                    let handshake = Handshake { request_id: &long, scheme: "wss", host: &long, target: &long };
                    let kept = log.handshake(&handshake).unwrap();
                    assert!(kept.len() <= HANDSHAKE_MAX && kept.len() > HANDSHAKE_MAX - 8, "{}: {kept}", kept.len());
                    log.tunnel(&tunnel(&kept, &route));
                });
                let lines = lines.await;
                assert!(lines[0].contains("wss") && lines[0].contains("default/chat") && lines[0].contains("1000"), "{lines:?}");
                if format == Format::Json {
                    let value: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
                    assert_eq!((&value["location"], &value["ended_by"]), (&"/ws\"app".into(), &"client".into()));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_reader_costs_lines_and_no_memory() {
        let metrics = Arc::<Metrics>::default();
        let (log, writer) = AccessLog::new(Format::Text, metrics.clone());
        let (sink, source) = tokio::io::duplex(64);
        let total = 40_000;
        let work = async {
            for _ in 0..total {
                log.request(&request(b"/", b"agent"));
                tokio::task::yield_now().await;
            }
            assert!(log.shared.as_ref().unwrap().lines.lock().len() <= BUFFER_MAX);
            let mut read = 0;
            let mut lines = BufReader::new(source).lines();
            while read + metrics.access_log_dropped.get() < total {
                assert!(lines.next_line().await.unwrap().unwrap().ends_with("agent=\"agent\""));
                read += 1;
            }
            assert!(metrics.access_log_dropped.get() > 0);
        };
        tokio::select! {
            () = work => {}
            () = writer.run(sink, std::future::pending()) => unreachable!("nobody stops it"),
        }
    }

    #[test]
    fn a_log_that_is_off_formats_nothing() {
        let log = AccessLog::off();
        assert!(!log.is_on() && log.handshake(&Handshake { request_id: b"", scheme: "ws", host: b"", target: b"/" }).is_none());
    }
}
