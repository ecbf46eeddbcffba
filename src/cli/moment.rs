//! Moments on the command line, spelled alike in every verb.

use std::fmt;
use std::str::FromStr;

use askwhen_domain::time::{self, Millis};
use askwhen_process::clock::Clock;

/// A moment in milliseconds since 1970. It is written as a time, as a date (its midnight
/// UTC), or as a span before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub Millis);

/// Where a topic is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    Start,
    End,
    At(Moment),
}

/// A text that is no [`Moment`], or no [`Beginning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it must be {WANTED}")]
    Moment,
    #[error("it must be start, end, {WANTED}")]
    Beginning,
}

const WANTED: &str = "a time such as 2026-11-01T08:30:00Z, a date, or so long ago, such as 30m or 7d";

impl FromStr for Moment {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Moment, Unreadable> {
        let ago = || time::parse_duration(text).ok().map(|span| Clock::new().wall().saturating_sub(span));
        let at = time::read_time(text).or_else(ago).or_else(|| (text == "now").then(|| Clock::new().wall()));
        at.map(Moment).ok_or(Unreadable::Moment)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&time::format_time(self.0))
    }
}

impl FromStr for Beginning {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Beginning, Unreadable> {
        match text {
            "start" | "beginning" | "earliest" => Ok(Beginning::Start),
            "end" | "latest" => Ok(Beginning::End),
            text => text.parse().map(Beginning::At).map_err(|_| Unreadable::Beginning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_date_or_a_span_before_now() {
        let at = |text: &str| text.parse::<Moment>().map(|moment| moment.to_string());
        for text in ["2026-11-01", "2026-11-01T00:00:00Z", "2026-11-01T01:00:00+01:00", "1793491200"] {
            assert_eq!(at(text), Ok("2026-11-01T00:00:00.000Z".to_owned()), "{text}");
        }
        let now = Clock::new().wall();
        for (text, span) in [("now", 0), ("90s", 90 * time::SECOND), ("7d", 7 * time::DAY)] {
            let since = now - text.parse::<Moment>().expect(text).0;
            assert!((span - time::MINUTE..=span).contains(&since), "{text}: {since}");
        }
        for wrong in ["", "yesterday", "7", "2026-13-01", "-1h"] {
            assert!(at(wrong).unwrap_err().to_string().contains("or so long ago, such as 30m or 7d"), "{wrong}");
        }
    }

    #[test]
    fn a_topic_begins_by_the_names_of_kafka_too() {
        for (text, from) in [("start", Beginning::Start), ("earliest", Beginning::Start), ("latest", Beginning::End)] {
            assert_eq!(text.parse(), Ok(from));
        }
        assert!(matches!("1h".parse(), Ok(Beginning::At(_))));
        assert!("soon".parse::<Beginning>().unwrap_err().to_string().starts_with("it must be start, end, a time"));
    }
}
