//! Which log lines are written: a level, or filters by module. `tracing` takes any word
//! for a module, so that a mistyped level would switch all lines off.

use askwhen_wire::definition::nearest;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// librdkafka's binding reports each consumer that a lease closes. An untrusted
/// certificate is reported by its attempt.
const QUIET: &str = "rdkafka::consumer::base_consumer=off,rustls_platform_verifier=off";
const WANTED: &str =
    "error, warn, info, debug, trace or off, or filters by module such as \"warn,askwhen::delivery=debug\"";

fn is_level(text: &str) -> bool {
    LEVELS.iter().any(|level| text.eq_ignore_ascii_case(level))
}

/// Why a text is no filter, and what it must be.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("must be {wanted}: there is no level {0:?}", wanted = WANTED)]
    UnknownLevel(String),
    #[error("must be {wanted}: there is no level {filter:?}; did you mean {meant}?", wanted = WANTED)]
    MistypedLevel { filter: String, meant: &'static str },
    #[error("must be {wanted}: {0}", wanted = WANTED)]
    Invalid(#[from] ParseError),
}

/// The filter that a text describes.
///
/// # Errors
/// When it names no level, or is not in the syntax of filters.
pub fn parse(given: &str) -> Result<EnvFilter, FilterError> {
    let mistyped = given.split(',').map(str::trim).find(|filter| !is_filter(filter));
    if let Some(filter) = mistyped.filter(|_| !given.contains('[')) {
        return Err(match meant(filter) {
            Some(meant) => FilterError::MistypedLevel { filter: filter.to_owned(), meant },
            None => FilterError::UnknownLevel(filter.to_owned()),
        });
    }
    let filters = match given {
        _ if ["error", "off"].iter().any(|level| given.eq_ignore_ascii_case(level)) => given.to_owned(),
        // Libraries log warnings only.
        _ if is_level(given) => format!("warn,askwhen={given},{QUIET}"),
        _ => given.to_owned(),
    };
    Ok(EnvFilter::try_new(&filters)?)
}

/// Whether one of the texts between commas is a level, or a module with one.
fn is_filter(filter: &str) -> bool {
    match filter.split_once('=') {
        None => is_level(filter),
        Some((module, level)) => {
            let is_path = |c: char| c.is_ascii_alphanumeric() || ['_', ':'].contains(&c);
            !module.is_empty() && module.chars().all(is_path) && is_level(level)
        }
    }
}

/// The level that a misspelt word probably means.
fn meant(filter: &str) -> Option<&'static str> {
    let word = filter.rsplit('=').next().unwrap_or(filter).to_ascii_lowercase();
    nearest(&word, &LEVELS).filter(|level| *level != word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_level_is_no_filter() {
        for good in
            ["info", "WARN", "off", "warn,askwhen=info", "askwhen::delivery=debug, warn", "askwhen[s{a=1}]=info"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (wrong, near) in [
            ("loud", None),
            ("wran", Some("warn")),
            ("", None),
            ("warn,", None),
            ("askwhen", None),
            ("askwhen=inof", Some("info")),
            ("warn,askwhen=debug=x", None),
            ("nonsense=x=y", None),
            ("=info", None),
        ] {
            let error = parse(wrong).expect_err(wrong).to_string();
            assert_eq!(error.contains("did you mean"), near.is_some(), "{wrong}: {error}");
            assert!(error.contains(near.unwrap_or("there is no level")), "{wrong}: {error}");
        }
    }
}
