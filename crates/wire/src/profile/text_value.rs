//! Answers in the form of the compatibility profiles: choices as texts, numbers as decimal
//! strings.

use askwhen_domain::json::Json;
use askwhen_domain::survey::QuestionType;
use askwhen_domain::webhook::message::AnswerFact;

/// An answer as one text or, for several choices, as a list.
pub enum TextValue {
    One(String),
    Several(Vec<String>),
}

/// The form of an answer.
pub fn text_value(answer: &AnswerFact) -> TextValue {
    match answer.kind {
        QuestionType::MultiChoice => TextValue::Several(answer.labels.clone()),
        QuestionType::SingleChoice => TextValue::One(answer.labels.first().cloned().unwrap_or_default()),
        QuestionType::Text => TextValue::One(answer.value.value().as_str().unwrap_or_default().to_owned()),
        _ => TextValue::One(decimal(&answer.value)),
    }
}

fn decimal(value: &Json) -> String {
    match value.value().as_i64() {
        Some(number) => number.to_string(),
        None => value.as_str().to_owned(),
    }
}
