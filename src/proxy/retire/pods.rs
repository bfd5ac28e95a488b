//! Pods whose endpoints take nothing new any more: which of them end, and when.
//!
//! Pure: it is handed the time and the answers, never asks anybody and knows no tunnel. The parent asks, and gives orders by the verdicts.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::model::{
    EndpointKey,
    pod::{Fate, PodRef},
    upstream::Pod,
};

/// What a terminating pod has left where nobody knows its deadline.
pub(super) const UNKNOWN_DEADLINE: Duration = Duration::from_secs(10);
/// An answer is waited for this long: a fifth of what a pod has that nobody knows of.
const PATIENCE: Duration = Duration::from_secs(2);

/// An endpoint that takes nothing new any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) endpoint: EndpointKey,
    pub(super) pod: Option<Arc<Pod>>,
    /// The Pod by its whole name.
    pub(super) pod_ref: Option<PodRef>,
    pub(super) how: How,
}

/// How it came that it takes nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Its slice says that the Pod terminates.
    Terminating,
    /// It is in no slice any more, and did not terminate: a selector, or a Pod that failed.
    Removed,
    /// It is not ready: a probe, or a node that shuts down.
    Unready,
}

/// What becomes of the tunnels of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its Pod was told to go at the one time and is killed at the other.
    Ends { since: Instant, deadline: Instant },
    /// It left its Service, and its Pod lives.
    Removed,
    /// They stay.
    Stays,
}

/// What is known at once of an endpoint that takes nothing new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Now(Verdict),
    /// The Pod is to be asked.
    Ask(PodRef),
    /// It was asked already.
    Asked,
}

/// Which Pods end when.
#[derive(Debug, Default)]
pub(super) struct Pods {
    asked: HashMap<PodRef, Question>,
    /// No later word lengthens one.
    deadlines: HashMap<PodRef, Instant>,
}

/// A Pod that was asked about and has not answered.
#[derive(Debug)]
struct Question {
    since: Instant,
    about: Vec<Left>,
    /// The answer was waited for long enough, and what is unknown was decided without it.
    given_up: bool,
}

impl Pods {
    /// Takes in an endpoint; its Pod is asked about once, if it `may` be.
    pub(super) fn take(&mut self, left: &Left, may_ask: bool, now: Instant) -> Known {
        let Some(pod) = &left.pod_ref else { return Known::Now(unanswered(left.how, now)) };
        if let Some(deadline) = self.deadlines.get(pod) {
            return Known::Now(Verdict::Ends { since: now, deadline: *deadline });
        }
        match self.asked.entry(pod.clone()) {
            Entry::Occupied(mut question) if !question.get().given_up => {
                question.get_mut().about.push(left.clone());
                Known::Asked
            }
            Entry::Vacant(vacant) if may_ask => {
                vacant.insert(Question { since: now, about: vec![left.clone()], given_up: false });
                Known::Ask(pod.clone())
            }
            _ => Known::Now(self.decide(left, None, now)),
        }
    }

    /// The answer has come, be it that nobody knows. It may be too late to matter.
    pub(super) fn answered(&mut self, pod: &PodRef, fate: Option<Fate>, now: Instant) -> Vec<(Left, Verdict)> {
        let Some(Question { since, about, given_up }) = self.asked.remove(pod) else { return Vec::new() };
        let deadline = match fate {
            Some(Fate::Ends(left)) => Some(now + left),
            Some(Fate::Gone) => Some(since + UNKNOWN_DEADLINE),
            Some(Fate::Lives) | None => None,
        };
        let lengthens = |known: &Instant| deadline.is_none_or(|deadline| deadline >= *known);
        if given_up && (deadline.is_none() || self.deadlines.get(pod).is_some_and(lengthens)) {
            return Vec::new();
        }
        about.into_iter().map(|left| (left.clone(), self.decide(&left, deadline, since))).collect()
    }

    /// What is decided because an answer did not come in time.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(Left, Verdict)> {
        let mut late = Vec::new();
        for question in self.asked.values_mut().filter(|question| !question.given_up && question.since + PATIENCE <= now) {
            question.given_up = true;
            late.extend(question.about.iter().map(|left| (left.clone(), question.since)));
        }
        late.into_iter().map(|(left, since)| (left.clone(), self.decide(&left, None, since))).collect()
    }

    /// When something is overdue.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.asked.values().filter(|question| !question.given_up).map(|question| question.since + PATIENCE).min()
    }

    /// A Pod that is given tunnels ends no more; without a UID it is another one of the name.
    pub(super) fn returned(&mut self, pod: &PodRef) {
        self.deadlines.remove(pod);
        self.asked.remove(pod);
    }

    /// Forgets all that nobody needs any more.
    pub(super) fn retain(&mut self, is_needed: impl Fn(&PodRef) -> bool) {
        self.deadlines.retain(|pod, _| is_needed(pod));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    fn decide(&mut self, left: &Left, deadline: Option<Instant>, since: Instant) -> Verdict {
        let known = left.pod_ref.as_ref().and_then(|pod| self.deadlines.get(pod)).copied();
        let Some(deadline) = deadline.into_iter().chain(known).min() else {
            let verdict = unanswered(left.how, since);
            if let (Verdict::Ends { deadline, .. }, Some(pod)) = (verdict, &left.pod_ref) {
                self.deadlines.insert(pod.clone(), deadline);
            }
            return verdict;
        };
        if let Some(pod) = &left.pod_ref {
            self.deadlines.insert(pod.clone(), deadline);
        }
        Verdict::Ends { since, deadline }
    }
}

/// What is taken for true where nobody knows more than the slice says.
fn unanswered(how: How, since: Instant) -> Verdict {
    match how {
        How::Terminating => Verdict::Ends { since, deadline: since + UNKNOWN_DEADLINE },
        How::Removed => Verdict::Removed,
        How::Unready => Verdict::Stays,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ObjectRef, PoolKey};

    const SECOND: Duration = Duration::from_secs(1);

    fn chat_0() -> PodRef {
        PodRef { namespace: "default".into(), name: "chat-0".into(), uid: "1".into() }
    }

    /// An endpoint of one Pod.
    fn left(port: u16, how: How) -> Left {
        let pool = PoolKey::Service { service: ObjectRef::new("default", "chat"), port: port.to_string().into() };
        let pod = Arc::new(Pod { name: "chat-0".into(), uid: "1".into() });
        Left { endpoint: EndpointKey { pool, address: ([10, 0, 0, 1], port).into() }, pod: Some(pod), pod_ref: Some(chat_0()), how }
    }

    fn ends(since: Instant, deadline: Instant) -> Verdict {
        Verdict::Ends { since, deadline }
    }

    fn verdicts(given: Vec<(Left, Verdict)>) -> Vec<Verdict> {
        given.into_iter().map(|(_, verdict)| verdict).collect()
    }

    #[test]
    fn a_pod_is_asked_once_for_all_its_endpoints() {
        let (mut pods, began) = (Pods::default(), Instant::now());
        assert_eq!(pods.take(&left(80, How::Terminating), true, began), Known::Ask(chat_0()));
        assert_eq!(pods.take(&left(81, How::Removed), true, began + SECOND / 2), Known::Asked);
        let told = pods.answered(&chat_0(), Some(Fate::Ends(SECOND * 30)), began + SECOND);
        assert_eq!(verdicts(told), [ends(began, began + SECOND * 31); 2]);
        let later = pods.take(&left(82, How::Terminating), true, began + SECOND * 5);
        assert_eq!(later, Known::Now(ends(began + SECOND * 5, began + SECOND * 31)), "known from then on");
        assert!(pods.answered(&chat_0(), Some(Fate::Ends(SECOND)), began + SECOND * 6).is_empty(), "nobody asked again");
    }

    #[test]
    fn what_an_answer_means_depends_on_how_the_endpoint_left() {
        let began = Instant::now();
        let unknown = ends(began, began + UNKNOWN_DEADLINE);
        for (how, fate, expected) in [
            (How::Terminating, Some(Fate::Ends(SECOND * 3)), ends(began, began + SECOND * 3)),
            (How::Terminating, Some(Fate::Gone), unknown),
            (How::Terminating, Some(Fate::Lives), unknown),
            (How::Terminating, None, unknown),
            (How::Removed, Some(Fate::Ends(SECOND * 3)), ends(began, began + SECOND * 3)),
            (How::Removed, Some(Fate::Gone), unknown),
            (How::Removed, Some(Fate::Lives), Verdict::Removed),
            (How::Removed, None, Verdict::Removed),
            (How::Unready, Some(Fate::Ends(SECOND * 3)), ends(began, began + SECOND * 3)),
            (How::Unready, Some(Fate::Gone), unknown),
            (How::Unready, Some(Fate::Lives), Verdict::Stays),
            (How::Unready, None, Verdict::Stays),
        ] {
            let mut pods = Pods::default();
            pods.take(&left(80, how), true, began);
            assert_eq!(verdicts(pods.answered(&chat_0(), fate, began)), [expected], "{how:?} {fate:?}");
        }
    }

    #[test]
    fn where_nobody_can_be_asked_a_terminating_pod_has_ten_seconds() {
        let (mut pods, began) = (Pods::default(), Instant::now());
        assert_eq!(pods.take(&left(80, How::Removed), false, began), Known::Now(Verdict::Removed));
        assert_eq!(pods.take(&left(80, How::Unready), false, began), Known::Now(Verdict::Stays));
        let unknown = ends(began, began + UNKNOWN_DEADLINE);
        assert_eq!(pods.take(&left(80, How::Terminating), false, began), Known::Now(unknown));
        let nameless = Left { pod: None, pod_ref: None, ..left(80, How::Terminating) };
        assert_eq!(pods.take(&nameless, true, began), Known::Now(unknown), "no Pod, nobody to ask about");
    }

    #[test]
    fn an_answer_that_is_too_late_may_shorten_and_never_lengthens() {
        let began = Instant::now();
        let late = |fate| {
            let mut pods = Pods::default();
            pods.take(&left(80, How::Terminating), true, began);
            assert_eq!(pods.next_due(), Some(began + PATIENCE));
            assert!(pods.overdue(began + SECOND).is_empty());
            assert_eq!(verdicts(pods.overdue(began + PATIENCE)), [ends(began, began + UNKNOWN_DEADLINE)]);
            assert_eq!((pods.next_due(), pods.overdue(began + PATIENCE).len()), (None, 0), "once");
            verdicts(pods.answered(&chat_0(), fate, began + SECOND * 3))
        };
        assert_eq!(late(Some(Fate::Ends(SECOND * 30))), []);
        assert_eq!(late(None), []);
        assert_eq!(late(Some(Fate::Ends(SECOND * 2))), [ends(began, began + SECOND * 5)]);
    }

    #[test]
    fn a_deadline_that_has_passed_is_now() {
        let (mut pods, began) = (Pods::default(), Instant::now());
        pods.take(&left(80, How::Terminating), true, began);
        let told = pods.answered(&chat_0(), Some(Fate::Ends(Duration::ZERO)), began + SECOND);
        assert_eq!(verdicts(told), [ends(began, began + SECOND)]);
    }

    #[test]
    fn a_pod_that_takes_tunnels_again_has_no_deadline() {
        let (mut pods, began) = (Pods::default(), Instant::now());
        pods.take(&left(80, How::Terminating), false, began);
        pods.returned(&chat_0());
        assert!(pods.is_empty());
        let again = pods.take(&left(80, How::Terminating), false, began + SECOND * 60);
        assert_eq!(again, Known::Now(ends(began + SECOND * 60, began + SECOND * 70)));
    }
}
