//! Parses who and when in a survey definition: schedule, sampling, holdout, experiment.

use serde_json::Value;

use super::reader::{Code, Reader};
use askwhen_domain::survey::schedule::{Day, Hours, MonthDay, Schedule, ScheduleSpan, Zone};
use askwhen_domain::survey::share::{Share, Unit};
use askwhen_domain::survey::{Experiment, Holdout};
use askwhen_domain::time::Millis;

/// The most `windows` and `except` spans of a schedule.
const MAX_SPANS: usize = 50;

/// `{start_at, end_at, timezone, days, hours, month_days, windows, except}`; `None` when it
/// is empty.
pub fn schedule(reader: &mut Reader<'_>) -> Option<Schedule> {
    let schedule = reader.object("schedule", |inner| {
        let schedule = Schedule {
            start_at: inner.time("start_at"),
            end_at: inner.time("end_at"),
            timezone: zone(inner),
            days: days(inner),
            hours: hours(inner),
            month_days: month_days(inner),
            windows: spans(inner, "windows"),
            except: spans(inner, "except"),
        };
        if let (Some(start), Some(end)) = (schedule.start_at, schedule.end_at)
            && end <= start
        {
            inner.fault(Code::Invalid, "end_at", "must be after start_at");
        }
        schedule
    });
    schedule.filter(|schedule| !schedule.is_always())
}

/// `[{start_at, end_at}]`
pub fn spans(reader: &mut Reader<'_>, member: &str) -> Vec<ScheduleSpan> {
    let read = reader.objects(member, MAX_SPANS, |inner| {
        for end in ["start_at", "end_at"] {
            if inner.raw(end).is_none() {
                inner.missing(end);
            }
        }
        let (start_at, end_at) = (inner.time("start_at")?, inner.time("end_at")?);
        if end_at <= start_at {
            inner.fault(Code::Invalid, "end_at", "must be after start_at");
        }
        Some(ScheduleSpan { start_at, end_at })
    });
    read.into_iter().flatten().collect()
}

/// Sorted and without repetitions.
fn month_days(reader: &mut Reader<'_>) -> Vec<MonthDay> {
    let mut days = Vec::new();
    for (i, value) in reader.list("month_days", 32).iter().enumerate() {
        let nth = value.as_i64().filter(|day| (1..=31).contains(day)).map(|day| MonthDay::Nth(day as i8));
        match nth.or_else(|| (value.as_str() == Some("last")).then_some(MonthDay::Last)) {
            Some(day) => days.push(day),
            None => {
                let detail = "month_days must hold days from 1 to 31, or last";
                reader.fault_at(Code::Invalid, &format!("month_days/{i}"), detail);
            }
        }
    }
    days.sort_unstable();
    days.dedup();
    days
}

fn zone(reader: &mut Reader<'_>) -> Zone {
    let Some(name) = reader.text("timezone", 64) else { return Zone::default() };
    Zone::find(&name).unwrap_or_else(|wanted| {
        reader.fault(Code::Invalid, "timezone", wanted);
        Zone::default()
    })
}

/// In the order of the week and without repetitions.
fn days(reader: &mut Reader<'_>) -> Vec<Day> {
    let mut days = Vec::new();
    for (i, value) in reader.list("days", 7).iter().enumerate() {
        match Day::ALL.iter().find(|(name, _)| value.as_str() == Some(name)) {
            Some((_, day)) => days.push(*day),
            None => {
                let detail = "days must hold mon, tue, wed, thu, fri, sat or sun";
                reader.fault_at(Code::Invalid, &format!("days/{i}"), detail);
            }
        }
    }
    days.sort_unstable();
    days.dedup();
    days
}

fn hours(reader: &mut Reader<'_>) -> Option<Hours> {
    let list = reader.list("hours", 2);
    let read = match list {
        [] => return None,
        [Value::String(from), Value::String(to)] => Hours::parse(from, to),
        _ => Err("must be two times of day such as [\"06:00\", \"23:00\"]"),
    };
    read.map_err(|wanted| reader.fault(Code::Invalid, "hours", wanted)).ok()
}

/// `{percent, from, salt, by}`; the default salt is the survey's id.
pub fn sampling(reader: &mut Reader<'_>, survey_id: &str) -> Share {
    let read = reader.object("sampling", |inner| {
        let share = Share {
            percent: inner.number("percent", 0.0..=100.0).unwrap_or(100.0),
            from: inner.number("from", 0.0..=100.0).unwrap_or(0.0),
            salt: inner.text("salt", 256).unwrap_or_else(|| survey_id.to_owned()),
            by: by(inner),
        };
        if share.from + share.percent > 100.0 {
            inner.fault(Code::Invalid, "from", "and percent must be at most 100 together");
        }
        share
    });
    read.unwrap_or_else(|| Share { percent: 100.0, from: 0.0, salt: survey_id.to_owned(), by: Unit::User })
}

/// `{percent, group, by}`; surveys with the same group hold out the same users.
pub fn holdout(reader: &mut Reader<'_>) -> Holdout {
    let read = reader.object("holdout", |inner| Holdout {
        percent: inner.number("percent", 0.0..=100.0).unwrap_or(0.0),
        group: inner.text("group", 256),
        by: by(inner),
    });
    read.unwrap_or(Holdout { percent: 0.0, group: None, by: Unit::User })
}

/// `user`, `activation` or `{attribute: company_id}`.
fn by(reader: &mut Reader<'_>) -> Unit {
    match reader.raw("by") {
        None => Unit::User,
        Some(Value::Object(_)) => {
            let name = reader.object("by", |inner| inner.required_id("attribute").unwrap_or_default());
            Unit::Attribute(name.unwrap_or_default())
        }
        Some(Value::String(_)) => {
            let by_activation = reader.choice("by", &[("user", false), ("activation", true)]).unwrap_or(false);
            if by_activation { Unit::Activation } else { Unit::User }
        }
        Some(_) => {
            reader.fault(Code::WrongType, "by", "must be user, activation or {attribute: NAME}");
            Unit::User
        }
    }
}

/// `spread`: a duration, which needs `schedule.start_at`.
pub fn spread(reader: &mut Reader<'_>, schedule: Option<&Schedule>) -> Option<Millis> {
    let spread = reader.positive_duration("spread")?;
    if schedule.is_none_or(|schedule| schedule.start_at.is_none()) {
        reader.fault(Code::Invalid, "spread", "needs schedule.start_at: it runs from there");
    }
    Some(spread)
}

/// `{name, arm}`
pub fn experiment(reader: &mut Reader<'_>) -> Option<Experiment> {
    reader.object("experiment", |inner| Experiment {
        name: inner.required_id("name").unwrap_or_default(),
        arm: inner.required_id("arm").unwrap_or_default(),
    })
}
