//! Scheme, host and port: where a request came to, and which Origins may open a WebSocket there (RFC 6454, RFC 6455 10.2).
//!
//! It never knows requests. `Location` compiles the rules, `proxy` tells where a request came to.

use crate::model::{route::OriginPattern, table::HostPattern};

/// Where a request came to, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// `http` or `https`, by the effective scheme.
    pub scheme: &'a str,
    /// The host that the client named, without port; empty where it named none.
    pub host: &'a str,
    /// The port that the client named; `None` is the scheme's own.
    pub port: Option<u16>,
}

/// The ports by which clients reach a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicPorts {
    /// Of plain HTTP.
    pub http: u16,
    /// Of HTTPS.
    pub https: u16,
}

/// The port that a scheme has by itself.
pub fn own_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// A compiled [`OriginPattern`].
#[derive(Debug)]
pub(super) enum OriginRule {
    SameHost,
    Host { scheme: Option<Box<str>>, host: HostPattern, port: Option<u16> },
    Any,
}

impl OriginRule {
    pub(super) fn compile(pattern: &OriginPattern) -> Self {
        match pattern {
            OriginPattern::SameHost => OriginRule::SameHost,
            OriginPattern::Any => OriginRule::Any,
            OriginPattern::Host { scheme, host, port } => {
                OriginRule::Host { scheme: scheme.as_deref().map(Into::into), host: host.clone(), port: *port }
            }
        }
    }

    /// Whether the value of an Origin field is allowed. `null`, and what is no origin, is so by [`OriginPattern::Any`] alone.
    pub(super) fn allows(&self, origin: &[u8], came_to: Origin<'_>) -> bool {
        let parsed = std::str::from_utf8(origin).ok().and_then(Origin::parse);
        match (self, parsed) {
            (OriginRule::Any, _) => true,
            (_, None) => false,
            (OriginRule::SameHost, Some(origin)) => {
                origin.scheme.eq_ignore_ascii_case(came_to.scheme)
                    && origin.host.eq_ignore_ascii_case(came_to.host)
                    && origin.effective_port() == came_to.effective_port()
            }
            (OriginRule::Host { scheme, host, port }, Some(origin)) => {
                scheme.as_ref().is_none_or(|scheme| scheme.eq_ignore_ascii_case(origin.scheme))
                    && port.is_none_or(|port| origin.effective_port() == Some(port))
                    && takes(host, origin.host)
            }
        }
    }
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        // The colons inside `[::1]` separate no port.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
            _ => (authority, None),
        };
        (!host.is_empty() && !host.contains(['/', '@'])).then_some(Origin { scheme, host, port })
    }

    /// The port, be it named or the scheme's own.
    pub fn effective_port(&self) -> Option<u16> {
        self.port.or_else(|| own_port(if self.scheme.eq_ignore_ascii_case("https") { "https" } else { self.scheme }))
    }
}

fn takes(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(name) => name.eq_ignore_ascii_case(host),
        HostPattern::Wildcard(suffix) => {
            let end = host.len().checked_sub(suffix.len()).filter(|at| *at > 1);
            end.and_then(|at| host.split_at_checked(at))
                .is_some_and(|(labels, end)| labels.ends_with('.') && end.eq_ignore_ascii_case(suffix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Origin<'static> = Origin { scheme: "https", host: "chat.example.com", port: None };

    fn host(scheme: Option<&str>, host: HostPattern, port: Option<u16>) -> OriginRule {
        OriginRule::compile(&OriginPattern::Host { scheme: scheme.map(Into::into), host, port })
    }

    #[test]
    fn same_host_means_scheme_host_and_port() {
        let rule = OriginRule::SameHost;
        assert!(rule.allows(b"https://chat.example.com", HERE) && rule.allows(b"HTTPS://Chat.Example.com:443", HERE));
        for origin in ["http://chat.example.com", "https://chat.example.com:8443", "https://example.com", "null", "", "chat.example.com"] {
            assert!(!rule.allows(origin.as_bytes(), HERE), "{origin}");
        }
        assert!(rule.allows(b"http://[::1]:8080", Origin { scheme: "http", host: "[::1]", port: Some(8080) }));
        assert!(rule.allows(b"http://[::1]", Origin { scheme: "http", host: "[::1]", port: Some(80) }));
    }

    #[test]
    fn a_host_is_any_scheme_and_port_unless_they_are_given() {
        let rule = host(None, HostPattern::Exact("app.example.com".into()), None);
        assert!(rule.allows(b"http://app.example.com:3000", HERE) && rule.allows(b"https://APP.example.com", HERE));
        assert!(!rule.allows(b"https://app.example.com.evil.org", HERE) && !rule.allows(b"https://evil.org/https://app.example.com", HERE));
        let rule = host(Some("https"), HostPattern::Exact("app.example.com".into()), Some(443));
        assert!(rule.allows(b"https://app.example.com", HERE));
        assert!(!rule.allows(b"http://app.example.com", HERE) && !rule.allows(b"https://app.example.com:8443", HERE));
    }

    #[test]
    fn a_wildcard_takes_one_label_or_more_and_never_the_suffix_itself() {
        let rule = host(None, HostPattern::Wildcard("example.com".into()), None);
        assert!(rule.allows(b"https://a.example.com", HERE) && rule.allows(b"https://a.b.example.com", HERE));
        assert!(!rule.allows(b"https://example.com", HERE) && !rule.allows(b"https://.example.com", HERE));
        assert!(!rule.allows(b"https://aexample.com", HERE) && !rule.allows(b"https://user@a.example.com", HERE));
    }

    #[test]
    fn only_any_takes_null() {
        assert!(OriginRule::Any.allows(b"null", HERE) && OriginRule::Any.allows(b"\xff", HERE));
        assert!(!host(None, HostPattern::Any, None).allows(b"null", HERE));
    }
}
