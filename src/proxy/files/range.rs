//! Byte ranges of a request (RFC 9110 14).
//!
//! It never knows what the bytes are. `answer` asks it once a GET.

use std::ops::Range;

use http::{HeaderMap, header::RANGE};
use smallvec::SmallVec;

/// More ranges than this, and all of the file is sent: each costs a part head and a seek.
const MOST: usize = 16;

/// What a Range makes of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ranges {
    /// 200: none was asked for, or nothing sensible.
    Whole,
    /// 206. At least one, in the order asked for; none is empty.
    Parts(SmallVec<[Range<u64>; 1]>),
    /// 416.
    Unsatisfiable,
}

impl Ranges {
    /// What the header section asks of a representation of `len` bytes. What is malformed is ignored, as 14.2 allows.
    pub(super) fn of(headers: &HeaderMap, len: u64) -> Self {
        let mut values = headers.get_all(RANGE).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Ranges::Whole };
        value.to_str().ok().and_then(|value| parse(value, len)).unwrap_or(Ranges::Whole)
    }
}

fn parse(value: &str, len: u64) -> Option<Ranges> {
    let (unit, set) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut parts = SmallVec::new();
    let mut asked = 0;
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        asked += 1;
        if asked > MOST {
            return None;
        }
        parts.extend(part(spec, len)?);
    }
    let bytes = parts.iter().map(|part: &Range<u64>| part.end - part.start).fold(0, u64::saturating_add);
    match (asked, parts.is_empty()) {
        (0, _) => None,
        // A suffix of nothing is all of it (14.1.2), which no Content-Range can say.
        (_, true) if len == 0 && set.trim_start().starts_with('-') => None,
        (_, true) => Some(Ranges::Unsatisfiable),
        // Overlapping ranges that are more than the whole are no reader's need (14.2, 17.15).
        _ if bytes > len => None,
        _ => Some(Ranges::Parts(parts)),
    }
}

/// One range: `Some(None)` is well-formed, but holds no byte of the representation.
fn part(spec: &str, len: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?.min(len);
        return Some((suffix > 0).then(|| len - suffix..len));
    }
    let first = number(first)?;
    let end = if last.is_empty() { len } else { number(last)?.saturating_add(1) };
    if end <= first && !last.is_empty() {
        return None;
    }
    Some((first < len).then(|| first..end.min(len)))
}

/// Digits alone; more than fit are as good as the largest.
fn number(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX - 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(value: &str, len: u64) -> Ranges {
        Ranges::of(&HeaderMap::from_iter([(RANGE, value.parse().unwrap())]), len)
    }

    fn parts(parts: &[(u64, u64)]) -> Ranges {
        Ranges::Parts(parts.iter().map(|(start, end)| *start..*end).collect())
    }

    #[test]
    fn ranges_of_a_hundred_bytes() {
        for (value, expected) in [
            ("bytes=0-0", parts(&[(0, 1)])),
            ("Bytes=0-49", parts(&[(0, 50)])),
            ("bytes=90-", parts(&[(90, 100)])),
            ("bytes=90-1000", parts(&[(90, 100)])),
            ("bytes=-10", parts(&[(90, 100)])),
            ("bytes=-1000", parts(&[(0, 100)])),
            ("bytes=0-99999999999999999999999", parts(&[(0, 100)])),
            ("bytes=1-2, 5-6 ,,-1", parts(&[(1, 3), (5, 7), (99, 100)])),
            ("bytes=200-, 0-1", parts(&[(0, 2)])),
            ("bytes=100-", Ranges::Unsatisfiable),
            ("bytes=99999999999999999999999-", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=200-300,400-", Ranges::Unsatisfiable),
            ("bytes=5-4", Ranges::Whole),
            ("bytes=", Ranges::Whole),
            ("bytes=a-b", Ranges::Whole),
            ("bytes=+1-2", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("bytes 0-1", Ranges::Whole),
            ("lines=0-1", Ranges::Whole),
            ("bytes=0-,0-", Ranges::Whole),
            ("bytes=0-60,50-99,1-2", Ranges::Whole),
        ] {
            assert_eq!(of(value, 100), expected, "{value}");
        }
        assert_eq!(of(&format!("bytes={}", ["1-1"; 16].join(",")), 100), parts(&[(1, 2); 16]));
        assert_eq!(of(&format!("bytes={}", ["1-1"; 17].join(",")), 100), Ranges::Whole);
        assert_eq!(of("bytes=0-0", 0), Ranges::Unsatisfiable);
        assert_eq!(of("bytes=-5", 0), Ranges::Whole);
        let mut twice = HeaderMap::new();
        twice.append(RANGE, "bytes=0-1".parse().unwrap());
        twice.append(RANGE, "bytes=0-1".parse().unwrap());
        assert_eq!(Ranges::of(&twice, 100), Ranges::Whole);
    }

    proptest! {
        #[test]
        fn no_part_is_empty_or_beyond_the_end(value in "bytes=[-0-9, ]{0,40}", len in 0u64..2000) {
            if let Ranges::Parts(parts) = of(&value, len) {
                prop_assert!(!parts.is_empty() && parts.iter().all(|part| part.start < part.end && part.end <= len));
                prop_assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= len);
            }
        }
    }
}
