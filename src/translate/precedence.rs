//! Which of a host's locations is asked first, so that the first that takes a request is the one that serves it.
//!
//! It never knows where locations come from: age decides outside, by a stable sort. `build` calls it.

use std::cmp::{Ordering, Reverse};

use crate::model::route::{Location, PathPattern, UpgradeMatch};

/// Path: Exact, then RegularExpression (longest pattern), then the longest Prefix by elements. Then: `upgrade` given,
/// `subprotocols`, `methods`, more headers, more cookies, more query. Equal means: the older first.
pub(super) fn compare(a: &Location, b: &Location) -> Ordering {
    path(&a.path).cmp(&path(&b.path)).then_with(|| conditions(a).cmp(&conditions(b)))
}

fn path(pattern: &PathPattern) -> (u8, Reverse<usize>) {
    match pattern {
        PathPattern::Exact(_) => (0, Reverse(0)),
        PathPattern::RegularExpression(expression) => (1, Reverse(expression.len())),
        PathPattern::Prefix(prefix) => (2, Reverse(prefix.matches('/').count())),
    }
}

fn conditions(location: &Location) -> impl Ord + use<> {
    let matching = &location.matching;
    (
        matching.upgrade == UpgradeMatch::Either,
        matching.subprotocols.is_empty(),
        matching.methods.is_empty(),
        Reverse(matching.headers.len()),
        Reverse(matching.cookies.len()),
        Reverse(matching.query.len()),
    )
}
