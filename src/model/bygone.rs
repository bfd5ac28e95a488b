//! What no new request needs and open tunnels still do: it stands beside the table, and a change of it is no new configuration.
//!
//! `translate` and `control` make it, `live` publishes it, `proxy::retire` acts on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{LocationKey, PoolKey, table::HostPattern, upstream::PoolSpec};

/// What tunnels outlive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bygone {
    /// Pools that no location lists any more, with tunnels still open: their pods come to an end as well.
    pub pools: BTreeMap<PoolKey, Arc<PoolSpec>>,
    /// What is asked for and may not be had.
    pub refused: Arc<BTreeSet<Refused>>,
}

/// Something that a location asks for and may not have. If it had it before, it was withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// A host that is another namespace's, or was not granted.
    Host(LocationKey, HostPattern),
    /// A port or a name of layer 4: the whole entry.
    Port(LocationKey),
    /// A Service of another namespace.
    Backend(LocationKey, PoolKey),
}
