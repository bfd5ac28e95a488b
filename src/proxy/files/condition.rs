//! Preconditions of a request on what it would get (RFC 9110 13).
//!
//! It never knows where the validators come from. `answer` asks it once a request.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName,
    header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE},
};

/// What tells one state of a file from another.
#[derive(Clone, Debug)]
pub(super) struct Validators {
    /// The entity tag as it is sent, quotes and `W/` included.
    pub(super) etag: String,
    /// In whole seconds.
    pub(super) modified: Option<SystemTime>,
}

/// What the preconditions make of a GET or HEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer as if there were none.
    Send,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

impl Validators {
    /// The order of RFC 9110 13.2.2.
    pub(super) fn verdict(&self, headers: &HeaderMap) -> Verdict {
        let holds = match self.listed(headers, &IF_MATCH, Comparison::Strong) {
            Some(matches) => matches,
            None => self.changed_since(headers, &IF_UNMODIFIED_SINCE).is_none_or(|changed| !changed),
        };
        if !holds {
            return Verdict::Failed;
        }
        let modified = match self.listed(headers, &IF_NONE_MATCH, Comparison::Weak) {
            Some(matches) => !matches,
            None => self.changed_since(headers, &IF_MODIFIED_SINCE).unwrap_or(true),
        };
        if modified { Verdict::Send } else { Verdict::NotModified }
    }

    /// Whether If-Range lets a Range count (13.1.5): the same strong tag, or exactly the date, where the date is a strong validator.
    pub(super) fn range_holds(&self, headers: &HeaderMap, now: SystemTime) -> bool {
        let mut values = headers.get_all(IF_RANGE).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return !headers.contains_key(IF_RANGE) };
        let Ok(value) = value.to_str() else { return false };
        if value.starts_with(['"', 'W']) {
            return !self.etag.starts_with("W/") && value.trim_end() == self.etag;
        }
        // A date can't tell two changes within a second (8.8.2.2).
        let settled = |modified: &SystemTime| now.duration_since(*modified).is_ok_and(|age| age >= Duration::from_secs(1));
        self.modified.filter(settled).is_some_and(|modified| httpdate::parse_http_date(value).is_ok_and(|date| date == modified))
    }

    /// Whether a list of entity tags holds ours; `None` where the field is absent.
    fn listed(&self, headers: &HeaderMap, name: &HeaderName, comparison: Comparison) -> Option<bool> {
        headers.contains_key(name).then(|| {
            headers.get_all(name).iter().any(|value| {
                let list = value.as_bytes();
                list.trim_ascii() == b"*" || tags(list).any(|tag| comparison.same(tag, self.etag.as_bytes()))
            })
        })
    }

    /// Whether it changed after the date of a field; `None` where there is no date, or more than one.
    fn changed_since(&self, headers: &HeaderMap, name: &HeaderName) -> Option<bool> {
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let date = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
        self.modified.map(|modified| modified > date)
    }
}

/// How tags are compared (8.8.3.2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

impl Comparison {
    fn same(self, a: &[u8], b: &[u8]) -> bool {
        match self {
            Comparison::Strong => a == b && !a.starts_with(b"W/"),
            Comparison::Weak => a.strip_prefix(b"W/").unwrap_or(a) == b.strip_prefix(b"W/").unwrap_or(b),
        }
    }
}

/// The entity tags of a list, up to the first thing that is none.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let start = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        rest = &rest[start..];
        let prefix = if rest.starts_with(b"W/") { 2 } else { 0 };
        let opaque = rest.get(prefix..)?.strip_prefix(b"\"")?;
        let end = prefix + 2 + opaque.iter().position(|byte| *byte == b'"')?;
        let (tag, after) = rest.split_at(end);
        rest = after;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "Sat, 29 Oct 1994 19:43:31 GMT";
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEW: &str = "Mon, 07 Nov 1994 08:49:37 GMT";

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn validators(etag: &str) -> Validators {
        Validators { etag: etag.into(), modified: httpdate::parse_http_date(SAME).ok() }
    }

    #[test]
    fn the_order_of_rfc_9110_13_2_2() {
        use Verdict::{Failed, NotModified, Send};
        for (fields, expected) in [
            (&[][..], Send),
            (&[(IF_NONE_MATCH, "\"a\"")], NotModified),
            (&[(IF_NONE_MATCH, "W/\"a\"")], NotModified),
            (&[(IF_NONE_MATCH, "\"x\" , \"y,a\",W/\"a\"")], NotModified),
            (&[(IF_NONE_MATCH, "\"x\""), (IF_NONE_MATCH, "\"a\"")], NotModified),
            (&[(IF_NONE_MATCH, "*")], NotModified),
            (&[(IF_NONE_MATCH, "a")], Send),
            (&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, NEW)], Send),
            (&[(IF_MODIFIED_SINCE, SAME)], NotModified),
            (&[(IF_MODIFIED_SINCE, NEW)], NotModified),
            (&[(IF_MODIFIED_SINCE, OLD)], Send),
            (&[(IF_MODIFIED_SINCE, "yesterday")], Send),
            (&[(IF_MATCH, "\"a\"")], Send),
            (&[(IF_MATCH, "W/\"a\"")], Failed),
            (&[(IF_MATCH, "\"x\"")], Failed),
            (&[(IF_MATCH, "*"), (IF_NONE_MATCH, "\"a\"")], NotModified),
            (&[(IF_MATCH, "\"a\""), (IF_UNMODIFIED_SINCE, OLD)], Send),
            (&[(IF_UNMODIFIED_SINCE, OLD)], Failed),
            (&[(IF_UNMODIFIED_SINCE, SAME)], Send),
            (&[(IF_UNMODIFIED_SINCE, "never")], Send),
        ] {
            assert_eq!(validators("\"a\"").verdict(&headers(fields)), expected, "{fields:?}");
        }
        assert_eq!(validators("W/\"a\"").verdict(&headers(&[(IF_MATCH, "W/\"a\"")])), Failed, "a weak tag never satisfies If-Match");
    }

    #[test]
    fn a_range_counts_only_for_the_state_it_was_cut_from() {
        let later = httpdate::parse_http_date(NEW).unwrap();
        for (value, expected) in
            [("\"a\"", true), ("\"b\"", false), ("W/\"a\"", false), (SAME, true), (OLD, false), (NEW, false), ("x", false)]
        {
            assert_eq!(validators("\"a\"").range_holds(&headers(&[(IF_RANGE, value)]), later), expected, "{value}");
        }
        assert!(validators("\"a\"").range_holds(&HeaderMap::new(), later));
        assert!(!validators("W/\"a\"").range_holds(&headers(&[(IF_RANGE, "W/\"a\"")]), later));
        let at_once = httpdate::parse_http_date(SAME).unwrap();
        assert!(!validators("\"a\"").range_holds(&headers(&[(IF_RANGE, SAME)]), at_once), "it may change again within this second");
    }
}
