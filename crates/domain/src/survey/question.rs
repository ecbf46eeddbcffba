//! What a survey asks: questions, their options, and where answers lead.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::survey::filter::{Condition, Op};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
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

/// A choice: what is sent back, and what the user reads.
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
    /// A choice of the user's own words beside the options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<OtherChoice>,
    /// Whether the app shows the options in an order of its own for each offer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shuffle: bool,
    /// Highest value of a `rating_number`: 3, 5, 7 or 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<ScaleLabels>,
    /// The first rule that fits says what comes next; none fits: the question below.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<NextRule>,
}

/// What the ends of a scale are called.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ScaleLabels {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<String>,
}

/// The one member of an answer in the user's own words.
pub const OTHER: &str = "other";

/// The choice whose answer is `{"other": "text"}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct OtherChoice {
    /// What stands beside the field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Where a path ends early.
pub const END: &str = "end";

/// Where a path may end, by the id that `goto` names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ending {
    pub ending_id: String,
    /// What is shown in place of thanks.
    pub text: String,
    /// Where the user may go from there; `http:` or `https:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// `{when: {op: lte, value: 6}, goto: q3}`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NextRule {
    /// Left out: the rule always fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<AnswerCondition>,
    /// A later question, [`END`], or an ending.
    pub goto: String,
}

/// A condition on the answer to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerCondition(Condition);

/// The name under which the condition looks the answer up.
const ANSWER: &str = "answer";

impl AnswerCondition {
    pub fn new(op: Op, value: Value) -> AnswerCondition {
        AnswerCondition(Condition { property: ANSWER.to_owned(), op, value })
    }

    /// Without an answer only `not_exists` holds.
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
    /// Whether its answer is a whole number, which labels may stand beside.
    pub fn is_scale(self) -> bool {
        use QuestionType::{Nps, RatingEmoji, RatingNumber, RatingStar};
        matches!(self, Nps | RatingNumber | RatingStar | RatingEmoji)
    }

    pub fn is_choice(self) -> bool {
        matches!(self, QuestionType::SingleChoice | QuestionType::MultiChoice)
    }
}
