use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    balance::Lease,
    model::{
        EndpointKey, LocationKey, ObjectRef, PoolKey,
        route::{Frames, MessageLimits, Ping, PingTo, Rate},
        sight::State,
    },
    telemetry::{
        AccessLog, LocationMetrics,
        metrics::{Detail, Initiator},
    },
    tunnel::{Identity, drain::Order, open},
};

const WEBSOCKET: Kind = Kind::WebSocket { reconnect_code: 1012, extensions: false };
const IDLE: Duration = Duration::from_secs(60);

/// The far ends of a tunnel.
struct Bench {
    registry: Arc<Registry>,
    metrics: Arc<LocationMetrics>,
    client: DuplexStream,
    backend: DuplexStream,
}

fn opening(kind: Kind, metrics: &Arc<LocationMetrics>) -> Opening {
    let address = "10.0.0.1:80".parse().unwrap();
    let identity = Identity {
        location: LocationKey { namespace: "default".into(), identity: "/ws".into() },
        route: ObjectRef::new("default", "chat"),
        label: "/ws".into(),
        lease: Lease::detached(EndpointKey { pool: PoolKey::Address("10.0.0.1:80".into()), address }),
        client: "192.0.2.1:5000".parse().unwrap(),
        slot: crate::balance::Slot::detached(),
        permit: Arc::new(()),
        metrics: Arc::clone(metrics),
        log: None,
    };
    Opening {
        identity,
        began: tokio::time::Instant::now(),
        kind,
        idle: Some(IDLE),
        max_age: None,
        client_delay: Duration::ZERO,
        frames: None,
        from_client: Bytes::new(),
        from_backend: Bytes::new(),
    }
}

impl Bench {
    fn new(kind: Kind) -> Self {
        Self::with(kind, 1 << 20, |_| {})
    }

    fn with(kind: Kind, buffer: usize, change: impl FnOnce(&mut Opening)) -> Self {
        let registry = Registry::new(AccessLog::off());
        let metrics = Arc::<LocationMetrics>::default();
        let (client, client_side) = duplex(buffer);
        let (backend, backend_side) = duplex(buffer);
        let mut opening = opening(kind, &metrics);
        change(&mut opening);
        open(&registry, opening, Socket::Memory(client_side), Socket::Memory(backend_side));
        Self { registry, metrics, client, backend }
    }

    async fn done(&self) {
        self.registry.emptied().await;
    }
}

fn text(payload: &str) -> Vec<u8> {
    [&[0x81, payload.len() as u8], payload.as_bytes()].concat()
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

fn close(code: u16) -> Vec<u8> {
    [&[0x88, 2][..], &code.to_be_bytes()].concat()
}

fn masked_close(code: u16) -> Vec<u8> {
    masked(0x88, &code.to_be_bytes())
}

async fn expect(stream: &mut DuplexStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read, bytes);
}

/// Reads a Close and what follows it to the FIN, which must be nothing.
async fn expect_close(stream: &mut DuplexStream) -> (u16, String) {
    let mut bytes = [0; 2];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes[0], 0x88);
    let mut key = [0; 4];
    if bytes[1] & 0x80 != 0 {
        stream.read_exact(&mut key).await.unwrap();
    }
    let mut payload = vec![0; usize::from(bytes[1] & 0x7f)];
    stream.read_exact(&mut payload).await.unwrap();
    payload.iter_mut().enumerate().for_each(|(i, byte)| *byte ^= key[i % 4]);
    (u16::from_be_bytes([payload[0], payload[1]]), String::from_utf8(payload[2..].to_vec()).unwrap())
}

async fn expect_fin(stream: &mut DuplexStream) {
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_ahead_comes_first_once_and_in_order() {
    let ahead = |opening: &mut Opening| {
        opening.from_client = masked(0x81, b"early").into();
        opening.from_backend = text("welcome").into();
    };
    let mut bench = Bench::with(WEBSOCKET, 1 << 20, ahead);
    bench.client.write_all(&masked(0x81, b"later")).await.unwrap();
    expect(&mut bench.backend, &[masked(0x81, b"early"), masked(0x81, b"later")].concat()).await;
    expect(&mut bench.client, &text("welcome")).await;
}

#[tokio::test(start_paused = true)]
async fn the_close_frames_of_the_two_ends_pass_unchanged() {
    let mut bench = Bench::new(WEBSOCKET);
    bench.client.write_all(&masked_close(4001)).await.unwrap();
    expect(&mut bench.backend, &masked_close(4001)).await;
    bench.backend.write_all(&close(4001)).await.unwrap();
    bench.backend.shutdown().await.unwrap();
    expect(&mut bench.client, &close(4001)).await;
    expect_fin(&mut bench.client).await;
    bench.client.shutdown().await.unwrap();
    expect_fin(&mut bench.backend).await;
    bench.done().await;
    assert_eq!(bench.metrics.closes.get(Some(4001), Side::Backend, Initiator::Client), 1);
    assert_eq!(bench.metrics.closes.get(Some(4001), Side::Client, Initiator::Client), 1);
    assert_eq!(bench.metrics.unclean_ends.iter().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn ends_that_said_close_and_forget_to_go_are_let_go() {
    let mut bench = Bench::new(WEBSOCKET);
    bench.client.write_all(&masked_close(1000)).await.unwrap();
    bench.backend.write_all(&close(1000)).await.unwrap();
    bench.done().await;
    expect(&mut bench.client, &close(1000)).await;
    expect_fin(&mut bench.client).await;
}

#[tokio::test(start_paused = true)]
async fn a_vanished_client_is_told_to_the_backend_at_a_frame_boundary() {
    let mut bench = Bench::new(WEBSOCKET);
    bench.client.write_all(&masked(0x81, b"last words")).await.unwrap();
    drop(bench.client);
    expect(&mut bench.backend, &masked(0x81, b"last words")).await;
    assert_eq!(expect_close(&mut bench.backend).await, (1001, String::new()));
    expect_fin(&mut bench.backend).await;
    drop(bench.backend);
    bench.registry.emptied().await;
    assert_eq!(bench.metrics.unclean_ends.get("client_gone"), 1);
}

#[tokio::test(start_paused = true)]
async fn within_a_frame_the_backend_gets_nothing_but_fin() {
    let mut bench = Bench::new(WEBSOCKET);
    let half = &masked(0x81, b"last words")[..9];
    bench.client.write_all(half).await.unwrap();
    drop(bench.client);
    expect(&mut bench.backend, half).await;
    expect_fin(&mut bench.backend).await;
}

#[tokio::test(start_paused = true)]
async fn a_vanished_backend_sends_its_clients_elsewhere() {
    let mut bench = Bench::new(WEBSOCKET);
    bench.backend.write_all(&text("last words")).await.unwrap();
    drop(bench.backend);
    expect(&mut bench.client, &text("last words")).await;
    assert_eq!(expect_close(&mut bench.client).await, (1012, "backend is gone".into()));
    bench.client.write_all(&masked_close(1012)).await.unwrap();
    expect_fin(&mut bench.client).await;
    drop(bench.client);
    bench.registry.emptied().await;
    assert_eq!(bench.metrics.unclean_ends.get("backend_gone"), 1);
    assert_eq!(bench.metrics.closes.get(Some(1012), Side::Client, Initiator::Backend), 1);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_vanishes_within_a_frame_ends_in_fin() {
    let mut bench = Bench::new(WEBSOCKET);
    let half = &text("last words")[..5];
    bench.backend.write_all(half).await.unwrap();
    drop(bench.backend);
    expect(&mut bench.client, half).await;
    expect_fin(&mut bench.client).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_says_goodbye_to_the_client_and_then_to_the_backend() {
    let mut bench = Bench::new(WEBSOCKET);
    bench.client.write_all(&masked(0x81, b"one")).await.unwrap();
    expect(&mut bench.backend, &masked(0x81, b"one")).await;
    assert_eq!(bench.registry.drain(&Order::all_at_once(Reason::Shutdown)), 1);
    assert_eq!(expect_close(&mut bench.client).await, (1012, "server is restarting".into()));
    // What the client says before its answer still arrives; its answer does not.
    bench.client.write_all(&[masked(0x81, b"two"), masked_close(1012)].concat()).await.unwrap();
    expect(&mut bench.backend, &masked(0x81, b"two")).await;
    assert_eq!(expect_close(&mut bench.backend).await, (1001, String::new()));
    bench.backend.write_all(&[text("too late"), close(1001)].concat()).await.unwrap();
    expect_fin(&mut bench.backend).await;
    expect_fin(&mut bench.client).await;
    drop((bench.client, bench.backend));
    bench.registry.emptied().await;
    assert_eq!(bench.metrics.closes.get(Some(1012), Side::Client, Initiator::Proxy), 1);
    assert_eq!(bench.metrics.closes.get(Some(1001), Side::Backend, Initiator::Proxy), 1);
    assert_eq!(bench.metrics.unclean_ends.iter().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_opened_during_a_shutdown_is_closed_too() {
    let registry = Registry::new(AccessLog::off());
    registry.drain(&Order::all_at_once(Reason::Shutdown));
    let (mut client, client_side) = duplex(1024);
    let (_backend, backend_side) = duplex(1024);
    open(&registry, opening(WEBSOCKET, &Arc::default()), Socket::Memory(client_side), Socket::Memory(backend_side));
    assert_eq!(expect_close(&mut client).await.0, 1012);
}

#[tokio::test(start_paused = true)]
async fn an_order_holds_for_handshakes_under_way_and_for_none_that_come_after_it() {
    let registry = Registry::new(AccessLog::off());
    let open_one = |opening: Opening| {
        let (client, client_side) = duplex(1024);
        let (backend, backend_side) = duplex(1024);
        open(&registry, opening, Socket::Memory(client_side), Socket::Memory(backend_side));
        (client, backend)
    };
    let under_way = opening(WEBSOCKET, &Arc::default());
    registry.drain(&Order::all_at_once(Reason::Terminating));
    tokio::time::advance(Duration::from_millis(100)).await;
    let (mut client, _backend) = open_one(under_way);
    assert_eq!(expect_close(&mut client).await.0, 1012);
    let (mut client, mut backend) = open_one(opening(WEBSOCKET, &Arc::default()));
    backend.write_all(&text("it is back")).await.unwrap();
    expect(&mut client, &text("it is back")).await;
    assert_eq!(registry.list().last().unwrap().state, State::Open);
}

#[tokio::test(start_paused = true)]
async fn an_order_for_others_leaves_a_tunnel_alone() {
    let mut bench = Bench::new(WEBSOCKET);
    let mut order = Order::all_at_once(Reason::Shutdown);
    order.filter.location = Some(LocationKey { namespace: "default".into(), identity: "/other".into() });
    assert_eq!(bench.registry.drain(&order), 0);
    bench.client.write_all(&masked(0x81, b"on")).await.unwrap();
    expect(&mut bench.backend, &masked(0x81, b"on")).await;
    assert_eq!(bench.registry.list()[0].state, State::Open);
}

#[tokio::test(start_paused = true)]
async fn nobody_who_does_not_answer_is_waited_for_forever() {
    let bench = Bench::new(WEBSOCKET);
    let begun = tokio::time::Instant::now();
    bench.registry.drain(&Order::all_at_once(Reason::Shutdown));
    bench.done().await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(bench.metrics.unclean_ends.get("close_timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_close_waits_for_the_end_of_a_message_but_not_long() {
    let mut bench = Bench::new(WEBSOCKET);
    let fragment = [&[0x01, 3][..], b"one"].concat();
    bench.backend.write_all(&fragment).await.unwrap();
    expect(&mut bench.client, &fragment).await;
    bench.registry.drain(&Order::all_at_once(Reason::Shutdown));
    let last = [&[0x80, 3][..], b"two"].concat();
    bench.backend.write_all(&[&last[..], &text("more")].concat()).await.unwrap();
    expect(&mut bench.client, &last).await;
    assert_eq!(expect_close(&mut bench.client).await.0, 1012);

    let mut bench = Bench::new(WEBSOCKET);
    bench.backend.write_all(&fragment).await.unwrap();
    expect(&mut bench.client, &fragment).await;
    bench.registry.drain(&Order::all_at_once(Reason::Shutdown));
    assert_eq!(expect_close(&mut bench.client).await.0, 1012, "between two fragments, as the last one does not come");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_end_gets_fin_and_is_counted() {
    let mut bench = Bench::new(WEBSOCKET);
    bench.backend.write_all(&[0x82, 100, 1, 2]).await.unwrap();
    expect(&mut bench.client, &[0x82, 100, 1, 2]).await;
    bench.registry.drain(&Order::all_at_once(Reason::Shutdown));
    expect_fin(&mut bench.client).await;
    drop(bench.client);
    assert_eq!(expect_close(&mut bench.backend).await.0, 1001);
    drop(bench.backend);
    bench.registry.emptied().await;
    assert_eq!(bench.metrics.unclean_ends.get("mid_frame"), 1);
}

/// A tunnel whose frames are looked at.
fn asked(frames: Frames) -> Bench {
    Bench::with(WEBSOCKET, 1 << 20, |opening| {
        opening.frames = Some(Arc::new(frames));
        opening.idle = None;
    })
}

fn pings(to: PingTo) -> Frames {
    let ping = Ping { interval: Duration::from_secs(30), timeout: Duration::from_secs(10), to };
    Frames { ping: Some(ping), messages: MessageLimits::default() }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_asked_and_its_pong_goes_no_further() {
    let mut bench = asked(pings(PingTo::Client));
    for _ in 0..3 {
        let mut ping = [0; 10];
        bench.client.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping[..2], [0x89, 8]);
        bench.client.write_all(&[masked(0x8a, b"its own"), masked(0x8a, &ping[2..]), masked(0x81, b"on")].concat()).await.unwrap();
        expect(&mut bench.backend, &[masked(0x8a, b"its own"), masked(0x81, b"on")].concat()).await;
    }
    assert_eq!(bench.metrics.ping_rtt_seconds.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_is_gone() {
    let mut bench = asked(pings(PingTo::Client));
    let begun = tokio::time::Instant::now();
    assert_eq!(expect_close(&mut bench.backend).await, (1001, String::new()));
    assert_eq!(begun.elapsed().as_secs(), 40);
    bench.backend.write_all(&close(1001)).await.unwrap();
    expect_fin(&mut bench.backend).await;
    bench.registry.emptied().await;
    assert_eq!(bench.metrics.unclean_ends.get("ping_timeout"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_answer_is_gone_and_the_client_sent_elsewhere() {
    let mut bench = asked(pings(PingTo::Backend));
    assert_eq!(expect_close(&mut bench.client).await.0, 1012);
    let mut ping = [0; 14];
    bench.backend.read_exact(&mut ping).await.unwrap();
    assert_eq!(ping[..2], [0x89, 0x88], "masked: we are its client");
}

#[tokio::test(start_paused = true)]
async fn a_ping_waits_for_the_end_of_a_frame() {
    let mut bench = asked(pings(PingTo::Client));
    let frame = text("first words, then the others");
    bench.backend.write_all(&frame[..9]).await.unwrap();
    expect(&mut bench.client, &frame[..9]).await;
    tokio::time::sleep(Duration::from_secs(35)).await;
    bench.backend.write_all(&[&frame[9..], &text("next")].concat()).await.unwrap();
    expect(&mut bench.client, &frame[9..]).await;
    let mut ping = [0; 10];
    bench.client.read_exact(&mut ping).await.unwrap();
    assert_eq!(ping[..2], [0x89, 8]);
    expect(&mut bench.client, &text("next")).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_talks_is_not_asked() {
    let mut bench = asked(pings(PingTo::Client));
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(25)).await;
        bench.client.write_all(&masked(0x81, b"hi")).await.unwrap();
        expect(&mut bench.backend, &masked(0x81, b"hi")).await;
    }
    bench.backend.write_all(&text("all you get")).await.unwrap();
    expect(&mut bench.client, &text("all you get")).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_big_ends_the_tunnel_for_both() {
    let messages = MessageLimits { max_size: Some(10), rate: None };
    let mut bench = asked(Frames { ping: None, messages });
    bench.client.write_all(&[masked(0x81, b"0123456789"), masked(0x81, b"0123456789a"), masked_close(1000)].concat()).await.unwrap();
    expect(&mut bench.backend, &masked(0x81, b"0123456789")).await;
    assert_eq!(expect_close(&mut bench.backend).await, (1001, String::new()));
    bench.backend.write_all(&close(1001)).await.unwrap();
    assert_eq!(expect_close(&mut bench.client).await, (1009, "message is too big".into()));
    expect_fin(&mut bench.client).await;
    expect_fin(&mut bench.backend).await;
    drop((bench.client, bench.backend));
    bench.registry.emptied().await;
    assert_eq!(bench.metrics.closes.get(Some(1009), Side::Client, Initiator::Proxy), 1);
}

#[tokio::test(start_paused = true)]
async fn too_many_messages_and_frames_that_are_none_have_codes_of_their_own() {
    let messages = MessageLimits { max_size: None, rate: Some(Rate { per_second: 1, burst: 2 }) };
    let mut bench = asked(Frames { ping: None, messages });
    bench.client.write_all(&masked(0x81, b"hi").repeat(3)).await.unwrap();
    assert_eq!(expect_close(&mut bench.client).await.0, 1008);
    let mut bench = asked(Frames { ping: None, messages });
    bench.client.write_all(&text("not masked")).await.unwrap();
    assert_eq!(expect_close(&mut bench.client).await.0, 1002);
}

#[tokio::test(start_paused = true)]
async fn what_came_with_the_handshake_is_looked_at_too() {
    let messages = MessageLimits { max_size: Some(1), rate: None };
    let mut bench = Bench::with(WEBSOCKET, 1 << 20, |opening| {
        opening.frames = Some(Arc::new(Frames { ping: None, messages }));
        opening.from_client = [masked(0x81, b"a"), masked(0x81, b"ab")].concat().into();
    });
    expect(&mut bench.backend, &masked(0x81, b"a")).await;
    assert_eq!(expect_close(&mut bench.client).await.0, 1009);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_ends_at_its_age_however_busy_it_is() {
    let mut bench = Bench::with(WEBSOCKET, 1 << 20, |opening| opening.max_age = Some(Duration::from_secs(100)));
    let begun = tokio::time::Instant::now();
    for _ in 0..9 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        bench.backend.write_all(&text("tick")).await.unwrap();
        expect(&mut bench.client, &text("tick")).await;
    }
    assert_eq!(expect_close(&mut bench.client).await, (1012, "connection is old enough".into()));
    assert_eq!(begun.elapsed().as_secs(), 100);
}

#[tokio::test(start_paused = true)]
async fn the_earliest_of_several_orders_wins() {
    let mut bench = Bench::new(WEBSOCKET);
    let now = tokio::time::Instant::now();
    let order = |seconds, reason| {
        let at = now + Duration::from_secs(seconds);
        Order { from: at, until: at, ..Order::all_at_once(reason) }
    };
    for order in [order(20, Reason::MaxAge), order(10, Reason::Shutdown), order(30, Reason::MaxAge)] {
        bench.registry.drain(&order);
        tokio::time::sleep(Duration::from_secs(1)).await; // the tunnel has heard of each
    }
    assert_eq!(expect_close(&mut bench.client).await, (1012, "server is restarting".into()));
    assert_eq!(now.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_idle_tunnel_is_closed_and_a_busy_one_is_not() {
    let mut bench = Bench::new(WEBSOCKET);
    for _ in 0..4 {
        tokio::time::sleep(IDLE * 3 / 4).await;
        bench.backend.write_all(&text("tick")).await.unwrap();
        expect(&mut bench.client, &text("tick")).await;
    }
    let quiet = tokio::time::Instant::now();
    assert_eq!(expect_close(&mut bench.client).await, (1012, "idle".into()));
    assert!(quiet.elapsed() >= IDLE && quiet.elapsed() < IDLE + Duration::from_secs(1), "{:?}", quiet.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_all_of_what_a_vanished_backend_sent() {
    let mut bench = Bench::with(WEBSOCKET, 64, |_| {});
    let message = [&[0x82, 126][..], &10_000_u16.to_be_bytes(), &[7; 10_000]].concat();
    let mut backend = bench.backend;
    let sent = message.clone();
    let read_slowly = async {
        let mut received = Vec::new();
        while received.len() < message.len() {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let mut buffer = vec![0; 64.min(message.len() - received.len())];
            let read = bench.client.read(&mut buffer).await.unwrap();
            received.extend_from_slice(&buffer[..read]);
        }
        received
    };
    let write_and_go = async move {
        backend.write_all(&sent).await.unwrap();
        drop(backend);
    };
    let ((), received) = tokio::join!(write_and_go, read_slowly);
    assert_eq!(received, message);
    assert_eq!(expect_close(&mut bench.client).await.0, 1012);
}

#[tokio::test(start_paused = true)]
async fn layer_4_stays_open_one_way_until_it_is_idle() {
    let mut bench = Bench::new(Kind::Tcp);
    bench.client.write_all(b"request").await.unwrap();
    bench.client.shutdown().await.unwrap();
    expect(&mut bench.backend, b"request").await;
    expect_fin(&mut bench.backend).await;
    for _ in 0..3 {
        tokio::time::sleep(IDLE / 2).await;
        bench.backend.write_all(b"answer").await.unwrap();
        expect(&mut bench.client, b"answer").await;
    }
    expect_fin(&mut bench.client).await;
    bench.done().await;
}

#[tokio::test(start_paused = true)]
async fn layer_4_ends_with_its_second_fin() {
    let mut bench = Bench::new(Kind::Tcp);
    bench.client.shutdown().await.unwrap();
    bench.backend.write_all(b"answer").await.unwrap();
    bench.backend.shutdown().await.unwrap();
    expect(&mut bench.client, b"answer").await;
    expect_fin(&mut bench.client).await;
    bench.done().await;
    assert_eq!(bench.metrics.bytes_to_client.get(Opcode::Opaque), 6);
    assert_eq!(bench.metrics.unclean_ends.iter().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_moved_is_counted_by_opcode_and_seen_in_the_list() {
    let mut bench = Bench::new(WEBSOCKET);
    bench.client.write_all(&[masked(0x81, b"12345"), masked(0x89, b"")].concat()).await.unwrap();
    expect(&mut bench.backend, &[masked(0x81, b"12345"), masked(0x89, b"")].concat()).await;
    bench.backend.write_all(&text("123")).await.unwrap();
    expect(&mut bench.client, &text("123")).await;
    let rows = bench.registry.list();
    assert_eq!((rows.len(), rows[0].bytes_received, rows[0].bytes_sent), (1, 17, 5));
    assert_eq!((rows[0].frames_received, rows[0].frames_sent), (2, 1));
    let open = bench.registry.observe(Detail::Endpoint);
    assert_eq!((open.len(), open[0].count, &*open[0].labels.location.location), (1, 1, "/ws"));
    for _ in 0..2 {
        assert_eq!(bench.metrics.frames_to_backend.get(Opcode::Text), 1);
        assert_eq!(bench.metrics.bytes_to_backend.get(Opcode::Text), 5);
        assert_eq!(bench.metrics.frames_to_backend.get(Opcode::Ping), 1);
        assert_eq!(bench.metrics.bytes_to_client.get(Opcode::Text), 3);
        bench.registry.observe(Detail::Endpoint);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_tracker_lets_bytes_pass_and_says_nothing() {
    let mut bench = Bench::new(WEBSOCKET);
    let nonsense = [&[0x82, 127][..], &[0xff; 8], b"whatever"].concat();
    bench.backend.write_all(&nonsense).await.unwrap();
    expect(&mut bench.client, &nonsense).await;
    bench.registry.drain(&Order::all_at_once(Reason::Shutdown));
    expect_fin(&mut bench.client).await;
}

#[tokio::test(start_paused = true)]
async fn the_lease_ends_with_the_tunnel() {
    let bench = Bench::new(Kind::Tcp);
    let endpoint = bench.registry.endpoint_of_first();
    assert_eq!(endpoint.open(), 1);
    drop((bench.client, bench.backend));
    bench.registry.emptied().await;
    assert_eq!(endpoint.open(), 0);
}

/// A tunnel over real sockets.
async fn sockets(kind: Kind) -> (Arc<Registry>, TcpStream, TcpStream) {
    let registry = Registry::new(AccessLog::off());
    let (client, client_side) = tcp_pair().await;
    let (backend, backend_side) = tcp_pair().await;
    open(&registry, opening(kind, &Arc::default()), Socket::Tcp(client_side), Socket::Tcp(backend_side));
    (registry, client, backend)
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

#[tokio::test]
async fn a_reset_does_not_overtake_what_came_before_it() {
    let (_registry, mut client, mut backend) = sockets(WEBSOCKET).await;
    backend.write_all(&text("last words")).await.unwrap();
    // Until it is on our side: a reset discards what the backend's kernel still has.
    client.readable().await.unwrap();
    backend.set_zero_linger().unwrap();
    drop(backend);
    let mut received = vec![0; 14];
    client.read_exact(&mut received).await.unwrap();
    assert_eq!(received[..12], text("last words"));
    assert_eq!(received[12], 0x88);
}

#[tokio::test]
async fn a_client_in_full_flow_still_gets_its_close() {
    let (_registry, mut client, mut backend) = sockets(WEBSOCKET).await;
    backend.shutdown().await.unwrap();
    // Unread bytes in our socket would turn its end into a reset, which destroys the Close on its way.
    let message = [&[0x82, 0xfe][..], &60_000_u16.to_be_bytes(), &[0; 4], &[7; 60_000]].concat();
    for _ in 0..20 {
        client.write_all(&message).await.unwrap();
        let mut sink = vec![0; message.len()];
        backend.read_exact(&mut sink).await.unwrap();
    }
    drop(backend);
    for _ in 0..20 {
        client.write_all(&message).await.unwrap();
    }
    client.write_all(&masked_close(1012)).await.unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received[0], 0x88);
    assert_eq!(received[2..4], 1012_u16.to_be_bytes());
}

#[tokio::test]
async fn bulk_arrives_whole_and_in_order_both_ways() {
    let (registry, mut client, mut backend) = sockets(Kind::Tcp).await;
    // A length that is prime: no chunk of any size repeats the pattern.
    let pattern: Vec<u8> = (0..1_000_003_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let send = async |stream: &mut TcpStream| {
        for _ in 0..16 {
            stream.write_all(&pattern).await.unwrap();
        }
        stream.shutdown().await.unwrap();
    };
    let receive = async |stream: &mut TcpStream| {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), 16 * pattern.len());
        assert!(received.chunks(pattern.len()).all(|chunk| chunk == pattern));
    };
    tokio::join!(send(&mut client), receive(&mut backend));
    tokio::join!(send(&mut backend), receive(&mut client));
    registry.emptied().await;
}

/// A tunnel whose client is told so long after its backend.
fn spread(kind: Kind, seconds: u64) -> Bench {
    Bench::with(kind, 1 << 20, |opening| opening.client_delay = Duration::from_secs(seconds))
}

#[tokio::test(start_paused = true)]
async fn the_client_of_a_vanished_backend_is_told_at_its_moment() {
    let mut bench = spread(WEBSOCKET, 20);
    let begun = tokio::time::Instant::now();
    bench.backend.write_all(&text("last words")).await.unwrap();
    drop(bench.backend);
    expect(&mut bench.client, &text("last words")).await;
    // Longer than the connection is idle: what is said into the void is read all the same.
    for _ in 0..10 {
        bench.client.write_all(&masked(0x82, &[7; 100])).await.unwrap();
    }
    assert_eq!(expect_close(&mut bench.client).await, (1012, "backend is gone".into()));
    assert_eq!(begun.elapsed().as_secs(), 20);
    bench.client.write_all(&masked_close(1012)).await.unwrap();
    expect_fin(&mut bench.client).await;
    drop(bench.client);
    bench.registry.emptied().await;
    assert_eq!(bench.metrics.unclean_ends.get("backend_gone"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_before_its_moment_is_answered() {
    for (code, answer) in [(4001, 4001), (1011, 1000)] {
        let mut bench = spread(WEBSOCKET, 20);
        drop(bench.backend);
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.client.write_all(&masked_close(code)).await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(expect_close(&mut bench.client).await, (answer, String::new()));
        expect_fin(&mut bench.client).await;
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_shortens_the_wait_for_a_moment_and_never_lengthens_it() {
    for (turn, told) in [(5, 5), (30, 20)] {
        let mut bench = spread(WEBSOCKET, 20);
        let now = tokio::time::Instant::now();
        drop(bench.backend);
        let at = now + Duration::from_secs(turn);
        bench.registry.drain(&Order { from: at, until: at, ..Order::all_at_once(Reason::Shutdown) });
        assert_eq!(expect_close(&mut bench.client).await.0, 1012);
        assert_eq!(now.elapsed().as_secs(), told);
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_its_backend_left_unfinished_ends_in_fin_at_the_moment() {
    let mut bench = spread(WEBSOCKET, 20);
    let begun = tokio::time::Instant::now();
    bench.backend.write_all(&[0x82, 10, 1]).await.unwrap();
    drop(bench.backend);
    expect(&mut bench.client, &[0x82, 10, 1]).await;
    expect_fin(&mut bench.client).await;
    assert_eq!(begun.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn layer_4_passes_the_end_of_a_backend_on_at_its_moment() {
    let mut bench = spread(Kind::Tcp, 20);
    let begun = tokio::time::Instant::now();
    bench.backend.write_all(b"bye").await.unwrap();
    bench.backend.shutdown().await.unwrap();
    expect(&mut bench.client, b"bye").await;
    bench.client.write_all(b"still here").await.unwrap();
    expect(&mut bench.backend, b"still here").await;
    expect_fin(&mut bench.client).await;
    assert_eq!(begun.elapsed().as_secs(), 20);
    bench.client.write_all(b"half open").await.unwrap();
    bench.client.shutdown().await.unwrap();
    expect(&mut bench.backend, b"half open").await;
    expect_fin(&mut bench.backend).await;
    bench.done().await;
}

#[tokio::test(start_paused = true)]
async fn a_kill_reaches_a_tunnel_that_is_closing() {
    let mut bench = Bench::new(WEBSOCKET);
    let begun = tokio::time::Instant::now();
    bench.registry.drain(&Order::all_at_once(Reason::Operator));
    assert_eq!(expect_close(&mut bench.client).await.0, 1012);
    bench.registry.drain(&Order::all_at_once(Reason::Killed));
    bench.done().await;
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_end_of_a_frame_until_it_is_over() {
    let mut bench = Bench::new(WEBSOCKET);
    bench.backend.write_all(&[0x82, 4, 1]).await.unwrap();
    expect(&mut bench.client, &[0x82, 4, 1]).await;
    let over = Duration::from_secs(30);
    bench.registry.drain(&Order::spread(crate::tunnel::Filter::default(), over, Reason::Terminating));
    tokio::time::sleep(Duration::from_secs(25)).await;
    bench.backend.write_all(&[2, 3, 4]).await.unwrap();
    expect(&mut bench.client, &[2, 3, 4]).await;
    assert_eq!(expect_close(&mut bench.client).await.0, 1012);
}

#[tokio::test(start_paused = true)]
async fn nothing_follows_a_close() {
    let mut bench = Bench::new(WEBSOCKET);
    bench.client.write_all(&[masked_close(1000), masked(0x81, b"more")].concat()).await.unwrap();
    bench.client.write_all(&masked(0x81, b"and more")).await.unwrap();
    bench.client.shutdown().await.unwrap();
    expect(&mut bench.backend, &masked_close(1000)).await;
    expect_fin(&mut bench.backend).await;
}

#[tokio::test(start_paused = true)]
async fn a_close_that_crosses_ours_is_answered_by_the_backend() {
    let mut bench = Bench::new(WEBSOCKET);
    let goodbye = masked_close(4001);
    bench.client.write_all(&goodbye[..3]).await.unwrap();
    expect(&mut bench.backend, &goodbye[..3]).await;
    bench.registry.drain(&Order::all_at_once(Reason::Operator));
    assert_eq!(expect_close(&mut bench.client).await.0, 1012);
    bench.client.write_all(&goodbye[3..]).await.unwrap();
    expect(&mut bench.backend, &goodbye[3..]).await;
    expect_fin(&mut bench.client).await;
    let late = tokio::time::timeout(Duration::from_secs(2), bench.backend.read(&mut [0; 1])).await;
    assert!(late.is_err(), "its answer is waited for");
    bench.backend.write_all(&close(4001)).await.unwrap();
    expect_fin(&mut bench.backend).await;
}

#[tokio::test(start_paused = true)]
async fn limits_hold_and_pongs_are_swallowed_until_the_last_frame() {
    let messages = MessageLimits { max_size: Some(10), rate: None };
    let mut bench = asked(Frames { messages, ..pings(PingTo::Client) });
    let mut ping = [0; 10];
    bench.client.read_exact(&mut ping).await.unwrap();
    bench.registry.drain(&Order::all_at_once(Reason::Operator));
    assert_eq!(expect_close(&mut bench.client).await.0, 1012);
    let late = [masked(0x8a, &ping[2..]), masked(0x81, b"on"), masked(0x81, &[7; 11]), masked(0x81, b"off")].concat();
    bench.client.write_all(&late).await.unwrap();
    expect(&mut bench.backend, &masked(0x81, b"on")).await;
    assert_eq!(expect_close(&mut bench.backend).await, (1001, String::new()));
}
