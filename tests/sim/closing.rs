//! Whole lives of tunnels: two peers that send, say goodbye, stop, vanish or hang at any byte, and a proxy that may close at any time.
//!
//! What each side must have received at the end follows from what the other sent and from nothing else.

use std::time::Duration;

use carrick::{
    telemetry::metrics::Side,
    tunnel::{
        clock::Tick,
        close::{Closing, Goodbye, Reason, Sink, Source},
        frame::{FrameTracker, Tally, Until},
    },
};
use fastrand::Rng;

use super::{for_seeds, stream::Stream};

const RECONNECT: u16 = 1012;
/// Boundary, client, backend, linger: 5 s each, in ticks of 50 ms, and some for rounding.
const LONGEST_GOODBYE: u32 = 4 * 100 + 20;
/// What a client may wait for its moment.
const LONGEST_DELAY: u32 = 30 * 20;

/// What a peer does when its stream is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Fin,
    Reset,
    /// Nothing, until it is told to go.
    Stay,
}

#[derive(Debug)]
struct Peer {
    stream: Stream,
    sent: usize,
    last: Last,
    /// It answers a Close with a Close, and a FIN with a FIN.
    polite: bool,
    /// What the proxy wrote to it.
    received: Vec<u8>,
    fin: bool,
    gone: bool,
}

impl Peer {
    fn random(rng: &mut Rng, masked: bool) -> Self {
        let frames = rng.usize(..6);
        let mut stream = Stream::random(rng, masked, frames);
        if rng.u8(..3) == 0 {
            stream.push_close(rng, Some(4000));
        }
        if rng.u8(..3) == 0 {
            let cut = rng.usize(..=stream.bytes.len());
            stream.bytes.truncate(cut);
            stream.close = stream.close.filter(|(_, end, _)| *end <= cut);
        }
        let last = [Last::Fin, Last::Reset, Last::Stay][rng.usize(..3)];
        Self { stream, sent: 0, last, polite: rng.u8(..3) > 0, received: Vec::new(), fin: false, gone: false }
    }

    /// The Close it got, if one is complete.
    fn got_close(&self, code: impl Fn(Option<u16>) -> bool) -> bool {
        let mut tracker = FrameTracker::default();
        tracker.advance(&self.received, Until::End, &mut Tally::default());
        tracker.closed() && code(tracker.close_code())
    }
}

struct World {
    closing: Closing,
    peers: [Peer; 2],
    now: Tick,
    ordered: bool,
    /// When the first thing happened that must end the tunnel.
    begun: Option<Tick>,
}

impl World {
    fn new(rng: &mut Rng) -> Self {
        Self::spread(rng, Duration::ZERO)
    }

    /// With a client that is told so long after its backend.
    fn spread(rng: &mut Rng, delay: Duration) -> Self {
        let peers = [Peer::random(rng, true), Peer::random(rng, false)];
        Self { closing: Closing::websocket(RECONNECT, delay), peers, now: Tick(1), ordered: false, begun: None }
    }

    fn write(&mut self, to: Side, bytes: &[u8]) {
        if self.closing.sink(to) == Sink::Broken {
            return;
        }
        let peer = &mut self.peers[to as usize];
        assert!(bytes.is_empty() || !peer.fin, "bytes after the FIN towards the {to:?}");
        peer.received.extend_from_slice(bytes);
    }

    fn say(&mut self, goodbye: Option<Goodbye>, rng: &mut Rng) {
        let Some(goodbye) = goodbye else { return };
        assert!(codes(goodbye.to).contains(&goodbye.code), "{goodbye:?}");
        self.write(goodbye.to, &goodbye.frame(rng.u32(..).to_ne_bytes()));
    }

    /// A peer sends some, or ends.
    fn send(&mut self, from: Side, rng: &mut Rng) {
        let peer = &mut self.peers[from as usize];
        if peer.gone {
            return;
        }
        let left = peer.stream.bytes.len() - peer.sent;
        if left > 0 {
            let chunk = rng.usize(1..=left);
            let bytes = peer.stream.bytes[peer.sent..peer.sent + chunk].to_vec();
            peer.sent += chunk;
            let verdict = self.closing.received(from, &bytes, self.now, &mut Tally::default());
            self.write(other(from), &bytes[..verdict.pass]);
            self.say(verdict.say, rng);
            return;
        }
        let how = match peer.last {
            Last::Fin => Source::Finished,
            Last::Reset => Source::Lost,
            Last::Stay if !peer.polite => return,
            Last::Stay => return self.answer(from, rng),
        };
        self.end(from, how, rng);
    }

    /// A peer that is done waits for what the other says.
    fn answer(&mut self, from: Side, rng: &mut Rng) {
        let peer = &mut self.peers[from as usize];
        let answers = peer.stream.close.is_none() && peer.stream.frames.contains(&peer.sent) && peer.got_close(|_| true);
        if answers {
            peer.stream.push_close(rng, Some(1000));
        } else if peer.fin {
            self.end(from, Source::Finished, rng);
        }
    }

    fn end(&mut self, from: Side, how: Source, rng: &mut Rng) {
        self.peers[from as usize].gone = true;
        self.begun.get_or_insert(self.now);
        let goodbye = self.closing.ended(from, how, self.now);
        self.say(goodbye, rng);
    }

    fn order(&mut self, rng: &mut Rng) {
        self.ordered = true;
        self.begun.get_or_insert(self.now);
        let goodbye = self.closing.order(Reason::Shutdown, Duration::ZERO, self.now);
        self.say(goodbye, rng);
    }

    fn settle(&mut self) {
        for to in Side::ALL {
            if self.closing.sink(to) == Sink::Ending {
                self.closing.shut(to);
                self.peers[to as usize].fin = true;
            }
        }
    }

    /// Time passes: up to the next deadline where nothing else can happen.
    fn wait(&mut self, rng: &mut Rng) {
        let step = if rng.bool() { rng.u32(1..30) } else { 200 };
        self.now = Tick(self.now.0 + step).min(self.closing.deadline().max(Tick(self.now.0 + 1)));
        if self.now >= self.closing.deadline() {
            let goodbye = self.closing.expired(self.now);
            self.say(goodbye, rng);
        }
    }

    fn live(&mut self, rng: &mut Rng) {
        for step in 0..20_000 {
            match rng.u8(..20) {
                0 => self.wait(rng),
                1 if !self.ordered && rng.bool() => self.order(rng),
                n if n % 2 == 0 => self.send(Side::Client, rng),
                _ => self.send(Side::Backend, rng),
            }
            self.settle();
            if self.closing.is_done() {
                return;
            }
            if step > 500 && !self.ordered {
                // Nobody ends it: the idle timer does.
                self.order(rng);
            }
            if let Some(begun) = self.begun.filter(|_| !self.closing.is_open()) {
                let most = begun.0.saturating_add(LONGEST_GOODBYE * 3 + LONGEST_DELAY);
                assert!(self.now.0 <= most, "still there {} ticks after its end began", self.now.0 - begun.0);
            }
        }
        panic!("a tunnel that never ends: {:?} {:?}", self.closing, self.now);
    }

    /// Splits what a side received into what came from the other side and a Close of ours.
    fn split(&self, to: Side) -> (usize, Option<u16>) {
        let (received, sent) = (&self.peers[to as usize].received, &self.peers[other(to) as usize].stream);
        let common = received.iter().zip(&sent.bytes).take_while(|(a, b)| a == b).count();
        if common == received.len() {
            return (common, None);
        }
        // The Close may begin with bytes that the stream would have gone on with: it begins at the last boundary that makes it whole.
        let (from, code) = sent
            .frames
            .range(..=common)
            .rev()
            .find_map(|&from| Some((from, ours(to, &received[from..])?)))
            .unwrap_or_else(|| panic!("what the {to:?} got after {common} bytes is neither from the other side nor a Close of ours"));
        (from, Some(code))
    }
}

/// The code, if this is exactly one Close as we say it: masked towards the backend alone.
fn ours(to: Side, bytes: &[u8]) -> Option<u16> {
    let masked = to == Side::Backend;
    let (mut tracker, mut tally) = (FrameTracker::default(), Tally::default());
    tracker.advance(bytes, Until::End, &mut tally);
    let whole = tracker.closed() && tracker.between_frames() && tally.frames.iter().sum::<u32>() == 1;
    (whole && (bytes[1] & 0x80 != 0) == masked).then_some(tracker.close_code()?).filter(|code| codes(to).contains(code))
}

/// What we may say to a side: a client that says Close while it waits for ours gets its own code back.
fn codes(to: Side) -> &'static [u16] {
    if to == Side::Client { &[RECONNECT, 4000, 1000] } else { &[1001] }
}

fn other(side: Side) -> Side {
    if side == Side::Client { Side::Backend } else { Side::Client }
}

#[test]
fn every_side_gets_a_prefix_and_at_most_one_goodbye() {
    for_seeds(3_000, |rng| {
        let delay = Duration::from_secs(rng.u64(..4) * 10);
        let mut world = World::spread(rng, delay);
        world.live(rng);
        for to in Side::ALL {
            let (passed, ours) = world.split(to);
            let from = &world.peers[other(to) as usize];
            if let Some((_, end, _)) = from.stream.close {
                assert!(ours.is_none() || passed < end, "the {to:?} got a Close of ours after one of the other side's");
            }
        }
        let end = world.closing.end();
        for (side, close) in Side::ALL.into_iter().zip(end.closes) {
            if let Some(code) = close.filter(|_| world.closing.sink(side) == Sink::Shut) {
                assert!(world.peers[side as usize].got_close(|got| got == code), "{side:?} {code:?}");
            }
        }
    });
}

#[test]
fn without_an_order_nothing_is_lost_that_can_be_delivered() {
    for_seeds(3_000, |rng| {
        let mut world = World::new(rng);
        // A peer that stays and is never told to go waits for the idle timer, which is an order.
        for peer in &mut world.peers {
            peer.polite = true;
        }
        world.ordered = true;
        if world.peers.iter().all(|peer| peer.last == Last::Stay) {
            world.peers[rng.usize(..2)].last = Last::Fin;
        }
        let first = (0..10_000).find_map(|_| {
            let side = Side::ALL[rng.usize(..2)];
            world.send(side, rng);
            world.settle();
            world.peers[side as usize].gone.then_some(side)
        });
        let vanished = first.unwrap();
        let (peer, to) = (&world.peers[vanished as usize], other(vanished));
        let survivor = &world.peers[to as usize];
        let (passed, ours) = world.split(to);
        assert_eq!(passed, peer.sent, "all that the {vanished:?} sent arrives before anything else");
        let boundary = peer.stream.frames.contains(&peer.sent);
        let a_close_went_before =
            peer.stream.close.is_some() || survivor.sent >= survivor.stream.close.map_or(usize::MAX, |(_, end, _)| end);
        let told = boundary && !a_close_went_before;
        assert_eq!(ours.is_some(), told, "boundary {boundary}, a Close went before {a_close_went_before}");
        if !(told && vanished == Side::Backend) {
            assert!(survivor.fin, "who is not asked for an answer gets its FIN at once");
        }
    });
}

#[test]
fn an_order_lets_the_client_finish_its_sentence() {
    for_seeds(3_000, |rng| {
        let mut world = World::new(rng);
        // Both behave: they answer, and do not end by themselves.
        for (peer, masked) in world.peers.iter_mut().zip([true, false]) {
            *peer = Peer { stream: Stream::random(rng, masked, 3), last: Last::Stay, polite: true, ..Peer::random(rng, masked) };
        }
        for _ in 0..rng.usize(..10) {
            world.send(Side::ALL[rng.usize(..2)], rng);
        }
        world.order(rng);
        for _ in 0..10_000 {
            if world.closing.is_done() {
                break;
            }
            match rng.u8(..3) {
                0 => world.send(Side::Client, rng),
                1 => world.send(Side::Backend, rng),
                _ if rng.u8(..50) == 0 => {
                    let deadline = world.closing.deadline();
                    world.now = Tick(world.now.0 + 1).min(deadline);
                    let goodbye = if world.now >= deadline { world.closing.expired(world.now) } else { None };
                    world.say(goodbye, rng);
                }
                _ => {}
            }
            world.settle();
        }
        assert!(world.closing.is_done());
        assert_eq!(world.split(Side::Client).1, Some(RECONNECT));
        let client = &world.peers[Side::Client as usize];
        let before_its_close = client.stream.close.map_or(client.stream.bytes.len(), |(first, ..)| first);
        assert_eq!(world.split(Side::Backend), (before_its_close, Some(1001)));
        assert_eq!(world.closing.end().unclean, None);
    });
}

#[test]
fn a_client_that_takes_nothing_is_not_told() {
    let mut closing = Closing::websocket(1012, Duration::ZERO);
    closing.unwritable(Side::Client);
    assert_eq!(closing.order(Reason::Shutdown, Duration::ZERO, Tick(0)).map(|said| said.to), Some(Side::Backend));
}
