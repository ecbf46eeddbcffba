//! What is assumed of users who get an offer that was not really made.

use serde_json::{Value, json};

use askwhen_domain::decision::Offered;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Answers as Said, Context, GivenAnswer, Target};
use askwhen_domain::survey::QuestionType;

/// In `[0, 1)`, a hash of the offer: a second backtest assumes the same of it.
pub(super) fn chance(offer_id: &str) -> f64 {
    (xxhash_rust::xxh3::xxh3_64(offer_id.as_bytes()) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A response that answers each question somehow.
pub(super) fn in_full(offered: &Offered) -> Said {
    let answers = offered.questions.iter().filter_map(|question| {
        let first = question.options.first().map_or(Value::Null, |choice| choice.value.as_str().into());
        let value = match question.kind {
            QuestionType::Info => return None,
            QuestionType::Text => json!("…"),
            QuestionType::Nps => json!(8),
            QuestionType::SingleChoice => first,
            QuestionType::MultiChoice => json!([first]),
            QuestionType::RatingNumber | QuestionType::RatingStar | QuestionType::RatingEmoji => json!(3),
        };
        let question_id = question.question_id.clone();
        Some(GivenAnswer { question_id, value: Json::of(&value), answered_at: None, duration_ms: None })
    });
    let target = Target::Offer(offered.offer_id.clone());
    Said { target, answers: answers.collect(), completed: true, context: Context::default() }
}
