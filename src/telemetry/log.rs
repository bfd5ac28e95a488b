//! The log of events: on stderr, so that stdout is the access log's alone.
//!
//! It never sees a request. `app` starts it first of all.

use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: time, level, target, message, fields.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err(UnknownFormat(text.into())),
        }
    }
}

/// Neither `text` nor `json`.
#[derive(Debug, thiserror::Error)]
#[error("unknown log format {0:?}: give text or json")]
pub struct UnknownFormat(Box<str>);

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log filter {filter:?} is not valid: {reason}; give a level (info) or directives (info,carrick::proxy=debug)")]
    Filter {
        /// What was given.
        filter: Box<str>,
        /// What the parser says.
        reason: Box<str>,
    },
    /// Somebody else has started a log in this process.
    #[error("the log of this process is already started")]
    AlreadyStarted,
}

/// The client of the API server logs each failed request as an error, however often it is tried again. We say what it means, once.
const SILENT: &str = "kube_client=off";

/// Starts the log for the whole process: `filter` is a level or a list of directives, as in `RUST_LOG`.
pub fn init(filter: &str, format: Format) -> Result<(), LogError> {
    // What is asked for comes last, and wins.
    let parsed = EnvFilter::try_new([SILENT, filter].join(","))
        .map_err(|error| LogError::Filter { filter: filter.into(), reason: error.to_string().into() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    match format {
        Format::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    }
    .map_err(|_| LogError::AlreadyStarted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_filter_or_format_is_named() {
        let error = init("info,carrick=loud", Format::Text).unwrap_err();
        assert!(error.to_string().starts_with("log filter \"info,carrick=loud\" is not valid"), "{error}");
        assert_eq!("xml".parse::<Format>().unwrap_err().to_string(), "unknown log format \"xml\": give text or json");
    }
}
