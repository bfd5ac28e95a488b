//! Who leads, as a state machine: what to ask of the Lease next, and until when we lead by what was answered.
//!
//! It never does I/O and reads no clock. `lease` carries out what it says; `tests/sim` plays it with several replicas.
//!
//! A leader leads for [`Timing::renew`] from when it *sent* the last write that succeeded. Another may take the Lease
//! [`Timing::lease`] after it *saw* the record change, which is later than that write. So two never lead at once while clocks
//! run about equally fast, whatever they show: times in the record are for people, and are never compared.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// How long what holds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A record that has not changed for so long may be taken over.
    pub lease: Duration,
    /// A leader that could not renew for so long is none any more. Less than `lease`, by more than clocks drift in that time.
    pub renew: Duration,
    /// Between two looks.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), renew: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; nobody after it was given back.
    pub holder: Option<String>,
    /// How long the holder asks others to wait.
    pub duration: Option<Duration>,
    /// When this holder took it, by its own clock.
    pub acquired: Option<Timestamp>,
    /// When it last said that it is there, by its own clock.
    pub renewed: Option<Timestamp>,
    /// How often the holder changed.
    pub transitions: i32,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing before then.
    Wait(Instant),
    /// Ask the API server.
    Ask(Request),
}

/// What to ask of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read the Lease.
    Read,
    /// Create it; a conflict if somebody was faster.
    Create(Record),
    /// Replace it where it still has this version; else a conflict.
    Replace(Record, Version),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was read.
    Found(Record, Version),
    /// There is none.
    Absent,
    /// It was written as it was to be.
    Written(Version),
    /// Somebody else has written meanwhile.
    Conflict,
    /// Nobody knows.
    Failed,
}

/// A resourceVersion.
pub type Version = String;

/// One replica's part in the election.
#[derive(Debug)]
pub struct Election {
    identity: String,
    timing: Timing,
    rng: fastrand::Rng,
    /// The record as it last was, and when we first saw it so.
    seen: Option<(Record, Instant)>,
    known: Known,
    due: Option<Instant>,
    leads_until: Option<Instant>,
    /// What is being written.
    writing: Option<Record>,
}

/// What a write can stand on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// It must be read first.
    Nothing,
    /// There is none.
    Absent,
    /// It is ours or may be taken, at this version.
    Takeable(Version),
}

impl Election {
    /// A candidate. The seed spreads the looks of several.
    pub fn new(identity: impl Into<String>, timing: Timing, seed: u64) -> Self {
        Self {
            identity: identity.into(),
            timing,
            rng: fastrand::Rng::with_seed(seed),
            seen: None,
            known: Known::Nothing,
            due: None,
            leads_until: None,
            writing: None,
        }
    }

    /// What to do now. `wall` is only written down.
    pub fn next(&mut self, now: Instant, wall: Timestamp) -> Action {
        if let Some(due) = self.due.filter(|due| *due > now) {
            return Action::Wait(due);
        }
        Action::Ask(match std::mem::replace(&mut self.known, Known::Nothing) {
            Known::Nothing => Request::Read,
            Known::Absent => Request::Create(self.record(wall)),
            Known::Takeable(version) => Request::Replace(self.record(wall), version),
        })
    }

    /// Hears what came of the last request, which was sent at `sent`.
    pub fn hear(&mut self, answer: Answer, sent: Instant, now: Instant) {
        let writing = self.writing.take();
        match answer {
            Answer::Found(record, version) => {
                let free_at = self.observe(record, now);
                if free_at <= now {
                    (self.known, self.due) = (Known::Takeable(version), None);
                } else {
                    self.leads_until = None;
                    self.due = Some(self.retry_after(now).min(free_at));
                }
            }
            Answer::Absent => (self.known, self.due) = (Known::Absent, None),
            Answer::Written(version) => {
                self.seen = writing.map(|record| (record, now));
                self.known = Known::Takeable(version);
                self.leads_until = Some(sent + self.timing.renew);
                self.due = Some(self.retry_after(sent));
            }
            // A leader finds out at once whether it is none any more.
            Answer::Conflict if self.is_leader(now) => self.due = None,
            Answer::Conflict | Answer::Failed => self.due = Some(self.retry_after(now)),
        }
    }

    /// Whether we lead at this moment.
    pub fn is_leader(&self, now: Instant) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    /// When we cease to lead, if nothing is heard until then.
    pub fn leads_until(&self) -> Option<Instant> {
        self.leads_until
    }

    /// Leads no more. What is to be written in place of `record`, where that is ours, so that another needs not wait.
    pub fn resign(&mut self, record: Record, wall: Timestamp) -> Option<Record> {
        self.leads_until = None;
        let is_ours = record.holder.as_deref() == Some(&self.identity);
        // Zero is not valid in a Lease.
        is_ours.then(|| Record { holder: None, duration: Some(Duration::from_secs(1)), renewed: Some(wall), ..record })
    }

    /// Remembers a record, and says when it may be taken; the past for now.
    fn observe(&mut self, record: Record, now: Instant) -> Instant {
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            _ => now,
        };
        let is_free = record.holder.as_deref().is_none_or(|holder| holder.is_empty() || holder == self.identity);
        let lease = record.duration.map_or(self.timing.lease, |asked| asked.max(self.timing.lease));
        self.seen = Some((record, since));
        if is_free { now } else { since + lease }
    }

    /// The record with us as the holder.
    fn record(&mut self, wall: Timestamp) -> Record {
        let last = self.seen.as_ref().map(|(record, _)| record.clone()).unwrap_or_default();
        let stays = last.holder.as_deref() == Some(&self.identity);
        let record = Record {
            holder: Some(self.identity.clone()),
            duration: Some(self.timing.lease),
            acquired: if stays { last.acquired } else { Some(wall) },
            renewed: Some(wall),
            transitions: last.transitions.saturating_add(i32::from(!stays)),
        };
        self.writing = Some(record.clone());
        record
    }

    /// The next look: the retry period, a fifth more or less.
    fn retry_after(&mut self, now: Instant) -> Instant {
        now + self.timing.retry.mul_f64(0.8 + 0.4 * self.rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Action::Ask,
        Request::{Create, Read, Replace},
        *,
    };

    const RETRY: Duration = Duration::from_millis(2400);

    fn election() -> (Election, Instant) {
        (Election::new("us", Timing::default(), 7), Instant::now())
    }

    fn held_by(holder: &str, renewed: i64) -> Record {
        let duration = Some(Duration::from_secs(15));
        Record { holder: Some(holder.into()), duration, renewed: Timestamp::from_second(renewed).ok(), ..Record::default() }
    }

    fn next(election: &mut Election, now: Instant) -> Action {
        election.next(now, Timestamp::UNIX_EPOCH)
    }

    /// Becomes the leader of an absent Lease.
    fn elected() -> (Election, Instant) {
        let (mut election, now) = election();
        assert_eq!(next(&mut election, now), Ask(Read));
        election.hear(Answer::Absent, now, now);
        let Ask(Create(record)) = next(&mut election, now) else { panic!("nothing to create") };
        assert_eq!((record.holder.as_deref(), record.transitions), (Some("us"), 1));
        election.hear(Answer::Written("1".into()), now, now + Duration::from_secs(1));
        (election, now)
    }

    #[test]
    fn who_leads_renews_and_leads_from_when_it_asked() {
        let (mut election, start) = elected();
        assert_eq!(election.leads_until(), Some(start + Duration::from_secs(10)));
        let Action::Wait(due) = next(&mut election, start + Duration::from_secs(1)) else { panic!("no pause") };
        assert!(due <= start + RETRY);
        let Ask(Replace(record, version)) = next(&mut election, due) else { panic!("no renewal") };
        assert_eq!((record.transitions, version.as_str()), (1, "1"));
        election.hear(Answer::Failed, due, due);
        assert!(election.is_leader(start + Duration::from_millis(9_999)));
        assert!(!election.is_leader(start + Duration::from_secs(10)));
    }

    #[test]
    fn a_lease_is_taken_when_it_did_not_change_for_its_duration_since_we_saw_it() {
        let (mut election, mut now) = election();
        let mut changed = now;
        for renewed in 0..30 {
            assert_eq!(next(&mut election, now), Ask(Read));
            // By its own times, which are another clock's, it ended long ago.
            election.hear(Answer::Found(held_by("them", renewed), "1".into()), now, now);
            changed = now;
            let Action::Wait(until) = next(&mut election, now) else { panic!("taken while it was renewed") };
            now = until;
        }
        let taken = loop {
            assert_eq!(next(&mut election, now), Ask(Read));
            election.hear(Answer::Found(held_by("them", 29), "1".into()), now, now);
            match next(&mut election, now) {
                Action::Wait(until) => now = until,
                Ask(request) => break request,
            }
        };
        assert!(matches!(taken, Replace(record, _) if record.transitions == 1));
        assert_eq!(now, changed + Duration::from_secs(15), "it looks exactly when the Lease ends");
    }

    #[test]
    fn a_conflict_is_a_lost_race() {
        let (mut election, now) = election();
        next(&mut election, now);
        election.hear(Answer::Absent, now, now);
        assert!(matches!(next(&mut election, now), Ask(Create(_))));
        election.hear(Answer::Conflict, now, now);
        assert!(!election.is_leader(now));
        assert!(matches!(next(&mut election, now), Action::Wait(_)));
        assert_eq!(next(&mut election, now + RETRY), Ask(Read));
    }

    #[test]
    fn a_leader_whose_write_conflicts_looks_at_once_and_may_stay() {
        let (mut election, start) = elected();
        let now = start + RETRY;
        assert!(matches!(next(&mut election, now), Ask(Replace(..))));
        election.hear(Answer::Conflict, now, now);
        assert_eq!(next(&mut election, now), Ask(Read));
        election.hear(Answer::Found(held_by("us", 0), "5".into()), now, now);
        assert!(election.is_leader(now) && matches!(next(&mut election, now), Ask(Replace(_, version)) if version == "5"));
        election.hear(Answer::Conflict, now, now);
        assert_eq!(next(&mut election, now), Ask(Read));
        election.hear(Answer::Found(held_by("them", 0), "6".into()), now, now);
        assert!(!election.is_leader(now));
    }

    #[test]
    fn what_was_given_back_is_taken_at_once() {
        let (mut election, _) = elected();
        let released = election.resign(held_by("us", 0), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((released.holder.as_deref(), election.leads_until()), (None, None));
        assert_eq!(election.resign(held_by("them", 0), Timestamp::UNIX_EPOCH), None);
        let mut other = Election::new("other", Timing::default(), 1);
        let now = Instant::now();
        next(&mut other, now);
        other.hear(Answer::Found(released, "9".into()), now, now);
        assert!(matches!(next(&mut other, now), Ask(Replace(record, _)) if record.holder.as_deref() == Some("other")));
    }
}
