//! The questions of a survey, their options, and which question follows which answer.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::survey::filter::{Condition, Op};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionType {
    Text,
    Nps,
    SingleChoice,
    MultiChoice,
    RatingNumber,
    RatingStar,
    RatingEmoji,
    Info,
}

impl QuestionType {
    pub const ALL: [(&'static str, QuestionType); 8] = [
        ("text", QuestionType::Text),
        ("nps", QuestionType::Nps),
        ("single_choice", QuestionType::SingleChoice),
        ("multi_choice", QuestionType::MultiChoice),
        ("rating_number", QuestionType::RatingNumber),
        ("rating_star", QuestionType::RatingStar),
        ("rating_emoji", QuestionType::RatingEmoji),
        ("info", QuestionType::Info),
    ];
}

/// An option: the value that is sent back, and the text that the user reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    pub value: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Question {
    pub question_id: String,
    #[serde(rename = "type")]
    pub kind: QuestionType,
    pub text: String,
    pub required: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<Choice>,
    /// The option of an answer in the user's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<OtherChoice>,
    /// Whether the app shuffles the options in each offer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shuffle: bool,
    /// The highest value of a `rating_number`: 3, 5, 7 or 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<ScaleLabels>,
    /// The first rule that applies names the next question; without one it is the next in
    /// order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<NextRule>,
}

/// The texts at both ends of a scale.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ScaleLabels {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<String>,
}

/// The member of an answer in the user's own words.
pub const OTHER: &str = "other";

/// The choice whose answer is `{"other": "text"}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct OtherChoice {
    /// The text beside the input field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The `goto` that ends the path.
pub const END: &str = "end";

/// An ending, by the id that `goto` names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ending {
    pub ending_id: String,
    /// The text shown in place of the thanks.
    pub text: String,
    /// A link for the user, `http:` or `https:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// `{when: {op: lte, value: 6}, goto: q3}`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NextRule {
    /// `None`: the rule always applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<AnswerCondition>,
    /// A later question, [`END`], or an ending.
    pub goto: String,
}

/// A condition on the answer to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerCondition(Condition);

/// The name under which a condition finds the answer.
const ANSWER: &str = "answer";

impl AnswerCondition {
    pub fn new(op: Op, value: Value) -> AnswerCondition {
        AnswerCondition(Condition { property: ANSWER.to_owned(), op, value })
    }

    /// Whether the answer meets the condition; without an answer only `not_exists` does.
    pub fn holds(&self, answer: Option<&Value>) -> bool {
        self.0.holds(&json!({ ANSWER: answer }), 0)
    }
}

impl Serialize for AnswerCondition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("op", &self.0.op)?;
        if !self.0.value.is_null() {
            map.serialize_entry("value", &self.0.value)?;
        }
        map.end()
    }
}

impl QuestionType {
    /// Whether its answer is a whole number on a scale with labels.
    pub fn is_scale(self) -> bool {
        use QuestionType::{Nps, RatingEmoji, RatingNumber, RatingStar};
        matches!(self, Nps | RatingNumber | RatingStar | RatingEmoji)
    }

    pub fn is_choice(self) -> bool {
        matches!(self, QuestionType::SingleChoice | QuestionType::MultiChoice)
    }
}
