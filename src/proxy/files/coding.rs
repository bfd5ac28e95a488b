//! Which content codings a client takes, and which precompressed sibling of a file that is (RFC 9110 12.5.3).
//!
//! It never compresses anything. `mod` asks it once a request.

use http::{HeaderMap, header::ACCEPT_ENCODING};
use smallvec::SmallVec;

/// A coding that a file may have a sibling for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Brotli,
    Gzip,
}

/// The codings that a client prefers to the file as it is, the best one first.
pub(super) type Codings = SmallVec<[Coding; 2]>;

impl Coding {
    /// Its token in Content-Encoding.
    pub(super) fn token(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Gzip => "gzip",
        }
    }

    /// What a sibling's name ends in.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Coding::Brotli => ".br",
            Coding::Gzip => ".gz",
        }
    }
}

/// The codings to look for. Without Accept-Encoding none: RFC 9110 would allow any, but who does not ask may not know.
pub(super) fn accepted(headers: &HeaderMap) -> Codings {
    let mut weights = Weights::default();
    for value in headers.get_all(ACCEPT_ENCODING) {
        value.to_str().unwrap_or_default().split(',').for_each(|element| weights.take(element));
    }
    let any = weights.any.unwrap_or(0);
    let mut found = [(Coding::Brotli, weights.brotli.unwrap_or(any)), (Coding::Gzip, weights.gzip.unwrap_or(any))];
    // The sort is stable: at the same weight brotli, which is smaller, goes first.
    found.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    let identity = weights.identity.unwrap_or(0);
    found.into_iter().filter(|(_, weight)| *weight > 0 && *weight >= identity).map(|(coding, _)| coding).collect()
}

/// Weights in thousandths.
#[derive(Default)]
struct Weights {
    brotli: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    any: Option<u16>,
}

impl Weights {
    fn take(&mut self, element: &str) {
        let mut parts = element.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let place = match () {
            () if coding.eq_ignore_ascii_case("br") => &mut self.brotli,
            () if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") => &mut self.gzip,
            () if coding.eq_ignore_ascii_case("identity") => &mut self.identity,
            () if coding == "*" => &mut self.any,
            () => return,
        };
        *place = Some(parts.find_map(weight).unwrap_or(1000));
    }
}

/// `q=0.5`; what is not a weight of RFC 9110 12.4.2 counts as not wanted.
fn weight(parameter: &str) -> Option<u16> {
    let value = parameter.strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('=')?.trim_start();
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let valid = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = format!("{fraction:0<3}").parse().unwrap_or(0);
    Some(match whole {
        "0" if valid => thousandths,
        "1" if valid => 1000,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_says_which_siblings_are_looked_for() {
        use Coding::{Brotli, Gzip};
        for (header, expected) in [
            ("gzip, deflate, br, zstd", &[Brotli, Gzip][..]),
            ("gzip", &[Gzip]),
            ("GZIP;Q=0.5, br;q=0.4", &[Gzip, Brotli]),
            ("br;q=0, gzip;q=0.001", &[Gzip]),
            ("*", &[Brotli, Gzip]),
            ("*;q=0.1, br;q=0", &[Gzip]),
            ("identity", &[]),
            ("identity;q=0.5, gzip;q=0.2, br", &[Brotli]),
            ("br;q=2, gzip;q=0.12345, x", &[]),
            ("", &[]),
            ("gzip;level=9;q=0", &[]),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, header.parse().unwrap())]);
            assert_eq!(accepted(&headers).as_slice(), expected, "{header}");
        }
        assert!(accepted(&HeaderMap::new()).is_empty());
    }
}
