//! Several replicas, one Lease, and a network that delays, reorders and loses: never two leaders, and soon another one.

use std::time::Duration;

use carrick::k8s::election::{Action, Answer, Election, Record, Request, Timing};
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::for_seeds;

/// One step of the simulation.
const STEP: u64 = 10;
/// What the shell waits for an answer.
const REQUEST: u64 = 4_000;
/// Issue 4: the leader killed, the other writes within 20 s.
const REPLACED: u64 = 20_000;

/// The Lease as the API server has it.
#[derive(Default)]
struct Server {
    lease: Option<(Record, u64)>,
    versions: u64,
}

impl Server {
    fn carry_out(&mut self, request: Request) -> Answer {
        let is_at = |version: &str| self.lease.as_ref().is_some_and(|(_, is)| is.to_string() == version);
        match request {
            Request::Read => match &self.lease {
                Some((record, version)) => Answer::Found(record.clone(), version.to_string()),
                None => Answer::Absent,
            },
            Request::Create(record) if self.lease.is_none() => self.write(record),
            Request::Replace(record, version) if is_at(&version) => self.write(record),
            Request::Create(_) | Request::Replace(..) => Answer::Conflict,
        }
    }

    fn write(&mut self, record: Record) -> Answer {
        self.versions += 1;
        self.lease = Some((record, self.versions));
        Answer::Written(self.versions.to_string())
    }
}

struct Replica {
    election: Election,
    /// Its monotonic clock: where it begins, and how many of its milliseconds a thousand real ones are.
    start: Instant,
    rate: u64,
    /// How far its wall clock is off, in seconds.
    skew: i64,
    /// What it has asked and not yet been told: number and time.
    asked: Option<(u64, u64)>,
    dead: bool,
    /// None of its messages arrive, either way.
    is_cut_off: bool,
}

impl Replica {
    fn new(name: usize, rng: &mut Rng, epoch: Instant) -> Self {
        Self {
            election: Election::new(format!("replica-{name}"), Timing::default(), rng.u64(..)),
            start: epoch + Duration::from_secs(rng.u64(..1_000_000)),
            // An hour a day is far beyond what clocks drift.
            rate: rng.u64(960..=1040),
            skew: rng.i64(-1_000_000..1_000_000),
            asked: None,
            dead: false,
            is_cut_off: false,
        }
    }

    fn clock(&self, now: u64) -> Instant {
        self.start + Duration::from_millis(now * self.rate / 1000)
    }

    fn wall(&self, now: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_millis(i64::try_from(now).unwrap() + 2_000_000_000 + self.skew * 1000)
    }

    fn leads(&self, now: u64) -> bool {
        !self.dead && self.election.is_leader(self.clock(now))
    }
}

/// What is under way.
enum Message {
    ToServer { from: usize, number: u64, request: Request },
    ToReplica { to: usize, number: u64, answer: Answer },
}

struct World {
    now: u64,
    rng: Rng,
    server: Server,
    replicas: Vec<Replica>,
    messages: Vec<(u64, Message)>,
    numbers: u64,
    /// Per cent of messages that are lost, and the longest delay.
    losses: u8,
    delay: u64,
}

impl World {
    fn new(rng: &mut Rng) -> Self {
        let epoch = Instant::now();
        let replicas = (0..rng.usize(2..=5)).map(|name| Replica::new(name, rng, epoch)).collect();
        let mut world =
            Self { now: 0, rng: rng.fork(), server: Server::default(), replicas, messages: Vec::new(), numbers: 0, losses: 0, delay: 50 };
        world.upset();
        world
    }

    /// A bad time: for all alike, or for some alone, which is when two could lead.
    fn upset(&mut self) {
        if self.rng.bool() {
            self.losses = self.rng.u8(..60);
            self.delay = self.rng.u64(50..12_000);
            return;
        }
        self.calm();
        for replica in &mut self.replicas {
            replica.is_cut_off = self.rng.bool();
        }
    }

    fn calm(&mut self) {
        (self.losses, self.delay) = (0, 50);
        self.replicas.iter_mut().for_each(|replica| replica.is_cut_off = false);
    }

    fn run(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            self.deliver();
            (0..self.replicas.len()).for_each(|i| self.act(i));
            let leaders = self.replicas.iter().filter(|replica| replica.leads(self.now)).count();
            assert!(leaders <= 1, "{leaders} leaders after {} ms", self.now);
        }
    }

    /// Runs until somebody leads, and says how long that took.
    fn run_until_led(&mut self) -> u64 {
        let start = self.now;
        while self.leader().is_none() {
            assert!(self.now < start + 60_000, "nobody leads");
            self.run(STEP);
        }
        self.now - start
    }

    fn leader(&self) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.leads(self.now))
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (arrived, under_way) = std::mem::take(&mut self.messages).into_iter().partition(|(at, _)| *at <= now);
        self.messages = under_way;
        let arrived: Vec<(u64, Message)> = arrived;
        for (_, message) in arrived {
            match message {
                Message::ToServer { from, number, request } => {
                    let answer = self.server.carry_out(request);
                    self.send(Message::ToReplica { to: from, number, answer });
                }
                Message::ToReplica { to, number, answer } => self.tell(to, number, answer),
            }
        }
    }

    fn tell(&mut self, to: usize, number: u64, answer: Answer) {
        let replica = &mut self.replicas[to];
        // What comes after the shell gave up is not heard.
        if let Some((_, sent)) = replica.asked.filter(|(asked, _)| *asked == number) {
            replica.asked = None;
            let (sent, now) = (replica.clock(sent), replica.clock(self.now));
            replica.election.hear(answer, sent, now);
        }
    }

    fn act(&mut self, i: usize) {
        let now = self.now;
        if self.replicas[i].dead {
            return;
        }
        if let Some((number, sent)) = self.replicas[i].asked {
            if now >= sent + REQUEST {
                self.tell(i, number, Answer::Failed);
            }
            return;
        }
        let replica = &mut self.replicas[i];
        let (clock, wall) = (replica.clock(now), replica.wall(now));
        if let Action::Ask(request) = replica.election.next(clock, wall) {
            self.numbers += 1;
            replica.asked = Some((self.numbers, now));
            self.send(Message::ToServer { from: i, number: self.numbers, request });
        }
    }

    fn send(&mut self, message: Message) {
        let (Message::ToServer { from: peer, .. } | Message::ToReplica { to: peer, .. }) = &message;
        if !self.replicas[*peer].is_cut_off && self.rng.u8(..100) >= self.losses {
            self.messages.push((self.now + self.rng.u64(1..=self.delay), message));
        }
    }
}

#[test]
fn there_are_never_two_leaders_whatever_the_network_does() {
    for_seeds(150, |rng| {
        let mut world = World::new(rng);
        for _ in 0..10 {
            world.upset();
            world.run(rng.u64(1_000..60_000));
            if rng.bool() {
                world.calm();
                world.run(rng.u64(1_000..20_000));
            }
        }
        world.calm();
        // What is still under way may renew a Lease that nobody holds any more.
        world.run(12_000);
        world.run_until_led();
    });
}

#[test]
fn a_leader_that_dies_is_replaced_within_20_seconds() {
    for_seeds(150, |rng| {
        let mut world = World::new(rng);
        world.calm();
        world.run_until_led();
        world.run(rng.u64(..30_000));
        let leader = world.leader().expect("one that renews");
        world.replicas[leader].dead = true;
        let took = world.run_until_led();
        assert!(took <= REPLACED, "{took} ms");
        assert_ne!(world.leader(), Some(leader));
    });
}

#[test]
fn a_leader_that_goes_is_replaced_at_the_next_look() {
    for_seeds(100, |rng| {
        let mut world = World::new(rng);
        world.calm();
        world.run_until_led();
        world.run(rng.u64(..10_000));
        let leader = world.leader().expect("one that renews");
        let (record, _) = world.server.lease.clone().expect("a Lease");
        let wall = world.replicas[leader].wall(world.now);
        let released = world.replicas[leader].election.resign(record, wall).expect("it is the holder");
        world.replicas[leader].dead = true;
        world.server.write(released);
        let took = world.run_until_led();
        assert!(took <= 3_000, "{took} ms");
    });
}
