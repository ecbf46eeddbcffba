//! Profile `standard`: `{"type","timestamp","data"}`.

use serde::{Deserialize, Serialize};
use serde_json::json;

use askwhen_domain::endpoint::EventType;
use askwhen_domain::json::Json;
use askwhen_domain::message::{ActivationFact, AnswerFact, Data, Delivery};
use askwhen_domain::survey::QuestionType;
use askwhen_domain::time::{self, Millis};

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
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<bool>,
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
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    labels: &'a [String],
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

/// The one message that tells of no survey.
pub fn erased(delivery: &Delivery) -> Vec<u8> {
    let at = time::format_time(delivery.message.at);
    let data = json!({"user_id": delivery.user_id, "project": delivery.project, "erased_at": at});
    let body = json!({"type": delivery.message.kind.name(), "timestamp": at, "data": data});
    body.to_string().into_bytes()
}

pub fn body(kind: EventType, at: Millis, data: &Data) -> Vec<u8> {
    write(kind, at, data, false)
}

/// The same with everything that any profile may want to know: from it, every
/// message can be made again ([`read`]).
pub fn whole(kind: EventType, at: Millis, data: &Data) -> Vec<u8> {
    write(kind, at, data, true)
}

fn write(kind: EventType, at: Millis, data: &Data, whole: bool) -> Vec<u8> {
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
            answers: tells_answers.then(|| data.answers.iter().map(|fact| answer(fact, whole)).collect()),
            completed: tells_answers.then_some(data.completed),
            link: whole.then_some(data.link),
            test: data.test,
            created_at: time::format_time(data.created_at),
            updated_at: time::format_time(data.updated_at),
        },
    };
    serde_json::to_vec(&body).expect("a body serialises")
}

fn activation(fact: &ActivationFact) -> Activation<'_> {
    Activation {
        event_id: &fact.event_id,
        event_name: &fact.event_name,
        occurred_at: time::format_time(fact.occurred_at),
        properties: &fact.properties,
    }
}

fn answer(fact: &AnswerFact, whole: bool) -> Answer<'_> {
    Answer {
        question_id: &fact.question_id,
        order: fact.order,
        kind: fact.kind,
        text: &fact.text,
        value: &fact.value,
        labels: if whole { &fact.labels } else { &[] },
        answered_at: time::format_time(fact.answered_at),
        duration_ms: fact.duration_ms,
    }
}

#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: EventType,
    #[serde(with = "time::rfc3339")]
    timestamp: Millis,
    data: ToldData,
}

#[derive(Deserialize)]
struct ToldData {
    response_id: String,
    survey_id: String,
    survey_name: String,
    survey_version: u64,
    project: String,
    user_id: String,
    user_attributes: Json,
    platform: Option<String>,
    locale: Option<String>,
    trigger: String,
    trigger_properties: Json,
    activation: Option<ToldActivation>,
    answers: Vec<ToldAnswer>,
    completed: bool,
    link: bool,
    test: bool,
    #[serde(with = "time::rfc3339")]
    created_at: Millis,
    #[serde(with = "time::rfc3339")]
    updated_at: Millis,
}

#[derive(Deserialize)]
struct ToldActivation {
    event_id: String,
    event_name: String,
    #[serde(with = "time::rfc3339")]
    occurred_at: Millis,
    properties: Json,
}

#[derive(Deserialize)]
struct ToldAnswer {
    question_id: String,
    order: u32,
    #[serde(rename = "type")]
    kind: QuestionType,
    text: String,
    value: Json,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(with = "time::rfc3339")]
    answered_at: Millis,
    duration_ms: Option<u64>,
}

/// What [`whole`] wrote.
///
/// # Errors
/// When it is something else.
pub fn read(bytes: &[u8]) -> serde_json::Result<(EventType, Millis, Data)> {
    let told: Told = serde_json::from_slice(bytes)?;
    let data = told.data;
    let activation = |told: ToldActivation| ActivationFact {
        event_id: told.event_id,
        event_name: told.event_name,
        occurred_at: told.occurred_at,
        properties: told.properties,
    };
    let answer = |told: ToldAnswer| AnswerFact {
        question_id: told.question_id,
        order: told.order,
        kind: told.kind,
        text: told.text,
        value: told.value,
        labels: told.labels,
        answered_at: told.answered_at,
        duration_ms: told.duration_ms,
    };
    let data = Data {
        response_id: data.response_id,
        survey_id: data.survey_id,
        survey_name: data.survey_name,
        survey_version: data.survey_version,
        project: data.project,
        user_id: data.user_id,
        user_attributes: data.user_attributes,
        link: data.link,
        platform: data.platform,
        locale: data.locale,
        trigger: data.trigger,
        trigger_properties: data.trigger_properties,
        activation: data.activation.map(activation),
        answers: data.answers.into_iter().map(answer).collect(),
        completed: data.completed,
        test: data.test,
        created_at: data.created_at,
        updated_at: data.updated_at,
    };
    Ok((told.kind, told.timestamp, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_whole_reads_back() {
        let mut data = Data::sample("default", 1_795_258_022_187);
        data.user_attributes = Json::from_valid("{\"b\":1.50,\"a\":12345678901234567890}");
        data.activation = Some(ActivationFact {
            event_id: "e".into(),
            event_name: "woke".into(),
            occurred_at: 5,
            properties: Json::from_valid("{\"x\":[1,null]}"),
        });
        data.answers[0].kind = QuestionType::MultiChoice;
        data.answers[0].labels = vec!["Noise".into(), "Light".into()];
        data.answers[0].value = Json::from_valid("[\"noise\",\"light\"]");
        for (kind, link) in [(EventType::Answered, true), (EventType::Completed, false)] {
            let data = Data { link, ..data.clone() };
            assert_eq!(read(&whole(kind, 7, &data)).unwrap(), (kind, 7, data));
        }
        assert!(read(&body(EventType::Completed, 7, &data)).is_err());
    }
}
