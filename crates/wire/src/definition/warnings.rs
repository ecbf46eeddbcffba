//! What is allowed in a survey and is probably not meant.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::{translation, ui};
use askwhen_domain::placeholder::{Piece, ValueSource, pieces};
use askwhen_domain::survey::{Status, Survey};
use askwhen_domain::targeting::{AnswerRule, EVERY_SURVEY, History, Rule, Subject};
use askwhen_domain::time::{self, Millis};

/// What is known beside the survey itself.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// Names of events and triggers that were met or declared; `None` where that is not
    /// known.
    pub names: Option<&'a [String]>,
    /// The other surveys; `None` where they are not known.
    pub surveys: Option<&'a [SurveyTags]>,
    /// The survey in its canonical form as it is in force.
    pub before: Option<&'a Value>,
}

/// A survey that is in force, as far as rules of others name it.
#[derive(Debug, Clone)]
pub struct SurveyTags {
    pub survey_id: String,
    pub tags: Vec<String>,
}

/// A sentence for each thing that is probably not meant.
pub fn warnings(survey: &Survey, now: Millis, beside: &Surroundings<'_>) -> Vec<String> {
    let mut all = Vec::new();
    if survey.status == Status::Draft {
        all.push("it is a draft: nobody is asked until its status is active".to_owned());
    }
    if survey.sampling.percent <= 0.0 {
        all.push("sampling.percent is 0: nobody is asked".to_owned());
    }
    if survey.holdout.percent >= 100.0 {
        all.push("holdout.percent is 100: nobody is asked".to_owned());
    }
    if survey.status == Status::Test && survey.test_users.is_empty() {
        all.push("status is test and test_users is empty: nobody is asked".to_owned());
    }
    if let Some(end) = survey.schedule.as_ref().and_then(|schedule| schedule.end_at).filter(|end| *end <= now) {
        all.push(format!("schedule.end_at is over since {}: nobody is asked", time::format_time(end)));
    }
    if let Some(names) = beside.names {
        let counted = survey.counts_events().map(|pattern| pattern.event.as_str());
        let events: BTreeSet<&str> = survey.listens_to().into_iter().chain(counted).collect();
        let events = events.into_iter().map(|name| ("event", name));
        let triggers = survey.show_on.iter().map(|show_on| ("trigger", show_on.trigger.as_str()));
        for (what, name) in events.chain(triggers).filter(|(_, name)| !names.iter().any(|known| known == name)) {
            let near = nearest(name, names).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            all.push(format!("the {what} {name} has not been seen yet{near}"));
        }
    }
    all.extend(ui::misread(&survey.ui.value()));
    let translated = survey.translations.0.values().filter_map(|translation| translation.ui.as_ref());
    all.extend(translated.flat_map(|ui| ui::misread(&ui.value())));
    all.extend(translation::incomplete(survey));
    all.extend(unfilled(survey));
    all.extend(unused_endings(survey));
    all.extend(unknown_subjects(survey, beside.surveys));
    all.extend(newly_counted(survey, beside.before));
    all.extend(beside.before.map(|before| changed_types(survey, before)).unwrap_or_default());
    all
}

/// Placeholders for which only their default is ever shown, and what looks like one.
fn unfilled(survey: &Survey) -> Vec<String> {
    let mut told = Vec::new();
    let is_armed = survey.activate.is_some();
    for (at, text) in survey.texts() {
        for piece in pieces(text) {
            match piece {
                Piece::Text(_) => {}
                Piece::Unknown(braces) if braces.len() > 64 => {
                    told.push(format!("{at} has double braces that name no value: they are shown as they are"));
                }
                Piece::Unknown(braces) => {
                    let sources = ValueSource::ALL.map(|(name, _)| name);
                    let source = braces.trim_matches(['{', '}', ' ']).split('.').next().unwrap_or_default();
                    let near = super::reader::nearest(source, &sources)
                        .map(|near| format!("; did you mean {{{{{near}.…}}}}?"));
                    told.push(format!("{at} shows {braces} as it is{}", near.unwrap_or_default()));
                }
                Piece::Placeholder(placeholder) if !placeholder.is_exposed(&survey.expose) => {
                    let (name, path) = (placeholder.name(), placeholder.path);
                    told.push(format!(
                        "{at} names {name}, which expose does not: add {path} to expose, or nothing is shown"
                    ));
                }
                Piece::Placeholder(placeholder) if placeholder.source == ValueSource::Activation && !is_armed => {
                    told.push(format!(
                        "{at} names {}, and nothing activates the survey: nothing is shown",
                        placeholder.name()
                    ));
                }
                Piece::Placeholder(_) => {}
            }
        }
    }
    told
}

fn unused_endings(survey: &Survey) -> Vec<String> {
    let leads = |id: &str| survey.questions.iter().flat_map(|question| &question.next).any(|rule| rule.goto == id);
    let unused = survey.endings.iter().filter(|ending| !leads(&ending.ending_id));
    unused.map(|ending| format!("no rule leads to the ending {}", ending.ending_id)).collect()
}

/// Surveys and tags that rules name and that do not exist.
fn unknown_subjects(survey: &Survey, others: Option<&[SurveyTags]>) -> Vec<String> {
    let Some(others) = others else { return Vec::new() };
    let ids: Vec<String> =
        others.iter().map(|other| other.survey_id.clone()).chain([survey.survey_id.clone()]).collect();
    let tags: Vec<String> = others.iter().flat_map(|other| &other.tags).chain(&survey.tags).cloned().collect();
    let mut named = BTreeSet::new();
    for rule in survey.targeting.iter().flat_map(Rule::parts) {
        match rule {
            Rule::Answer(AnswerRule { survey, .. }) | Rule::History(History { of: Subject::Survey(survey), .. }) => {
                named.insert(("survey", survey.as_str()));
            }
            Rule::History(History { of: Subject::Tag(tag), .. }) if tag != EVERY_SURVEY => {
                named.insert(("tag", tag.as_str()));
            }
            _ => {}
        }
    }
    let known = |what: &str| if what == "survey" { &ids } else { &tags };
    let unknown = named.into_iter().filter(|(what, name)| !known(what).iter().any(|known| known == name));
    let told = unknown.map(|(what, name)| {
        let near = nearest(name, known(what)).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        format!("targeting names the {what} {name}, which does not exist{near}")
    });
    told.collect()
}

/// Events that rules begin to count with this version.
fn newly_counted(survey: &Survey, before: Option<&Value>) -> Vec<String> {
    let earlier = before.and_then(|before| super::survey(before, None).ok());
    let known: BTreeSet<String> = earlier
        .iter()
        .filter(|earlier| earlier.status.listens())
        .flat_map(Survey::counts_events)
        .map(|pattern| pattern.event.clone())
        .collect();
    let counted: BTreeSet<&str> = survey.counts_events().map(|pattern| pattern.event.as_str()).collect();
    let new = counted.into_iter().filter(|name| !known.contains(*name));
    new.map(|name| format!("the event {name} is remembered from now on: targeting counts none from before")).collect()
}

/// Another spelling of the same name, or a slip of a few letters.
fn nearest<'k>(name: &str, names: &'k [String]) -> Option<&'k str> {
    let plain =
        |text: &str| -> String { text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect() };
    let bare = plain(name);
    let distances = names.iter().map(|known| (strsim::damerau_levenshtein(&plain(known), &bare), known.as_str()));
    // One letter in a short name may be a slip, too.
    let most = |known: &str| (known.len() / 4).max(usize::from(known.len() > 2));
    distances.min().filter(|(distance, known)| *distance <= most(known)).map(|(_, known)| known)
}

/// Questions that have another type than under the same id before.
fn changed_types(survey: &Survey, before: &Value) -> Vec<String> {
    if before["status"] == "draft" {
        return Vec::new();
    }
    let of = |question: &Value| Some((question["question_id"].as_str()?.to_owned(), question["type"].clone()));
    let known: BTreeMap<String, Value> = before["questions"].as_array().into_iter().flatten().filter_map(of).collect();
    let now = serde_json::to_value(survey).unwrap_or_default();
    let asked = now["questions"].as_array().into_iter().flatten().filter_map(of);
    let changed = asked.filter_map(|(id, kind)| Some((known.get(&id).filter(|before| **before != kind)?, kind, id)));
    let text = |kind: &Value| kind.as_str().unwrap_or_default().to_owned();
    changed
        .map(|(before, kind, id)| {
            let (before, kind) = (text(before), text(&kind));
            format!(
                "question {id} was {before} and is {kind}: answers of both stand under one id, apart by survey_version \
                 alone; another question_id keeps them apart"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Millis = 1_800_000_000_000;

    fn told(changes: Value, names: Option<&[&str]>, before: Option<Value>) -> Vec<String> {
        let mut body = json!({"survey_id": "s", "name": "S", "status": "active", "show_on": [{"trigger": "Main"}],
            "questions": [{"question_id": "q1", "type": "nps", "text": "?"}]});
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let survey = super::super::survey(&body, None).unwrap();
        let names: Option<Vec<String>> = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        warnings(&survey, NOW, &Surroundings { names: names.as_deref(), surveys: Some(&[]), before: before.as_ref() })
    }

    #[test]
    fn what_is_probably_not_meant_is_told() {
        let check = |told: Vec<String>, parts: &[&str]| {
            assert_eq!(told.len(), parts.len(), "{told:?}");
            for (told, part) in told.iter().zip(parts) {
                assert!(told.contains(part), "{part} is not in {told}");
            }
        };
        check(told(json!({}), None, None), &[]);
        check(told(json!({}), Some(&["Main"]), None), &[]);
        check(told(json!({"status": null}), None, None), &["draft"]);
        check(told(json!({"sampling": {"percent": 0}}), None, None), &["sampling.percent is 0"]);
        check(told(json!({"holdout": {"percent": 100}}), None, None), &["holdout.percent is 100"]);
        check(told(json!({"status": "test"}), None, None), &["test_users is empty"]);
        check(told(json!({"status": "test", "test_users": ["ann"]}), None, None), &[]);
        check(told(json!({"schedule": {"end_at": "2020-01-01T00:00:00Z"}}), None, None), &["end_at"]);
        check(told(json!({"schedule": {"end_at": "9999-12-31T23:59:59Z"}}), None, None), &[]);
        check(
            told(json!({}), Some(&["main", "other"]), None),
            &["trigger Main has not been seen yet; did you mean main?"],
        );
        check(told(json!({}), Some(&[]), None), &["trigger Main has not been seen yet"]);
        let armed = json!({"activate": {"event": "endedSleep"}, "expires_after": "1h"});
        check(
            told(armed, Some(&["Main", "ended_sleep"]), None),
            &["event endedSleep has not been seen yet; did you mean ended_sleep?"],
        );
        let before = |status: &str| {
            Some(
                json!({"status": status, "questions": [{"question_id": "q1", "type": "text"}, {"question_id": "q0", "type": "nps"}]}),
            )
        };
        check(told(json!({}), None, before("paused")), &["question q1 was text and is nps"]);
        check(told(json!({}), None, before("draft")), &[]);
        let texts = json!({"expose": ["product"], "questions": [{"question_id": "q1", "type": "text",
            "text": "{{activation.product}} {{attribute.name|there}} {{atribute.name}} {{ x }}"}],
            "activate": {"event": "bought"}, "expires_after": "1h", "endings": [{"ending_id": "bye", "text": "Bye"}]});
        check(
            told(texts, None, None),
            &[
                "questions.q1.text names attribute.name, which expose does not",
                "questions.q1.text shows {{atribute.name}} as it is; did you mean {{attribute.…}}?",
                "questions.q1.text shows {{ x }} as it is",
                "no rule leads to the ending bye",
            ],
        );
        let unarmed = json!({"expose": ["x"], "name": "{{activation.x|it}}"});
        check(told(unarmed, None, None), &["name names activation.x, and nothing activates the survey"]);
        let rules = json!({"tags": ["nps"], "targeting": {"all": [{"tag": "nsp", "did": "displayed"}, {"tag": "*", "did": "displayed"},
            {"survey": "s", "did": "completed"}, {"survey": "other", "answer": {"question_id": "q1", "op": "exists"}},
            {"event": "used", "at_least": 3}]}});
        check(
            told(rules, Some(&["Main"]), None),
            &[
                "event used has not been seen yet",
                "survey other",
                "tag nsp, which does not exist; did you mean nps?",
                "the event used is remembered from now on",
            ],
        );
    }
}
