//! What a WsRoute's status is to say, made of what the translation says, where clients reach us, and what it said before.
//!
//! Pure: it never knows a client or a clock. `ledger` calls it.

use jiff::Timestamp;

use crate::{
    api::{Condition, ConditionType, LoadBalancerIngress, LoadBalancerStatus, Reason, Status, WsRouteStatus},
    translate::RouteStatus,
};

/// Messages of other conditions are repeated in `Ready` up to so many characters each.
const REPEATED: usize = 1024;

/// What all statuses have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Common {
    /// `--controller-name`.
    pub(super) controller: String,
    /// Where clients reach us; `None` while that is not known, and then what was said stays.
    pub(super) addresses: Option<Vec<LoadBalancerIngress>>,
}

/// News of a condition that changed for the worse or the better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    /// Whether somebody has to act.
    pub(crate) is_bad: bool,
    /// The condition's reason.
    pub(crate) reason: String,
    /// Its message.
    pub(crate) note: String,
}

/// The status to be written over `before`. `None` while nothing is known that would be better than what is there.
pub(super) fn compose(route: &RouteStatus, common: &Common, before: &WsRouteStatus, now: Timestamp) -> Option<WsRouteStatus> {
    if !route.settled && is_decided(before, route.observed_generation) {
        return None;
    }
    let mut conditions = if route.settled { settled(route) } else { pending(route) };
    for condition in &mut conditions {
        condition.observed_generation = route.observed_generation;
        condition.last_transition_time = Some(transition(condition, before, now));
    }
    let load_balancer = match &common.addresses {
        Some(addresses) => {
            Some(addresses.clone()).filter(|addresses| !addresses.is_empty()).map(|ingress| LoadBalancerStatus { ingress: Some(ingress) })
        }
        None => before.load_balancer.clone(),
    };
    Some(WsRouteStatus {
        observed_generation: route.observed_generation,
        controller: Some(common.controller.clone()),
        ingress_class_name: route.class.as_deref().map(str::to_owned),
        conditions: Some(conditions),
        load_balancer,
        locations: Some(route.locations.clone()).filter(|locations| !locations.is_empty()),
    })
}

/// Whether a status says what is to be said. Conditions of types that are not ours are somebody else's.
pub(super) fn says(before: &WsRouteStatus, wanted: &WsRouteStatus) -> bool {
    let ours = before.conditions.iter().flatten().filter(|condition| is_ours(condition));
    let same = |one: &Condition, other: &Condition| {
        // A time that was parsed and printed again may be spelled differently.
        Condition { last_transition_time: None, ..one.clone() } == Condition { last_transition_time: None, ..other.clone() }
    };
    let wanted_conditions = wanted.conditions.iter().flatten();
    let equal_conditions = ours.clone().count() == wanted_conditions.clone().count()
        && wanted_conditions.into_iter().all(|condition| ours.clone().any(|other| same(condition, other)));
    equal_conditions && WsRouteStatus { conditions: None, ..before.clone() } == WsRouteStatus { conditions: None, ..wanted.clone() }
}

/// What a user must see of the change from one status to the next.
pub(super) fn news(before: &WsRouteStatus, next: &WsRouteStatus) -> Vec<News> {
    [ConditionType::Accepted, ConditionType::ResolvedRefs, ConditionType::Conflicted]
        .into_iter()
        .filter_map(|type_| {
            let (was, is) = (find(before, type_), find(next, type_));
            let is_bad = |condition: &Condition| condition.status == bad(type_).to_string();
            match (was.filter(|was| is_bad(was)), is.filter(|is| is_bad(is))) {
                (Some(was), Some(is)) if was.reason == is.reason && was.message == is.message => None,
                (_, Some(is)) => Some(News { is_bad: true, reason: is.reason.clone(), note: is.message.clone() }),
                (Some(_), None) => {
                    let reason = is.map_or(Reason::NoConflicts.to_string(), |is| is.reason.clone());
                    // While references are looked up nothing is good yet.
                    let is_good = is.is_none_or(|is| is.status == Status::True.to_string());
                    is_good.then(|| News { is_bad: false, reason, note: format!("{} again", repaired(type_)) })
                }
                (None, None) => None,
            }
        })
        .collect()
}

fn repaired(type_: ConditionType) -> &'static str {
    match type_ {
        ConditionType::Accepted => "the route is accepted",
        ConditionType::ResolvedRefs => "everything that the route names is found",
        _ => "nothing of the route is another's",
    }
}

fn bad(type_: ConditionType) -> Status {
    if type_ == ConditionType::Conflicted { Status::True } else { Status::False }
}

fn find(status: &WsRouteStatus, type_: ConditionType) -> Option<&Condition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_.to_string())
}

fn is_ours(condition: &Condition) -> bool {
    let ours =
        [ConditionType::Accepted, ConditionType::ResolvedRefs, ConditionType::Programmed, ConditionType::Conflicted, ConditionType::Ready];
    ours.iter().any(|type_| condition.type_ == type_.to_string())
}

/// Whether `Ready` was already decided for this generation.
fn is_decided(before: &WsRouteStatus, generation: Option<i64>) -> bool {
    find(before, ConditionType::Ready)
        .is_some_and(|ready| ready.observed_generation == generation && ready.status != Status::Unknown.to_string())
}

/// The conditions of a route of which all is known: what the translation says, what is served, and the sum.
fn settled(route: &RouteStatus) -> Vec<Condition> {
    let (conflicted, mut conditions): (Vec<_>, Vec<_>) =
        route.conditions.iter().cloned().partition(|condition| condition.type_ == ConditionType::Conflicted.to_string());
    conditions.push(programmed(route));
    conditions.extend(conflicted);
    let failing: Vec<&Condition> = conditions.iter().filter(|condition| condition.status == Status::False.to_string()).collect();
    let ready = if failing.is_empty() {
        Condition::new(ConditionType::Ready, Status::True, Reason::Ready, "")
    } else {
        let why: Vec<String> = failing.iter().map(|condition| summary(condition)).collect();
        Condition::new(ConditionType::Ready, Status::False, Reason::NotReady, why.join("; "))
    };
    conditions.push(ready);
    conditions
}

fn summary(condition: &Condition) -> String {
    let message: String = condition.message.chars().take(REPEATED).collect();
    let separator = if message.is_empty() { "" } else { ": " };
    format!("{} is {}, {}{separator}{message}", condition.type_, condition.status, condition.reason)
}

/// Whether the data plane serves any of it. The reason of what keeps it out is that of the condition that says so.
fn programmed(route: &RouteStatus) -> Condition {
    let why = route.problems().next().filter(|_| !route.served);
    match why {
        None => Condition::new(ConditionType::Programmed, Status::True, Reason::Programmed, ""),
        Some(why) => Condition {
            reason: why.reason.clone(),
            ..Condition::new(
                ConditionType::Programmed,
                Status::False,
                Reason::Pending,
                format!("nothing of it is served: see {}", why.type_),
            )
        },
    }
}

/// The conditions of a route that names what is still being looked up.
fn pending(route: &RouteStatus) -> Vec<Condition> {
    let message = "what the route names is being looked up";
    let accepted = route.conditions.iter().filter(|condition| condition.type_ == ConditionType::Accepted.to_string()).cloned();
    let unknown = |type_| Condition::new(type_, Status::Unknown, Reason::Pending, message);
    accepted.chain([ConditionType::ResolvedRefs, ConditionType::Programmed, ConditionType::Ready].map(unknown)).collect()
}

/// When a condition got its status: as it was, where that did not change. What the schema's default says was never a transition.
fn transition(condition: &Condition, before: &WsRouteStatus, now: Timestamp) -> String {
    let before = before.conditions.iter().flatten().find(|before| before.type_ == condition.type_);
    let kept = before.filter(|before| before.status == condition.status && before.observed_generation.is_some());
    kept.and_then(|before| before.last_transition_time.clone()).unwrap_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::LocationStatus;

    const LATER: i64 = 1_700_000_000;

    fn route(conditions: Vec<Condition>) -> RouteStatus {
        RouteStatus { conditions, ..crate::k8s::status::ledger::tests::good(3) }
    }

    fn refs_missing() -> Condition {
        Condition::new(ConditionType::ResolvedRefs, Status::False, Reason::ServiceNotFound, "service default/chat not found")
    }

    fn accepted() -> Condition {
        Condition::new(ConditionType::Accepted, Status::True, Reason::Accepted, "")
    }

    fn composed(route: &RouteStatus, before: &WsRouteStatus) -> WsRouteStatus {
        compose(route, &Common { controller: "us".into(), addresses: Some(vec![]) }, before, Timestamp::from_second(LATER).unwrap())
            .unwrap()
    }

    fn spelled(status: &WsRouteStatus) -> Vec<String> {
        status
            .conditions
            .iter()
            .flatten()
            .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason))
            .collect()
    }

    #[test]
    fn ready_is_the_sum_of_the_others() {
        let good = composed(
            &route(vec![accepted(), Condition::new(ConditionType::ResolvedRefs, Status::True, Reason::ResolvedRefs, "")]),
            &WsRouteStatus::default(),
        );
        assert_eq!(
            spelled(&good),
            ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs", "Programmed=True Programmed", "Ready=True Ready"]
        );
        assert!(good.conditions.iter().flatten().all(|condition| condition.observed_generation == Some(3)));
        let bad = composed(&route(vec![accepted(), refs_missing()]), &WsRouteStatus::default());
        let ready = find(&bad, ConditionType::Ready).unwrap();
        assert_eq!((&*ready.status, &*ready.reason), ("False", "NotReady"));
        assert_eq!(ready.message, "ResolvedRefs is False, ServiceNotFound: service default/chat not found");
    }

    #[test]
    fn a_conflict_beside_a_serving_rest_is_ready() {
        let conflicted = Condition::new(ConditionType::Conflicted, Status::True, Reason::Conflicted, "/ws is default/old's");
        let status = composed(&route(vec![accepted(), conflicted]), &WsRouteStatus::default());
        assert_eq!(spelled(&status)[1..], ["Programmed=True Programmed", "Conflicted=True Conflicted", "Ready=True Ready"]);
    }

    #[test]
    fn what_is_not_served_at_all_is_not_programmed() {
        let refused = Condition::new(ConditionType::Accepted, Status::False, Reason::HostNotAllowed, "shop.example.com belongs to b");
        let status = composed(&RouteStatus { served: false, ..route(vec![refused]) }, &WsRouteStatus::default());
        assert_eq!(spelled(&status), ["Accepted=False HostNotAllowed", "Programmed=False HostNotAllowed", "Ready=False NotReady"]);
    }

    #[test]
    fn a_transition_is_a_change_of_status_alone() {
        let first = composed(&route(vec![accepted(), refs_missing()]), &WsRouteStatus::default());
        let mut before = first.clone();
        before.conditions.iter_mut().flatten().for_each(|condition| condition.last_transition_time = Some("2020-01-01T00:00:00Z".into()));
        let other = Condition { message: "service default/other not found".into(), ..refs_missing() };
        let next = composed(&route(vec![accepted(), other]), &before);
        assert_eq!(find(&next, ConditionType::ResolvedRefs).unwrap().last_transition_time.as_deref(), Some("2020-01-01T00:00:00Z"));
        let repaired = composed(&route(vec![accepted()]), &before);
        assert_eq!(find(&repaired, ConditionType::Accepted).unwrap().last_transition_time.as_deref(), Some("2020-01-01T00:00:00Z"));
        assert_eq!(find(&repaired, ConditionType::Ready).unwrap().last_transition_time.as_deref(), Some("2023-11-14T22:13:20Z"));
    }

    #[test]
    fn an_unsettled_route_is_unknown_unless_more_was_known() {
        let unsettled = RouteStatus { settled: false, ..route(vec![accepted(), refs_missing()]) };
        let pending = composed(&unsettled, &WsRouteStatus::default());
        assert_eq!(
            spelled(&pending),
            ["Accepted=True Accepted", "ResolvedRefs=Unknown Pending", "Programmed=Unknown Pending", "Ready=Unknown Pending"]
        );
        let known = composed(&route(vec![accepted()]), &WsRouteStatus::default());
        assert_eq!(compose(&unsettled, &Common::default(), &known, Timestamp::UNIX_EPOCH), None);
        let older = RouteStatus { observed_generation: Some(4), ..unsettled };
        assert!(compose(&older, &Common::default(), &known, Timestamp::UNIX_EPOCH).is_some());
    }

    #[test]
    fn what_others_wrote_is_no_difference_but_ours_that_is_too_much_is() {
        let wanted = composed(&route(vec![accepted()]), &WsRouteStatus::default());
        let mut there = wanted.clone();
        there.conditions.as_mut().unwrap().reverse();
        there.conditions.as_mut().unwrap().push(Condition { type_: "Foreign".into(), ..accepted() });
        assert!(says(&there, &wanted));
        there.conditions.as_mut().unwrap().push(Condition { type_: "Conflicted".into(), ..accepted() });
        assert!(!says(&there, &wanted));
        let location = LocationStatus { name: "/".into(), ..LocationStatus::default() };
        assert!(!says(&WsRouteStatus { locations: Some(vec![location]), ..wanted.clone() }, &wanted));
    }

    #[test]
    fn news_are_changes_for_the_worse_and_for_the_better() {
        let good = composed(
            &route(vec![accepted(), Condition { status: "True".into(), reason: "ResolvedRefs".into(), ..refs_missing() }]),
            &WsRouteStatus::default(),
        );
        let bad = composed(&route(vec![accepted(), refs_missing()]), &good);
        let worse = news(&good, &bad);
        assert_eq!(worse, [News { is_bad: true, reason: "ServiceNotFound".into(), note: "service default/chat not found".into() }]);
        assert_eq!(news(&bad, &bad), []);
        assert!(matches!(&news(&bad, &good)[..], [News { is_bad: false, reason, .. }] if reason == "ResolvedRefs"));
        assert_eq!(news(&WsRouteStatus::default(), &good), [], "what is good from the start is no news");
        let conflicted = Condition::new(ConditionType::Conflicted, Status::True, Reason::Conflicted, "taken");
        let conflict = composed(&route(vec![accepted(), conflicted]), &good);
        assert!(matches!(&news(&conflict, &good)[..], [News { is_bad: false, reason, .. }] if reason == "NoConflicts"));
    }
}
