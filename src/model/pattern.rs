//! Regular expressions as a WsRoute writes them: compiled in one way, so that what the translator accepts is what the router runs.
//!
//! They run in linear time and are bounded in size. `translate` checks with it, `router` compiles with it.

use regex::{Error, Regex, RegexBuilder, bytes};

/// What a compiled expression may take, in bytes: a quantity that one tenant can't turn against the others.
const SIZE_LIMIT: usize = 1 << 20;

/// An expression that must match the whole of a path or value.
pub fn whole(pattern: &str) -> Result<bytes::Regex, Error> {
    bytes::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(SIZE_LIMIT).dfa_size_limit(SIZE_LIMIT).build()
}

/// An expression whose every match is replaced.
pub fn anywhere(pattern: &str) -> Result<Regex, Error> {
    RegexBuilder::new(pattern).size_limit(SIZE_LIMIT).dfa_size_limit(SIZE_LIMIT).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_as_a_whole() {
        let regex = whole("/a|/b").unwrap();
        assert!(regex.is_match(b"/a") && regex.is_match(b"/b"));
        assert!(!regex.is_match(b"/ab") && !regex.is_match(b"x/b") && !regex.is_match(b"/a\n"));
    }

    #[test]
    fn an_expression_that_grows_too_large_is_refused() {
        assert!(matches!(whole("(?:[a-z]{1000}){1000}"), Err(Error::CompiledTooBig(_))));
    }
}
