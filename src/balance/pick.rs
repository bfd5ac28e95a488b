//! Which endpoint a request gets: first a service, by weight or by what the request says, then an endpoint of it.
//!
//! Pure but for its counters: no lock, no allocation, no clock. `live` builds targets, `proxy` asks them.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64},
};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    Pool, Pools,
    affinity::{self, Pin, Wish},
    endpoint::{Endpoint, Lease},
    health::Attempt,
    policy::{Field, Rules},
    split::Split,
};
use crate::model::{balancing::Balancing, route::Backend};

/// Where the requests of one location, or the connections of one layer-4 route, go.
#[derive(Debug)]
pub struct Target {
    balancing: Balancing,
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

/// What asks for an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// When.
    pub now: Instant,
    /// Where it belongs.
    pub wish: Wish,
    /// What it will be.
    pub purpose: Purpose,
}

/// What an endpoint is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// A request of plain HTTP.
    #[default]
    Request,
    /// A connection or a session, which lasts: nothing for an endpoint that is about to go.
    Lasting,
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
    /// Every ready endpoint that was not tried has as many connections as it may.
    #[error("every endpoint has as many connections as it may")]
    Full,
}

impl Ask {
    /// By one that belongs anywhere.
    pub fn anyone(now: Instant, purpose: Purpose) -> Self {
        Self { now, wish: Wish::Anyone, purpose }
    }
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

    pub(super) fn contains(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.0.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
    }
}

impl Target {
    /// Joins backends with the pools of a table. `previous` is the target that served the same location: it is returned if it means the same, and
    /// hands on its turns while the backends stay.
    pub fn build(backends: &[Backend], balancing: &Balancing, pools: &Pools, previous: Option<&Arc<Target>>) -> Arc<Self> {
        let pools: Box<[_]> = backends.iter().map(|backend| pools.get(&backend.pool).cloned()).collect();
        let previous = previous.filter(|previous| *previous.backends == *backends);
        if let Some(same) = previous.filter(|previous| previous.balancing == *balancing && previous.has(&pools)) {
            return same.clone();
        }
        let ready = |index: usize| pools[index].as_ref().is_some_and(|pool| !pool.ready().is_empty());
        let split = Split::new(backends.iter().enumerate().map(|(index, backend)| (index, if ready(index) { backend.weight } else { 0 })));
        let turns = previous.map_or_else(|| Arc::new(Turns::new(backends.len())), |previous| previous.turns.clone());
        Arc::new(Self { balancing: balancing.clone(), backends: backends.into(), pools, split, turns })
    }

    fn has(&self, pools: &[Option<Arc<Pool>>]) -> bool {
        let same = |(ours, theirs): (&Option<Arc<Pool>>, &Option<Arc<Pool>>)| match (ours, theirs) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (None, None) => true,
            _ => false,
        };
        self.pools.iter().zip(pools).all(same)
    }

    /// Whether an endpoint takes new connections.
    pub fn is_ready(&self) -> bool {
        !self.split.is_empty()
    }

    /// Whether one may do so without another configuration of the route: some backend has a weight.
    pub fn may_become_ready(&self) -> bool {
        self.backends.iter().any(|backend| backend.weight > 0)
    }

    /// The pools in the order of the backends, each with its weight: what `carrick check` and `/debug` show.
    pub fn pools(&self) -> impl Iterator<Item = (&Backend, Option<&Arc<Pool>>)> {
        self.backends.iter().zip(self.pools.iter().map(Option::as_ref))
    }

    /// So many leases this replica opens on one endpoint at once: its share of the limit that holds for the installation.
    pub fn endpoint_limit(&self) -> Option<u32> {
        let limit = self.balancing.max_connections_per_endpoint?;
        let pool = self.pools.iter().flatten().next()?;
        Some(pool.common.share.of(limit.get()))
    }

    /// Whether a pin is to an endpoint of ours, or to one that was.
    pub fn lists(&self, pin: &Pin) -> bool {
        self.pools.iter().flatten().any(|pool| pool.identity == pin.pool || pool.find(pin.endpoint).is_some())
    }

    /// Whether the endpoint of a pin is there and takes requests, though this one may have got another.
    pub fn keeps(&self, pin: &Pin) -> bool {
        let mut found = self.pools.iter().flatten().filter_map(|pool| pool.find(pin.endpoint));
        found.any(|endpoint| !endpoint.is_ejected())
    }

    /// Whether the endpoint of a pin is about to go, and answers what is pinned to it until then.
    pub fn still_serves(&self, pin: &Pin) -> bool {
        self.pools.iter().flatten().any(|pool| pool.serving.iter().any(|endpoint| endpoint.identity == pin.endpoint))
    }

    /// Picks as [`pick`](Self::pick) does, but that an endpoint which has rested long enough is tried by the first request that may go there.
    pub fn attempt(&self, ask: &Ask, tried: &Tried) -> Result<Attempt, PickError> {
        match self.trial(ask, tried) {
            Some(trial) => Ok(trial),
            None => self.pick(ask, tried).map(Attempt::new),
        }
    }

    fn trial(&self, ask: &Ask, tried: &Tried) -> Option<Attempt> {
        // A request that has failed once is not to fail twice.
        if !tried.is_empty() {
            return None;
        }
        let mut pools = self.split.indices().filter_map(|index| self.pools[index].as_ref());
        let pool = pools.find(|pool| pool.health.is_due(pool.common.millis(ask.now)))?;
        let rules = Rules { ejected_too: true, ..self.rules(pool, ask.now) };
        let endpoint = match ask.wish {
            Wish::Anyone => pool.health.claim(rules.now, pool.ready()),
            Wish::Key(key) => {
                let home = self.split.indices().min_by(|a, b| self.distance(key, *a).total_cmp(&self.distance(key, *b)))?;
                if !self.pools[home].as_ref().is_some_and(|home| Arc::ptr_eq(home, pool)) {
                    return None;
                }
                let first = Field::new(&pool.ready, tried, rules).pick_by_key(key)?;
                return pool.health.claim(rules.now, [first.endpoint()]).is_some().then(|| Attempt::trial(first));
            }
            Wish::Pin(pin) => pool.health.claim(rules.now, pool.find(pin.endpoint)),
        }?;
        let lease = Lease::open_below(endpoint, rules.limit);
        if lease.is_none() {
            endpoint.abandoned();
        }
        lease.map(Attempt::trial)
    }

    /// Picks an endpoint that was not tried, and counts it as open.
    ///
    /// A request that tried one already stays with that one's service as long as it can, and takes no new turn.
    pub fn pick(&self, ask: &Ask, tried: &Tried) -> Result<Lease, PickError> {
        let lease = match ask.wish {
            Wish::Anyone => self.pick_by_turn(ask, tried),
            Wish::Key(key) => self.pick_by_key(key, None, ask, tried),
            Wish::Pin(pin) => self.pick_pinned(&pin, ask, tried),
        };
        lease.ok_or_else(|| self.why_none(tried))
    }

    fn pick_by_turn(&self, ask: &Ask, tried: &Tried) -> Option<Lease> {
        let first = match tried.0.first() {
            None => self.split.next(|index| &self.turns.0[index].split),
            Some(home) => self.split.indices().find(|index| self.backends[*index].pool == home.key.pool),
        };
        let others = self.split.indices().filter(|index| Some(*index) != first);
        first.into_iter().chain(others).find_map(|index| self.pick_in(index, ask, tried))
    }

    fn pick_in(&self, index: usize, ask: &Ask, tried: &Tried) -> Option<Lease> {
        let pool = self.pools[index].as_ref()?;
        let rules = self.rules(pool, ask.now);
        let turn = &self.turns.0[index].endpoint;
        let by_policy = |members, rules| Field::new(members, tried, rules).pick(self.balancing.policy, turn);
        let near = pool.near.as_ref().and_then(|near| by_policy(near, rules));
        near.or_else(|| by_policy(&pool.ready, rules)).or_else(|| by_policy(&pool.ready, Rules { ejected_too: true, ..rules }))
    }

    /// The services in the order in which the key falls to them, `first` before all; in each the endpoints in the same way.
    fn pick_by_key(&self, key: u64, first: Option<usize>, ask: &Ask, tried: &Tried) -> Option<Lease> {
        let mut services: SmallVec<[(f64, usize); 16]> = self.split.indices().map(|index| (self.distance(key, index), index)).collect();
        services.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        let others = services.iter().map(|(_, index)| *index).filter(|index| Some(*index) != first);
        first.into_iter().chain(others).find_map(|index| {
            let pool = self.pools[index].as_ref()?;
            let rules = self.rules(pool, ask.now);
            let by_key = |rules| Field::new(&pool.ready, tried, rules).pick_by_key(key);
            by_key(rules).or_else(|| by_key(Rules { ejected_too: true, ..rules }))
        })
    }

    fn distance(&self, key: u64, index: usize) -> f64 {
        let service = self.pools[index].as_ref().map_or(0, |pool| pool.identity);
        affinity::distance(key, service, self.backends[index].weight)
    }

    /// The endpoint of a pin, whatever the weight of its service is now; where it is gone, the next one for its client.
    fn pick_pinned(&self, pin: &Pin, ask: &Ask, tried: &Tried) -> Option<Lease> {
        let is_home = |index: &usize| self.pools[*index].as_ref().is_some_and(|pool| pool.identity == pin.pool);
        let home = (0..self.pools.len()).find(is_home);
        // A Pod may be behind several of our services.
        let mut pools = home.and_then(|home| self.pools[home].as_ref()).into_iter().chain(self.pools.iter().flatten());
        if let Some(lease) = pools.find_map(|pool| self.pinned(pool, pin, ask, tried)) {
            return Some(lease);
        }
        match home {
            Some(home) => self.pick_by_key(pin.client, self.split.indices().find(|index| *index == home), ask, tried),
            // It was pinned to what this location does not list.
            None => self.pick_by_turn(ask, tried),
        }
    }

    fn pinned(&self, pool: &Pool, pin: &Pin, ask: &Ask, tried: &Tried) -> Option<Lease> {
        let ready = pool.find(pin.endpoint).filter(|endpoint| !endpoint.is_ejected());
        let serving = || match ask.purpose {
            Purpose::Request => pool.serving.iter().find(|endpoint| endpoint.identity == pin.endpoint),
            Purpose::Lasting => None,
        };
        let endpoint = ready.or_else(serving).filter(|endpoint| !tried.contains(endpoint))?;
        Lease::open_below(endpoint, self.rules(pool, ask.now).limit)
    }

    fn rules(&self, pool: &Pool, now: Instant) -> Rules {
        Rules {
            now: pool.common.millis(now),
            slow_start: self.balancing.slow_start.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            limit: self.balancing.max_connections_per_endpoint.map_or(u32::MAX, |limit| pool.common.share.of(limit.get())),
            ejected_too: false,
        }
    }

    fn why_none(&self, tried: &Tried) -> PickError {
        let untried = || self.split.indices().filter_map(|index| self.pools[index].as_ref()).any(|pool| pool.has_more_than(tried));
        if self.split.is_empty() {
            let weighted = self.backends.iter().any(|backend| backend.weight > 0);
            return if weighted { PickError::NoReadyEndpoint } else { PickError::NoBackends };
        }
        if untried() { PickError::Full } else { PickError::AllTried }
    }
}

impl Pool {
    fn has_more_than(&self, tried: &Tried) -> bool {
        self.ready().iter().any(|endpoint| !tried.contains(endpoint))
    }
}

impl Turns {
    fn new(backends: usize) -> Self {
        Self((0..backends).map(|_| Turn::default()).collect())
    }
}
