//! Watched objects -> what is to be served, and what a cluster shows of it. Pure: equal objects give an equal table, in whatever order they came.
//!
//! It never knows clocks, randomness, sockets or where the objects come from. `control` and `check` call it; `k8s` and
//! `manifests` speak its [`Change`].
//!
//! A WsRoute is read in these steps, a file each: [`Index`] keeps what was told; `route` and `location` turn each route into
//! locations with every default applied, and say what is wrong; `ownership` decides which hosts it may have; `build` joins them
//! host by host, in the order of `precedence`; `layer4` does the same for ports; `pools` looks up the endpoints.

mod acme;
mod allowance;
mod balancing;
mod build;
mod change;
mod class;
mod configmap;
mod defaults;
mod endpoints;
mod grants;
mod health;
mod index;
mod layer4;
mod limits;
mod location;
mod lookup;
pub mod objects;
mod options;
mod ownership;
mod pools;
mod precedence;
mod references;
mod route;
mod secret;
mod status;
mod tls;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use change::{Change, Event, Kind};
pub use index::{Dirty, Index};
pub use lookup::Wanted;
pub use options::{ClassFilter, HasHttps, HostOwnership, Lookup, Options};
pub use status::RouteStatus;

use crate::model::{ObjectRef, PoolKey, Table, bygone::Refused};

/// What is to be served, and what to say about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translated {
    /// What is to be served.
    pub table: Table,
    /// What to say about each WsRoute that is ours. Shared, because a change of endpoints alone says nothing new.
    pub statuses: Arc<BTreeMap<ObjectRef, RouteStatus>>,
    /// WsRoutes that are there and not ours, whose status says that we wrote it: what we wrote is to be taken back.
    pub departed: BTreeSet<ObjectRef>,
    /// `host:port` of pools whose host is a name: [`Change::Address`] is to tell what DNS says, again and again.
    pub names: BTreeMap<Arc<str>, Vec<PoolKey>>,
    /// What routes name and no list holds: a source that has not told of them all is to look these up, and tell again when they change.
    pub wanted: Wanted,
    /// What locations ask for and may not have.
    pub refused: Arc<BTreeSet<Refused>>,
    /// Those of `wanted` of which nothing is known yet, be it that they are not there. What was wanted, and then not, and then again,
    /// is forgotten and among them.
    pub unanswered: Wanted,
}
