//! Tallies of responses, which can be added and subtracted, so that they can be kept up to
//! date response by response.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

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
            let question = self.questions.entry(answer.question_id.clone()).or_insert_with(|| QuestionTally {
                kind: answer.kind,
                text: answer.text.clone(),
                answered: 0,
                answered_of_completed: 0,
                values: BTreeMap::new(),
            });
            question.answered += sign;
            question.answered_of_completed += if response.completed { sign } else { 0 };
            for value in values(answer) {
                add(&mut question.values, value, sign);
            }
        }
        self.questions.retain(|_, question| question.answered != 0);
    }

    pub fn add(&mut self, other: &ResponseTally) {
        self.responses += other.responses;
        self.completed += other.completed;
        for (duration, count) in &other.durations {
            add(&mut self.durations, *duration, *count);
        }
        for (question_id, tally) in &other.questions {
            let own = self.questions.entry(question_id.clone()).or_insert_with(|| QuestionTally {
                answered: 0,
                answered_of_completed: 0,
                values: BTreeMap::new(),
                ..tally.clone()
            });
            own.answered += tally.answered;
            own.answered_of_completed += tally.answered_of_completed;
            for (value, count) in &tally.values {
                add(&mut own.values, value.clone(), *count);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.responses == 0 && self.questions.is_empty()
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
        assert_eq!((tally.responses, tally.completed, tally.median_duration_ms()), (3, 2, Some((999 + 12_300) / 2)));
        let values: Vec<&String> = tally.questions.values().flat_map(|q| q.values.keys()).collect();
        assert!(values.iter().any(|value| *value == OTHER) && !values.iter().any(|value| value.contains("words")));
        let mut halves = ResponseTally::default();
        for one in &all {
            let mut half = ResponseTally::default();
            half.count(one, 1);
            halves.add(&half);
        }
        assert_eq!(halves, tally);
        all.iter().for_each(|one| tally.count(one, -1));
        assert_eq!(tally, ResponseTally::default());
    }
}
