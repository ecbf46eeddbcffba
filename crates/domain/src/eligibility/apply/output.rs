//! What applying a record produces: outputs for topics, and the answer to the request
//! behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::view::UserView;
use crate::eligibility::decision::{Decision, Gate, Offered};
use crate::json::Json;
use crate::quota::QuotaChange;
use crate::quota::cap::{CapAsk, CapChange};
use crate::survey::Survey;
use crate::time::{self, Millis};
use crate::user::{Answer, Part, User};
use crate::webhook::endpoint::EventType;
use crate::webhook::message::{Data, Delivery, OfferEvent};

/// The result of applying a record: the changed copy of the user, and the outputs.
pub struct Applied {
    /// Unchanged when the record needs a grant first.
    pub user: User,
    pub out: Outputs,
}

/// What a record causes, in the order in which it is to be written.
#[derive(Debug, Default)]
pub struct Outputs {
    pub items: Vec<Output>,
    pub reply: Option<Reply>,
    /// Event ids that no longer fit into the state, each with its time; the store keeps
    /// them.
    pub spilled: Vec<(u128, Millis)>,
    /// Names of attributes of an alias that its user has no room for.
    pub left_out: Vec<String>,
    /// By survey id, changes of the quota's lease.
    pub quotas: Vec<(String, QuotaChange)>,
    /// Changes of counters of caps.
    pub caps: Vec<CapChange>,
    /// Survey ids whose quota has to grant something first. If there are any, nothing has
    /// been changed.
    pub needs: Vec<String>,
    /// Places that counters have to give first, all those that one survey needs, in the
    /// order of asking.
    pub needs_caps: Vec<CapAsk>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Decision(Arc<Decision>),
    /// An accepted answer or completion, for topic `responses`.
    Response {
        kind: EventType,
        /// When it was answered or completed.
        at: Millis,
        data: Box<Data>,
        /// Ids of answered questions that the path does not lead to any more.
        left_behind: Vec<String>,
    },
    OfferEvent(OfferEvent),
    Delivery(Box<Delivery>),
    /// Cancels the user's deliveries that are not sent yet.
    CancelDeliveries,
}

/// The answer to the request behind the record.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Decided(Arc<Decision>),
    /// The trigger was decided before; the caller looks the decision up.
    Repeated,
    Accepted {
        duplicate: bool,
        response_id: Option<String>,
    },
    Offer(Box<OfferView>),
    Link(Box<LinkView>),
    User(Box<UserView>),
    Refused(Refusal),
}

/// An offer as `GET …/offers/{offer_id}` returns it.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferView {
    pub offered: Offered,
    pub displayed_at: Option<Millis>,
    pub dismissed_at: Option<Millis>,
    pub completed: bool,
    pub answers: Vec<AnswerView>,
}

/// A stored answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerView {
    pub question_id: String,
    pub answer: Answer,
    /// Whether the path leads through its question.
    pub on_path: bool,
}

/// A link survey as `GET …/surveys/{survey_id}` returns it.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkView {
    pub survey: Arc<Survey>,
    pub version: u64,
    /// The requested language.
    pub locale: Option<String>,
    /// The user's attributes, for placeholders in texts.
    pub attributes: Part<BTreeMap<String, Json>>,
}

/// Why a record is refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    UnknownOffer,
    OfferLapsed,
    /// The response is complete and the answers differ.
    ResponseCompleted,
    UnknownSurvey,
    /// A response was completed by this single-use link before.
    LinkUsed,
    /// The gate that closes a link survey to this user.
    Closed(Gate),
    /// An answer does not suit its question; `pointer` is a JSON pointer into the request's
    /// body.
    UnfitAnswer {
        pointer: String,
        detail: String,
    },
    /// A completion lacks an answer to a required question on the path.
    MissingAnswer {
        question_id: String,
    },
    AttributesTooLarge,
    /// A dismissal asks for a longer snooze than the survey allows.
    UnfitSnooze {
        most: Option<Millis>,
    },
}

impl Refusal {
    /// Stable name, also the reason of a reject.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::UnknownOffer => "unknown_offer",
            Refusal::OfferLapsed => "offer_lapsed",
            Refusal::ResponseCompleted => "response_completed",
            Refusal::UnknownSurvey => "unknown_survey",
            Refusal::LinkUsed => "link_used",
            Refusal::Closed(gate) => gate.name(),
            Refusal::UnfitAnswer { .. } | Refusal::UnfitSnooze { .. } => "invalid",
            Refusal::MissingAnswer { .. } => "missing_answer",
            Refusal::AttributesTooLarge => "attributes_too_large",
        }
    }

    /// JSON pointer to the member that is refused, if it is a single one.
    pub fn pointer(&self) -> Option<&str> {
        match self {
            Refusal::UnfitAnswer { pointer, .. } => Some(pointer),
            Refusal::UnfitSnooze { .. } => Some("/ask_again_in"),
            _ => None,
        }
    }

    pub fn detail(&self) -> String {
        match self {
            Refusal::UnknownOffer => "no such offer was made to this user".into(),
            Refusal::OfferLapsed => {
                "the offer can no longer be used: it is older than 24 h, or its survey has a quota or \
                 a cap and it was not told as displayed within offer_ttl, or that is used up"
                    .into()
            }
            Refusal::ResponseCompleted => "the response is complete: its answers do not change any more".into(),
            Refusal::UnknownSurvey => "no such link survey".into(),
            Refusal::LinkUsed => "this link was for one response, and that is complete".into(),
            Refusal::Closed(gate) => format!("the survey is closed to this user: {}", gate.name()),
            Refusal::UnfitAnswer { detail, .. } => detail.clone(),
            Refusal::MissingAnswer { question_id } => {
                format!("a required question on the path of the answers has none: {question_id}")
            }
            Refusal::UnfitSnooze { most: Some(most) } => {
                format!("ask_again_in may be at most {} for this survey", time::format_duration(*most))
            }
            Refusal::UnfitSnooze { most: None } => "the survey has no frequency.snooze: it cannot be put off".into(),
            Refusal::AttributesTooLarge => "the user's attributes would have more than 32 KiB".into(),
        }
    }
}

impl Outputs {
    /// Whether a grant or a place is needed before the record can be applied.
    pub fn needs_grants(&self) -> bool {
        !self.needs.is_empty() || !self.needs_caps.is_empty()
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.reply = Some(Reply::Refused(refusal));
    }
}
