//! The answers of a user's latest completed response to each survey. Targeting rules may
//! ask for them long after the offer is forgotten.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::json::Json;
use crate::time::Millis;

/// A longer text is cut, at the end of a character: rules ask for choices and numbers.
pub const MAX_TEXT_BYTES: usize = 256;

/// The answers of a completed response; responses to tests are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedAnswers {
    /// When it was completed.
    pub at: Millis,
    /// By question id.
    pub answers: BTreeMap<String, Json>,
}

impl CompletedAnswers {
    /// Keeps answers, each with its question id.
    pub fn of<'a>(answers: impl Iterator<Item = (&'a String, &'a Json)>, at: Millis) -> CompletedAnswers {
        CompletedAnswers { at, answers: answers.map(|(id, answer)| (id.clone(), shortened(answer))).collect() }
    }

    /// The answer to a question as the one member of an object; an empty object when
    /// there is none.
    pub fn answer_to(&self, question_id: &str) -> Value {
        let answer = self.answers.get(question_id).map(|answer| (question_id.to_owned(), answer.value()));
        Value::Object(answer.into_iter().collect())
    }

    pub fn approximate_bytes(&self) -> usize {
        self.answers.iter().map(|(id, answer)| id.len() + answer.len_bytes() + 16).sum::<usize>() + 16
    }
}

pub(crate) fn shortened(answer: &Json) -> Json {
    match answer.value() {
        Value::String(text) if text.len() > MAX_TEXT_BYTES => {
            let end = (0..=MAX_TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            Json::of(&&text[..end])
        }
        _ => answer.clone(),
    }
}
