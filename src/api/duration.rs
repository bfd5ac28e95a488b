//! Spans of time as Kubernetes writes them: `90s`, `1h30m`, `500ms`.
//!
//! The syntax is the one Gateway API uses. What `0s` means is the field's matter: never, off, or refused.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Of the schema, and what [`Duration::from_str`] takes.
pub(super) const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A span of time: one to four numbers of at most five digits, each with its unit of `h`, `m`, `s` or `ms`; their sum.
///
/// Printed in the fewest units: `90s` becomes `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    /// `None` for `0s`, where that means never or off.
    pub fn non_zero(self) -> Option<std::time::Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

/// A text that is no [`Duration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no duration: write one to four numbers with their units h, m, s or ms, as in 90s or 1h30m")]
pub struct DurationError(String);

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse(text).map(Duration).ok_or_else(|| DurationError(text.chars().take(32).collect()))
    }
}

fn parse(text: &str) -> Option<std::time::Duration> {
    let mut rest = text;
    let mut sum = std::time::Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let milliseconds = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        sum += std::time::Duration::from_millis(number.parse::<u64>().ok()? * milliseconds);
        rest = after;
        if rest.is_empty() {
            return Some(sum);
        }
    }
    None
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        let seconds = self.0.as_secs();
        for (number, unit) in [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (self.0.subsec_millis().into(), "ms")]
        {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 32, "pattern": PATTERN})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<u64> {
        text.parse::<Duration>().ok().map(|duration| u64::try_from(duration.0.as_millis()).unwrap())
    }

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        assert_eq!(parsed("0s"), Some(0));
        assert_eq!(parsed("500ms"), Some(500));
        assert_eq!(parsed("1h30m"), Some(5_400_000));
        assert_eq!(parsed("1h1m1s1ms"), Some(3_661_001));
        assert_eq!(parsed("99999h"), Some(99_999 * 3_600_000));
    }

    #[test]
    fn the_parser_takes_what_the_pattern_takes() {
        let pattern = regex::Regex::new(PATTERN).unwrap();
        for text in
            ["", "1", "s", "1 s", "1d", "-1s", "1.5s", "100000s", "1s1s1s1s1s", "1s ", "1S", "1µs", "5minutes", "00001s", "1m1m", "7ms7h"]
        {
            assert_eq!(pattern.is_match(text), parsed(text).is_some(), "{text}");
        }
    }

    #[test]
    fn durations_are_printed_in_the_fewest_units() {
        for (text, printed) in [("0ms", "0s"), ("90s", "1m30s"), ("3600s", "1h"), ("1500ms", "1s500ms")] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn a_wrong_duration_says_how_to_write_one() {
        let error = "5 minutes".parse::<Duration>().unwrap_err().to_string();
        assert!(error.starts_with("\"5 minutes\" is no duration: write"), "{error}");
    }
}
