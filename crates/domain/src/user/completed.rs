//! The answers in a user's latest completed response to each survey. Targeting rules may
//! look at them long after the offer is forgotten.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::json::Json;
use crate::time::Millis;

/// The longest text that is kept, in bytes; a longer one is cut off between characters,
/// because rules look at choices and numbers.
pub const MAX_TEXT_BYTES: usize = 256;

/// The answers of a completed response. Those to surveys in status `test` are not kept.
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

    /// An object whose one member is the answer to a question; empty when there is none.
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
