//! Tallies of responses, which can be added and subtracted, so that they can be kept up to
//! date response by response.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use crate::topics::response::{AnswerRecord, ResponseBody};
use askwhen_domain::survey::question::QuestionType;
use askwhen_domain::time::Millis;

/// Represents an answer in one's own words among the values of a choice.
pub const OTHER: &str = "\"other\"";

/// The tally of some responses; responses in status `test` are not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseTally {
    pub responses: i64,
    pub completed: i64,
    /// By duration of completed responses in milliseconds, rounded to three digits, how
    /// many took so long.
    pub durations: BTreeMap<Millis, i64>,
    pub questions: BTreeMap<String, QuestionTally>,
}

/// The tally of the answers to one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionTally {
    pub kind: QuestionType,
    pub text: String,
    pub answered: i64,
    /// How many of them belong to completed responses.
    pub answered_of_completed: i64,
    /// By value as JSON, how often it was given.
    pub values: BTreeMap<String, i64>,
}

impl ResponseTally {
    /// Adds a response, or subtracts it with a `sign` of -1.
    pub fn count(&mut self, response: &ResponseBody, sign: i64) {
        if response.test {
            return;
        }
        self.responses += sign;
        if response.completed {
            self.completed += sign;
            add(&mut self.durations, three_digits(response.updated_at - response.created_at), sign);
        }
        for answer in &response.answers {
            let question = self
                .questions
                .entry(answer.question_id.clone())
                .or_insert_with(|| QuestionTally::new(answer.kind, answer.text.clone()));
            question.answered += sign;
            question.answered_of_completed += if response.completed { sign } else { 0 };
            for value in values(answer) {
                add(&mut question.values, value, sign);
            }
        }
        self.questions.retain(|_, question| question.answered != 0);
    }

    pub fn is_empty(&self) -> bool {
        self.responses == 0 && self.questions.is_empty()
    }
}

/// A question of a survey, as some of its versions ask it: under the same id, others may ask
/// in another type, and answers of two types cannot be added up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskedQuestion {
    pub question_id: String,
    pub kind: QuestionType,
}

/// The sum of the tallies of a survey's versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultsTally {
    pub responses: i64,
    pub completed: i64,
    completed_of_versions: BTreeMap<u64, i64>,
    durations: BTreeMap<Millis, i64>,
    pub questions: BTreeMap<AskedQuestion, QuestionResults>,
}

/// The answers to a question, in all versions that ask it in this type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuestionResults {
    pub tally: QuestionTally,
    /// Versions with answers to it.
    versions: BTreeSet<u64>,
}

impl ResultsTally {
    /// Adds responses to one version of the survey.
    pub fn add(&mut self, version: u64, other: &ResponseTally) {
        self.responses += other.responses;
        self.completed += other.completed;
        *self.completed_of_versions.entry(version).or_default() += other.completed;
        for (duration, count) in &other.durations {
            add(&mut self.durations, *duration, *count);
        }
        for (question_id, tally) in &other.questions {
            let asked = AskedQuestion { question_id: question_id.clone(), kind: tally.kind };
            let own = self.questions.entry(asked).or_insert_with(|| QuestionResults {
                tally: QuestionTally::new(tally.kind, tally.text.clone()),
                versions: BTreeSet::new(),
            });
            own.versions.insert(version);
            own.tally.answered += tally.answered;
            own.tally.answered_of_completed += tally.answered_of_completed;
            for (value, count) in &tally.values {
                add(&mut own.tally.values, value.clone(), *count);
            }
        }
    }

    /// How many completed responses have no answer to a question. Where versions ask it in
    /// several types, those of versions with an answer in this type count.
    pub fn skipped(&self, asked: &AskedQuestion) -> i64 {
        let types = self.questions.keys().filter(|other| other.question_id == asked.question_id).count();
        let Some(question) = self.questions.get(asked) else { return self.completed };
        let completed = match types {
            1 => self.completed,
            _ => question.versions.iter().filter_map(|version| self.completed_of_versions.get(version)).sum(),
        };
        completed - question.tally.answered_of_completed
    }

    /// The median duration of completed responses.
    pub fn median_duration_ms(&self) -> Option<Millis> {
        let all: i64 = self.durations.values().sum();
        let at = |rank: i64| {
            let mut passed = 0;
            self.durations.iter().find_map(|(duration, count)| {
                passed += count;
                (passed > rank).then_some(*duration)
            })
        };
        Some((at((all - 1) / 2)? + at(all / 2)?) / 2)
    }
}

impl QuestionTally {
    /// Of a question without answers.
    pub fn new(kind: QuestionType, text: String) -> QuestionTally {
        QuestionTally { kind, text, answered: 0, answered_of_completed: 0, values: BTreeMap::new() }
    }

    /// The numeric values, with how often each was given.
    pub fn numbers(&self) -> impl Iterator<Item = (f64, i64)> {
        self.values.iter().filter_map(|(value, count)| Some((value.parse().ok()?, *count)))
    }
}

/// Rounds down to three digits, so that the number of distinct durations is bounded.
fn three_digits(ms: Millis) -> Millis {
    let mut step = 1;
    while ms / step >= 1_000 {
        step *= 10;
    }
    ms.max(0) / step * step
}

fn add<K: Ord>(counts: &mut BTreeMap<K, i64>, key: K, sign: i64) {
    use std::collections::btree_map::Entry;
    match counts.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(sign);
        }
        Entry::Occupied(mut entry) => {
            *entry.get_mut() += sign;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// The values under which an answer is counted: none for texts, several for multiple
/// choices.
fn values(answer: &AnswerRecord) -> Vec<String> {
    let one = |value: &Value| if value.is_object() { OTHER.to_owned() } else { value.to_string() };
    match (answer.kind, answer.value.value()) {
        (QuestionType::Text | QuestionType::Info, _) => Vec::new(),
        (_, Value::Array(values)) => values.iter().map(one).collect(),
        (_, value) => vec![one(&value)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::ResponseRecord;
    use askwhen_domain::json::Json;
    use askwhen_domain::webhook::endpoint::EventType;
    use askwhen_domain::webhook::message::Data;

    fn response(value: &str, kind: QuestionType, completed: bool, took: Millis) -> ResponseBody {
        let mut data = Data::sample("default", 1_000);
        data.answers[0].value = Json::from_valid(value);
        data.answers[0].kind = kind;
        (data.completed, data.test) = (completed, false);
        (data.created_at, data.updated_at) = (1_000, 1_000 + took);
        ResponseRecord::of(EventType::Answered, 0, &data).data
    }

    #[test]
    fn what_is_added_and_taken_away_leaves_nothing() {
        let all = [
            response("7", QuestionType::Nps, true, 12_345),
            response("[\"a\",{\"other\":\"b\"}]", QuestionType::MultiChoice, false, 1),
            response("\"words\"", QuestionType::Text, true, 999),
        ];
        let mut tally = ResponseTally::default();
        all.iter().for_each(|one| tally.count(one, 1));
        assert_eq!((tally.responses, tally.completed), (3, 2));
        let values: Vec<&String> = tally.questions.values().flat_map(|q| q.values.keys()).collect();
        assert!(values.iter().any(|value| *value == OTHER) && !values.iter().any(|value| value.contains("words")));
        let (mut whole, mut halves) = (ResultsTally::default(), ResultsTally::default());
        whole.add(1, &tally);
        for one in &all {
            let mut half = ResponseTally::default();
            half.count(one, 1);
            halves.add(1, &half);
        }
        assert_eq!((halves.responses, halves.median_duration_ms()), (3, Some((999 + 12_300) / 2)));
        assert_eq!(halves.median_duration_ms(), whole.median_duration_ms());
        all.iter().for_each(|one| tally.count(one, -1));
        assert_eq!(tally, ResponseTally::default());
    }
    #[test]
    fn a_question_that_changed_its_type_is_two() {
        let mut results = ResultsTally::default();
        let versions =
            [(1, "5", QuestionType::RatingStar), (2, "\"good\"", QuestionType::Text), (3, "9", QuestionType::Nps)];
        for (version, value, kind) in versions {
            let mut tally = ResponseTally::default();
            tally.count(&response(value, kind, true, 1_000), 1);
            results.add(version, &tally);
        }
        assert_eq!((results.responses, results.questions.len()), (3, 3));
        for (asked, question) in &results.questions {
            assert_eq!((question.tally.kind, question.tally.answered), (asked.kind, 1));
            assert!(question.tally.values.len() <= 1);
            assert_eq!(results.skipped(asked), 0, "other versions do not ask it like this");
        }
    }
}
