//! Calendars as one would work them out by hand: days, weeks, months and their like on the
//! clocks of three places.

use askwhen_domain::survey::schedule::Calendar;
use askwhen_domain::time::{DAY, HOUR, MINUTE, Millis};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clocks {
    Utc,
    /// An hour ahead, two in summer.
    Berlin,
    /// Five and a half hours ahead.
    Kolkata,
}

/// A day on some clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Days since 1970.
    pub number: i64,
    pub year: i64,
    pub month: i64,
    pub day: i64,
    /// Monday is the first, 0.
    pub weekday: i64,
}

impl Date {
    fn of(number: i64) -> Date {
        // Years that begin in March: the day that leap years have more is the last one.
        let era_day = number + 719_468;
        let (era, day_of_era) = (era_day.div_euclid(146_097), era_day.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        // The first day of 1970 was a Thursday.
        Date { number, year, month, day, weekday: (number + 3).rem_euclid(7) }
    }

    /// The first day of a month; months beyond the twelfth are of the next year.
    fn first_of(year: i64, month: i64) -> Date {
        let (year, month) = (year + (month - 1).div_euclid(12), (month - 1).rem_euclid(12) + 1);
        let about = (year - 1970) * 365 + (year - 1969).div_euclid(4) + (month - 1) * 30;
        let near = (about - 5..about + 10).map(Date::of);
        near.into_iter().find(|date| (date.year, date.month, date.day) == (year, month, 1)).expect("it is near")
    }

    pub fn is_last_of_month(self) -> bool {
        Date::of(self.number + 1).day == 1
    }
}

impl Clocks {
    pub fn named(name: &str) -> Clocks {
        match name {
            "Europe/Berlin" => Clocks::Berlin,
            "Asia/Kolkata" => Clocks::Kolkata,
            "UTC" => Clocks::Utc,
            other => panic!("no clocks of {other}"),
        }
    }

    fn ahead(self, at: Millis) -> Millis {
        match self {
            Clocks::Utc => 0,
            Clocks::Kolkata => 5 * HOUR + 30 * MINUTE,
            Clocks::Berlin => {
                // From the last Sunday of March to that of October, each at one o'clock in UTC.
                let year = Date::of(at.div_euclid(DAY)).year;
                let last_sunday = |month: i64| {
                    let last = Date::of(Date::first_of(year, month + 1).number - 1);
                    (last.number - (last.weekday + 1) % 7) * DAY + HOUR
                };
                if (last_sunday(3)..last_sunday(10)).contains(&at) { 2 * HOUR } else { HOUR }
            }
        }
    }

    pub fn date(self, at: Millis) -> Date {
        Date::of((at + self.ahead(at)).div_euclid(DAY))
    }

    pub fn hour(self, at: Millis) -> i64 {
        (at + self.ahead(at)).rem_euclid(DAY) / HOUR
    }

    /// When a day begins.
    fn midnight(self, number: i64) -> Millis {
        let near = [0, HOUR, 2 * HOUR, 5 * HOUR + 30 * MINUTE].map(|ahead| number * DAY - ahead);
        near.into_iter().find(|at| at + self.ahead(*at) == number * DAY).expect("no day lacks its midnight here")
    }

    /// The stretch that a time lies in, and the beginning of the next.
    pub fn period(self, calendar: Calendar, at: Millis) -> (Millis, Millis) {
        let date = self.date(at);
        let (first, next) = match calendar {
            Calendar::Day => (date.number, date.number + 1),
            Calendar::Week => (date.number - date.weekday, date.number - date.weekday + 7),
            Calendar::Month => {
                (Date::first_of(date.year, date.month).number, Date::first_of(date.year, date.month + 1).number)
            }
            Calendar::Quarter => {
                let month = (date.month - 1) / 3 * 3 + 1;
                (Date::first_of(date.year, month).number, Date::first_of(date.year, month + 3).number)
            }
            Calendar::Year => (Date::first_of(date.year, 1).number, Date::first_of(date.year + 1, 1).number),
        };
        (self.midnight(first), self.midnight(next))
    }
}

#[test]
fn dates_are_those_of_the_calendar() {
    let at = |text: &str| askwhen_domain::time::parse_time(text).expect("a time");
    let date = Clocks::Berlin.date(at("2026-10-24T22:00:00Z"));
    assert_eq!((date.year, date.month, date.day, date.weekday), (2026, 10, 25, 6));
    let day = (at("2026-10-24T22:00:00Z"), at("2026-10-25T23:00:00Z"));
    assert_eq!(Clocks::Berlin.period(Calendar::Day, at("2026-10-25T12:00:00Z")), day, "it has 25 hours");
    let month = (at("2028-01-31T18:30:00Z"), at("2028-02-29T18:30:00Z"));
    assert_eq!(Clocks::Kolkata.period(Calendar::Month, at("2028-02-29T00:00:00Z")), month);
    assert_eq!(Clocks::Utc.period(Calendar::Quarter, month.0).0, at("2028-01-01T00:00:00Z"));
    assert_eq!(Clocks::Utc.period(Calendar::Year, month.0).1, at("2029-01-01T00:00:00Z"));
    assert_eq!(Clocks::Utc.period(Calendar::Week, month.0).0, at("2028-01-31T00:00:00Z"));
}
