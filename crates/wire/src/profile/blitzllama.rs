//! Profile `blitzllama`: `response_group` on completion, one flat body per
//! answer. Its receivers verify `JSON.stringify(JSON.parse(body))`, so the
//! bytes are those that JavaScript would print.

use serde::Serialize;
use serde_json::value::RawValue;

use super::javascript;
use super::text_value::{TextValue, text_value};
use crate::json;
use askwhen_domain::survey::QuestionType;
use askwhen_domain::time;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::{AnswerFact, Data};

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
struct Group<'a> {
    user_id: &'a str,
    app_key: &'a str,
    survey_id: &'a str,
    survey_name: &'a str,
    group_id: &'a str,
    platform: &'a str,
    trigger: &'a str,
    event_type: &'static str,
    responses: Vec<GroupAnswer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct GroupAnswer<'a> {
    question_id: &'a str,
    question_order: u32,
    response: Response,
    question_text: &'a str,
    question_type: &'static str,
    created_at: String,
}

#[derive(Serialize)]
struct FlatBody<'a> {
    user_id: &'a str,
    app_key: &'a str,
    survey_id: &'a str,
    group_id: &'a str,
    question_id: &'a str,
    platform: &'a str,
    trigger: &'a str,
    question_order: u32,
    response: Response,
    question_text: &'a str,
    question_type: &'static str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Box<RawValue>>,
}

/// A string, or for several choices a list.
struct Response(TextValue);

impl Serialize for Response {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            TextValue::One(text) => serializer.serialize_str(text),
            TextValue::Several(list) => list.serialize(serializer),
        }
    }
}

pub fn body(kind: EventType, data: &Data, include_properties: bool) -> Vec<u8> {
    match (kind, data.answers.first()) {
        (EventType::Answered, Some(answer)) => json::encode(&flat(data, answer, include_properties)),
        _ => json::encode(&group(data, include_properties)),
    }
}

fn group(data: &Data, include_properties: bool) -> Group<'_> {
    Group {
        user_id: &data.user_id,
        app_key: &data.project,
        survey_id: &data.survey_id,
        survey_name: &data.survey_name,
        group_id: &data.response_id,
        platform: platform(data),
        trigger: &data.trigger,
        event_type: "response_group",
        responses: data
            .answers
            .iter()
            .map(|answer| GroupAnswer {
                question_id: &answer.question_id,
                question_order: answer.order,
                response: Response(text_value(answer)),
                question_text: &answer.text,
                question_type: question_type(answer.kind),
                created_at: time::format_time(answer.answered_at),
            })
            .collect(),
        properties: properties(data, include_properties),
    }
}

fn flat<'a>(data: &'a Data, answer: &'a AnswerFact, include_properties: bool) -> FlatBody<'a> {
    FlatBody {
        user_id: &data.user_id,
        app_key: &data.project,
        survey_id: &data.survey_id,
        group_id: &data.response_id,
        question_id: &answer.question_id,
        platform: platform(data),
        trigger: &data.trigger,
        question_order: answer.order,
        response: Response(text_value(answer)),
        question_text: &answer.text,
        question_type: question_type(answer.kind),
        created_at: time::format_time_offset(answer.answered_at),
        properties: properties(data, include_properties),
    }
}

fn platform(data: &Data) -> &str {
    if data.link { "link" } else { data.platform.as_deref().unwrap_or("") }
}

/// The activation's properties, as JavaScript would print them.
fn properties(data: &Data, include: bool) -> Option<Box<RawValue>> {
    if !include {
        return None;
    }
    let text = data.activation.as_ref().map_or("{}", |a| a.properties.as_str());
    Some(RawValue::from_string(javascript::restringify(text)).expect("it was JSON and still is"))
}

fn question_type(kind: QuestionType) -> &'static str {
    match kind {
        QuestionType::Text => "input_feedback",
        QuestionType::Nps => "nps_feedback",
        QuestionType::SingleChoice => "single_select_feedback",
        QuestionType::MultiChoice => "multi_select_feedback",
        QuestionType::RatingNumber => "scale_feedback",
        QuestionType::RatingStar => "star_feedback",
        QuestionType::RatingEmoji => "emoji_feedback",
        QuestionType::Info => "intro_prompt",
    }
}
