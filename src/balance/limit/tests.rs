use std::{
    sync::atomic::{AtomicBool, AtomicU64},
    thread,
};

use proptest::prelude::*;

use super::*;

fn limiter(limits: Limits, share: &Arc<Share>) -> Limiter {
    Limiter::new(limits, Account::new(), share.clone())
}

/// The same location under another configuration.
fn changed(before: &Limiter, limits: Limits) -> Limiter {
    Limiter::new(limits, before.account.clone(), before.share.clone())
}

fn connections(limit: u32) -> Limits {
    Limits { connections: Some(limit), ..Limits::default() }
}

fn client(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

fn enter(limiter: &Limiter, number: u8) -> Result<Slot, Over> {
    limiter.enter(client(number), Instant::now())
}

#[test]
fn a_lower_limit_closes_nothing_and_lets_nobody_in_until_enough_have_left() {
    let before = limiter(connections(3), &Arc::default());
    let mut slots: Vec<_> = (0..3).map(|_| enter(&before, 1).unwrap()).collect();
    assert_eq!(enter(&before, 1).unwrap_err(), Over::Connections);
    let lower = changed(&before, connections(2));
    slots.pop();
    assert_eq!((lower.account().open(), enter(&lower, 1).unwrap_err()), (2, Over::Connections));
    slots.pop();
    assert!(enter(&lower, 1).is_ok());
}

#[test]
fn what_was_opened_without_a_limit_counts_for_one_that_comes_later() {
    let unlimited = limiter(Limits::default(), &Arc::default());
    let _slots: Vec<_> = (0..5).map(|_| enter(&unlimited, 1).unwrap()).collect();
    assert_eq!(enter(&changed(&unlimited, connections(5)), 1).unwrap_err(), Over::Connections);
}

#[test]
fn a_replica_enforces_its_part_as_their_number_changes() {
    let share = Arc::<Share>::default();
    let limiter = limiter(connections(5), &share);
    share.set_replicas(2);
    let mut slots: Vec<_> = (0..3).map(|_| enter(&limiter, 1).unwrap()).collect();
    assert_eq!(enter(&limiter, 1).unwrap_err(), Over::Connections, "5 for 2 is 3");
    share.set_replicas(1);
    slots.extend((0..2).map(|_| enter(&limiter, 1).unwrap()));
    assert_eq!(enter(&limiter, 1).unwrap_err(), Over::Connections);
}

#[test]
fn a_client_is_kept_out_alone_and_takes_nothing_of_the_other_limits() {
    let limits = Limits {
        connections: Some(2),
        connections_per_client: Some(1),
        arrivals: Some(Rate { per_second: 1, burst: 2 }),
        ..Limits::default()
    };
    let limiter = limiter(limits, &Arc::default());
    let now = Instant::now();
    let first = limiter.enter(client(1), now).unwrap();
    for _ in 0..10 {
        assert_eq!(limiter.enter(client(1), now).unwrap_err(), Over::PerClient);
    }
    let second = limiter.enter(client(2), now).unwrap();
    assert_eq!(limiter.enter(client(3), now).unwrap_err(), Over::Connections);
    drop((first, second));
    assert!(matches!(limiter.enter(client(3), now).unwrap_err(), Over::Rate(_)));
    assert_eq!((limiter.account().open(), limiter.account().clients.len()), (0, 0), "who is kept out leaves nothing behind");
}

#[test]
fn an_account_is_the_same_while_anything_is_open_and_each_route_has_its_own() {
    let accounts = Accounts::default();
    let key = LocationKey { namespace: "default".into(), identity: "chat".into() };
    let (one, other) = (ObjectRef::new("default", "one"), ObjectRef::new("default", "other"));
    let limiter = Limiter::new(connections(1), accounts.of(&key, &one), Arc::default());
    let slot = enter(&limiter, 1).unwrap();
    drop(limiter);
    accounts.forget_unused();
    assert_eq!(accounts.of(&key, &one).open(), 1, "the location was gone for a while, its tunnel was not");
    assert_eq!(accounts.of(&key, &other).open(), 0);
    drop(slot);
    accounts.forget_unused();
    assert!(accounts.0.lock().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn many_threads_never_pass_a_limit_and_leave_nothing(limit in 1_u32..12, per_client in 1_u32..4, threads in 2_u8..9, seed in any::<u64>()) {
        let limits = Limits { connections: Some(limit), connections_per_client: Some(per_client), ..Limits::default() };
        let limiter = limiter(limits, &Arc::default());
        let (over, entered) = (AtomicBool::new(false), AtomicU64::new(0));
        // Counted by us, apart from what is tested: how many hold a slot, in all and of each client.
        let held: [AtomicU32; 4] = Default::default();
        let all = AtomicU32::new(0);
        thread::scope(|scope| {
            for thread in 0..threads {
                let (limiter, over, entered, held, all) = (&limiter, &over, &entered, &held, &all);
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(u64::from(thread)));
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    for _ in 0..400 {
                        let number = random.u8(..4);
                        if random.bool() {
                            if let Ok(slot) = limiter.enter(client(number), Instant::now()) {
                                let full = all.fetch_add(1, Relaxed) >= limit || held[usize::from(number)].fetch_add(1, Relaxed) >= per_client;
                                over.fetch_or(full, Relaxed);
                                entered.fetch_add(1, Relaxed);
                                mine.push((number, slot));
                            }
                        } else if let Some((number, slot)) = mine.pop() {
                            all.fetch_sub(1, Relaxed);
                            held[usize::from(number)].fetch_sub(1, Relaxed);
                            drop(slot);
                        }
                    }
                    for (number, slot) in mine {
                        all.fetch_sub(1, Relaxed);
                        held[usize::from(number)].fetch_sub(1, Relaxed);
                        drop(slot);
                    }
                });
            }
        });
        prop_assert!(!over.load(Relaxed), "a limit was passed");
        prop_assert!(entered.load(Relaxed) > 0);
        prop_assert_eq!((limiter.account().open(), limiter.account().clients.len()), (0, 0));
        // All of it is to be had again.
        let again: Vec<_> = (0..4).flat_map(|number| (0..per_client).map(move |_| number)).filter_map(|number| enter(&limiter, number).ok()).collect();
        prop_assert_eq!(again.len() as u32, limit.min(4 * per_client));
    }

    #[test]
    fn many_threads_never_pass_a_rate(burst in 1_u32..40, threads in 2_u8..9) {
        let limiter = limiter(Limits { arrivals: Some(Rate { per_second: 1, burst }), ..Limits::default() }, &Arc::default());
        let now = Instant::now();
        let let_in = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..100).for_each(|_| if limiter.enter(client(1), now).is_ok() { let_in.fetch_add(1, Relaxed); }));
            }
        });
        prop_assert_eq!(let_in.load(Relaxed), burst);
    }
}
