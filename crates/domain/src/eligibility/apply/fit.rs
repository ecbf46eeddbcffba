//! Whether an answer suits its question. The widget follows the same rules; `web/vectors`
//! has the test cases of both.

use serde_json::Value;

use crate::json::Json;
use crate::survey::question::{OTHER, Question, QuestionType};

/// Longest text answer, in bytes.
pub const MAX_TEXT_BYTES: usize = 16 << 10;

/// Why an answer does not suit its question; the message says what would.
#[derive(Debug, thiserror::Error)]
pub enum UnfitValue {
    #[error("must be an integer from {low} to {high}")]
    NoInteger { low: i64, high: i64 },
    #[error("must have at most 16 KiB")]
    TextTooLong,
    #[error("must be a string")]
    NoText,
    #[error("must be the value of one of the question's options")]
    NoOption,
    #[error("must be the value of one of the question's options, or {{\"other\": text}} with 1 to 16384 bytes")]
    NoOptionAndNoOther,
    #[error("must be a list of distinct values of the question's options")]
    NoOptions,
    #[error("must be a list of distinct values of the question's options, with one {{\"other\": text}} at most")]
    NoOptionsAndNoOther,
    #[error("an info page takes no answer")]
    NotAsked,
}

/// The answer in the form in which it is stored, e.g. `4` for `4.0`.
///
/// # Errors
/// What would suit the question.
pub fn fitted(question: &Question, given: &Json) -> Result<Json, UnfitValue> {
    let value = given.value();
    let integer_in = |low: i64, high: i64| match integer(&value) {
        Some(n) if (low..=high).contains(&n) => Ok(Json::of(&n)),
        _ => Err(UnfitValue::NoInteger { low, high }),
    };
    let listed = |v: &Value| v.as_str().is_some_and(|s| question.options.iter().any(|o| o.value == s));
    let is_option = |v: &Value| listed(v) || (question.other.is_some() && is_other(v));
    // An answer in the user's own words is stored in one canonical form.
    let kept = || if value.is_string() { given.clone() } else { Json::of(&value) };
    match question.kind {
        QuestionType::Text => match value.as_str() {
            Some(text) if text.len() <= MAX_TEXT_BYTES => Ok(given.clone()),
            Some(_) => Err(UnfitValue::TextTooLong),
            None => Err(UnfitValue::NoText),
        },
        QuestionType::Nps => integer_in(0, 10),
        QuestionType::RatingNumber => integer_in(1, i64::from(question.scale.unwrap_or(5))),
        QuestionType::RatingStar | QuestionType::RatingEmoji => integer_in(1, 5),
        QuestionType::SingleChoice if is_option(&value) => Ok(kept()),
        QuestionType::SingleChoice if question.other.is_some() => Err(UnfitValue::NoOptionAndNoOther),
        QuestionType::SingleChoice => Err(UnfitValue::NoOption),
        QuestionType::MultiChoice => {
            let list = value.as_array().filter(|list| list.iter().all(is_option));
            let one_other = |list: &[Value]| list.iter().filter(|v| v.is_object()).count() <= 1;
            let distinct = |list: &[Value]| (1..list.len()).all(|i| !list[..i].contains(&list[i]));
            match list {
                Some(list) if distinct(list) && one_other(list) && list.iter().any(Value::is_object) => Ok(kept()),
                Some(list) if distinct(list) && one_other(list) => Ok(given.clone()),
                _ if question.other.is_some() => Err(UnfitValue::NoOptionsAndNoOther),
                _ => Err(UnfitValue::NoOptions),
            }
        }
        QuestionType::Info => Err(UnfitValue::NotAsked),
    }
}

/// Whether the value is `{"other": "text"}` and nothing else.
fn is_other(value: &Value) -> bool {
    let text = value.as_object().filter(|members| members.len() == 1).and_then(|members| members.get(OTHER)?.as_str());
    text.is_some_and(|text| (1..=MAX_TEXT_BYTES).contains(&text.len()))
}

/// A whole number in any JSON spelling: languages without integers write `4.0`.
fn integer(value: &Value) -> Option<i64> {
    let whole = || value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e9).map(|n| n as i64);
    value.as_i64().or_else(whole)
}
