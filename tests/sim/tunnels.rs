//! Whole tunnels, relay and registry included, over in-memory streams under paused time: two peers that speak, answer, stall, vanish or hang,
//! and a proxy that asks, limits, drains and shuts down at any moment.
//!
//! What a side received must be what the other sent, then at most one Close of ours, between two frames, with a code of the table.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use carrick::{
    balance::{Lease, Slot},
    model::{
        EndpointKey, LocationKey, ObjectRef, PoolKey,
        route::{Frames, MessageLimits, Ping, PingTo, Rate},
    },
    telemetry::{AccessLog, LocationMetrics},
    tunnel::{Filter, Identity, Kind, Opening, Order, Reason, Registry, Socket, open},
};
use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split},
    time::{Instant, sleep_until, timeout},
};

use super::for_seeds;

const SECOND: Duration = Duration::from_secs(1);
const RECONNECT: u16 = 1012;
/// What a client says that closes of its own accord.
const OWN: u16 = 4000;
const LARGEST: usize = 500;
/// By now everybody was told to go.
const LAST_ORDER: u64 = 100;
/// The spread of the last order, 10 minutes for last bytes, and five waits of 5 s.
const LONGEST: Duration = Duration::from_secs(LAST_ORDER + 10 + 600 + 30);

/// What a peer does when all is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// It stops sending, and reads.
    Fin,
    /// It is gone.
    Vanish,
    /// Nothing, until it is told to go.
    Stay,
}

/// One end of a tunnel.
#[derive(Debug)]
struct Peer {
    masked: bool,
    /// Frames that it means to say.
    script: VecDeque<Vec<u8>>,
    /// The Close that it says after them.
    close: Option<u16>,
    /// It ends within its last frame.
    cut: bool,
    last: Last,
    /// It answers a Close with a Close, a Ping of ours with a Pong, and a FIN with a FIN.
    answers: bool,
    reads: bool,
    /// Between two writes, at most.
    pause: Duration,
    /// What it said, frame by frame, and whether that was an answer to a Ping of ours.
    said: Vec<(Vec<u8>, bool)>,
    out: VecDeque<u8>,
    received: Vec<u8>,
    looked_at: usize,
    pongs: VecDeque<Vec<u8>>,
    heard_close: bool,
    has_closed: bool,
    has_ended: bool,
}

/// A frame of a stream: its first byte, its payload as it was meant, its length on the wire.
struct Parsed {
    first: u8,
    masked: bool,
    payload: Vec<u8>,
    length: usize,
}

fn parse(bytes: &[u8]) -> Option<Parsed> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (length, header) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), 4),
        127 => panic!("nobody says that much"),
        short => (usize::from(short), 2),
    };
    let masked = second & 0x80 != 0;
    let body = if masked { header + 4 } else { header };
    let payload = bytes.get(body..body + length)?;
    let key = if masked { bytes[header..body].to_vec() } else { vec![0; 4] };
    let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    Some(Parsed { first, masked, payload, length: body + length })
}

fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(mask | short as u8),
        long => bytes.extend([&[mask | 126][..], &(long as u16).to_be_bytes()].concat()),
    }
    let key = if masked { [7, 77, 177, 27] } else { [0; 4] };
    if masked {
        bytes.extend(key);
    }
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

impl Peer {
    fn random(rng: &mut Rng, masked: bool) -> Self {
        let mut peer = Self::decent(rng, masked);
        peer.close = (rng.u8(..4) == 0).then_some(OWN);
        peer.cut = rng.u8(..6) == 0;
        peer.last = [Last::Fin, Last::Vanish, Last::Stay][rng.usize(..3)];
        peer.answers = rng.u8(..4) > 0;
        peer.reads = rng.u8(..6) > 0;
        peer.pause = SECOND * [0, 1, 8][rng.usize(..3)];
        peer
    }

    /// One that reads, answers, and stays until it is told to go, or says Close by itself.
    fn decent(rng: &mut Rng, masked: bool) -> Self {
        let mut script = VecDeque::new();
        let mut within = false;
        for _ in 0..rng.usize(..8) {
            let payload = vec![rng.u8(..); if rng.u8(..5) == 0 { rng.usize(126..LARGEST) } else { rng.usize(..60) }];
            // Pings of ours have 8 bytes.
            let control = vec![1; [0, 5, 125][rng.usize(..3)]];
            script.push_back(match rng.u8(..6) {
                0 => frame(0x89, &control, masked),
                1 => frame(0x8a, &control, masked),
                _ => {
                    let last = rng.u8(..3) > 0;
                    let first = if last { 0x80 } else { 0 } | if within { 0 } else { 1 };
                    within = !last;
                    frame(first, &payload, masked)
                }
            });
        }
        Self {
            masked,
            script,
            close: (rng.u8(..4) == 0).then_some(OWN),
            cut: false,
            last: Last::Stay,
            answers: true,
            reads: true,
            pause: Duration::from_millis(20),
            said: Vec::new(),
            out: VecDeque::new(),
            received: Vec::new(),
            looked_at: 0,
            pongs: VecDeque::new(),
            heard_close: false,
            has_closed: false,
            has_ended: false,
        }
    }

    /// Looks at the frames that came since it last did.
    fn look(&mut self) {
        while let Some(Parsed { first, payload, length, .. }) = parse(&self.received[self.looked_at..]) {
            self.looked_at += length;
            match first {
                0x88 => self.heard_close = true,
                0x89 if payload.len() == 8 && self.answers => self.pongs.push_back(payload),
                _ => {}
            }
        }
    }

    fn say(&mut self, frame: Vec<u8>, is_pong: bool) {
        self.out.extend(&frame);
        self.said.push((frame, is_pong));
    }

    /// The next thing to be said, if there is any.
    fn compose(&mut self) {
        if self.has_closed || self.has_ended {
        } else if let Some(token) = self.pongs.pop_front() {
            self.say(frame(0x8a, &token, self.masked), true);
        } else if self.heard_close && self.answers {
            self.has_closed = true;
            self.say(frame(0x88, &1000_u16.to_be_bytes(), self.masked), false);
        } else if let Some(next) = self.script.pop_front() {
            let cut = self.cut && self.script.is_empty() && next.len() > 1;
            self.say(next, false);
            if cut {
                self.out.truncate(self.out.len() / 2);
                self.script.clear();
                self.has_closed = true;
            }
        } else if let Some(code) = self.close.take() {
            self.has_closed = true;
            self.say(frame(0x88, &code.to_be_bytes(), self.masked), false);
        }
    }

    /// Its life, until it is gone or the tunnel is.
    async fn live(mut self, stream: DuplexStream, registry: Arc<Registry>, mut rng: Rng) -> Self {
        let (mut reader, mut writer) = split(stream);
        let (mut buffer, mut next_write) = ([0; 512], Instant::now());
        let (mut at_end, mut deaf) = (false, false);
        loop {
            if self.out.is_empty() {
                self.compose();
            }
            if self.out.is_empty() && !self.has_ended {
                match self.last {
                    Last::Vanish => return self,
                    Last::Fin => {
                        self.has_ended = true;
                        _ = writer.shutdown().await;
                    }
                    Last::Stay => {}
                }
            }
            if at_end && (self.answers || self.has_ended || registry.is_empty()) {
                return self;
            }
            let writes = !self.out.is_empty() && !deaf;
            let chunk: Vec<u8> = self.out.iter().copied().take(rng.usize(1..200)).collect();
            let waits = next_write > Instant::now();
            tokio::select! {
                biased;
                read = reader.read(&mut buffer), if self.reads && !at_end => match read {
                    Ok(bytes @ 1..) => {
                        self.received.extend(&buffer[..bytes]);
                        self.look();
                    }
                    _ => at_end = true,
                },
                () = sleep_until(next_write), if writes && waits => {}
                written = writer.write(&chunk), if writes && !waits => match written {
                    Ok(bytes) => {
                        self.out.drain(..bytes);
                        next_write = Instant::now() + self.pause.mul_f64(rng.f64());
                    }
                    Err(_) => deaf = true,
                },
                () = registry.emptied() => {
                    _ = reader.read_to_end(&mut self.received).await;
                    return self;
                }
            }
        }
    }

    /// What it said that is to reach the other side: no answers to Pings of ours, nothing after its Close.
    fn meant(&self) -> Vec<&[u8]> {
        let frames = self.said.iter().filter(|(_, is_pong)| !is_pong).map(|(frame, _)| &frame[..]);
        frames.collect()
    }
}

/// What is to be seen of one direction.
struct Seen {
    /// Frames that came through whole.
    whole: usize,
    /// The Close of ours that ended it.
    ours: Option<u16>,
}

/// Takes apart what a side received, which must be what the other said, our Pings, and a Close of ours at the end.
fn seen(from: &Peer, to: &Peer) -> Seen {
    let (meant, mut rest, mut whole) = (from.meant(), &to.received[..], 0);
    let mut closed = false;
    loop {
        let next = meant.get(whole).copied().unwrap_or_default();
        if rest.is_empty() {
            return Seen { whole, ours: None };
        }
        if !next.is_empty() && rest.starts_with(next) {
            closed |= next[0] == 0x88;
            (rest, whole) = (&rest[next.len()..], whole + 1);
            continue;
        }
        assert!(!closed, "something follows a Close: {rest:?}");
        match parse(rest) {
            Some(Parsed { first: 0x89, masked, payload, length }) if payload.len() == 8 => {
                assert_eq!(masked, from.masked, "we are the {} of it", if masked { "client" } else { "server" });
                rest = &rest[length..];
            }
            Some(Parsed { first: 0x88, masked, payload, length }) => {
                assert_eq!(masked, from.masked);
                assert_eq!(length, rest.len(), "our Close is the last");
                return Seen { whole, ours: Some(u16::from_be_bytes([payload[0], payload[1]])) };
            }
            _ => {
                let part_of_ours = !to.reads && matches!(rest[0], 0x88 | 0x89);
                assert!(next.starts_with(rest) || part_of_ours, "after frame {whole} of {meant:?}: {rest:?}");
                return Seen { whole, ours: None };
            }
        }
    }
}

/// How the proxy is told to treat a tunnel.
#[derive(Clone, Debug)]
struct Treatment {
    frames: Option<Frames>,
    delay: Duration,
    max_age: Option<Duration>,
    /// When, what, over which time.
    orders: Vec<(u64, Reason, u64)>,
    buffer: usize,
}

impl Treatment {
    fn random(rng: &mut Rng) -> Self {
        let to = [PingTo::Client, PingTo::Backend, PingTo::Both][rng.usize(..3)];
        let ping = rng.bool().then_some(Ping { interval: SECOND * 7, timeout: SECOND * 3, to });
        let messages = match rng.u8(..4) {
            0 => MessageLimits { max_size: Some(50), rate: None },
            1 => MessageLimits { max_size: None, rate: Some(Rate { per_second: 1, burst: 3 }) },
            _ => MessageLimits::default(),
        };
        let reasons = [Reason::Terminating, Reason::Operator, Reason::RouteRemoved, Reason::Rebalance];
        let mut orders: Vec<_> = (0..rng.usize(..3)).map(|_| (rng.u64(..40), reasons[rng.usize(..4)], rng.u64(..20))).collect();
        orders.sort_by_key(|(at, ..)| *at);
        Self {
            frames: rng.bool().then_some(Frames { ping, messages }),
            delay: SECOND * [0, 0, 15][rng.usize(..3)],
            max_age: (rng.u8(..4) == 0).then(|| SECOND * rng.u32(1..60)),
            orders,
            buffer: rng.usize(16..2000),
        }
    }
}

fn opening(kind: Kind, treatment: &Treatment, metrics: &Arc<LocationMetrics>) -> Opening {
    let address = "10.0.0.1:80".parse().unwrap();
    Opening {
        identity: Identity {
            location: LocationKey { namespace: "default".into(), identity: "/ws".into() },
            route: ObjectRef::new("default", "chat"),
            label: "/ws".into(),
            lease: Lease::detached(EndpointKey { pool: PoolKey::Address("10.0.0.1:80".into()), address }),
            slot: Slot::detached(),
            client: "192.0.2.1:5000".parse().unwrap(),
            permit: Arc::new(()),
            metrics: Arc::clone(metrics),
            log: None,
        },
        began: Instant::now(),
        kind,
        idle: Some(SECOND * 60),
        max_age: treatment.max_age,
        client_delay: treatment.delay,
        frames: treatment.frames.map(Arc::new),
        from_client: Bytes::new(),
        from_backend: Bytes::new(),
    }
}

/// Two peers after their lives, and what was counted.
struct Lives {
    client: Peer,
    backend: Peer,
    metrics: Arc<LocationMetrics>,
}

/// Lets two peers live through a tunnel, to the end of all three.
fn live(rng: &mut Rng, kind: Kind, treatment: &Treatment, client: Peer, backend: Peer) -> Lives {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (ours, theirs) = (rng.fork(), rng.fork());
    runtime.block_on(async {
        let registry = Registry::new(AccessLog::off());
        let metrics = Arc::<LocationMetrics>::default();
        let (client_end, client_side) = duplex(treatment.buffer);
        let (backend_end, backend_side) = duplex(treatment.buffer);
        open(&registry, opening(kind, treatment, &metrics), Socket::Memory(client_side), Socket::Memory(backend_side));
        let begun = Instant::now();
        let orders = async {
            for (at, reason, over) in &treatment.orders {
                sleep_until(begun + SECOND * *at as u32).await;
                registry.drain(&Order::spread(Filter::default(), SECOND * *over as u32, *reason));
            }
            sleep_until(begun + SECOND * LAST_ORDER as u32).await;
            registry.drain(&Order::of_shutdown(SECOND * 10));
            registry.emptied().await;
        };
        let client = client.live(client_end, Arc::clone(&registry), ours);
        let backend = backend.live(backend_end, Arc::clone(&registry), theirs);
        let all = timeout(LONGEST, async { tokio::join!(orders, client, backend) }).await;
        let ((), client, backend) = all.expect("every tunnel ends within its bounds");
        Lives { client, backend, metrics }
    })
}

#[test]
fn every_life_ends_and_each_side_sees_what_the_other_said_and_one_goodbye() {
    for_seeds(1_500, |rng| {
        let treatment = Treatment::random(rng);
        let (client, backend) = (Peer::random(rng, true), Peer::random(rng, false));
        let kind = Kind::WebSocket { reconnect_code: RECONNECT, extensions: false };
        let Lives { client, backend, .. } = live(rng, kind, &treatment, client, backend);
        let (up, down) = (seen(&client, &backend), seen(&backend, &client));
        assert!(up.ours.is_none_or(|code| code == 1001), "the backend saw {:?}", up.ours);
        let limited = treatment.frames.is_some_and(|frames| frames.messages != MessageLimits::default());
        let may_be_told = |code| match code {
            RECONNECT => true,
            1008 | 1009 => limited,
            OWN | 1000 => !treatment.delay.is_zero(),
            _ => false,
        };
        assert!(down.ours.is_none_or(may_be_told), "the client saw {:?}", down.ours);
        if let Some(most) = treatment.frames.and_then(|frames| frames.messages.max_size) {
            let mut passed = client.meant().into_iter().take(up.whole).filter_map(parse).filter(|frame| frame.first < 0x88);
            assert!(passed.all(|frame| frame.payload.len() as u64 <= most));
        }
    });
}

#[test]
fn between_decent_peers_nothing_is_lost_before_a_close() {
    for_seeds(1_000, |rng| {
        let mut treatment = Treatment::random(rng);
        if let Some(frames) = &mut treatment.frames {
            frames.messages = MessageLimits::default();
        }
        let (client, backend) = (Peer::decent(rng, true), Peer::decent(rng, false));
        let kind = Kind::WebSocket { reconnect_code: RECONNECT, extensions: false };
        let Lives { client, backend, metrics } = live(rng, kind, &treatment, client, backend);
        let (up, down) = (seen(&client, &backend), seen(&backend, &client));
        assert!(client.out.is_empty() || client.has_closed, "all but its Close was taken");
        let before_its_close = client.meant().iter().take_while(|frame| frame[0] != 0x88).count();
        assert!(up.whole >= before_its_close, "{} of {before_its_close} frames reached the backend", up.whole);
        let saw_a_close = |peer: &Peer| peer.heard_close;
        assert!(saw_a_close(&client) && saw_a_close(&backend), "both are told");
        assert!(down.ours.is_none_or(|code| code == RECONNECT));
        assert_eq!(metrics.unclean_ends.iter().count(), 0, "{:?}", metrics.unclean_ends);
    });
}

#[test]
fn opaque_bytes_are_a_prefix_and_all_of_it_where_nobody_interferes() {
    for_seeds(500, |rng| {
        let treatment = Treatment { frames: None, ..Treatment::random(rng) };
        let plain = |rng: &mut Rng, masked| Peer { close: None, answers: false, last: Last::Fin, ..Peer::random(rng, masked) };
        let (mut client, mut backend) = (plain(rng, true), plain(rng, false));
        let undisturbed = rng.bool();
        let treatment = if undisturbed {
            (client.reads, backend.reads, client.pause, backend.pause) = (true, true, Duration::ZERO, Duration::ZERO);
            Treatment { orders: Vec::new(), max_age: None, ..treatment }
        } else {
            treatment
        };
        let Lives { client, backend, .. } = live(rng, Kind::Tcp, &treatment, client, backend);
        for (from, to) in [(&client, &backend), (&backend, &client)] {
            let said = from.said.iter().flat_map(|(frame, _)| frame.iter().copied()).collect::<Vec<_>>();
            assert!(said.starts_with(&to.received), "not what was said");
            assert!(!undisturbed || from.cut || said.len() == to.received.len(), "{} of {}", to.received.len(), said.len());
        }
    });
}
