//! Warnings about definitions: what is valid and probably not intended.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::{translation, ui};
use askwhen_domain::quota::cap::Cap;
use askwhen_domain::settings::Settings;
use askwhen_domain::survey::activation::Pattern;
use askwhen_domain::survey::placeholder::{Piece, ValueSource, pieces};
use askwhen_domain::survey::targeting::{AnswerRule, EVERY_SURVEY, History, Rule, Subject};
use askwhen_domain::survey::{Status, Survey};
use askwhen_domain::time::{self, Millis};
use askwhen_domain::webhook::endpoint::Endpoint;

/// What is known besides the definition itself.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// Names of known events and triggers; `None` when they are not known.
    pub names: Option<&'a [String]>,
    /// The other surveys; `None` when not all of them are known.
    pub surveys: Option<&'a [KnownSurvey]>,
    /// Surveys that are applied together with it.
    pub beside: &'a [KnownSurvey],
    /// The survey or the settings in force, in canonical form.
    pub before: Option<&'a Value>,
}

/// The parts of a survey that rules and endpoints may refer to.
#[derive(Debug, Clone)]
pub struct KnownSurvey {
    pub survey_id: String,
    pub tags: Vec<String>,
    /// Ids of its questions.
    pub questions: Vec<String>,
    pub anonymous: bool,
}

impl KnownSurvey {
    /// From a definition in canonical form.
    pub fn of(body: &Value) -> KnownSurvey {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let questions = body["questions"].as_array().into_iter().flatten();
        KnownSurvey {
            survey_id: text(&body["survey_id"]).unwrap_or_default(),
            tags: body["tags"].as_array().into_iter().flatten().filter_map(text).collect(),
            questions: questions.filter_map(|question| text(&question["question_id"])).collect(),
            anonymous: body["anonymous"] == true,
        }
    }
}

impl From<&Survey> for KnownSurvey {
    fn from(survey: &Survey) -> KnownSurvey {
        KnownSurvey {
            survey_id: survey.survey_id.clone(),
            tags: survey.tags.clone(),
            questions: survey.questions.iter().map(|question| question.question_id.clone()).collect(),
            anonymous: survey.anonymous,
        }
    }
}

impl<'a> Surroundings<'a> {
    fn known(&self) -> impl Iterator<Item = &'a KnownSurvey> {
        self.beside.iter().chain(self.surveys.unwrap_or_default())
    }
}

/// All warnings about a survey.
pub fn warnings(survey: &Survey, now: Millis, beside: &Surroundings<'_>) -> Vec<String> {
    let mut all = Vec::new();
    if survey.status == Status::Draft {
        all.push("it is a draft: nobody is asked until its status is active".to_owned());
    }
    if survey.sampling.percent <= 0.0 {
        all.push("sampling.percent is 0: nobody is asked".to_owned());
    }
    if (0.0..1.0).contains(&survey.sampling.percent) && survey.sampling.percent > 0.0 {
        let percent = survey.sampling.percent;
        all.push(format!(
            "sampling.percent is {percent}, one user in {:.0}: half of all users are 50",
            100.0 / percent
        ));
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
        all.extend(unseen("event", events, names));
        all.extend(unseen("trigger", survey.show_on.iter().map(|show_on| show_on.trigger.as_str()), names));
    }
    all.extend(ui::misread(&survey.ui.value()));
    let translated = survey.translations.0.values().filter_map(|translation| translation.ui.as_ref());
    all.extend(translated.flat_map(|ui| ui::misread(&ui.value())));
    all.extend(translation::incomplete(survey));
    all.extend(unfilled(survey));
    all.extend(unused_endings(survey));
    // The survey in force under its own id is the one that it replaces.
    all.extend(unknown_subjects(&survey.targeting, Some(&KnownSurvey::from(survey)), beside));
    let earlier = beside.before.and_then(|before| super::survey(before, None).ok());
    let listening = earlier.iter().filter(|earlier| earlier.status.listens());
    all.extend(newly_counted(survey.counts_events(), listening.flat_map(Survey::counts_events)));
    let known = earlier.as_ref().map_or(&[][..], |earlier| &earlier.limits.caps);
    all.extend(newly_capped("limits.caps", &survey.limits.caps, known));
    all.extend(beside.before.map(|before| changed_types(survey, before)).unwrap_or_default());
    all
}

/// Placeholders that only ever show their default, and texts that look like placeholders.
fn unfilled(survey: &Survey) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_armed = survey.activate.is_some();
    for (at, text) in survey.texts() {
        for piece in pieces(text) {
            match piece {
                Piece::Text(_) => {}
                Piece::Unknown(braces) if braces.len() > 64 => {
                    warnings.push(format!("{at} has double braces that name no value: they are shown as they are"));
                }
                Piece::Unknown(braces) => {
                    let sources = ValueSource::ALL.map(|(name, _)| name);
                    let source = braces.trim_matches(['{', '}', ' ']).split('.').next().unwrap_or_default();
                    let near = super::reader::nearest(source, &sources)
                        .map(|near| format!("; did you mean {{{{{near}.…}}}}?"));
                    warnings.push(format!("{at} shows {braces} as it is{}", near.unwrap_or_default()));
                }
                Piece::Placeholder(placeholder) if !placeholder.is_exposed(&survey.expose) => {
                    let (name, path) = (placeholder.name(), placeholder.path);
                    warnings.push(format!(
                        "{at} names {name}, which expose does not: add {path} to expose, or nothing is shown"
                    ));
                }
                Piece::Placeholder(placeholder) if placeholder.source == ValueSource::Activation && !is_armed => {
                    warnings.push(format!(
                        "{at} names {}, and nothing activates the survey: nothing is shown",
                        placeholder.name()
                    ));
                }
                Piece::Placeholder(_) => {}
            }
        }
    }
    warnings
}

fn unused_endings(survey: &Survey) -> Vec<String> {
    let leads = |id: &str| survey.questions.iter().flat_map(|question| &question.next).any(|rule| rule.goto == id);
    let unused = survey.endings.iter().filter(|ending| !leads(&ending.ending_id));
    unused.map(|ending| format!("no rule leads to the ending {}", ending.ending_id)).collect()
}

/// Surveys, tags and questions in rules that do not exist, and answers that are never kept.
fn unknown_subjects<'r>(
    rules: impl IntoIterator<Item = &'r Rule>,
    own: Option<&KnownSurvey>,
    beside: &Surroundings<'_>,
) -> Vec<String> {
    let known: Vec<&KnownSurvey> = beside.known().chain(own).collect();
    let mut warnings = BTreeSet::new();
    for rule in rules.into_iter().flat_map(Rule::parts) {
        match rule {
            Rule::Answer(AnswerRule { survey, answer, .. }) => {
                warnings.extend(unknown_answer("targeting", survey, &answer.property, &known, beside));
                if known.iter().any(|known| known.survey_id == *survey && known.anonymous) {
                    warnings
                        .insert(format!("targeting asks for answers to {survey}, which is anonymous: it knows none"));
                }
            }
            Rule::History(History { of: Subject::Survey(survey), .. }) => {
                warnings.extend(unknown_survey("targeting", survey, &known, beside));
            }
            Rule::History(History { of: Subject::Tag(tag), .. }) if tag != EVERY_SURVEY && beside.surveys.is_some() => {
                let tags: Vec<String> = known.iter().flat_map(|known| &known.tags).cloned().collect();
                if !tags.contains(tag) {
                    warnings
                        .insert(format!("targeting names the tag {tag}, which does not exist{}", meant(tag, &tags)));
                }
            }
            _ => {}
        }
    }
    warnings.into_iter().collect()
}

fn unknown_survey(by: &str, survey_id: &str, known: &[&KnownSurvey], beside: &Surroundings<'_>) -> Option<String> {
    let ids: Vec<String> = known.iter().map(|known| known.survey_id.clone()).collect();
    let is_unknown = beside.surveys.is_some() && !ids.iter().any(|known| known == survey_id);
    is_unknown.then(|| format!("{by} names the survey {survey_id}, which does not exist{}", meant(survey_id, &ids)))
}

/// A question that its survey does not have, or a survey that does not exist.
fn unknown_answer(
    by: &str,
    survey_id: &str,
    question_id: &str,
    known: &[&KnownSurvey],
    beside: &Surroundings<'_>,
) -> Option<String> {
    let Some(survey) = known.iter().find(|known| known.survey_id == survey_id) else {
        return unknown_survey(by, survey_id, known, beside);
    };
    let is_there = survey.questions.iter().any(|known| known == question_id);
    (!is_there).then(|| {
        let near = meant(question_id, &survey.questions);
        format!("{by} names the question {question_id} of {survey_id}, which does not exist{near}")
    })
}

/// The nearest name, as the end of a sentence.
fn meant(name: &str, names: &[String]) -> String {
    nearest(name, names).map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

/// All warnings about an endpoint.
pub fn endpoint_warnings(endpoint: &Endpoint, beside: &Surroundings<'_>) -> Vec<String> {
    let known: Vec<&KnownSurvey> = beside.known().collect();
    let warnings: BTreeSet<String> = endpoint
        .conditions
        .iter()
        .filter_map(|one| unknown_answer("where", &one.survey, &one.answer.property, &known, beside))
        .collect();
    warnings.into_iter().collect()
}

/// All warnings about settings.
pub fn settings_warnings(settings: &Settings, beside: &Surroundings<'_>) -> Vec<String> {
    let earlier = beside.before.and_then(|before| super::settings(before).ok());
    let mut all = Vec::new();
    if let Some(names) = beside.names {
        let counted: BTreeSet<&str> = settings.counts_events().map(|pattern| pattern.event.as_str()).collect();
        all.extend(unseen("event", counted, names));
    }
    all.extend(unknown_subjects(&settings.targeting, None, beside));
    all.extend(newly_counted(settings.counts_events(), earlier.iter().flat_map(Settings::counts_events)));
    all.extend(newly_capped("caps", &settings.caps, earlier.as_ref().map_or(&[][..], |earlier| &earlier.caps)));
    all
}

/// Names that nobody has used yet.
fn unseen<'n>(what: &str, used: impl IntoIterator<Item = &'n str>, names: &[String]) -> Vec<String> {
    let unknown = used.into_iter().filter(|name| !names.iter().any(|known| known == name));
    unknown.map(|name| format!("the {what} {name} has not been seen yet{}", meant(name, names))).collect()
}

/// Events that rules begin to count with this version.
fn newly_counted<'p>(
    counted: impl Iterator<Item = &'p Pattern>,
    before: impl Iterator<Item = &'p Pattern>,
) -> Vec<String> {
    let known: BTreeSet<&str> = before.map(|pattern| pattern.event.as_str()).collect();
    let counted: BTreeSet<&str> = counted.map(|pattern| pattern.event.as_str()).collect();
    let new = counted.difference(&known);
    new.map(|name| format!("the event {name} is remembered from now on: targeting counts none from before")).collect()
}

/// Caps that begin to count with this version.
fn newly_capped(member: &str, caps: &[Cap], before: &[Cap]) -> Option<String> {
    let is_new = |cap: &&Cap| !before.iter().any(|known| known.counts_as() == cap.counts_as());
    let new = caps.iter().filter(is_new).count();
    (new > 0).then(|| format!("{new} of {member} count from now on: offers from before are not counted"))
}

/// A name in another spelling, or one that differs in a few letters.
fn nearest<'k>(name: &str, names: &'k [String]) -> Option<&'k str> {
    let plain =
        |text: &str| -> String { text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect() };
    let bare = plain(name);
    let distances = names.iter().map(|known| (strsim::damerau_levenshtein(&plain(known), &bare), known.as_str()));
    // In short names a single letter may be wrong, too.
    let most = |known: &str| (known.len() / 4).max(usize::from(known.len() > 2));
    distances.min().filter(|(distance, known)| *distance <= most(known)).map(|(_, known)| known)
}

/// Questions whose type was another one before.
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

    fn warnings_for(changes: Value, names: Option<&[&str]>, before: Option<Value>) -> Vec<String> {
        let mut body = json!({"survey_id": "s", "name": "S", "status": "active", "show_on": [{"trigger": "Main"}],
            "questions": [{"question_id": "q1", "type": "nps", "text": "?"}]});
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let survey = super::super::survey(&body, None).unwrap();
        let names: Option<Vec<String>> = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let beside = KnownSurvey {
            survey_id: "secret".into(),
            tags: Vec::new(),
            questions: vec!["score".into()],
            anonymous: true,
        };
        let (names, before) = (names.as_deref(), before.as_ref());
        warnings(&survey, NOW, &Surroundings { names, surveys: Some(&[]), beside: &[beside], before })
    }

    #[test]
    fn what_is_probably_not_meant_is_told() {
        let check = |warnings: Vec<String>, parts: &[&str]| {
            assert_eq!(warnings.len(), parts.len(), "{warnings:?}");
            for (warning, part) in warnings.iter().zip(parts) {
                assert!(warning.contains(part), "{part} is not in {warning}");
            }
        };
        check(warnings_for(json!({}), None, None), &[]);
        check(warnings_for(json!({}), Some(&["Main"]), None), &[]);
        check(warnings_for(json!({"status": null}), None, None), &["draft"]);
        check(warnings_for(json!({"sampling": {"percent": 0}}), None, None), &["sampling.percent is 0"]);
        check(warnings_for(json!({"holdout": {"percent": 100}}), None, None), &["holdout.percent is 100"]);
        check(warnings_for(json!({"status": "test"}), None, None), &["test_users is empty"]);
        check(warnings_for(json!({"status": "test", "test_users": ["ann"]}), None, None), &[]);
        check(warnings_for(json!({"schedule": {"end_at": "2020-01-01T00:00:00Z"}}), None, None), &["end_at"]);
        check(warnings_for(json!({"schedule": {"end_at": "9999-12-31T23:59:59Z"}}), None, None), &[]);
        check(
            warnings_for(json!({}), Some(&["main", "other"]), None),
            &["trigger Main has not been seen yet; did you mean main?"],
        );
        check(warnings_for(json!({}), Some(&[]), None), &["trigger Main has not been seen yet"]);
        let armed = json!({"activate": {"event": "endedSleep"}, "expires_after": "1h"});
        check(
            warnings_for(armed, Some(&["Main", "ended_sleep"]), None),
            &["event endedSleep has not been seen yet; did you mean ended_sleep?"],
        );
        let before = |status: &str| {
            Some(
                json!({"status": status, "questions": [{"question_id": "q1", "type": "text"}, {"question_id": "q0", "type": "nps"}]}),
            )
        };
        check(warnings_for(json!({}), None, before("paused")), &["question q1 was text and is nps"]);
        check(warnings_for(json!({}), None, before("draft")), &[]);
        let texts = json!({"expose": ["product"], "questions": [{"question_id": "q1", "type": "text",
            "text": "{{activation.product}} {{attribute.name|there}} {{atribute.name}} {{ x }}"}],
            "activate": {"event": "bought"}, "expires_after": "1h", "endings": [{"ending_id": "bye", "text": "Bye"}]});
        check(
            warnings_for(texts, None, None),
            &[
                "questions.q1.text names attribute.name, which expose does not",
                "questions.q1.text shows {{atribute.name}} as it is; did you mean {{attribute.…}}?",
                "questions.q1.text shows {{ x }} as it is",
                "no rule leads to the ending bye",
            ],
        );
        let unarmed = json!({"expose": ["x"], "name": "{{activation.x|it}}"});
        check(warnings_for(unarmed, None, None), &["name names activation.x, and nothing activates the survey"]);
        let caps = json!({"limits": {"caps": [{"count": "displayed", "max": 2}]}});
        let mut in_force = json!({"survey_id": "s", "name": "S", "status": "active", "show_on": [{"trigger": "Main"}],
            "questions": [{"question_id": "q1", "type": "nps", "text": "?"}]});
        check(warnings_for(caps.clone(), None, Some(in_force.clone())), &["1 of limits.caps count from now on"]);
        in_force["limits"] = json!({"caps": [{"count": "displayed", "max": 1}]});
        check(warnings_for(caps, None, Some(in_force)), &[]);
        let rules = json!({"tags": ["nps"], "targeting": {"all": [{"tag": "nsp", "did": "displayed"}, {"tag": "*", "did": "displayed"},
            {"survey": "s", "did": "completed"}, {"survey": "other", "answer": {"question_id": "q1", "op": "exists"}},
            {"event": "used", "at_least": 3}]}});
        let answers = json!({"targeting": {"any": [{"survey": "s", "answer": {"question_id": "q2", "op": "exists"}},
            {"survey": "secret", "answer": {"question_id": "scor", "op": "exists"}}]}});
        check(
            warnings_for(answers, None, None),
            &[
                "answers to secret, which is anonymous",
                "the question q2 of s, which does not exist",
                "the question scor of secret, which does not exist; did you mean score?",
            ],
        );
        check(
            warnings_for(rules, Some(&["Main"]), None),
            &[
                "event used has not been seen yet",
                "survey other",
                "tag nsp, which does not exist; did you mean nps?",
                "the event used is remembered from now on",
            ],
        );
        let body = json!({"targeting": {"all": [{"event": "used"}, {"tag": "nps", "did": "displayed"}]},
            "caps": [{"count": "displayed", "max": 2}]});
        let settings = super::super::settings(&body).unwrap();
        let names = ["Used".to_owned()];
        let first = Surroundings { names: Some(&names), surveys: Some(&[]), ..Surroundings::default() };
        check(
            settings_warnings(&settings, &first),
            &[
                "event used has not been seen yet; did you mean Used?",
                "tag nps, which does not exist",
                "the event used is remembered from now on",
                "1 of caps count from now on",
            ],
        );
        let before = serde_json::to_value(&settings).unwrap();
        let again = Surroundings { before: Some(&before), ..Surroundings::default() };
        check(settings_warnings(&settings, &again), &[]);
    }
}
