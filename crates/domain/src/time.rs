//! Times and durations, both in milliseconds. A time is counted from the Unix
//! epoch; nothing here asks what time it is.

use jiff::{SignedDuration, Timestamp, civil};
use serde::{Serialize, Serializer};

/// Milliseconds since the Unix epoch, or a span of them.
pub type Millis = i64;

/// A span of time: its start belongs to it, its end does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan {
    pub since: Millis,
    pub until: Millis,
}

impl TimeSpan {
    pub fn new(since: Millis, until: Millis) -> TimeSpan {
        TimeSpan { since, until }
    }

    pub fn contains(self, at: Millis) -> bool {
        (self.since..self.until).contains(&at)
    }
}

pub const SECOND: Millis = 1_000;
pub const MINUTE: Millis = 60 * SECOND;
pub const HOUR: Millis = 60 * MINUTE;
pub const DAY: Millis = 24 * HOUR;

/// The longest duration that is accepted, so that computed times stay within RFC 3339.
pub const MAX_DURATION: Millis = 36_500 * DAY;

/// How far an event time may lie ahead of the log's time.
pub const FUTURE_SKEW: Millis = 5 * MINUTE;

/// The years 0000 to 9999.
const FIRST: Millis = -62_167_219_200_000;
const LAST: Millis = 253_402_300_799_999;

/// Parses RFC 3339 with a zone, to the millisecond; finer digits are cut off.
///
/// # Errors
/// A sentence that says what a time looks like.
pub fn parse_time(text: &str) -> Result<Millis, &'static str> {
    const WANTED: &str = "a time in RFC 3339 with a zone, such as 2026-11-01T08:30:00Z";
    let bytes = text.as_bytes();
    // jiff accepts more than RFC 3339: a date alone, a zone in brackets.
    if bytes.len() < 20 || bytes.len() > 40 || !matches!(bytes[10], b'T' | b't' | b' ') || text.contains('[') {
        return Err(WANTED);
    }
    let text = cut_fraction(text);
    let at = text.parse::<Timestamp>().map(|t| t.as_millisecond()).ok().or_else(|| parse_last_days(&text));
    // The zone can move the time out of the representable years.
    at.filter(|at| (FIRST..=LAST).contains(at)).ok_or(WANTED)
}

/// The end of the year 9999, which people write for "never", exceeds a [`Timestamp`] but
/// not a civil date and time.
fn parse_last_days(text: &str) -> Option<Millis> {
    let (local, offset) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let (local, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
            let sign = match zone.as_bytes()[0] {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = zone[1..].split_once(':')?;
            let (hours, minutes): (Millis, Millis) = (hours.parse().ok()?, minutes.parse().ok()?);
            (local, sign * (hours * HOUR + minutes * MINUTE))
        }
    };
    let local: civil::DateTime = local.parse().ok()?;
    if local.year() != 9999 {
        return None;
    }
    let since = local.duration_since(civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    Some(Millis::try_from(since.as_millis()).ok()? - offset)
}

/// Date and time in UTC, if they are representable.
fn civil_time(at: Millis) -> Option<civil::DateTime> {
    let epoch = civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
    epoch.checked_add(SignedDuration::from_millis(at)).ok()
}

/// Reads a time in the spellings of exports and databases: RFC 3339, the same without a
/// zone (as UTC) or without seconds, a date (its midnight), or seconds or milliseconds since
/// 1970.
pub fn read_time(text: &str) -> Option<Millis> {
    if let Ok(at) = parse_time(text) {
        return Some(at);
    }
    if let Some(at) = of_digits(text) {
        return Some(at);
    }
    let (date, rest) = text.split_at_checked(10)?;
    let (year, day) = (date.get(..4)?, date.get(5..)?);
    let date = match (date.as_bytes()[4], day.as_bytes()[2]) {
        (b'-', b'-') => date.to_owned(),
        (b'/', b'/') => format!("{year}-{}", day.replace('/', "-")),
        _ => return None,
    };
    if rest.is_empty() {
        return parse_time(&format!("{date}T00:00:00Z")).ok();
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    // Ruby, Go and BigQuery write the zone apart and by its name: `08:30:00 +0000 UTC`.
    let named = rest.strip_suffix(" UTC").or_else(|| rest.strip_suffix(" GMT")).unwrap_or(rest);
    let zone = named.find(['+', '-', 'Z', 'z']).unwrap_or(named.len());
    let (clock, zone) = (named[..zone].trim_end(), &named[zone..]);
    let seconds = if clock.len() == "08:30".len() { ":00" } else { "" };
    let zone = if zone.is_empty() { "Z" } else { zone };
    parse_time(&format!("{date}T{clock}{seconds}{zone}")).ok()
}

/// Seconds or milliseconds since 1970 in a text, as serialisers write numbers of 64 bits.
fn of_digits(text: &str) -> Option<Millis> {
    let is_epoch = matches!(text.len(), 10 | 13) && text.bytes().all(|b| b.is_ascii_digit());
    is_epoch.then(|| of_epoch(text.parse().ok()?)).flatten()
}

/// A number since 1970 in seconds or, where it is too large for that, in milliseconds,
/// microseconds or nanoseconds. Seconds reach the year 5138; milliseconds begin in 1973.
pub fn of_epoch(number: f64) -> Option<Millis> {
    const SECONDS_BELOW: f64 = 1e11;
    let millis = match number.abs() {
        n if n < SECONDS_BELOW => number * 1e3,
        n if n < SECONDS_BELOW * 1e3 => number,
        n if n < SECONDS_BELOW * 1e6 => number / 1e3,
        n if n < SECONDS_BELOW * 1e9 => number / 1e6,
        _ => return None,
    };
    Some(millis.floor() as Millis).filter(|at| (FIRST..=LAST).contains(at))
}

/// Cuts the fraction of a second off after nine digits; RFC 3339 sets no bound.
fn cut_fraction(text: &str) -> std::borrow::Cow<'_, str> {
    let Some(point) = text.find('.') else { return text.into() };
    let digits = text[point + 1..].bytes().take_while(u8::is_ascii_digit).count();
    if digits <= 9 { text.into() } else { format!("{}{}", &text[..point + 10], &text[point + 1 + digits..]).into() }
}

/// `2026-11-01T08:30:00.000Z`
pub fn format_time(at: Millis) -> String {
    match civil_time(at) {
        Some(t) if t.year() >= 0 => {
            // Several of them are in each record, and writing the digits takes a fifth of what
            // formatting takes.
            let mut text = String::with_capacity("2026-11-01T08:30:00.000Z".len());
            push_digits(&mut text, t.year().unsigned_abs().into(), 4, '-');
            push_digits(&mut text, t.month().unsigned_abs().into(), 2, '-');
            push_digits(&mut text, t.day().unsigned_abs().into(), 2, 'T');
            push_digits(&mut text, t.hour().unsigned_abs().into(), 2, ':');
            push_digits(&mut text, t.minute().unsigned_abs().into(), 2, ':');
            push_digits(&mut text, t.second().unsigned_abs().into(), 2, '.');
            push_digits(&mut text, t.millisecond().unsigned_abs().into(), 3, 'Z');
            text
        }
        Some(t) => format!("{t:.3}Z"),
        None => format!("{at}ms"),
    }
}

/// Appends a number of so many digits, and a character.
fn push_digits(text: &mut String, number: u32, digits: u32, then: char) {
    for place in (0..digits).rev() {
        let digit = number / 10_u32.pow(place) % 10;
        text.push(char::from_digit(digit, 10).unwrap_or('0'));
    }
    text.push(then);
}

/// `2026-11-01T08:30:00+00:00`, whole seconds.
pub fn format_time_offset(at: Millis) -> String {
    let whole = at.div_euclid(SECOND) * SECOND;
    match civil_time(whole) {
        Some(t) => format!("{t}+00:00"),
        None => format!("{at}ms"),
    }
}

/// `30s`, `15m`, `2h`, `7d`, or several with descending units: `1h30m`.
///
/// # Errors
/// A sentence that says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Millis, &'static str> {
    const WANTED: &str = "a duration such as 30s, 15m, 2h, 7d or 1h30m, units descending";
    const TOO_LONG: &str = "at most 36500d";
    let mut total: Millis = 0;
    let mut smallest = Millis::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 12 || digits == rest.len() {
            return Err(WANTED);
        }
        let count: Millis = rest[..digits].parse().map_err(|_| WANTED)?;
        let unit = match rest.as_bytes()[digits] {
            b's' => SECOND,
            b'm' => MINUTE,
            b'h' => HOUR,
            b'd' => DAY,
            _ => return Err(WANTED),
        };
        if unit >= smallest {
            return Err(WANTED);
        }
        smallest = unit;
        total = count.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or(WANTED)?;
        rest = &rest[digits + 1..];
    }
    if smallest == Millis::MAX {
        Err(WANTED)
    } else if total > MAX_DURATION {
        Err(TOO_LONG)
    } else {
        Ok(total)
    }
}

/// The shortest spelling that [`parse_duration`] reads: `1h30m`, `0s`.
pub fn format_duration(span: Millis) -> String {
    let mut rest = span.max(0) / SECOND * SECOND;
    if rest == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, name) in [(DAY, 'd'), (HOUR, 'h'), (MINUTE, 'm'), (SECOND, 's')] {
        if rest >= unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    text
}

/// For `serialize_with`: the spelling of [`format_duration`].
pub fn as_duration<S: Serializer>(span: &Millis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_duration(*span))
}

pub fn as_optional_duration<S: Serializer>(span: &Option<Millis>, serializer: S) -> Result<S::Ok, S::Error> {
    span.map(format_duration).serialize(serializer)
}

/// For `serialize_with`: the spelling of [`format_time`].
pub fn as_time<S: Serializer>(at: &Millis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_time(*at))
}

pub fn as_optional_time<S: Serializer>(at: &Option<Millis>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(format_time).serialize(serializer)
}

/// For `with`: the spelling of [`format_time`], and back.
pub mod rfc3339 {
    use super::Millis;
    use serde::{Deserialize, Deserializer};

    pub use super::as_time as serialize;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
        super::parse_time(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Times that a sender may report, in milliseconds since the epoch by its own clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientTimes {
    pub occurred_at: Option<Millis>,
    pub sent_at: Option<Millis>,
    pub received_at: Option<Millis>,
}

impl ClientTimes {
    /// The event time: `received_at − (sent_at − occurred_at)` when all three are given,
    /// else `occurred_at`, else the log's time. Never more than five minutes after the
    /// log's time, never before 1970.
    pub fn event_time(&self, log_time: Millis) -> Millis {
        let base = self.received_at.unwrap_or(log_time);
        let at = match (self.occurred_at, self.sent_at) {
            (Some(occurred), Some(sent)) => base.saturating_sub(sent.saturating_sub(occurred)),
            (Some(occurred), None) => occurred,
            (None, _) => base,
        };
        at.clamp(0, log_time.saturating_add(FUTURE_SKEW))
    }

    /// How long the sender held the record back, in milliseconds, if it says so.
    pub fn held_back(&self) -> Option<Millis> {
        Some(self.sent_at?.saturating_sub(self.occurred_at?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_need_a_zone() {
        let at = parse_time("2022-06-07T22:01:07.5+02:00").unwrap();
        assert_eq!(format_time(at), "2022-06-07T20:01:07.500Z");
        assert_eq!(format_time_offset(at), "2022-06-07T20:01:07+00:00");
        for wrong in [
            "2026-11-01",
            "2026-11-01T08:30:00",
            "now",
            "",
            "0000-01-01T00:00:00+01:00",
            "2026-13-01T00:00:00Z",
            "1700000000",
        ] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_written_as_the_calendar_formats_them() {
        for at in [FIRST, LAST, 0, -1, 1, 999, 951_782_399_999, 1_796_076_881_884, FIRST - 1, LAST + 1, Millis::MAX] {
            let formatted = civil_time(at).map_or_else(|| format!("{at}ms"), |time| format!("{time:.3}Z"));
            assert_eq!(format_time(at), formatted);
        }
    }

    #[test]
    fn the_last_second_that_can_be_spelled_is_a_time() {
        for text in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.9999999+00:00", "9999-12-31T23:59:59-00:00"] {
            let at = parse_time(text).unwrap_or_else(|wanted| panic!("{text}: {wanted}"));
            assert_eq!(at / SECOND, LAST / SECOND, "{text}");
            assert!(format_time(at).starts_with("9999-12-31T23:59:59."), "{text}");
            assert_eq!(parse_time(&format_time(at)), Ok(at), "{text}");
        }
        assert_eq!(format_time_offset(LAST), "9999-12-31T23:59:59+00:00");
        assert_eq!(parse_time("9999-12-31T23:00:00+02:00"), Ok(LAST + 1 - 3 * HOUR));
        for beyond in
            ["9999-12-31T23:59:59-01:00", "9999-12-32T00:00:00Z", "9999-12-31T23:59:59", "9999-12-31T24:00:01Z"]
        {
            assert!(parse_time(beyond).is_err(), "{beyond}");
        }
    }

    #[test]
    fn durations_descend() {
        assert_eq!(parse_duration("1h30m"), Ok(90 * MINUTE));
        assert_eq!(parse_duration("100h"), Ok(100 * HOUR));
        assert_eq!(parse_duration("0s"), Ok(0));
        for wrong in ["", "30", "m", "30m1h", "1h1h", "1.5h", "-1h", "1w", "1h 30m", "99999999999999d", "36501d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        for span in [0, SECOND, 90 * MINUTE, 100 * HOUR, 7 * DAY + SECOND] {
            assert_eq!(parse_duration(&format_duration(span)), Ok(span));
        }
    }

    #[test]
    fn event_time_corrects_a_wrong_clock_and_clamps_the_future() {
        let skewed = ClientTimes { occurred_at: Some(5_000), sent_at: Some(8_000), received_at: Some(1_000_000) };
        assert_eq!(skewed.event_time(1_000_000), 997_000);
        let future = ClientTimes { occurred_at: Some(i64::MAX), ..ClientTimes::default() };
        assert_eq!(future.event_time(1_000), 1_000 + FUTURE_SKEW);
        assert_eq!(ClientTimes::default().event_time(42), 42);
    }
}
