//! Topic `responses`: the body of the profile `standard`, with everything that other
//! profiles need, so that every message can be made again from it.

use serde::{Deserialize, Serialize};

use super::decision::ActivationRecord;
use askwhen_domain::json::Json;
use askwhen_domain::survey::QuestionType;
use askwhen_domain::time::{self, Millis};
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::{ActivationFact, AnswerFact, Data};

/// New answers, or the completion of a response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseRecord {
    /// `response.answered` or `response.completed`.
    #[serde(rename = "type")]
    pub kind: EventType,
    #[serde(with = "time::rfc3339")]
    pub timestamp: Millis,
    pub data: ResponseBody,
}

/// The response so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseBody {
    pub response_id: String,
    /// The same as `response_id`.
    pub group_id: String,
    pub survey_id: String,
    pub survey_name: String,
    pub survey_version: u64,
    pub project: String,
    pub user_id: String,
    pub user_attributes: Json,
    pub platform: Option<String>,
    pub locale: Option<String>,
    pub trigger: String,
    pub trigger_properties: Json,
    pub activation: Option<ActivationRecord>,
    pub answers: Vec<AnswerRecord>,
    pub completed: bool,
    /// Whether it was answered by a link, without an offer; `None` in records of version
    /// 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<bool>,
    /// Ids of questions that earlier records may have answers to and that are not on the
    /// path any more: these answers do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_behind: Vec<String>,
    pub test: bool,
    #[serde(with = "time::rfc3339")]
    pub created_at: Millis,
    #[serde(with = "time::rfc3339")]
    pub updated_at: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    pub question_id: String,
    pub order: u32,
    #[serde(rename = "type")]
    pub kind: QuestionType,
    pub text: String,
    pub value: Json,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    #[serde(with = "time::rfc3339")]
    pub answered_at: Millis,
    pub duration_ms: Option<u64>,
}

impl ResponseRecord {
    pub fn of(kind: EventType, at: Millis, data: &Data) -> ResponseRecord {
        let activation = |fact: &ActivationFact| ActivationRecord {
            event_id: fact.event_id.clone(),
            event_name: fact.event_name.clone(),
            occurred_at: fact.occurred_at,
            properties: fact.properties.clone(),
        };
        let answer = |fact: &AnswerFact| AnswerRecord {
            question_id: fact.question_id.clone(),
            order: fact.order,
            kind: fact.kind,
            text: fact.text.clone(),
            value: fact.value.clone(),
            labels: fact.labels.clone(),
            answered_at: fact.answered_at,
            duration_ms: fact.duration_ms,
        };
        let data = ResponseBody {
            response_id: data.response_id.clone(),
            group_id: data.response_id.clone(),
            survey_id: data.survey_id.clone(),
            survey_name: data.survey_name.clone(),
            survey_version: data.survey_version,
            project: data.project.clone(),
            user_id: data.user_id.clone(),
            user_attributes: data.user_attributes.clone(),
            platform: data.platform.clone(),
            locale: data.locale.clone(),
            trigger: data.trigger.clone(),
            trigger_properties: data.trigger_properties.clone(),
            activation: data.activation.as_ref().map(activation),
            answers: data.answers.iter().map(answer).collect(),
            completed: data.completed,
            link: Some(data.link),
            left_behind: Vec::new(),
            test: data.test,
            created_at: data.created_at,
            updated_at: data.updated_at,
        };
        ResponseRecord { kind, timestamp: at, data }
    }

    /// The same, without the answers to `left_behind`.
    pub fn without(mut self, left_behind: &[String]) -> ResponseRecord {
        self.data.left_behind = left_behind.to_vec();
        self
    }

    /// The contents of messages; `None` for a record of version 0.1.0, which does not have
    /// all that profiles need.
    pub fn into_message(self) -> Option<(EventType, Millis, Data)> {
        let ResponseRecord { kind, timestamp, data } = self;
        let link = data.link?;
        let activation = |record: ActivationRecord| ActivationFact {
            event_id: record.event_id,
            event_name: record.event_name,
            occurred_at: record.occurred_at,
            properties: record.properties,
        };
        let answer = |record: AnswerRecord| AnswerFact {
            question_id: record.question_id,
            order: record.order,
            kind: record.kind,
            text: record.text,
            value: record.value,
            labels: record.labels,
            answered_at: record.answered_at,
            duration_ms: record.duration_ms,
        };
        let data = Data {
            response_id: data.response_id,
            survey_id: data.survey_id,
            survey_name: data.survey_name,
            survey_version: data.survey_version,
            project: data.project,
            user_id: data.user_id,
            user_attributes: data.user_attributes,
            link,
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
        Some((kind, timestamp, data))
    }
}

impl ResponseBody {
    /// The newer of two records of a response, with answers that only the older one has.
    pub fn merged_over(mut self, older: ResponseBody) -> ResponseBody {
        let newer = std::mem::take(&mut self.answers);
        self.answers = older.answers;
        self.answers.retain(|answer| {
            let is_newer = newer.iter().any(|newer| newer.question_id == answer.question_id);
            !is_newer && !self.left_behind.contains(&answer.question_id)
        });
        self.answers.extend(newer);
        self.answers.sort_by_key(|answer| answer.order);
        self.completed |= older.completed;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::standard;
    use crate::topics::encode;

    #[test]
    fn an_answer_that_was_left_behind_is_taken_out_and_comes_back_with_its_question() {
        let told = |ids: &[&str], left_behind: &[&str]| {
            let mut data = data();
            let answer = data.answers.remove(0);
            data.answers =
                ids.iter().map(|id| AnswerFact { question_id: (*id).to_owned(), ..answer.clone() }).collect();
            let left_behind: Vec<String> = left_behind.iter().map(|id| (*id).to_owned()).collect();
            ResponseRecord::of(EventType::Answered, 7, &data).without(&left_behind).data
        };
        let ids = |body: &ResponseBody| body.answers.iter().map(|a| a.question_id.clone()).collect::<Vec<_>>();
        let merged = told(&["q1"], &["q2"]).merged_over(told(&["q2"], &[]).merged_over(told(&["q1"], &[])));
        assert_eq!(ids(&merged), ["q1"]);
        assert_eq!(ids(&told(&["q1", "q2"], &[]).merged_over(merged)), ["q1", "q2"]);
    }

    fn data() -> Data {
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
        data
    }

    #[test]
    fn messages_can_be_made_again_from_what_is_written() {
        for (kind, link) in [(EventType::Answered, true), (EventType::Completed, false)] {
            let data = Data { link, ..data() };
            let written = encode(&ResponseRecord::of(kind, 7, &data));
            let read: ResponseRecord = serde_json::from_slice(&written).expect("it is one");
            assert_eq!(read.into_message(), Some((kind, 7, data)));
        }
        let body = standard::body(EventType::Completed, 7, &data());
        let read: ResponseRecord = serde_json::from_slice(&body).expect("as version 0.1.0 wrote it");
        assert_eq!(read.into_message(), None);
    }

    /// The topic holds what profile `standard` sends: without the two members that
    /// it adds the bytes are the same.
    #[test]
    fn a_record_is_the_standard_body_and_a_little_more() {
        let mut record = ResponseRecord::of(EventType::Completed, 7, &data());
        record.data.link = None;
        record.data.answers.iter_mut().for_each(|answer| answer.labels.clear());
        assert_eq!(encode(&record), standard::body(EventType::Completed, 7, &data()));
    }
}
