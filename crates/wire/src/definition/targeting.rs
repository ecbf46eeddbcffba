//! Parses the targeting rules of a survey definition.

use super::condition::{condition, conditions};
use super::reader::{Code, Reader};
use askwhen_domain::survey::activation::Pattern;
use askwhen_domain::survey::targeting::{
    AnswerRule, Attribute, Counted, EVERY_SURVEY, EventRule, History, Interaction, Rule, Subject,
};
use askwhen_domain::user::distinct::Distinct;
use askwhen_domain::user::{MAX_EVENTS, MAX_TIMES};

/// The deepest nesting of rules.
const MAX_DEPTH: usize = 8;
const MAX_RULES: usize = 50;
const FORMS: [&str; 7] = ["all", "any", "not", "attribute", "survey", "tag", "event"];

/// `None` when there is no rule.
pub fn targeting(reader: &mut Reader<'_>) -> Option<Rule> {
    if reader.raw("targeting").is_some_and(|value| value.as_object().is_some_and(serde_json::Map::is_empty)) {
        return None;
    }
    reader.object("targeting", |inner| rule(inner, 1))?
}

fn rule(reader: &mut Reader<'_>, depth: usize) -> Option<Rule> {
    let used: Vec<&str> = FORMS.into_iter().filter(|form| reader.raw(form).is_some()).collect();
    let form = match used[..] {
        [form] => form,
        [] => {
            let detail = format!("is required: a rule is one of {}", FORMS.join(", "));
            reader.fault(Code::MissingField, "attribute", detail);
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
        "event" => Some(Rule::Event(EventRule {
            event: Pattern { event: reader.id("event").unwrap_or_default(), conditions: conditions(reader) },
            within: reader.positive_duration("within"),
            times: counted(reader, MAX_EVENTS as i64),
        })),
        "survey" if reader.raw("answer").is_some() => answer(reader),
        _ => history(reader, form),
    }
}

/// `{survey | tag, did, within, at_least, at_most, distinct}`
fn history(reader: &mut Reader<'_>, form: &str) -> Option<Rule> {
    if reader.raw("did").is_none() {
        let or = if form == "survey" { ", or answer, what was answered to it" } else { "" };
        reader.fault(Code::MissingField, "did", format!("is required: what the survey has been to the user{or}"));
    }
    let id = reader.id(form).unwrap_or_default();
    let of = if form == "tag" { Subject::Tag(id) } else { Subject::Survey(one_survey(reader, id)) };
    let did = reader.choice("did", &Interaction::ALL).unwrap_or(Interaction::Completed);
    let times = counted(reader, MAX_TIMES as i64);
    if times.distinct == Some(Distinct::Session) {
        reader.fault(Code::Invalid, "distinct", "must be day here: sessions are told apart for events alone");
    }
    if did == Interaction::Offered && times != Counted::ONCE {
        let detail = "cannot count offers: of these the latest of each survey is remembered";
        reader.fault(Code::Invalid, "did", detail);
    }
    Some(Rule::History(History { of, did, within: reader.positive_duration("within"), times }))
}

/// `at_least`, `at_most`, `distinct`; `remembered` is how many can be counted.
fn counted(reader: &mut Reader<'_>, remembered: i64) -> Counted {
    let at_least = reader.integer("at_least", 0..=remembered).map(|n| n as u32);
    // Beyond the remembered number the count is unknown.
    let at_most = reader.integer("at_most", 0..=remembered - 1).map(|n| n as u32);
    let distinct = reader.choice("distinct", &Distinct::ALL);
    let counted = Counted { at_least: at_least.unwrap_or(1), at_most, distinct };
    if at_most.is_some_and(|most| most < counted.at_least) {
        reader.fault(Code::Invalid, "at_most", "must not be less than at_least, which is 1 when it is left out");
    } else if counted.at_least == 0 && at_most.is_none() {
        reader.fault(Code::Invalid, "at_least", "must be at least 1 without at_most");
    }
    counted
}

fn one_survey(reader: &mut Reader<'_>, id: String) -> String {
    if id == EVERY_SURVEY {
        reader.fault(Code::Invalid, "survey", "must be the id of one survey; tag: \"*\" is all of them");
    }
    id
}

/// `{survey, answer: {question_id, op, value}, within}`
fn answer(reader: &mut Reader<'_>) -> Option<Rule> {
    if reader.raw("did").is_some() {
        reader.fault(Code::Invalid, "did", "cannot stand beside answer, which asks for a completed response");
    }
    let id = reader.id("survey").unwrap_or_default();
    Some(Rule::Answer(AnswerRule {
        survey: one_survey(reader, id),
        answer: reader.object("answer", |inner| condition(inner, "question_id"))?,
        within: reader.positive_duration("within"),
    }))
}
