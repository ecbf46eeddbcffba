//! Parses `activate` and `cancel_on` of a survey definition.

use super::condition::conditions;
use super::reader::{Code, Reader};
use askwhen_domain::limits::MAX_WITHIN;
use askwhen_domain::survey::activation::{
    Absence, Activation, Arming, Count, MAX_COUNT, MAX_PATTERNS, Pattern, Sequence,
};
use askwhen_domain::time::{self, Millis};
use askwhen_domain::user::distinct::Distinct;

const FORMS: [&str; 5] = ["event", "any", "all", "sequence", "absence"];

/// Exactly one form of activation, with an optional `match`.
pub fn activate(reader: &mut Reader<'_>) -> Option<Arming> {
    reader.object("activate", |inner| {
        let match_by = inner.id("match");
        form(inner).map(|activation| Arming { activation, match_by })
    })?
}

fn form(inner: &mut Reader<'_>) -> Option<Activation> {
    let used: Vec<&str> = FORMS.into_iter().filter(|form| inner.raw(form).is_some()).collect();
    match used[..] {
        ["event"] => Some(Activation::Event { event: pattern(inner), count: count(inner) }),
        ["any"] => Some(Activation::Any { any: patterns(inner, "any"), count: count(inner) }),
        ["all"] => Some(Activation::All { all: patterns(inner, "all"), within: required_span(inner, "within") }),
        ["sequence"] => inner
            .object("sequence", |one| Sequence { steps: patterns(one, "steps"), within: required_span(one, "within") })
            .map(|sequence| Activation::Sequence { sequence }),
        [] => {
            let detail = "is required: activate needs one of event, any, all, sequence, absence";
            inner.fault(Code::MissingField, "event", detail);
            None
        }
        [_] => inner
            .object("absence", |one| Absence {
                after: named(one, "after"),
                without: named(one, "without"),
                span: required_span(one, "for"),
            })
            .map(|absence| Activation::Absence { absence }),
        [_, second, ..] => {
            inner.fault(Code::Invalid, second, "cannot stand beside another form: use exactly one");
            None
        }
    }
}

/// `cancel_on: [{event, where}]`
pub fn cancel_on(reader: &mut Reader<'_>, activated: bool) -> Vec<Pattern> {
    let cancels = reader.objects("cancel_on", MAX_PATTERNS, pattern);
    if !cancels.is_empty() && !activated && reader.raw("activate").is_none() {
        reader.fault(Code::Invalid, "cancel_on", "needs activate: there is no window to cancel without it");
    }
    cancels
}

fn pattern(reader: &mut Reader<'_>) -> Pattern {
    Pattern { event: reader.required_id("event").unwrap_or_default(), conditions: conditions(reader) }
}

fn named(reader: &mut Reader<'_>, member: &str) -> Pattern {
    if reader.raw(member).is_none() {
        reader.missing(member);
    }
    reader.object(member, pattern).unwrap_or(Pattern { event: String::new(), conditions: Vec::new() })
}

fn patterns(reader: &mut Reader<'_>, member: &str) -> Vec<Pattern> {
    let patterns = reader.objects(member, MAX_PATTERNS, pattern);
    if patterns.is_empty() && reader.raw(member).is_none_or(|value| value.as_array().is_some_and(Vec::is_empty)) {
        reader.fault(Code::MissingField, member, "is required: at least one event");
    }
    patterns
}

/// `count: {at_least, within}`; without it one event arms.
fn count(reader: &mut Reader<'_>) -> Option<Count> {
    let count = reader.object("count", |inner| {
        if inner.raw("at_least").is_none() {
            inner.missing("at_least");
        }
        Count {
            at_least: inner.integer("at_least", 1..=i64::from(MAX_COUNT)).unwrap_or(1) as u32,
            within: required_span(inner, "within"),
            distinct: inner.choice("distinct", &Distinct::ALL),
            zone: Default::default(),
        }
    });
    count.filter(|count| count.at_least > 1)
}

/// A duration above 0 that is no longer than events are remembered.
fn required_span(reader: &mut Reader<'_>, member: &str) -> Millis {
    if reader.raw(member).is_none() {
        reader.missing(member);
        return 0;
    }
    let span = reader.positive_duration(member).unwrap_or(0);
    if span > MAX_WITHIN {
        reader.fault(Code::Invalid, member, format!("must be at most {}", time::format_duration(MAX_WITHIN)));
    }
    span
}
