//! What a new configuration means for the tunnels that are open: which of them are to end, and how gently.
//!
//! It never touches a tunnel: it compares two configurations, asks about Pods, and gives orders to the registry. `app` runs [`run`]
//! beside the listeners, and glues in who can be asked.
//!
//! ```text
//!  Snapshot ──► listed ──► endpoints that left ──► pods ──► verdicts ──┐
//!                 │                                ▲ │                 ▼
//!                 │                         answer │ └─► AskFate     orders ──► registry
//!                 ├──► Services unlisted, grants withdrawn ────────────▲
//!                 └──► locations gone ──► away, 30 s ──────────────────┘
//! ```

mod away;
mod listed;
mod pods;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use self::{
    away::{Away, LastWords},
    listed::Listed,
    pods::{How, Known, Left, Pods, Verdict},
};
use crate::{
    balance::Endpoint,
    live::{Live, Snapshot},
    model::{
        LocationKey,
        pod::{Fate, PodRef},
        route::{Drain, OnRemoved},
    },
    tunnel::{Filter, Order, Reason, Registry},
};

/// Tunnels that have no deadline of their own are closed over this time.
const SPREAD: Duration = Duration::from_secs(30);
/// Those of what was withdrawn are closed at once, but not all in one moment.
const WITHDRAWN_SPREAD: Duration = Duration::from_secs(5);

/// Asks what becomes of a Pod; `None` where nobody knows.
pub type AskFate = Arc<dyn Fn(PodRef) -> BoxFuture<'static, Option<Fate>> + Send + Sync>;

/// Gives orders for as long as configurations come. Without `ask` a terminating pod has 10 s, and one that left its Service lives.
pub async fn run(live: Arc<Live>, registry: Arc<Registry>, ask: Option<AskFate>) {
    let mut replaced = live.replaced();
    let mut shell = Shell { registry, ask, answers: FuturesUnordered::new(), retiring: Retiring::default() };
    let mut last = Arc::new(Snapshot::default());
    loop {
        let next = Arc::clone(&live.load());
        if !Arc::ptr_eq(&last, &next) {
            shell.step(&last, &next);
            last = next;
        }
        let due = shell.retiring.next_due();
        tokio::select! {
            changed = replaced.changed() => if changed.is_err() { return },
            Some(answer) = shell.answers.next(), if !shell.answers.is_empty() => shell.answered(answer, &last),
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => shell.time_passed(&last),
        }
    }
}

type Answer = (PodRef, Option<Fate>);

/// Carries out what [`Retiring`] decides.
struct Shell {
    registry: Arc<Registry>,
    ask: Option<AskFate>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    retiring: Retiring,
}

impl Shell {
    fn step(&mut self, before: &Snapshot, now: &Snapshot) {
        let (before, now) = (Listed::of(before), Listed::of(now));
        let holders = || Holders(self.registry.holders());
        let decided = self.retiring.step(&before, &now, holders, self.ask.is_some(), Instant::now());
        self.carry_out(decided);
    }

    fn answered(&mut self, first: Answer, now: &Snapshot) {
        let mut answers = vec![first];
        // Pods end together more often than not: one look at the tunnels for all of them.
        while let Some(Some(answer)) = self.answers.next().now_or_never() {
            answers.push(answer);
        }
        let decided = self.retiring.answered(&answers, &Listed::of(now), &Holders(self.registry.holders()), Instant::now());
        self.carry_out(decided);
    }

    fn time_passed(&mut self, now: &Snapshot) {
        let decided = self.retiring.time_passed(&Listed::of(now), &Holders(self.registry.holders()), Instant::now());
        self.carry_out(decided);
    }

    fn carry_out(&mut self, decided: Decided) {
        let Decided { stay, depart, ask, orders } = decided;
        stay.iter().for_each(|pod| self.registry.stays(pod));
        self.registry.depart(&depart);
        for (pod, answer) in ask.into_iter().filter_map(|pod| Some((pod.clone(), self.ask.as_ref()?(pod)))) {
            self.answers.push(Box::pin(async move { (pod, answer.await) }));
        }
        for order in orders {
            let told = self.registry.drain(&order);
            if told > 0 {
                tracing::info!(tunnels = told, reason = order.reason.label(), ?order.filter, "tunnels are drained");
            }
        }
    }
}

/// Who has tunnels where.
struct Holders(Vec<(LocationKey, Arc<Endpoint>)>);

impl Holders {
    fn has_location(&self, key: &LocationKey) -> bool {
        self.0.iter().any(|(location, _)| location == key)
    }

    fn of<'a>(&'a self, left: &'a Left) -> impl Iterator<Item = &'a LocationKey> {
        let is_it = |endpoint: &Endpoint| endpoint.key == left.endpoint && endpoint.pod == left.pod;
        self.0.iter().filter(move |(_, endpoint)| is_it(endpoint)).map(|(location, _)| location)
    }

    fn has_pod(&self, left: &Left) -> bool {
        self.0.iter().any(|(_, endpoint)| endpoint.pod.is_some() && endpoint.pod == left.pod)
    }

    fn pods(&self) -> BTreeSet<PodRef> {
        self.0.iter().filter_map(|(_, endpoint)| PodRef::of(&endpoint.key.pool, endpoint.pod.as_ref()?)).collect()
    }
}

/// What is to be done, in this order.
#[derive(Debug, Default)]
struct Decided {
    /// Pods that take tunnels again.
    stay: Vec<PodRef>,
    /// Pods that were told to go.
    depart: Vec<PodRef>,
    /// Pods that are to be asked about.
    ask: Vec<PodRef>,
    orders: Vec<Order>,
}

/// All that is known beyond the configuration in force.
#[derive(Debug, Default)]
struct Retiring {
    pods: Pods,
    away: Away,
    words: LastWords,
}

impl Retiring {
    /// What the step from a configuration to the next one asks for. The tunnels are looked at only if it asks for anything.
    fn step(&mut self, before: &Listed<'_>, now: &Listed<'_>, holders: impl FnOnce() -> Holders, can_ask: bool, at: Instant) -> Decided {
        let stay = before.arrived(now);
        stay.iter().for_each(|pod| self.pods.returned(pod));
        self.away.update(before, now, &self.words, at);
        let mut orders = self.withdrawn(before, now);
        let (left, unlisted) = (before.left(now), before.unlisted(now));
        if left.is_empty() && unlisted.is_empty() && before.silenced(now).next().is_none() {
            return Decided { stay, orders, ..Decided::default() };
        }
        let holders = holders();
        self.words.update(before, now, |key| holders.has_location(key));
        for (location, pool) in unlisted {
            let drain = self.words.of(now, location);
            if drain.on_backend_removed == OnRemoved::Drain {
                let filter = Filter { location: Some(location.clone()), service: Some(pool.clone()), ..Filter::default() };
                orders.push(spread(filter, &drain, Reason::BackendRemoved));
            }
        }
        let terminating = left.iter().filter(|left| left.how == How::Terminating);
        let depart: Vec<PodRef> = terminating.filter_map(|left| left.pod_ref.clone()).collect();
        let (mut verdicts, mut ask) = (Vec::new(), Vec::new());
        for left in left {
            match self.pods.take(&left, can_ask && holders.has_pod(&left), at) {
                Known::Now(verdict) => verdicts.push((left, verdict)),
                Known::Ask(pod) => ask.push(pod),
                Known::Asked => {}
            }
        }
        let mut decided = self.by_verdicts(verdicts, now, &holders);
        decided.depart.extend(depart);
        decided.orders.extend(orders);
        decided.stay = stay;
        decided.ask = ask;
        if !self.pods.is_empty() {
            let (terminating, held) = (now.terminating(), holders.pods());
            self.pods.retain(|pod| terminating.contains(pod) || held.contains(pod));
        }
        decided
    }

    fn answered(&mut self, answers: &[Answer], now: &Listed<'_>, holders: &Holders, at: Instant) -> Decided {
        let verdicts = answers.iter().flat_map(|(pod, fate)| self.pods.answered(pod, *fate, at)).collect();
        self.by_verdicts(verdicts, now, holders)
    }

    fn time_passed(&mut self, now: &Listed<'_>, holders: &Holders, at: Instant) -> Decided {
        let verdicts = self.pods.overdue(at);
        let mut decided = self.by_verdicts(verdicts, now, holders);
        for key in self.away.due(at) {
            let drain = self.words.of(now, &key);
            decided.orders.push(spread(Filter { location: Some(key), ..Filter::default() }, &drain, Reason::RouteRemoved));
        }
        decided
    }

    fn next_due(&self) -> Option<Instant> {
        self.pods.next_due().into_iter().chain(self.away.next_due()).min()
    }

    /// What was there and may not be any more, be it that it was away meanwhile.
    fn withdrawn(&mut self, before: &Listed<'_>, now: &Listed<'_>) -> Vec<Order> {
        let mut filters = before.withdrawn(now);
        for location in self.away.refused(now) {
            let filter = Filter { location: Some(location), ..Filter::default() };
            if !filters.contains(&filter) {
                filters.push(filter);
            }
        }
        filters.into_iter().map(|filter| Order::spread(filter, WITHDRAWN_SPREAD, Reason::Withdrawn)).collect()
    }

    /// Each tunnel is told as its own location says; so are those of a location that no longer lists the Service, or is gone.
    fn by_verdicts(&self, verdicts: Vec<(Left, Verdict)>, now: &Listed<'_>, holders: &Holders) -> Decided {
        let mut decided = Decided::default();
        for (left, verdict) in verdicts {
            if let (Verdict::Ends { .. }, Some(pod)) = (verdict, &left.pod_ref) {
                decided.depart.push(pod.clone());
            }
            let locations: BTreeSet<&LocationKey> = now.users(&left.endpoint.pool).chain(holders.of(&left)).collect();
            for location in locations {
                let drain = self.words.of(now, location);
                let filter = Filter {
                    location: Some(location.clone()),
                    endpoint: Some(left.endpoint.clone()),
                    pod: left.pod.clone(),
                    service: None,
                };
                match verdict {
                    Verdict::Ends { since, deadline } => decided.orders.push(Order::of_terminating(filter, &drain, since, deadline)),
                    Verdict::Removed if drain.on_endpoint_removed == OnRemoved::Drain => {
                        decided.orders.push(spread(filter, &drain, Reason::EndpointRemoved));
                    }
                    Verdict::Removed | Verdict::Stays => {}
                }
            }
        }
        decided
    }
}

fn spread(filter: Filter, drain: &Drain, reason: Reason) -> Order {
    Order { max_per_second: drain.max_per_second, ..Order::spread(filter, SPREAD, reason) }
}

#[cfg(test)]
mod tests;
