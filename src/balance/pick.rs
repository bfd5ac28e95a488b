//! Which endpoint a request gets: first a service by weight, then an endpoint of it by policy.
//!
//! Pure but for its counters: no lock, no allocation, no clock. `live` builds targets, `proxy` asks them.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use smallvec::SmallVec;

use super::{
    Pool, Pools,
    endpoint::{Endpoint, Lease},
    split::Split,
};
use crate::model::route::{Backend, Policy};

/// How often a pick that was overtaken by others compares again before it takes what it has.
const OVERTAKEN: usize = 8;

/// Where the requests of one location, or the connections of one layer-4 route, go.
#[derive(Debug)]
pub struct Target {
    policy: Policy,
    backends: Box<[Backend]>,
    /// By backend; `None` where the table has no such pool.
    pools: Box<[Option<Arc<Pool>>]>,
    /// The backends that have a weight and a ready endpoint: the others' share is theirs.
    split: Split,
    turns: Arc<Turns>,
}

/// Whose turn it is, by backend. It outlives the targets of a location while its backends stay the same.
#[derive(Debug)]
struct Turns(Box<[Turn]>);

#[derive(Debug, Default)]
struct Turn {
    split: AtomicU64,
    endpoint: AtomicU32,
}

/// The endpoints that one request has already tried in vain.
#[derive(Debug, Default)]
pub struct Tried(SmallVec<[Arc<Endpoint>; 2]>);

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// There is no service, or all weights are 0.
    #[error("no backend has a weight")]
    NoBackends,
    /// No service with a weight has an endpoint that takes new requests.
    #[error("no endpoint is ready")]
    NoReadyEndpoint,
    /// Every ready endpoint was tried.
    #[error("every ready endpoint was tried")]
    AllTried,
}

impl Tried {
    /// Remembers an endpoint: it is not picked again.
    pub fn add(&mut self, endpoint: &Arc<Endpoint>) {
        self.0.push(endpoint.clone());
    }

    /// Whether nothing was tried yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many were tried.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn contains(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.0.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
    }
}

impl Target {
    /// Joins backends with the pools of a table. `previous` is the target that served the same location: it is returned if it means the same, and
    /// hands on its turns while the backends stay.
    pub fn build(backends: &[Backend], policy: Policy, pools: &Pools, previous: Option<&Arc<Target>>) -> Arc<Self> {
        let pools: Box<[_]> = backends.iter().map(|backend| pools.get(&backend.pool).cloned()).collect();
        let previous = previous.filter(|previous| *previous.backends == *backends);
        if let Some(same) = previous.filter(|previous| previous.policy == policy && previous.has(&pools)) {
            return same.clone();
        }
        let ready = |index: usize| pools[index].as_ref().is_some_and(|pool| !pool.ready().is_empty());
        let split = Split::new(backends.iter().enumerate().map(|(index, backend)| (index, if ready(index) { backend.weight } else { 0 })));
        let turns = previous.map_or_else(|| Arc::new(Turns::new(backends.len())), |previous| previous.turns.clone());
        Arc::new(Self { policy, backends: backends.into(), pools, split, turns })
    }

    fn has(&self, pools: &[Option<Arc<Pool>>]) -> bool {
        let same = |(ours, theirs): (&Option<Arc<Pool>>, &Option<Arc<Pool>>)| match (ours, theirs) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (None, None) => true,
            _ => false,
        };
        self.pools.iter().zip(pools).all(same)
    }

    /// The pools in the order of the backends, each with its weight: what `carrick check` and `/debug` show.
    pub fn pools(&self) -> impl Iterator<Item = (&Backend, Option<&Arc<Pool>>)> {
        self.backends.iter().zip(self.pools.iter().map(Option::as_ref))
    }

    /// Picks an endpoint that was not tried, and counts it as open.
    ///
    /// A request that tried one already stays with that one's service as long as it can, and takes no new turn.
    pub fn pick(&self, tried: &Tried) -> Result<Lease, PickError> {
        let first = match tried.0.first() {
            None => self.split.next(|index| &self.turns.0[index].split),
            Some(home) => self.split.indices().find(|index| self.backends[*index].pool == home.key.pool),
        };
        let others = self.split.indices().filter(|index| Some(*index) != first);
        let lease = first.into_iter().chain(others).find_map(|index| self.pick_in(index, tried));
        lease.ok_or_else(|| self.why_none())
    }

    fn pick_in(&self, index: usize, tried: &Tried) -> Option<Lease> {
        let ready = self.pools[index].as_ref()?.ready();
        match self.policy {
            Policy::LeastConnections => least_connections(ready, tried),
            Policy::RoundRobin => round_robin(ready, &self.turns.0[index].endpoint, tried),
        }
    }

    fn why_none(&self) -> PickError {
        if !self.split.is_empty() {
            PickError::AllTried
        } else if self.backends.iter().any(|backend| backend.weight > 0) {
            PickError::NoReadyEndpoint
        } else {
            PickError::NoBackends
        }
    }
}

impl Turns {
    fn new(backends: usize) -> Self {
        Self((0..backends).map(|_| Turn::default()).collect())
    }
}

/// The one with the fewest open leases, ties at random. It is taken only while it still has as few, so that picks at the same time spread.
fn least_connections(ready: &[Arc<Endpoint>], tried: &Tried) -> Option<Lease> {
    for _ in 0..OVERTAKEN {
        let (endpoint, open) = emptiest(ready, tried)?;
        if let Some(lease) = Lease::open_if(endpoint, open) {
            return Some(lease);
        }
    }
    emptiest(ready, tried).map(|(endpoint, _)| Lease::open(endpoint))
}

fn emptiest<'a>(ready: &'a [Arc<Endpoint>], tried: &Tried) -> Option<(&'a Arc<Endpoint>, u32)> {
    let mut emptiest: Option<(&Arc<Endpoint>, u32)> = None;
    let mut ties = 0;
    for endpoint in ready.iter().filter(|endpoint| !tried.contains(endpoint)) {
        let open = endpoint.open();
        match emptiest {
            Some((_, fewest)) if open > fewest => {}
            Some((_, fewest)) if open == fewest => {
                // Each of n ties is kept with probability 1/n.
                ties += 1;
                if fastrand::u32(..ties) == 0 {
                    emptiest = Some((endpoint, open));
                }
            }
            _ => {
                ties = 1;
                emptiest = Some((endpoint, open));
            }
        }
    }
    emptiest
}

/// The next one in turn that was not tried.
fn round_robin(ready: &[Arc<Endpoint>], turn: &AtomicU32, tried: &Tried) -> Option<Lease> {
    let start = turn.fetch_add(1, Ordering::Relaxed) as usize % ready.len().max(1);
    let (before, from) = ready.split_at(start);
    from.iter().chain(before).find(|endpoint| !tried.contains(endpoint)).map(Lease::open)
}
