//! A rate, and a pace that keeps to it.

use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use crate::time::Millis;

/// A number per unit of time: `10000/s`, `600/m`, `5/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Rate {
    pub count: NonZeroU32,
    pub per: Duration,
}

impl Rate {
    /// # Errors
    /// What a rate looks like.
    pub fn parse(text: &str) -> Result<Rate, &'static str> {
        const WANTED: &str = "must be a rate such as 10000/s, 600/m or 5/h";
        let (count, unit) = text.split_once('/').ok_or(WANTED)?;
        let per = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            _ => return Err(WANTED),
        };
        let count = count.parse().map_err(|_| WANTED)?;
        Ok(Rate { count, per })
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        let unit = match rate.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        format!("{}/{unit}", rate.count)
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Rate, &'static str> {
        Rate::parse(text)
    }
}

impl TryFrom<String> for Rate {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Rate, &'static str> {
        Rate::parse(&text)
    }
}

/// Keeps to a rate (generic cell rate algorithm). After a pause, as many as come in a tenth
/// of a second may follow each other at once. Times are passed in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pace {
    /// When the next one would be due at an even pace, in microseconds since the epoch.
    even_us: i64,
}

impl Pace {
    /// When the next one may go, `now` or later. `share`, from 0 to 1, is the part of the
    /// rate that this process may use.
    pub fn next(&self, rate: Rate, share: f64, now: Millis) -> Millis {
        let (each, slack) = Pace::spans(rate, share);
        // However rate and share have changed, the wait is at most one interval.
        let latest = now.saturating_mul(1_000).saturating_add(each);
        let at = self.even_us.saturating_sub(slack).min(latest);
        // Rounded up to a whole millisecond, so that it is never early.
        now.max(at.saturating_add(999).div_euclid(1_000))
    }

    /// Counts one that goes now.
    pub fn take(&mut self, rate: Rate, share: f64, now: Millis) {
        let (each, _) = Pace::spans(rate, share);
        let now_us = now.saturating_mul(1_000);
        self.even_us = self.even_us.clamp(now_us, now_us.saturating_add(100_000)).saturating_add(each);
    }

    /// The interval, and how far ahead of the even pace one may be, in microseconds.
    fn spans(rate: Rate, share: f64) -> (i64, i64) {
        let each = rate.per.as_micros() as f64 / (f64::from(rate.count.get()) * share.clamp(1e-6, 1.0));
        (each.ceil() as i64, (100_000.0 - each).max(0.0) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelled_as_read() {
        for text in ["100/s", "600/m", "5/h"] {
            assert_eq!(String::from(Rate::parse(text).unwrap()), text);
        }
        for text in ["100", "0/s", "1/d", "-1/s", "1.5/s", "/s", "99999999999/s"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_second_has_more_than_the_rate_and_its_tenth() {
        for (text, share) in [("100/s", 1.0), ("5/s", 1.0), ("7/s", 0.5), ("5000/s", 1.0), ("60/m", 1.0)] {
            let rate = Rate::parse(text).unwrap();
            let (mut pace, mut now, mut went) = (Pace::default(), 1_000_000, Vec::new());
            while now < 1_010_000 {
                now = pace.next(rate, share, now);
                pace.take(rate, share, now);
                went.push(now);
            }
            let per_second = f64::from(rate.count.get()) * share / rate.per.as_secs_f64();
            let in_a_second = |from: Millis| went.iter().filter(|at| (from..from + 1_000).contains(*at)).count() as f64;
            let most = went.iter().map(|from| in_a_second(*from)).fold(0.0, f64::max);
            assert!(most <= per_second * 1.1 + 1.0, "{text}: {most} in a second");
            let all = went.len() as f64 / 10.0;
            assert!((per_second * 0.9 - 1.0..=per_second * 1.1 + 1.0).contains(&all), "{text}: {all} each second");
        }
    }
}
