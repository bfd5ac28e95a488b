//! The endpoints of each pool that the table names.
//!
//! It never knows routes. The whole translation and `Index::refresh`, the lane of endpoints alone, call it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::{Index, Options, endpoints as slices, index::service_port};
use crate::model::{ObjectRef, PoolKey, upstream::PoolSpec};

/// The Services that have a pool.
pub(super) fn services<'a>(pools: impl Iterator<Item = &'a PoolKey>) -> BTreeSet<ObjectRef> {
    let service = |key: &PoolKey| match key {
        PoolKey::Service { service, .. } => Some(service.clone()),
        PoolKey::Address(_) => None,
    };
    pools.filter_map(service).collect()
}

/// The pools of one Service among all.
pub(super) fn of_service<'a>(pools: &'a BTreeMap<PoolKey, Arc<PoolSpec>>, service: &'a ObjectRef) -> impl Iterator<Item = &'a PoolKey> {
    let first = PoolKey::Service { service: service.clone(), port: "".into() };
    let is_of = move |key: &&PoolKey| matches!(key, PoolKey::Service { service: known, .. } if known == service);
    pools.range(first..).map(|(key, _)| key).take_while(is_of)
}

/// The endpoints of a pool as the cluster, DNS or `--backend` tell them.
pub(super) fn endpoints(index: &Index, options: &Options, key: &PoolKey) -> PoolSpec {
    if let Some(addresses) = addresses(index, options, key) {
        return slices::of_addresses(addresses.iter().flat_map(|address| resolve(index, address)));
    }
    let PoolKey::Service { service: name, port } = key else { return PoolSpec::default() };
    let service = index.service(name);
    match service.and_then(|service| Some((service, service_port(service, port)?))) {
        Some((service, port)) => slices::of_service(service, port, index.slices(name), index.zone()),
        None => PoolSpec::default(),
    }
}

/// `host:port` of pools whose host is a name, with the pools.
pub(super) fn names<'a>(index: &Index, options: &Options, keys: impl Iterator<Item = &'a PoolKey>) -> BTreeMap<Arc<str>, Vec<PoolKey>> {
    let mut names: BTreeMap<Arc<str>, Vec<PoolKey>> = BTreeMap::new();
    for key in keys {
        for address in addresses(index, options, key).iter().flatten().filter(|address| address.parse::<SocketAddr>().is_err()) {
            names.entry(address.clone()).or_default().push(key.clone());
        }
    }
    names
}

/// The addresses that `--backend` puts in the place of a Service's endpoints. Number and name of a port mean the same.
pub(super) fn overridden<'a>(index: &Index, options: &'a Options, name: &ObjectRef, port: &str) -> Option<&'a Vec<Arc<str>>> {
    let key = |port: &str| PoolKey::Service { service: name.clone(), port: port.into() };
    options.backends.get(&key(port)).or_else(|| {
        let known = service_port(index.service(name)?, port)?;
        let by_number = options.backends.get(&key(&known.port.to_string()));
        by_number.or_else(|| options.backends.get(&key(known.name.as_deref()?)))
    })
}

fn addresses(index: &Index, options: &Options, key: &PoolKey) -> Option<Vec<Arc<str>>> {
    match key {
        PoolKey::Address(address) => Some(vec![address.clone()]),
        PoolKey::Service { service, port } => overridden(index, options, service, port).cloned(),
    }
}

fn resolve(index: &Index, address: &str) -> Vec<SocketAddr> {
    address.parse().map_or_else(|_| index.resolved(address).to_vec(), |literal| vec![literal])
}
