//! Members of the survey file that say who and when: schedule, targeting,
//! sampling, holdout.

use serde_json::Value;

use super::condition::condition;
use super::reader::{Code, Reader};
use askwhen_domain::schedule::{Day, Hours, Schedule, Zone};
use askwhen_domain::share::Share;
use askwhen_domain::survey::Holdout;
use askwhen_domain::targeting::{AnswerRule, Attribute, History, Interaction, Rule};

/// Rules within rules, and rules side by side.
const MAX_DEPTH: usize = 8;
const MAX_RULES: usize = 50;

/// `{start_at, end_at, timezone, days, hours}`; `None` when nothing is asked for.
pub fn schedule(reader: &mut Reader<'_>) -> Option<Schedule> {
    let schedule = reader.object("schedule", |inner| {
        let schedule = Schedule {
            start_at: inner.time("start_at"),
            end_at: inner.time("end_at"),
            timezone: zone(inner),
            days: days(inner),
            hours: hours(inner),
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

fn zone(reader: &mut Reader<'_>) -> Zone {
    let Some(name) = reader.text("timezone", 64) else { return Zone::default() };
    Zone::find(&name).unwrap_or_else(|wanted| {
        reader.fault(Code::Invalid, "timezone", wanted);
        Zone::default()
    })
}

/// In the order of the week, each once.
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

/// `{percent, salt}`; the salt is the survey's id unless it is given.
pub fn sampling(reader: &mut Reader<'_>, survey_id: &str) -> Share {
    let read = reader.object("sampling", |inner| Share {
        percent: inner.number("percent", 0.0..=100.0).unwrap_or(100.0),
        salt: inner.text("salt", 256).unwrap_or_else(|| survey_id.to_owned()),
    });
    read.unwrap_or_else(|| Share { percent: 100.0, salt: survey_id.to_owned() })
}

/// `{percent, group}`; surveys of one group hold out the same users.
pub fn holdout(reader: &mut Reader<'_>) -> Holdout {
    let read = reader.object("holdout", |inner| Holdout {
        percent: inner.number("percent", 0.0..=100.0).unwrap_or(0.0),
        group: inner.text("group", 256),
    });
    read.unwrap_or(Holdout { percent: 0.0, group: None })
}

/// `None` when nothing is asked for.
pub fn targeting(reader: &mut Reader<'_>) -> Option<Rule> {
    if reader.raw("targeting").is_some_and(|value| value.as_object().is_some_and(serde_json::Map::is_empty)) {
        return None;
    }
    reader.object("targeting", |inner| rule(inner, 1))?
}

fn rule(reader: &mut Reader<'_>, depth: usize) -> Option<Rule> {
    const FORMS: [&str; 5] = ["all", "any", "not", "attribute", "survey"];
    let used: Vec<&str> = FORMS.into_iter().filter(|form| reader.raw(form).is_some()).collect();
    let form = match used[..] {
        [form] => form,
        [] => {
            reader.fault(
                Code::MissingField,
                "attribute",
                "is required: a rule is one of all, any, not, attribute, survey",
            );
            return None;
        }
        [_, second, ..] => {
            reader.fault(Code::Invalid, second, "cannot stand beside another form: a rule is exactly one of them");
            return None;
        }
    };
    if depth > MAX_DEPTH {
        reader.fault(Code::Invalid, form, format!("must not be deeper than {MAX_DEPTH} rules within rules"));
        return None;
    }
    let mut inner = |form: &str| -> Vec<Rule> {
        let read = reader.objects(form, MAX_RULES, |one| rule(one, depth + 1));
        read.into_iter().flatten().collect()
    };
    match form {
        "all" => Some(Rule::All { all: inner("all") }),
        "any" => Some(Rule::Any { any: inner("any") }),
        "not" => {
            let not = reader.object("not", |one| rule(one, depth + 1))??;
            Some(Rule::Not { not: Box::new(not) })
        }
        "attribute" => Some(Rule::Attribute(Attribute(condition(reader, "attribute")))),
        _ => {
            if reader.raw("answer").is_some() {
                return answer(reader);
            }
            if reader.raw("did").is_none() {
                reader.fault(
                    Code::MissingField,
                    "did",
                    "is required: what the survey has been to the user, or answer, what was answered to it",
                );
            }
            Some(Rule::History(History {
                survey: reader.id("survey").unwrap_or_default(),
                did: reader.choice("did", &Interaction::ALL).unwrap_or(Interaction::Completed),
                within: reader.positive_duration("within"),
            }))
        }
    }
}

/// `{survey, answer: {question_id, op, value}, within}`
fn answer(reader: &mut Reader<'_>) -> Option<Rule> {
    if reader.raw("did").is_some() {
        reader.fault(Code::Invalid, "did", "cannot stand beside answer, which asks for a completed response");
    }
    Some(Rule::Answer(AnswerRule {
        survey: reader.id("survey").unwrap_or_default(),
        answer: reader.object("answer", |inner| condition(inner, "question_id"))?,
        within: reader.positive_duration("within"),
    }))
}
