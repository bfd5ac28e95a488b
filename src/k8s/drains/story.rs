//! What there is to tell of one Pod that goes away, given what its sockets come to again and again: that they begin to move, how many
//! are left, that all have; and that the Pod did not wait for them.
//!
//! Pure: it never knows a client, and is told the time. `drains` keeps one a Pod.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::{
    k8s::status::News,
    model::pod::{Departure, PodTunnels},
};

/// A Pod without a socket for so long has none: what was under way when it was told to go has come to something.
const QUIET: Duration = Duration::from_secs(5);
/// What is left is told when it has come to a half, but not more often than this.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// What is left is told after this whatever it has come to, if it is less. An Event of each object a minute may be written.
const AT_LEAST_EVERY: Duration = Duration::from_secs(120);
/// A replica that does not answer is waited for this long after all others have nothing left.
const PATIENCE: Duration = Duration::from_secs(10);
/// Replicas that are named; of more it is said how many.
const NAMED: usize = 3;

/// What the replicas have on one Pod, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    /// Open now.
    open: u64,
    /// Open when it was told to go.
    at_first: u64,
    /// On so many replicas.
    replicas: u64,
    /// Those that the Pod cut.
    cut: u64,
    /// Seconds until the first of them.
    first_cut: Option<f64>,
    /// Seconds since the first replica learned of it.
    age: f64,
}

impl Sum {
    /// Of what each replica says. One that has not learned yet that the Pod goes has what it has.
    pub(super) fn of<'a>(parts: impl Iterator<Item = &'a PodTunnels>) -> Self {
        parts.fold(Self::default(), |sum, part| {
            let unaware = Departure { age_seconds: 0.0, tunnels: part.open, cut: 0, first_cut_seconds: None };
            let departure = part.departure.as_ref().unwrap_or(&unaware);
            let at_first = departure.tunnels.max(part.open);
            Self {
                open: sum.open + part.open,
                at_first: sum.at_first + at_first,
                replicas: sum.replicas + u64::from(at_first > 0),
                cut: sum.cut + departure.cut,
                first_cut: [sum.first_cut, departure.first_cut_seconds].into_iter().flatten().min_by(f64::total_cmp),
                age: sum.age.max(departure.age_seconds),
            }
        })
    }
}

/// How far the story of a Pod is told.
#[derive(Debug)]
pub(super) struct Story {
    pod: String,
    since: Instant,
    told: Told,
    /// The most sockets that it had, by what we ever heard: a replica may be gone before the end.
    at_first: u64,
    /// As it was when we last looked: a Pod that ends cuts one socket after the other.
    cut: u64,
    is_cut_told: bool,
    /// Since when nothing is left, as far as we hear.
    empty_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Nothing,
    /// That so many are left.
    Left {
        count: u64,
        at: Instant,
    },
    /// All there is.
    All,
}

impl Story {
    pub(super) fn new(pod: &str, now: Instant) -> Self {
        Self { pod: pod.to_owned(), since: now, told: Told::Nothing, at_first: 0, cut: 0, is_cut_told: false, empty_since: None }
    }

    /// Whether nothing more will be told.
    pub(super) fn is_over(&self) -> bool {
        self.told == Told::All
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.since)
    }

    /// Hears how it stands, and who should have said more, and says what is news of it.
    pub(super) fn hear(&mut self, sum: &Sum, missing: &BTreeSet<String>, now: Instant) -> Vec<News> {
        if self.is_over() {
            return Vec::new();
        }
        let mut news = Vec::new();
        self.at_first = self.at_first.max(sum.at_first);
        if self.told == Told::Nothing && self.at_first > 0 {
            self.told = Told::Left { count: self.at_first, at: now };
            let note = format!("{} on {} are brought to an end, for the pod goes away", sockets(self.at_first), replicas(sum.replicas));
            news.push(good("DrainStarted", note, missing));
        }
        self.empty_since = if sum.open > 0 { None } else { self.empty_since.or(Some(now)) };
        let has_settled = self.empty_since.is_some() || self.cut == sum.cut;
        self.cut = sum.cut;
        if sum.cut > 0 && has_settled && !std::mem::replace(&mut self.is_cut_told, true) {
            news.push(self.gone_before(sum));
        }
        match (self.told, self.empty_since) {
            (Told::Left { .. }, Some(since)) if missing.is_empty() || now >= since + PATIENCE => {
                self.told = Told::All;
                let note = format!("all of {} have ended, {:.0} s after the pod was told to go", sockets(self.at_first), sum.age);
                news.push(good("DrainEnded", note, missing));
            }
            (Told::Left { count, at }, None) if is_due(count, sum.open, now.duration_since(at)) => {
                self.told = Told::Left { count: sum.open, at: now };
                news.push(good("Draining", format!("{} of {} are left", sum.open, sockets(self.at_first)), missing));
            }
            (Told::Nothing, Some(since)) if now >= since + if missing.is_empty() { QUIET } else { PATIENCE } => self.told = Told::All,
            _ => {}
        }
        news
    }

    fn gone_before(&self, sum: &Sum) -> News {
        let after = sum.first_cut.unwrap_or(sum.age);
        let note = format!(
            "pod {} ended {after:.1} s after termination with {}; add a preStop sleep, or drain by Application",
            self.pod,
            sockets(sum.cut)
        );
        News { is_bad: true, reason: "EndpointGoneBeforeDrain".to_owned(), note }
    }
}

/// Whether it is worth an Event that of so many that were left, this is what is left now.
fn is_due(told: u64, open: u64, since: Duration) -> bool {
    (since >= AT_MOST_EVERY && open <= told / 2) || (since >= AT_LEAST_EVERY && open < told)
}

fn good(reason: &str, mut note: String, missing: &BTreeSet<String>) -> News {
    if !missing.is_empty() {
        let named: Vec<&str> = missing.iter().take(NAMED).map(String::as_str).collect();
        let more = missing.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        note.push_str(&format!("; not counted are those on {}{more}, from which there is no answer", named.join(", ")));
    }
    News { is_bad: false, reason: reason.to_owned(), note }
}

fn sockets(count: u64) -> String {
    if count == 1 { "1 socket".to_owned() } else { format!("{count} sockets") }
}

fn replicas(count: u64) -> String {
    if count == 1 { "1 replica".to_owned() } else { format!("{count} replicas") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica with so many open, of so many at first.
    fn replica(open: u64, at_first: u64, age_seconds: f64) -> PodTunnels {
        let departure = Some(Departure { age_seconds, tunnels: at_first, cut: 0, first_cut_seconds: None });
        PodTunnels { namespace: "default".into(), pod: "chat-7f".into(), uid: "u".into(), open, departure }
    }

    /// Plays what one replica says at each second, and gives back what is told when.
    fn play(says: impl Fn(u64) -> PodTunnels, missing: &[&str], seconds: u64) -> Vec<(u64, News)> {
        let began = Instant::now();
        let missing = missing.iter().map(|name| (*name).to_owned()).collect();
        let mut story = Story::new("chat-7f", began);
        let hear = |second: u64| {
            let news = story.hear(&Sum::of([says(second)].iter()), &missing, began + Duration::from_secs(second));
            news.into_iter().map(move |news| (second, news))
        };
        (0..seconds).flat_map(hear).collect()
    }

    fn reasons(told: &[(u64, News)]) -> Vec<(u64, &str)> {
        told.iter().map(|(second, news)| (*second, news.reason.as_str())).collect()
    }

    #[test]
    fn it_begins_comes_to_halves_and_ends() {
        let told = play(|second| replica(100_u64.saturating_sub(second * 4), 100, second as f64), &[], 60);
        assert_eq!(reasons(&told), [(0, "DrainStarted"), (13, "Draining"), (23, "Draining"), (25, "DrainEnded")]);
        assert_eq!(told[0].1.note, "100 sockets on 1 replica are brought to an end, for the pod goes away");
        assert_eq!(told[1].1.note, "48 of 100 sockets are left");
        assert_eq!(told[3].1.note, "all of 100 sockets have ended, 25 s after the pod was told to go");
    }

    #[test]
    fn a_drain_of_an_hour_is_told_within_what_may_be_written() {
        let told = play(|second| replica(36_000_u64.saturating_sub(second * 10), 36_000, second as f64), &[], 4000);
        assert_eq!(told.last().map(|(second, news)| (*second, news.reason.as_str())), Some((3600, "DrainEnded")));
        let mut spare = 10.0_f64;
        for pair in told.windows(2) {
            spare = (spare - 1.0 + (pair[1].0 - pair[0].0) as f64 / 60.0).min(10.0);
            assert!(spare >= 1.0, "at {} s", pair[1].0);
        }
    }

    #[test]
    fn replicas_are_summed_and_the_silent_ones_are_named() {
        let mut unaware = replica(7, 7, 0.0);
        unaware.departure = None;
        let sum = Sum::of([replica(20, 30, 2.0), unaware, replica(0, 0, 2.0)].iter());
        assert_eq!(sum, Sum { open: 27, at_first: 37, replicas: 2, cut: 0, first_cut: None, age: 2.0 });
        let missing = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        let news = Story::new("chat-7f", Instant::now()).hear(&sum, &missing, Instant::now());
        assert!(news[0].note.ends_with("; not counted are those on a, b, c and 2 more, from which there is no answer"), "{}", news[0].note);
    }

    #[test]
    fn a_silent_replica_is_waited_for_but_not_for_ever() {
        let told = play(|second| replica(u64::from(second < 3), 1, second as f64), &["carrick-b"], 60);
        assert_eq!(reasons(&told), [(0, "DrainStarted"), (13, "DrainEnded")]);
        assert!(told[1].1.note.contains("carrick-b"));
    }

    #[test]
    fn a_pod_that_does_not_wait_is_a_warning() {
        let cut = |second: u64| {
            let mut says = replica([51, 20, 0][second.min(2) as usize], 51, second as f64);
            let departure = says.departure.as_mut().unwrap();
            departure.cut = [0, 31, 51][second.min(2) as usize];
            departure.first_cut_seconds = Some(0.2).filter(|_| second > 0);
            says
        };
        let told = play(cut, &[], 60);
        assert_eq!(reasons(&told), [(0, "DrainStarted"), (2, "EndpointGoneBeforeDrain"), (2, "DrainEnded")]);
        assert!(told[1].1.is_bad);
        assert_eq!(
            told[1].1.note,
            "pod chat-7f ended 0.2 s after termination with 51 sockets; add a preStop sleep, or drain by Application"
        );
    }

    #[test]
    fn a_pod_without_sockets_is_no_news() {
        let began = Instant::now();
        let mut story = Story::new("chat-7f", began);
        for second in 0..5 {
            assert!(story.hear(&Sum::default(), &BTreeSet::new(), began + Duration::from_secs(second)).is_empty());
        }
        assert!(!story.is_over());
        assert!(story.hear(&Sum::default(), &BTreeSet::new(), began + QUIET).is_empty());
        assert!(story.is_over());
    }

    #[test]
    fn what_was_over_before_we_looked_is_told_as_well() {
        let told = play(|second| replica(0, 3, second as f64), &[], 10);
        assert_eq!(reasons(&told), [(0, "DrainStarted"), (0, "DrainEnded")]);
    }
}
