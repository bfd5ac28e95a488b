//! What statuses say beside what they are to say, and which writes make up the difference.
//!
//! It never does I/O and reads no clock. The loop in `status` tells it what happens and carries out what it says.
//!
//! A write names the resourceVersion of the object it was made for, and is made only where that is the object, and the generation
//! of it, that was translated: what is said of one never reaches another.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    super::allowance::Allowances,
    compose::{Common, News, compose, news, says},
};
use crate::{
    api::{LoadBalancerIngress, WsRouteStatus},
    model::ObjectRef,
    translate::Translated,
};

/// The first pause after a write that failed; doubled with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Writes of one route at once: two controllers that both take it for theirs would undo each other's for ever.
const BURST: u32 = 20;
/// After that, one in so long.
const REFILL: Duration = Duration::from_secs(5);

/// A WsRoute as the API server last showed it, without its spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) uid: String,
    pub(super) version: String,
    pub(super) generation: Option<i64>,
    pub(super) status: WsRouteStatus,
}

/// One status to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Write {
    pub(super) route: ObjectRef,
    pub(super) uid: String,
    /// The resourceVersion that the object must still have.
    pub(super) version: String,
    /// What we say of it; nothing where we take back what we said.
    pub(super) status: WsRouteStatus,
    /// What a user must see of it.
    pub(super) news: Vec<News>,
}

/// What came of a write.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The object is so now.
    Written(Seen),
    /// The object has changed before; it will be seen so.
    Conflict,
    /// There is no such object any more.
    Gone,
    /// It may be tried again.
    Failed,
}

/// The books of one leader.
#[derive(Debug)]
pub(super) struct Ledger {
    common: Common,
    latest: Arc<Translated>,
    seen: BTreeMap<ObjectRef, Seen>,
    /// What was written last, by the version that it made: where that changed nothing it is not tried again.
    written: BTreeMap<ObjectRef, (String, WsRouteStatus)>,
    /// Routes to be looked at, each once.
    open: VecDeque<ObjectRef>,
    is_open: BTreeSet<ObjectRef>,
    under_way: BTreeSet<ObjectRef>,
    failed: BTreeMap<ObjectRef, Failure>,
    allowances: Allowances<ObjectRef>,
    rng: fastrand::Rng,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    times: u32,
    /// When it is tried again; `None` once it is.
    again: Option<Instant>,
    /// The object had changed: it is tried as soon as it is seen so.
    is_conflict: bool,
}

impl Ledger {
    pub(super) fn new(controller: String, seed: u64) -> Self {
        Self {
            common: Common { controller, addresses: None },
            latest: Arc::default(),
            seen: BTreeMap::new(),
            written: BTreeMap::new(),
            open: VecDeque::new(),
            is_open: BTreeSet::new(),
            under_way: BTreeSet::new(),
            failed: BTreeMap::new(),
            allowances: Allowances::new(BURST, REFILL),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// What the translation says now.
    pub(super) fn translated(&mut self, next: Arc<Translated>) {
        let last = std::mem::replace(&mut self.latest, Arc::clone(&next));
        if !Arc::ptr_eq(&last.statuses, &next.statuses) {
            let changed = |(route, status): (&ObjectRef, _)| (last.statuses.get(route) != Some(status)).then(|| route.clone());
            next.statuses.iter().filter_map(changed).for_each(|route| self.look_at(route));
        }
        next.departed.difference(&last.departed).cloned().for_each(|route| self.look_at(route));
    }

    /// Where clients reach us now, if that is known.
    pub(super) fn addressed(&mut self, addresses: Option<Vec<LoadBalancerIngress>>) {
        if self.common.addresses != addresses {
            self.common.addresses = addresses;
            self.look_at_all();
        }
    }

    /// A WsRoute is so now.
    pub(super) fn see(&mut self, route: ObjectRef, seen: Seen) {
        if self.seen.get(&route).is_some_and(|known| known.uid == seen.uid && is_newer(&known.version, &seen.version)) {
            return;
        }
        self.seen.insert(route.clone(), seen);
        if self.failed.get(&route).is_some_and(|failure| failure.is_conflict) {
            self.failed.remove(&route);
        }
        self.look_at(route);
    }

    /// A WsRoute is gone.
    pub(super) fn lose(&mut self, route: &ObjectRef) {
        self.seen.remove(route);
        self.written.remove(route);
        self.failed.remove(route);
    }

    /// These are all WsRoutes there are in a namespace, or in all of them.
    pub(super) fn see_all(&mut self, namespace: Option<&str>, routes: Vec<(ObjectRef, Seen)>) {
        let there: BTreeSet<&ObjectRef> = routes.iter().map(|(route, _)| route).collect();
        let gone = |route: &&ObjectRef| namespace.is_none_or(|namespace| *route.namespace == *namespace) && !there.contains(route);
        let gone: Vec<ObjectRef> = self.seen.keys().filter(gone).cloned().collect();
        gone.iter().for_each(|route| self.lose(route));
        routes.into_iter().for_each(|(route, seen)| self.see(route, seen));
    }

    /// The next write, if there is one now. `wall` is the time of its transitions.
    pub(super) fn next(&mut self, now: Instant, wall: Timestamp) -> Option<Write> {
        let due: Vec<ObjectRef> = self.failed.iter().filter(|(_, f)| f.again.is_some_and(|at| at <= now)).map(|(r, _)| r.clone()).collect();
        for route in due {
            if let Some(failure) = self.failed.get_mut(&route) {
                failure.again = None;
            }
            self.look_at(route);
        }
        while let Some(route) = self.open.pop_front() {
            self.is_open.remove(&route);
            let waits = self.failed.get(&route).is_some_and(|failure| failure.again.is_some());
            if waits || self.under_way.contains(&route) {
                continue; // looked at again when that is over
            }
            match self.difference(&route, wall) {
                None => drop(self.failed.remove(&route)),
                Some(write) => match self.allowances.take(route.clone(), now) {
                    Ok(()) => {
                        self.under_way.insert(route);
                        return Some(write);
                    }
                    Err(wait) => {
                        let times = self.failed.get(&route).map_or(0, |failure| failure.times);
                        self.failed.insert(route, Failure { times, again: Some(now + wait), is_conflict: false });
                    }
                },
            }
        }
        None
    }

    /// When [`next`](Self::next) may have something without anything happening.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if !self.open.is_empty() {
            return Some(now);
        }
        self.failed.values().filter_map(|failure| failure.again).min()
    }

    /// Statuses that are being written or will be.
    pub(super) fn pending(&self) -> usize {
        self.open.len() + self.under_way.len() + self.failed.values().filter(|failure| failure.again.is_some()).count()
    }

    /// Hears what came of a write.
    pub(super) fn hear(&mut self, write: &Write, outcome: Outcome, now: Instant) {
        let route = &write.route;
        self.under_way.remove(route);
        match outcome {
            Outcome::Written(seen) => {
                self.failed.remove(route);
                self.written.insert(route.clone(), (seen.version.clone(), write.status.clone()));
                if self.seen.contains_key(route) {
                    self.see(route.clone(), seen);
                }
            }
            Outcome::Gone => self.lose(route),
            // It was seen as it is now while the write was under way.
            Outcome::Conflict if self.seen.get(route).is_some_and(|seen| seen.version != write.version) => {}
            Outcome::Conflict | Outcome::Failed => {
                let times = self.failed.get(route).map_or(0, |failure| failure.times);
                let pause = (FIRST_PAUSE * 2u32.saturating_pow(times.min(16))).min(LONGEST_PAUSE).mul_f64(0.75 + 0.5 * self.rng.f64());
                let failure = Failure { times: times + 1, again: Some(now + pause), is_conflict: matches!(outcome, Outcome::Conflict) };
                self.failed.insert(route.clone(), failure);
            }
        }
        self.look_at(route.clone());
    }

    /// What a route's status lacks.
    fn difference(&self, route: &ObjectRef, wall: Timestamp) -> Option<Write> {
        let seen = self.seen.get(route)?;
        let (status, news) = match self.latest.statuses.get(route) {
            Some(said) => {
                let is_about_it = said.observed_generation == seen.generation && said.uid.as_deref().is_none_or(|uid| uid == seen.uid);
                let status = compose(said, &self.common, &seen.status, wall).filter(|_| is_about_it)?;
                let news = news(&seen.status, &status);
                (status, news)
            }
            None if self.latest.departed.contains(route) && seen.status.controller.as_ref() == Some(&self.common.controller) => {
                (WsRouteStatus::default(), Vec::new())
            }
            None => return None,
        };
        let is_futile = self.written.get(route).is_some_and(|(version, last)| *version == seen.version && says(last, &status));
        if is_futile || says(&seen.status, &status) {
            return None;
        }
        Some(Write { route: route.clone(), uid: seen.uid.clone(), version: seen.version.clone(), status, news })
    }

    fn look_at(&mut self, route: ObjectRef) {
        if self.is_open.insert(route.clone()) {
            self.open.push_back(route);
        }
    }

    fn look_at_all(&mut self) {
        let all: Vec<ObjectRef> = self.seen.keys().cloned().collect();
        all.into_iter().for_each(|route| self.look_at(route));
    }
}

/// Whether one resourceVersion is later than another: they are numbers that grow, as of Kubernetes 1.35 by contract.
fn is_newer(one: &str, other: &str) -> bool {
    matches!((one.parse::<u64>(), other.parse::<u64>()), (Ok(one), Ok(other)) if one > other)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        api::{Condition, ConditionType, Reason, Status},
        translate::RouteStatus,
    };

    /// What the translation says of a route that is good, in this generation.
    pub(in super::super) fn good(generation: i64) -> RouteStatus {
        RouteStatus {
            observed_generation: Some(generation),
            uid: Some("uid-1".into()),
            conditions: vec![
                Condition::new(ConditionType::Accepted, Status::True, Reason::Accepted, ""),
                Condition::new(ConditionType::ResolvedRefs, Status::True, Reason::ResolvedRefs, ""),
            ],
            locations: Vec::new(),
            class: Some("carrick".into()),
            settled: true,
            served: true,
        }
    }

    fn missing(generation: i64) -> RouteStatus {
        let mut status = good(generation);
        status.conditions[1] = Condition::new(ConditionType::ResolvedRefs, Status::False, Reason::ServiceNotFound, "no chat");
        status
    }

    fn shop() -> ObjectRef {
        ObjectRef::new("default", "shop")
    }

    fn says(statuses: impl IntoIterator<Item = (ObjectRef, RouteStatus)>) -> Arc<Translated> {
        Arc::new(Translated { statuses: Arc::new(statuses.into_iter().collect()), ..Translated::default() })
    }

    fn seen(version: u64, generation: i64, status: WsRouteStatus) -> Seen {
        Seen { uid: "uid-1".into(), version: version.to_string(), generation: Some(generation), status }
    }

    struct Books {
        ledger: Ledger,
        now: Instant,
        version: u64,
    }

    impl Books {
        fn new() -> Self {
            Self { ledger: Ledger::new("us".into(), 1), now: Instant::now(), version: 100 }
        }

        /// Ours is `shop`, which was never written to.
        fn with_shop(status: RouteStatus) -> Self {
            let mut books = Self::new();
            books.ledger.see(shop(), seen(1, 1, WsRouteStatus::default()));
            books.ledger.translated(says([(shop(), status)]));
            books
        }

        fn next(&mut self) -> Option<Write> {
            self.ledger.next(self.now, Timestamp::UNIX_EPOCH)
        }

        fn hear(&mut self, write: &Write, outcome: Outcome) {
            self.ledger.hear(write, outcome, self.now);
        }

        /// Carries out every write, and says how many there were.
        fn settle(&mut self) -> usize {
            let mut writes = 0;
            while let Some(write) = self.next() {
                (self.version, writes) = (self.version + 1, writes + 1);
                let generation = self.ledger.seen[&write.route].generation.unwrap();
                self.hear(&write, Outcome::Written(seen(self.version, generation, write.status.clone())));
            }
            writes
        }
    }

    #[test]
    fn what_is_there_is_not_written_again() {
        let mut books = Books::with_shop(good(1));
        let write = books.next().unwrap();
        assert_eq!((&*write.uid, &*write.version), ("uid-1", "1"));
        assert_eq!(books.next(), None, "one write of a route at a time");
        let status = write.status.clone();
        books.hear(&write, Outcome::Written(seen(2, 1, status.clone())));
        assert_eq!((books.next(), books.ledger.pending()), (None, 0));
        // Another replica that comes to lead has nothing to do.
        let mut other = Books::new();
        other.ledger.see(shop(), seen(2, 1, status));
        other.ledger.translated(says([(shop(), good(1))]));
        assert_eq!(other.next(), None);
    }

    #[test]
    fn a_status_never_reaches_another_generation_or_another_object() {
        let mut books = Books::with_shop(good(1));
        books.ledger.see(shop(), seen(5, 2, WsRouteStatus::default()));
        assert_eq!(books.next(), None, "the translation is behind");
        books.ledger.translated(says([(shop(), missing(2))]));
        assert_eq!(books.next().unwrap().version, "5");
        let mut behind = Books::with_shop(good(2));
        assert_eq!(behind.next(), None, "the watch is behind");
        behind.ledger.see(shop(), seen(7, 2, WsRouteStatus::default()));
        assert_eq!(behind.next().unwrap().version, "7");
        let mut recreated = Books::with_shop(good(1));
        recreated.ledger.see(shop(), Seen { uid: "uid-2".into(), ..seen(9, 1, WsRouteStatus::default()) });
        assert_eq!(recreated.next(), None, "the translation is about one that is gone");
    }

    #[test]
    fn a_conflict_waits_for_the_object_as_it_is_now() {
        let mut books = Books::with_shop(good(1));
        let write = books.next().unwrap();
        books.hear(&write, Outcome::Conflict);
        assert_eq!(books.next(), None);
        books.ledger.see(shop(), seen(2, 1, WsRouteStatus::default()));
        let again = books.next().unwrap();
        assert_eq!(again.version, "2");
        books.ledger.see(shop(), seen(3, 1, WsRouteStatus::default()));
        books.hear(&again, Outcome::Conflict);
        assert_eq!(books.next().unwrap().version, "3", "it was seen before the conflict was heard of");
    }

    #[test]
    fn what_failed_is_tried_again_later_and_later() {
        let mut books = Books::with_shop(good(1));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let write = books.next().unwrap();
            books.hear(&write, Outcome::Failed);
            assert_eq!((books.next(), books.ledger.pending()), (None, 1));
            let due = books.ledger.due(books.now).unwrap();
            pauses.push(due - books.now);
            books.now = due;
        }
        assert!(pauses[0] < Duration::from_millis(1_300) && pauses[8] > Duration::from_secs(44), "{pauses:?}");
        assert!(pauses[8] <= Duration::from_secs(75), "{pauses:?}");
        assert_eq!(books.settle(), 1);
        assert_eq!((books.ledger.due(books.now), books.ledger.pending()), (None, 0));
    }

    #[test]
    fn what_a_write_does_not_change_is_not_written_for_ever() {
        let mut books = Books::with_shop(good(1));
        let write = books.next().unwrap();
        // Somebody else owns a field that we do not have, so that it stays.
        let mut stays = write.status.clone();
        stays.locations = Some(vec![crate::api::LocationStatus::default()]);
        books.hear(&write, Outcome::Written(seen(1, 1, stays.clone())));
        assert_eq!(books.next(), None);
        books.ledger.see(shop(), seen(2, 1, stays));
        assert!(books.next().is_some(), "the object is another one");
    }

    #[test]
    fn two_that_undo_each_others_writes_do_so_slowly() {
        let mut books = Books::with_shop(good(1));
        let mut writes = 0;
        for version in 2..1000 {
            if let Some(write) = books.next() {
                writes += 1;
                books.hear(&write, Outcome::Written(seen(2 * version, 1, write.status.clone())));
            }
            books.ledger.see(shop(), seen(2 * version + 1, 1, WsRouteStatus::default()));
        }
        assert_eq!((writes, books.next()), (BURST, None));
        books.now = books.ledger.due(books.now).unwrap();
        assert!(books.next().is_some());
    }

    #[test]
    fn what_departed_is_taken_back_if_it_is_still_ours() {
        let mut books = Books::new();
        let ours = WsRouteStatus { controller: Some("us".into()), ..WsRouteStatus::default() };
        books.ledger.see(shop(), seen(1, 1, ours));
        let theirs = ObjectRef::new("default", "theirs");
        books.ledger.see(theirs.clone(), seen(2, 1, WsRouteStatus { controller: Some("them".into()), ..WsRouteStatus::default() }));
        books.ledger.translated(Arc::new(Translated { departed: [shop(), theirs].into(), ..Translated::default() }));
        let write = books.next().unwrap();
        assert_eq!((write.route.clone(), write.status.clone()), (shop(), WsRouteStatus::default()));
        books.hear(&write, Outcome::Written(seen(3, 1, WsRouteStatus::default())));
        assert_eq!(books.next(), None);
    }

    #[test]
    fn an_address_that_changes_changes_every_status() {
        let mut books = Books::new();
        let routes: Vec<ObjectRef> = (0..50).map(|i| ObjectRef::new("default", format!("route-{i}"))).collect();
        books.ledger.see_all(None, routes.iter().map(|route| (route.clone(), seen(1, 1, WsRouteStatus::default()))).collect());
        books.ledger.translated(says(routes.iter().map(|route| (route.clone(), good(1)))));
        assert_eq!(books.settle(), 50);
        let address = LoadBalancerIngress { ip: Some("192.0.2.1".into()), hostname: None };
        books.ledger.addressed(Some(vec![address.clone()]));
        assert_eq!(books.settle(), 50);
        books.ledger.addressed(None);
        assert_eq!(books.settle(), 0, "what was said stays");
        books.ledger.addressed(Some(vec![address]));
        assert_eq!(books.settle(), 0);
    }

    #[test]
    fn a_list_forgets_what_is_not_in_it_within_its_namespace() {
        let mut books = Books::with_shop(good(1));
        books.ledger.see_all(Some("other"), vec![]);
        assert!(books.ledger.seen.contains_key(&shop()));
        books.ledger.see_all(Some("default"), vec![]);
        assert_eq!((books.next(), books.ledger.seen.len()), (None, 0));
    }
}
