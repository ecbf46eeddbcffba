//! The contents of webhooks, before a profile shapes them: every delivery carries such a
//! canonical message.

use serde::{Deserialize, Serialize};

use crate::id::{Kind, Origin};
use crate::json::Json;
use crate::refs::UserRef;
use crate::survey::QuestionType;
use crate::time::{self, Millis};
use crate::webhook::endpoint::{Endpoint, EventType, Profile};

/// A message for an endpoint. With the endpoint's definition it is all that an attempt
/// needs. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    pub delivery_id: String,
    /// The `webhook-id`: the same for all attempts and resends.
    pub message_id: String,
    pub endpoint_id: String,
    pub project: String,
    pub user_id: String,
    pub survey_id: Option<String>,
    pub created_at: Millis,
    pub message: Message,
    /// The reply address of an operator's test. A test is a single attempt, made whatever
    /// the endpoint's state.
    #[serde(default)]
    pub test_for: Option<String>,
    /// The earliest time of the first attempt, which keeps many redeliveries in order.
    #[serde(default)]
    pub not_before: Option<Millis>,
}

/// A display or a dismissal of an offer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfferEvent {
    /// `survey.displayed` or `survey.dismissed`.
    #[serde(rename = "type")]
    pub kind: EventType,
    pub project: String,
    pub user_id: String,
    #[serde(with = "time::rfc3339")]
    pub occurred_at: Millis,
    pub offer_id: String,
    pub survey_id: String,
    pub survey_version: u64,
    /// Empty for a link survey.
    pub trigger: String,
    pub test: bool,
}

/// An event that endpoints are told of, and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookEvent {
    pub kind: EventType,
    pub at: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    #[serde(rename = "type")]
    pub kind: EventType,
    /// When the event happened.
    pub at: Millis,
    /// `None` for an erasure, which contains only the user's id.
    pub data: Option<Data>,
}

/// A survey that takes no more responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SurveyClosed {
    pub survey_id: String,
    pub reason: ClosedReason,
    /// Completed responses, over all versions.
    pub completed: u64,
    #[serde(with = "time::rfc3339")]
    pub at: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedReason {
    QuotaFull,
    /// Its schedule has ended.
    Ended,
    Archived,
}

impl ClosedReason {
    pub fn name(self) -> &'static str {
        match self {
            ClosedReason::QuotaFull => "quota_full",
            ClosedReason::Ended => "ended",
            ClosedReason::Archived => "archived",
        }
    }
}

impl Delivery {
    /// When its first attempt is due.
    pub fn due_at(&self) -> Millis {
        self.created_at.max(self.not_before.unwrap_or(0))
    }
}

/// The deliveries of an event to an endpoint: one, or for the profile `blitzllama` one for
/// each changed answer. `origin` is the journal record that caused it; reprocessing gives
/// the same ids.
pub fn deliveries(
    origin: &Origin,
    endpoint: &Endpoint,
    event: WebhookEvent,
    data: &Data,
    now: Millis,
) -> Vec<Delivery> {
    let WebhookEvent { kind, at } = event;
    let user = UserRef::new(&data.project, &data.user_id);
    let one =
        |data: Data, part: &str| delivery(origin, endpoint, user, Message { kind, at, data: Some(data) }, part, now);
    if endpoint.profile == Profile::Blitzllama && kind == EventType::Answered {
        let single = |answer: &AnswerFact| Data { answers: vec![answer.clone()], ..data.clone() };
        return data.answers.iter().map(|answer| one(single(answer), &answer.question_id)).collect();
    }
    vec![one(data.clone(), "")]
}

/// One delivery; `part` distinguishes several of one event.
pub fn delivery(
    origin: &Origin,
    endpoint: &Endpoint,
    user: UserRef<'_>,
    message: Message,
    part: &str,
    now: Millis,
) -> Delivery {
    let natural = [endpoint.endpoint_id.as_str(), message.kind.name(), part];
    Delivery {
        delivery_id: origin.id(Kind::Delivery, &natural),
        message_id: origin.id(Kind::Message, &natural),
        endpoint_id: endpoint.endpoint_id.clone(),
        project: user.project.to_owned(),
        user_id: user.user_id.to_owned(),
        survey_id: message.data.as_ref().map(|data| data.survey_id.clone()),
        created_at: now,
        message,
        test_for: None,
        not_before: None,
    }
}

/// The user id in operators' tests.
pub const TESTER: &str = "askwhen-test";

impl Data {
    /// The data of `survey.closed`. It concerns no user; its details take the place of
    /// trigger properties, because stored rows have exactly these members.
    pub fn closed(project: &str, closed: &SurveyClosed) -> Data {
        Data {
            response_id: String::new(),
            survey_id: closed.survey_id.clone(),
            survey_name: String::new(),
            user_id: String::new(),
            trigger_properties: Json::of(closed),
            answers: Vec::new(),
            test: false,
            ..Data::sample(project, closed.at)
        }
    }

    /// Replaces response id and user id by one id, and removes everything else that could
    /// reveal the user.
    #[must_use]
    pub fn anonymous(self, id: String) -> Data {
        Data {
            response_id: id.clone(),
            user_id: id,
            user_attributes: Json::empty_object(),
            trigger_properties: Json::empty_object(),
            activation: None,
            ..self
        }
    }

    /// Whether an id of the response replaces the user's.
    pub fn is_anonymous(&self) -> bool {
        self.user_id == self.response_id
    }

    /// The data of an operator's test, in the shape of a real response.
    pub fn sample(project: &str, at: Millis) -> Data {
        let answer = AnswerFact {
            question_id: "test".into(),
            order: 1,
            kind: QuestionType::Text,
            text: "Does this arrive?".into(),
            value: Json::of(&"yes"),
            labels: Vec::new(),
            answered_at: at,
            duration_ms: None,
        };
        Data {
            response_id: "askwhen-test".into(),
            survey_id: "askwhen-test".into(),
            survey_name: "Test of this endpoint".into(),
            survey_version: 0,
            project: project.to_owned(),
            user_id: TESTER.into(),
            user_attributes: Json::empty_object(),
            link: false,
            platform: None,
            locale: None,
            trigger: String::new(),
            trigger_properties: Json::empty_object(),
            activation: None,
            answers: vec![answer],
            completed: true,
            test: true,
            created_at: at,
            updated_at: at,
        }
    }
}

/// Everything that a profile may write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    pub response_id: String,
    pub survey_id: String,
    pub survey_name: String,
    pub survey_version: u64,
    pub project: String,
    pub user_id: String,
    pub user_attributes: Json,
    /// Whether the response was given by a link, without an offer.
    pub link: bool,
    pub platform: Option<String>,
    pub locale: Option<String>,
    /// Empty for a link survey.
    pub trigger: String,
    pub trigger_properties: Json,
    pub activation: Option<ActivationFact>,
    pub answers: Vec<AnswerFact>,
    pub completed: bool,
    pub test: bool,
    pub created_at: Millis,
    pub updated_at: Millis,
}

impl Data {
    /// The answers as one object, by question id.
    pub fn answers_by_question(&self) -> serde_json::Value {
        self.answers.iter().map(|answer| (answer.question_id.clone(), answer.value.value())).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActivationFact {
    pub event_id: String,
    pub event_name: String,
    pub occurred_at: Millis,
    pub properties: Json,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerFact {
    pub question_id: String,
    /// Position in the survey's questions, from 1.
    pub order: u32,
    #[serde(rename = "type")]
    pub kind: QuestionType,
    pub text: String,
    pub value: Json,
    /// Labels of the chosen options; empty for other types.
    pub labels: Vec<String>,
    pub answered_at: Millis,
    pub duration_ms: Option<u64>,
}
