//! Where a server listens, for those who ask and for those who read its first lines.

use std::{collections::BTreeSet, fmt, net::SocketAddr, sync::Arc};

use crate::proxy::listen::Bound;

/// Where a server listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub(super) bound: Vec<Bound>,
    pub(super) ops: Option<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
}

impl Addresses {
    /// Plain HTTP of the default listener.
    pub fn http(&self) -> Option<SocketAddr> {
        self.find(|bound| !bound.https && &*bound.listener == "default")
    }

    /// HTTPS of the default listener.
    pub fn https(&self) -> Option<SocketAddr> {
        self.find(|bound| bound.https && &*bound.listener == "default")
    }

    /// Plain HTTP of a listener.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.find(|bound| !bound.https && &*bound.listener == name)
    }

    /// `/livez`, `/readyz`, `/metrics`.
    pub fn ops(&self) -> Option<SocketAddr> {
        self.ops
    }

    /// `/debug`.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The listeners, and whether each has an HTTPS port.
    pub fn listeners(&self) -> impl Iterator<Item = (&Arc<str>, bool)> {
        self.bound.iter().map(|bound| (&bound.listener, self.bound.iter().any(|other| other.https && other.listener == bound.listener)))
    }

    /// Every port that is ours.
    pub fn ports(&self) -> BTreeSet<u16> {
        self.bound.iter().map(|bound| bound.address).chain(self.ops).chain(self.admin).map(|address| address.port()).collect()
    }

    fn find(&self, is_it: impl Fn(&&Bound) -> bool) -> Option<SocketAddr> {
        self.bound.iter().find(is_it).map(|bound| bound.address)
    }
}

impl fmt::Display for Addresses {
    /// A line each, for people and for programs that gave port 0.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Bound { listener, https, address } in &self.bound {
            writeln!(f, "{} on {address} ({listener})", if *https { "https" } else { "http" })?;
        }
        for (what, address) in [("ops", self.ops), ("admin", self.admin)] {
            if let Some(address) = address {
                writeln!(f, "{what} on {address}")?;
            }
        }
        Ok(())
    }
}
