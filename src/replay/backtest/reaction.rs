//! What is assumed of users who get an offer that was not really made.

use serde_json::{Value, json};

use askwhen_domain::eligibility::decision::Offered;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Answers as Said, Context, GivenAnswer, Target};
use askwhen_domain::survey::path::{self, AnswerValues};
use askwhen_domain::survey::question::{Question, QuestionType};

/// In `[0, 1)`, a hash of the offer: a second backtest assumes the same of it.
pub(super) fn chance(offer_id: &str) -> f64 {
    (xxhash_rust::xxh3::xxh3_64(offer_id.as_bytes()) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A response that answers each question on its path somehow.
pub(super) fn in_full(offered: &Offered) -> Said {
    let mut values = AnswerValues::new();
    // Each answer may lead elsewhere: the path is as long as it gets when nothing is missing.
    while let Some(question) = unanswered(&offered.questions, &values) {
        values.insert(question.question_id.clone(), assumed(question));
    }
    let answers = values.into_iter().map(|(question_id, value)| GivenAnswer {
        question_id,
        value: Json::of(&value),
        answered_at: None,
        duration_ms: None,
    });
    let target = Target::Offer(offered.offer_id.clone());
    Said { target, answers: answers.collect(), completed: true, context: Context::default() }
}

fn unanswered<'q>(questions: &'q [Question], values: &AnswerValues) -> Option<&'q Question> {
    let path = path::follow(questions, values).questions.into_iter().map(|index| &questions[index]);
    path.into_iter().find(|question| question.kind != QuestionType::Info && !values.contains_key(&question.question_id))
}

fn assumed(question: &Question) -> Value {
    let first = question.options.first().map_or(Value::Null, |choice| choice.value.as_str().into());
    match question.kind {
        QuestionType::Info => Value::Null,
        QuestionType::Text => json!("…"),
        QuestionType::Nps => json!(8),
        QuestionType::SingleChoice => first,
        QuestionType::MultiChoice => json!([first]),
        QuestionType::RatingNumber | QuestionType::RatingStar | QuestionType::RatingEmoji => json!(3),
    }
}
