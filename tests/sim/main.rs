//! Seeded simulations of the pure cores: thousands of random lives each, the same ones in every run.
//!
//! A failure names its seed; `SEED=n cargo test --test sim` runs that one alone.

mod closing;
mod election;
mod frames;
mod rebalance;
mod stream;
mod tunnels;

/// Runs a simulation for every seed, or for the one of the environment.
fn for_seeds(count: u64, simulate: impl Fn(&mut fastrand::Rng) + std::panic::RefUnwindSafe) {
    let one = std::env::var("SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seeds = one.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| simulate(&mut fastrand::Rng::with_seed(seed)));
        assert!(outcome.is_ok(), "failed with SEED={seed}");
    }
}
