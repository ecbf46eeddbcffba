//! When a survey may be shown: a span of time, days and hours, in one time zone. All spans
//! are half-open: the start belongs to them, the end does not.

use jiff::civil::{self, Weekday};
use jiff::tz::{Offset, TimeZone};
use jiff::{Span, Timestamp, ToSpan as _};
use serde::{Serialize, Serializer};
use std::borrow::Cow;

use crate::time::{self, Millis, TimeSpan};

/// Days that are searched for the next opening: a week, and one more because a clock change
/// may skip an opening.
const DAYS_AHEAD: i64 = 8;
/// The same with days of the month: two months, because one may lack the day.
const MONTH_DAYS_AHEAD: i64 = 62;
const DAY_MINUTES: u16 = 24 * 60;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Schedule {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time::as_optional_time")]
    pub start_at: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time::as_optional_time")]
    pub end_at: Option<Millis>,
    #[serde(skip_serializing_if = "Zone::is_utc")]
    pub timezone: Zone,
    /// In the order of the week; empty for every day.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// In order; empty for every day.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub month_days: Vec<MonthDay>,
    /// The spans in which it is open; empty for any time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<ScheduleSpan>,
    /// The spans in which it is shut.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<ScheduleSpan>,
}

/// A span of time in the form in which definitions spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ScheduleSpan {
    #[serde(serialize_with = "time::as_time")]
    pub start_at: Millis,
    #[serde(serialize_with = "time::as_time")]
    pub end_at: Millis,
}

impl ScheduleSpan {
    pub fn contains(self, at: Millis) -> bool {
        TimeSpan::new(self.start_at, self.end_at).contains(at)
    }
}

/// A day of the month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MonthDay {
    /// 1 to 31; shorter months do not have it.
    Nth(i8),
    Last,
}

impl MonthDay {
    fn is(self, date: civil::Date) -> bool {
        match self {
            MonthDay::Nth(day) => date.day() == day,
            MonthDay::Last => date.day() == date.days_in_month(),
        }
    }
}

impl Serialize for MonthDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            MonthDay::Nth(day) => serializer.serialize_i8(*day),
            MonthDay::Last => serializer.serialize_str("last"),
        }
    }
}

/// A time zone, by its name in the tz database. The database is compiled in, so that every
/// process decides alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Zone {
    Place(TimeZone),
    /// The user's zone, which the trigger's context names.
    User,
}

/// How definitions spell [`Zone::User`].
const USER: &str = "user";

impl Default for Zone {
    fn default() -> Zone {
        Zone::Place(TimeZone::UTC)
    }
}

impl Zone {
    /// Looks a name up.
    ///
    /// # Errors
    /// What a name looks like, when there is none like it.
    pub fn find(name: &str) -> Result<Zone, &'static str> {
        if name == USER {
            return Ok(Zone::User);
        }
        let found = jiff::tz::TimeZoneDatabase::bundled().get(name);
        found.map(Zone::Place).map_err(|_| "must be a zone such as Europe/Berlin or UTC, or user")
    }

    /// A zone as a device names it: by its place, or by its offset from UTC (`+05:30`,
    /// `GMT+0530`, `UTC-3`).
    fn of_device(name: &str) -> Option<Zone> {
        if let Ok(place) = jiff::tz::TimeZoneDatabase::bundled().get(name.trim()) {
            return Some(Zone::Place(place));
        }
        let bare = name.trim().trim_start_matches("UTC").trim_start_matches("GMT");
        if bare == "Z" {
            return Some(Zone::Place(TimeZone::UTC));
        }
        let sign = match bare.as_bytes().first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let digits = bare[1..].replace(':', "");
        if !matches!(digits.len(), 1 | 2 | 4) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (hours, minutes) = digits.split_at(digits.len().min(2));
        let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().unwrap_or(0));
        let offset = Offset::from_seconds(sign * (hours * 3_600 + minutes * 60)).ok()?;
        (hours <= 14 && minutes < 60).then(|| Zone::Place(TimeZone::fixed(offset)))
    }

    pub fn name(&self) -> &str {
        match self {
            Zone::Place(place) => place.iana_name().unwrap_or("UTC"),
            Zone::User => USER,
        }
    }

    /// The time zone; a user's is known once [`Schedule::for_user`] has put it in.
    fn clocks(&self) -> TimeZone {
        match self {
            Zone::Place(place) => place.clone(),
            Zone::User => TimeZone::UTC,
        }
    }

    /// The zone in which days are counted: UTC in place of a user's zone that is not known.
    pub fn of_days(&self, device: Option<&str>) -> Zone {
        match self {
            Zone::Place(_) => self.clone(),
            Zone::User => device.and_then(Zone::of_device).unwrap_or_default(),
        }
    }

    /// A number for each day; later days have higher ones.
    pub fn day_of(&self, at: Millis) -> i64 {
        let local = Timestamp::from_millisecond(at).map(|at| self.clocks().to_datetime(at).date());
        local.map_or(at.div_euclid(time::DAY), |date| i64::from(date.year()) * 400 + i64::from(date.day_of_year()))
    }

    /// The span of a calendar in which a time lies.
    pub fn period(&self, calendar: Calendar, at: Millis) -> TimeSpan {
        let clocks = self.clocks();
        let starts = |date: civil::Date| Some(date.to_zoned(clocks.clone()).ok()?.timestamp().as_millisecond());
        let found = || {
            let date = clocks.to_datetime(Timestamp::from_millisecond(at).ok()?).date();
            let (first, next) = calendar.around(date)?;
            Some(TimeSpan::new(starts(first)?, starts(next)?))
        };
        // Times beyond the representable years share one span.
        found().unwrap_or(TimeSpan::new(Millis::MIN, Millis::MAX))
    }

    fn is_utc(&self) -> bool {
        self.name() == "UTC"
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    pub const ALL: [(&'static str, Day); 7] = [
        ("mon", Day::Mon),
        ("tue", Day::Tue),
        ("wed", Day::Wed),
        ("thu", Day::Thu),
        ("fri", Day::Fri),
        ("sat", Day::Sat),
        ("sun", Day::Sun),
    ];

    fn of(weekday: Weekday) -> Day {
        Day::ALL[weekday.to_monday_zero_offset() as usize].1
    }
}

/// The spans of a calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Calendar {
    Day,
    /// From Monday on.
    Week,
    Month,
    Quarter,
    Year,
}

impl Calendar {
    pub const ALL: [(&'static str, Calendar); 5] = [
        ("day", Calendar::Day),
        ("week", Calendar::Week),
        ("month", Calendar::Month),
        ("quarter", Calendar::Quarter),
        ("year", Calendar::Year),
    ];

    /// The first day of the span in which a date lies, and the first of the next.
    fn around(self, date: civil::Date) -> Option<(civil::Date, civil::Date)> {
        let first_of = |month: i8| civil::Date::new(date.year(), month, 1).ok();
        let (first, span) = match self {
            Calendar::Day => (date, Span::new().days(1)),
            Calendar::Week => {
                let since = i64::from(date.weekday().to_monday_zero_offset());
                (date.checked_sub(Span::new().days(since)).ok()?, Span::new().days(7))
            }
            Calendar::Month => (first_of(date.month())?, Span::new().months(1)),
            Calendar::Quarter => (first_of((date.month() - 1) / 3 * 3 + 1)?, Span::new().months(3)),
            Calendar::Year => (first_of(1)?, Span::new().years(1)),
        };
        Some((first, first.checked_add(span).ok()?))
    }
}

/// Hours of the day, from one minute up to another. When `from` is later, they run past
/// midnight and belong to the day on which they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    from: u16,
    to: u16,
}

impl Hours {
    /// `["06:00", "23:00"]`; the end may be `24:00`.
    ///
    /// # Errors
    /// What hours look like.
    pub fn parse(from: &str, to: &str) -> Result<Hours, &'static str> {
        const WANTED: &str = "must be two times of day such as [\"06:00\", \"23:00\"]";
        let minutes = |text: &str| -> Option<u16> {
            let (hour, minute) = text.split_once(':')?;
            let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            let (hour, minute): (u16, u16) =
                (digits(hour) && digits(minute)).then(|| Some((hour.parse().ok()?, minute.parse().ok()?)))??;
            let all = hour * 60 + minute;
            (minute < 60 && all <= DAY_MINUTES).then_some(all)
        };
        let (from, to) = (minutes(from).ok_or(WANTED)?, minutes(to).ok_or(WANTED)?);
        if from >= DAY_MINUTES {
            return Err(WANTED);
        }
        if from == to {
            return Err("must differ; leave hours out for the whole day");
        }
        Ok(Hours { from, to })
    }

    fn past_midnight(self) -> bool {
        self.to < self.from
    }
}

impl Serialize for Hours {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let spelled = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        [spelled(self.from), spelled(self.to)].serialize(serializer)
    }
}

impl Schedule {
    /// Whether it is never shut.
    pub fn is_always(&self) -> bool {
        self.timezone.is_utc()
            && self.start_at.is_none()
            && self.end_at.is_none()
            && !self.looks_at_clocks()
            && self.windows.is_empty()
            && self.except.is_empty()
    }

    fn looks_at_clocks(&self) -> bool {
        !self.days.is_empty() || self.hours.is_some() || !self.month_days.is_empty()
    }

    /// The schedule in the time zone that a user's device names; `None` when it needs that
    /// zone and the device names none.
    pub fn for_user(&self, zone: Option<&str>) -> Option<Cow<'_, Schedule>> {
        if self.timezone != Zone::User {
            return Some(Cow::Borrowed(self));
        }
        let timezone = match zone.and_then(Zone::of_device) {
            Some(zone) => zone,
            None if !self.looks_at_clocks() => Zone::default(),
            None => return None,
        };
        Some(Cow::Owned(Schedule { timezone, ..self.clone() }))
    }

    /// The part that does not depend on the time zone: start, end, `windows` and `except`.
    pub fn span(&self) -> Schedule {
        let (windows, except) = (self.windows.clone(), self.except.clone());
        Schedule { start_at: self.start_at, end_at: self.end_at, windows, except, ..Schedule::default() }
    }

    /// From then on it is never open again.
    pub fn ends_at(&self) -> Option<Millis> {
        let last_window = self.windows.iter().map(|window| window.end_at).max();
        [self.end_at, last_window].into_iter().flatten().min()
    }

    pub fn is_open(&self, now: Millis) -> bool {
        if self.start_at.is_some_and(|start| now < start) || self.end_at.is_some_and(|end| now >= end) {
            return false;
        }
        let holds = |spans: &[ScheduleSpan]| spans.iter().any(|span| span.contains(now));
        if holds(&self.except) || (!self.windows.is_empty() && !holds(&self.windows)) {
            return false;
        }
        let Some(local) = self.local(now) else { return false };
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        let yesterday = local.date().yesterday().map_or(local.date(), |date| date);
        match self.hours {
            None => self.has(local.date()),
            Some(hours) if hours.past_midnight() => {
                (minute >= hours.from && self.has(local.date())) || (minute < hours.to && self.has(yesterday))
            }
            Some(hours) => (hours.from..hours.to).contains(&minute) && self.has(local.date()),
        }
    }

    /// The first moment after `now` at which it is open; `None` when there is none within a
    /// week (two months with days of the month) after `now`, its start or the start of one
    /// of its spans.
    pub fn next_opening(&self, now: Millis) -> Option<Millis> {
        let windows = self.windows.iter().map(|window| window.start_at);
        let except = self.except.iter().map(|except| except.end_at);
        let later = windows.chain(except).chain(self.start_at).filter(|at| *at > now);
        std::iter::once(now).chain(later).filter_map(|from| self.opening_from(from, now)).min()
    }

    fn opening_from(&self, from: Millis, now: Millis) -> Option<Millis> {
        if from > now && self.is_open(from) {
            return Some(from);
        }
        let first = self.local(from)?.date();
        let clocks = self.timezone.clocks();
        let begins = self.hours.map_or(0, |hours| hours.from);
        for days in 0..=if self.month_days.is_empty() { DAYS_AHEAD } else { MONTH_DAYS_AHEAD } {
            let date = first.checked_add(Span::new().days(days)).ok()?;
            let opens = date.at(0, 0, 0, 0).checked_add(i64::from(begins).minutes()).ok()?;
            // A time that a clock change skips moves on with the clocks; one that comes
            // twice opens twice.
            let at = clocks.to_ambiguous_timestamp(opens).compatible().ok()?;
            let again = clocks.to_ambiguous_timestamp(opens).later().ok()?;
            let moved = clocks.preceding(at).next().map(|moved| moved.timestamp());
            let candidates = [moved, Some(at), Some(again)].map(|at| at.map(Timestamp::as_millisecond));
            if let Some(at) = candidates.into_iter().flatten().find(|at| *at > now && self.is_open(*at)) {
                return Some(at);
            }
        }
        None
    }

    /// The local time for people to read: `Sat 2026-11-21T16:34:00+01:00`.
    pub fn local_text(&self, now: Millis) -> String {
        match Timestamp::from_millisecond(now) {
            Ok(at) => at.to_zoned(self.timezone.clocks()).strftime("%a %Y-%m-%dT%H:%M:%S%:z").to_string(),
            Err(_) => time::format_time(now),
        }
    }

    fn local(&self, now: Millis) -> Option<civil::DateTime> {
        Some(self.timezone.clocks().to_datetime(Timestamp::from_millisecond(now).ok()?))
    }

    fn has(&self, date: civil::Date) -> bool {
        (self.days.is_empty() || self.days.contains(&Day::of(date.weekday())))
            && (self.month_days.is_empty() || self.month_days.iter().any(|day| day.is(date)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        time::parse_time(text).unwrap()
    }

    fn schedule(zone: &str, days: &[Day], hours: Option<(&str, &str)>) -> Schedule {
        Schedule {
            timezone: Zone::find(zone).unwrap(),
            days: days.to_vec(),
            hours: hours.map(|(from, to)| Hours::parse(from, to).unwrap()),
            ..Schedule::default()
        }
    }

    #[test]
    fn calendars_are_those_of_the_place() {
        let berlin = Zone::find("Europe/Berlin").unwrap();
        for (calendar, since, until) in [
            (Calendar::Day, "2026-11-04T23:00:00Z", "2026-11-05T23:00:00Z"),
            (Calendar::Week, "2026-11-01T23:00:00Z", "2026-11-08T23:00:00Z"),
            (Calendar::Month, "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"),
            (Calendar::Quarter, "2026-09-30T22:00:00Z", "2026-12-31T23:00:00Z"),
            (Calendar::Year, "2025-12-31T23:00:00Z", "2026-12-31T23:00:00Z"),
        ] {
            let span = TimeSpan::new(at(since), at(until));
            assert_eq!(berlin.period(calendar, at("2026-11-04T23:30:00Z")), span, "{calendar:?}");
            assert_eq!(berlin.period(calendar, at(since)), span, "{calendar:?}");
            assert!(!berlin.period(calendar, at(until)).contains(at(since)), "{calendar:?}");
        }
    }

    #[test]
    fn days_of_the_month_windows_and_what_they_leave_out() {
        let span = |start: &str, end: &str| ScheduleSpan { start_at: at(start), end_at: at(end) };
        let month_days = vec![MonthDay::Nth(15), MonthDay::Nth(31), MonthDay::Last];
        let monthly = Schedule { month_days, ..schedule("Europe/Berlin", &[], Some(("09:00", "17:00"))) };
        assert!(monthly.is_open(at("2026-11-15T08:00:00Z")) && !monthly.is_open(at("2026-11-16T08:00:00Z")));
        assert_eq!(monthly.next_opening(at("2026-11-15T16:00:00Z")), Some(at("2026-11-30T08:00:00Z")));
        assert_eq!(monthly.next_opening(at("2026-11-30T16:00:00Z")), Some(at("2026-12-15T08:00:00Z")));
        let only = Schedule { month_days: vec![MonthDay::Nth(31)], ..Schedule::default() };
        assert_eq!(only.next_opening(at("2027-02-01T00:00:00Z")), Some(at("2027-03-31T00:00:00Z")));

        let windows = vec![
            span("2026-11-03T00:00:00Z", "2026-11-05T00:00:00Z"),
            span("2027-06-01T00:00:00Z", "2027-06-02T00:00:00Z"),
        ];
        let except = vec![span("2026-11-03T00:00:00Z", "2026-11-04T00:00:00Z")];
        let split = Schedule { windows, except, ..Schedule::default() };
        assert_eq!(split.next_opening(at("2026-11-01T00:00:00Z")), Some(at("2026-11-04T00:00:00Z")));
        assert!(split.is_open(at("2026-11-04T23:59:59Z")) && !split.is_open(at("2026-11-05T00:00:00Z")));
        assert_eq!(split.next_opening(at("2026-11-05T00:00:00Z")), Some(at("2027-06-01T00:00:00Z")));
        assert_eq!(split.next_opening(at("2027-06-02T00:00:00Z")), None);
    }

    #[test]
    fn a_span_holds_its_start_and_not_its_end() {
        let (start_at, end_at) = (Some(at("2026-11-01T00:00:00Z")), Some(at("2026-12-01T00:00:00Z")));
        let span = Schedule { start_at, end_at, ..Schedule::default() };
        assert!(!span.is_open(start_at.unwrap() - 1) && span.is_open(start_at.unwrap()));
        assert!(span.is_open(end_at.unwrap() - 1) && !span.is_open(end_at.unwrap()));
        assert_eq!((span.next_opening(0), span.next_opening(end_at.unwrap())), (start_at, None));
    }

    #[test]
    fn hours_are_those_of_the_place() {
        let berlin = schedule("Europe/Berlin", &[Day::Mon], Some(("06:00", "23:00")));
        for (time, open) in [
            ("2026-11-02T04:59:59Z", false), // Monday 05:59:59
            ("2026-11-02T05:00:00Z", true),
            ("2026-11-02T21:59:59Z", true),
            ("2026-11-02T22:00:00Z", false),
            ("2026-11-03T06:00:00Z", false), // Tuesday
            ("2026-11-01T23:30:00Z", false), // Monday 00:30
        ] {
            assert_eq!(berlin.is_open(at(time)), open, "{time}");
        }
        assert_eq!(berlin.next_opening(at("2026-11-02T22:00:00Z")), Some(at("2026-11-09T05:00:00Z")));
        assert_eq!(berlin.next_opening(at("2026-11-02T03:00:00Z")), Some(at("2026-11-02T05:00:00Z")));
    }

    #[test]
    fn hours_past_midnight_belong_to_the_day_they_begin_on() {
        let night = schedule("UTC", &[Day::Fri], Some(("22:00", "02:00")));
        for (time, open) in [
            ("2026-11-06T21:59:59Z", false), // Friday
            ("2026-11-06T22:00:00Z", true),
            ("2026-11-07T01:59:59Z", true),
            ("2026-11-07T02:00:00Z", false),
            ("2026-11-07T22:30:00Z", false),
            ("2026-11-06T01:00:00Z", false),
        ] {
            assert_eq!(night.is_open(at(time)), open, "{time}");
        }
        assert_eq!(night.next_opening(at("2026-11-07T02:00:00Z")), Some(at("2026-11-13T22:00:00Z")));
    }

    #[test]
    fn clocks_that_change() {
        // Forward on 29 March 2026 at 02:00, back on 25 October at 03:00.
        let early = schedule("Europe/Berlin", &[], Some(("02:30", "03:30")));
        for (time, open) in [
            ("2026-03-28T01:30:00Z", true),
            ("2026-03-29T00:59:59Z", false), // 01:59:59, then 03:00
            ("2026-03-29T01:00:00Z", true),
            ("2026-03-29T01:30:00Z", false), // 03:30
            ("2026-10-25T00:30:00Z", true),  // 02:30 for the first time
            ("2026-10-25T01:00:00Z", false), // 02:00 again
            ("2026-10-25T01:30:00Z", true),  // 02:30 again
            ("2026-10-25T02:30:00Z", false),
        ] {
            assert_eq!(early.is_open(at(time)), open, "{time}");
        }
        // After the first of two 03:00 it opens again at the second 02:30.
        assert_eq!(early.next_opening(at("2026-10-25T01:00:00Z")), Some(at("2026-10-25T01:30:00Z")));
        // 02:30 does not exist: what opens is the moment behind the gap.
        let opening = early.next_opening(at("2026-03-28T12:00:00Z")).unwrap();
        assert!(early.is_open(opening) && opening < at("2026-03-29T01:30:00Z"), "{}", time::format_time(opening));
    }

    #[test]
    fn hours_on_the_clocks_of_the_user() {
        let evening = schedule("user", &[], Some(("18:00", "21:00")));
        let now = at("2026-11-02T18:30:00Z");
        for (zone, open) in [
            ("UTC", true),
            ("Europe/Berlin", true),     // 19:30
            ("Asia/Kolkata", false),     // 00:00
            ("America/New_York", false), // 13:30
            ("GMT+0100", true),
            ("GMT-05:30", false),
            ("+02", true),
            ("UTC+3", false), // 21:30
        ] {
            let of_user = evening.for_user(Some(zone)).unwrap_or_else(|| panic!("{zone}"));
            assert_eq!(of_user.is_open(now), open, "{zone}");
        }
        let kolkata = evening.for_user(Some("Asia/Kolkata")).unwrap();
        assert_eq!(kolkata.next_opening(now), Some(at("2026-11-03T12:30:00Z")));
        for unknown in [None, Some(""), Some("Mars/Olympus"), Some("user"), Some("+99"), Some("CEST-ish"), Some("+5:7")]
        {
            assert!(evening.for_user(unknown).is_none(), "{unknown:?}");
        }
        let span = Schedule { start_at: Some(0), timezone: Zone::User, ..Schedule::default() };
        assert!(span.for_user(None).is_some_and(|span| span.is_open(now)), "a span needs no clocks");
        assert_eq!(serde_json::to_value(&evening).unwrap()["timezone"], "user");
    }

    #[test]
    fn what_hours_and_zones_look_like() {
        for (from, to) in [("6:00", "23:00"), ("06:00", "06:00"), ("24:00", "01:00"), ("06:60", "07:00"), ("", "")] {
            assert!(Hours::parse(from, to).is_err(), "{from} {to}");
        }
        assert!(Hours::parse("00:00", "24:00").is_ok());
        assert!(Zone::find("Mars/Olympus").is_err());
        assert_eq!(Zone::find("europe/berlin").unwrap().name(), "Europe/Berlin");
    }
}
