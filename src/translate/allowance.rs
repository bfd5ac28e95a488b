//! What a namespace may claim under `--require-grants`: the hosts and TCP ports that its Namespace's annotations list.
//!
//! It never knows who owns what already. `index` reads each Namespace once, `ownership` and `layer4` ask.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{objects::Namespace, ownership::wildcards_above, values};
use crate::model::table::HostPattern;

/// Hosts, separated by commas or spaces: names, wildcards with all names under them, `*` for every host.
pub(super) const HOSTS: &str = "carrick.dev/hosts";
/// Ports and ranges such as `9000-9099`, separated alike.
pub(super) const TCP_PORTS: &str = "carrick.dev/tcp-ports";

/// A Namespace, as far as it bears on routes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Allowance {
    /// What `delegate` selects by.
    pub(super) labels: BTreeMap<String, String>,
    hosts: Vec<HostPattern>,
    ports: Vec<RangeInclusive<u16>>,
}

impl Allowance {
    /// What can't be read grants nothing.
    pub(super) fn new(object: Namespace) -> Self {
        let listed = |annotation: &str| object.metadata.annotations.get(annotation).map(String::as_str).unwrap_or_default();
        let hosts = words(listed(HOSTS)).map(|host| match host {
            "*" => HostPattern::Any,
            host => values::host(&host.to_ascii_lowercase()),
        });
        let ports = words(listed(TCP_PORTS)).filter_map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            Some(from.parse().ok()?..=to.parse().ok()?)
        });
        Self { hosts: hosts.collect(), ports: ports.collect(), labels: object.metadata.labels }
    }

    /// Whether a host may be claimed.
    pub(super) fn has_host(&self, host: &HostPattern) -> bool {
        self.hosts
            .iter()
            .any(|granted| *granted == HostPattern::Any || granted == host || wildcards_above(host).any(|above| above == *granted))
    }

    /// Whether a TCP port may be claimed.
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|granted| granted.contains(&port))
    }
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allowance(hosts: &str, ports: &str) -> Allowance {
        let annotations = json!({HOSTS: hosts, TCP_PORTS: ports});
        Allowance::new(serde_json::from_value(json!({"metadata": {"name": "team", "annotations": annotations}})).unwrap())
    }

    #[test]
    fn hosts_are_granted_by_name_by_wildcard_or_all() {
        let some = allowance("Shop.example.com, *.team.example.com\nother.example", "");
        for host in [
            "shop.example.com",
            "a.team.example.com",
            "a.b.team.example.com",
            "*.team.example.com",
            "*.a.team.example.com",
            "other.example",
        ] {
            assert!(some.has_host(&values::host(host)), "{host}");
        }
        for host in ["example.com", "team.example.com", "*.example.com", "a.shop.example.com"] {
            assert!(!some.has_host(&values::host(host)), "{host}");
        }
        assert!(!some.has_host(&HostPattern::Any) && allowance("*", "").has_host(&HostPattern::Any));
        assert!(!Allowance::default().has_host(&values::host("shop.example.com")));
    }

    #[test]
    fn ports_are_granted_one_by_one_and_in_ranges() {
        let some = allowance("", "9000 9100-9199,none,70000");
        assert!(some.has_port(9000) && some.has_port(9100) && some.has_port(9199));
        assert!(!some.has_port(9001) && !some.has_port(9200) && !some.has_port(0));
    }
}
