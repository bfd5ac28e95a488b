//! What is kept by host name: exact names first, then the longest wildcard, then any.
//!
//! It never knows what it keeps. The router keeps virtual hosts and layer-4 routes in it.

use rapidhash::RapidHashMap;

use crate::model::table::HostPattern;

/// A map from host patterns, asked by host names.
pub(super) struct Hosts<T> {
    exact: RapidHashMap<Box<str>, T>,
    wildcards: RapidHashMap<Box<str>, T>,
    /// Length of the longest wildcard's suffix: nothing longer is looked up, however many dots a name has.
    longest: usize,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: RapidHashMap::default(), wildcards: RapidHashMap::default(), longest: 0, any: None }
    }
}

impl<T> Hosts<T> {
    /// Keeps a value for a pattern; the first for a pattern stays.
    pub(super) fn insert(&mut self, pattern: &HostPattern, value: T) {
        match pattern {
            HostPattern::Exact(name) => {
                self.exact.entry((**name).into()).or_insert(value);
            }
            HostPattern::Wildcard(suffix) => {
                self.longest = self.longest.max(suffix.len());
                self.wildcards.entry((**suffix).into()).or_insert(value);
            }
            HostPattern::Any => {
                self.any.get_or_insert(value);
            }
        }
    }

    /// The value of the most specific pattern that takes this name.
    pub(super) fn find(&self, host: Option<&str>) -> Option<&T> {
        host.and_then(|host| self.exact.get(host).or_else(|| self.wildcard(host))).or(self.any.as_ref())
    }

    fn wildcard(&self, host: &str) -> Option<&T> {
        if self.wildcards.is_empty() {
            return None;
        }
        // The longest suffix that can match leaves at least one character and a dot before it.
        let from = host.len().saturating_sub(self.longest + 1).max(1);
        let dots = memchr::memchr_iter(b'.', host.as_bytes().get(from..)?).map(|at| from + at);
        dots.filter_map(|dot| host.get(dot + 1..)).find_map(|suffix| self.wildcards.get(suffix))
    }
}

/// How specific a pattern is among those that take one and the same name: more is more specific.
pub(super) fn specificity(pattern: &HostPattern) -> usize {
    match pattern {
        HostPattern::Exact(_) => usize::MAX,
        HostPattern::Wildcard(suffix) => suffix.len(),
        HostPattern::Any => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts<&'static str> {
        let mut hosts = Hosts::default();
        for (pattern, value) in [
            (HostPattern::Any, "any"),
            (HostPattern::Wildcard("example.com".into()), "short"),
            (HostPattern::Wildcard("b.example.com".into()), "long"),
            (HostPattern::Exact("a.b.example.com".into()), "exact"),
            (HostPattern::Exact("a.b.example.com".into()), "too late"),
        ] {
            hosts.insert(&pattern, value);
        }
        hosts
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let hosts = hosts();
        for (host, value) in [
            ("a.b.example.com", "exact"),
            ("c.b.example.com", "long"),
            ("d.c.b.example.com", "long"),
            ("b.example.com", "short"),
            ("x.y.example.com", "short"),
            ("example.com", "any"),
            ("notexample.com", "any"),
            (".example.com", "any"),
            ("", "any"),
        ] {
            assert_eq!(hosts.find(Some(host)), Some(&value), "{host}");
        }
        assert_eq!(hosts.find(None), Some(&"any"));
    }

    #[test]
    fn without_a_pattern_for_any_host_an_unknown_name_finds_nothing() {
        let mut hosts = Hosts::default();
        hosts.insert(&HostPattern::Wildcard("example.com".into()), ());
        assert!(hosts.find(Some("a.example.com")).is_some());
        assert!(hosts.find(Some("example.org")).is_none() && hosts.find(None).is_none());
    }
}
