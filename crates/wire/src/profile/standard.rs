//! Profile `standard`: `{"type","timestamp","data"}`.

use serde::Serialize;
use serde_json::json;

use askwhen_domain::json::Json;
use askwhen_domain::survey::QuestionType;
use askwhen_domain::time::{self, Millis};
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::{ActivationFact, AnswerFact, Data, Delivery};

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    data: View<'a>,
}

#[derive(Serialize)]
struct View<'a> {
    response_id: &'a str,
    group_id: &'a str,
    survey_id: &'a str,
    survey_name: &'a str,
    survey_version: u64,
    project: &'a str,
    user_id: &'a str,
    user_attributes: &'a Json,
    platform: Option<&'a str>,
    locale: Option<&'a str>,
    trigger: &'a str,
    trigger_properties: &'a Json,
    activation: Option<Activation<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<Vec<Answer<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<bool>,
    test: bool,
    created_at: String,
    updated_at: String,
}

#[derive(Serialize)]
struct Activation<'a> {
    event_id: &'a str,
    event_name: &'a str,
    occurred_at: String,
    properties: &'a Json,
}

#[derive(Serialize)]
struct Answer<'a> {
    question_id: &'a str,
    order: u32,
    #[serde(rename = "type")]
    kind: QuestionType,
    text: &'a str,
    value: &'a Json,
    answered_at: String,
    duration_ms: Option<u64>,
}

/// An operator's test.
pub fn test(delivery: &Delivery) -> Vec<u8> {
    let at = time::format_time(delivery.message.at);
    let data = json!({"endpoint_id": delivery.endpoint_id, "project": delivery.project, "test": true});
    let body = json!({"type": delivery.message.kind.name(), "timestamp": at, "data": data});
    body.to_string().into_bytes()
}

/// The message that a survey takes no more responses; it concerns no user.
pub fn closed(at: Millis, data: &Data) -> Vec<u8> {
    let told = data.trigger_properties.value();
    let body = json!({"type": EventType::Closed.name(), "timestamp": time::format_time(at), "data": told});
    body.to_string().into_bytes()
}

/// The message of an erasure, the only one without a survey.
pub fn erased(delivery: &Delivery) -> Vec<u8> {
    let at = time::format_time(delivery.message.at);
    let data = json!({"user_id": delivery.user_id, "project": delivery.project, "erased_at": at});
    let body = json!({"type": delivery.message.kind.name(), "timestamp": at, "data": data});
    body.to_string().into_bytes()
}

pub fn body(kind: EventType, at: Millis, data: &Data) -> Vec<u8> {
    let tells_answers = matches!(kind, EventType::Answered | EventType::Completed);
    let body = Body {
        kind: kind.name(),
        timestamp: time::format_time(at),
        data: View {
            response_id: &data.response_id,
            group_id: &data.response_id,
            survey_id: &data.survey_id,
            survey_name: &data.survey_name,
            survey_version: data.survey_version,
            project: &data.project,
            user_id: &data.user_id,
            user_attributes: &data.user_attributes,
            platform: data.platform.as_deref(),
            locale: data.locale.as_deref(),
            trigger: &data.trigger,
            trigger_properties: &data.trigger_properties,
            activation: data.activation.as_ref().map(activation),
            answers: tells_answers.then(|| data.answers.iter().map(answer).collect()),
            completed: tells_answers.then_some(data.completed),
            test: data.test,
            created_at: time::format_time(data.created_at),
            updated_at: time::format_time(data.updated_at),
        },
    };
    crate::json::encode(&body)
}

fn activation(fact: &ActivationFact) -> Activation<'_> {
    Activation {
        event_id: &fact.event_id,
        event_name: &fact.event_name,
        occurred_at: time::format_time(fact.occurred_at),
        properties: &fact.properties,
    }
}

fn answer(fact: &AnswerFact) -> Answer<'_> {
    Answer {
        question_id: &fact.question_id,
        order: fact.order,
        kind: fact.kind,
        text: &fact.text,
        value: &fact.value,
        answered_at: time::format_time(fact.answered_at),
        duration_ms: fact.duration_ms,
    }
}
