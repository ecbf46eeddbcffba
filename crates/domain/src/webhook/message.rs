//! The contents of webhooks before a profile gives them a shape: the canonical message in
//! every delivery.

use serde::{Deserialize, Serialize};

use crate::id::{Kind, Origin};
use crate::json::Json;
use crate::refs::UserRef;
use crate::survey::QuestionType;
use crate::time::{self, Millis};
use crate::webhook::endpoint::{Endpoint, EventType, Profile};

/// A message for an endpoint. An attempt needs nothing else but the endpoint's definition.
/// Times are milliseconds since the epoch.
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
    /// The reply address of an operator's test. A test is a single attempt, whatever the
    /// endpoint's state is.
    #[serde(default)]
    pub test_for: Option<String>,
    /// A redelivery is not sent before this time, so that many keep their order.
    #[serde(default)]
    pub not_before: Option<Millis>,
}

/// An offer that was seen or closed.
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

/// What endpoints are told of, and when it happened.
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
    /// `None` for an erasure, which tells nothing but the user's id.
    pub data: Option<Data>,
}

/// A survey takes no more responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SurveyClosed {
    pub survey_id: String,
    pub reason: ClosedReason,
    /// Responses that were completed, over all versions.
    pub completed: u64,
    #[serde(with = "time::rfc3339")]
    pub at: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosedReason {
    QuotaFull,
    /// Its schedule is over.
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

/// The deliveries of an event for an endpoint: one, or for `blitzllama` one for each changed
/// answer. `origin` is the journal record behind the event: redoing it gives the same ids.
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

/// One delivery for an endpoint; `part` tells those of one event apart.
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

/// The user that operators' tests are about.
pub const TESTER: &str = "askwhen-test";

impl Data {
    /// The data of `survey.closed`: about nobody, with what is told in the place of a trigger's
    /// properties, as rows that wait are stored with these members and no others.
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

    /// Takes away who answered: one id stands for the response and for its user, and what
    /// leads to the user otherwise is left out.
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

    /// Whether an id of the response stands for its user.
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

/// Everything that any profile may write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    pub response_id: String,
    pub survey_id: String,
    pub survey_name: String,
    pub survey_version: u64,
    pub project: String,
    pub user_id: String,
    pub user_attributes: Json,
    /// Whether it was answered by a link, without an offer.
    pub link: bool,
    pub platform: Option<String>,
    pub locale: Option<String>,
    /// The frontend trigger; empty for a link survey.
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
    /// The answers as one object.
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
    /// From 1, in the order of the survey's questions.
    pub order: u32,
    #[serde(rename = "type")]
    pub kind: QuestionType,
    pub text: String,
    pub value: Json,
    /// The labels of the chosen options; empty for other types.
    pub labels: Vec<String>,
    pub answered_at: Millis,
    pub duration_ms: Option<u64>,
}
