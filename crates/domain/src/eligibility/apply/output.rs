//! What a record causes, and what is told to whoever waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::view::UserView;
use crate::eligibility::decision::{Decision, Gate, Offered};
use crate::json::Json;
use crate::quota::Change;
use crate::quota::cap::{CapAsk, CapChange};
use crate::survey::Survey;
use crate::time::{self, Millis};
use crate::user::{Answer, User};
use crate::webhook::endpoint::EventType;
use crate::webhook::message::{Data, Delivery, OfferEvent};

/// What a record makes of a user. An overlay: the user from before stays as it was.
pub struct Applied {
    /// As it was, where the record has no effect yet, because it needs a grant.
    pub user: User,
    pub out: Outputs,
}

/// What a record causes, in the order in which it is to be written.
#[derive(Debug, Default)]
pub struct Outputs {
    pub items: Vec<Output>,
    pub reply: Option<Reply>,
    /// Event ids that left the state and are to be kept by the store.
    pub spilled: Vec<(u128, Millis)>,
    /// Changes of the quotas of surveys.
    pub quotas: Vec<(String, Change)>,
    /// Changes of the counters of caps.
    pub caps: Vec<CapChange>,
    /// Surveys that need a grant first. If there are any, the record has had no
    /// effect, and the user stays as they were.
    pub needs: Vec<String>,
    /// The same of counters: all that one survey needs, in their order.
    pub needs_caps: Vec<CapAsk>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Decision(Box<Decision>),
    /// An accepted answer or completion, as topic `responses` carries it.
    Response {
        kind: EventType,
        /// When it happened.
        at: Millis,
        data: Box<Data>,
        /// Questions that were answered and are no longer on the path.
        left_behind: Vec<String>,
    },
    OfferEvent(OfferEvent),
    Delivery(Box<Delivery>),
    /// Deliveries about the user that still wait are not sent.
    CancelDeliveries,
}

/// The answer to the request behind the record.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Decided(Box<Decision>),
    /// A repetition of a trigger whose decision the caller has to look up.
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

/// An offer as `GET …/offers/{offer_id}` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferView {
    pub offered: Offered,
    pub displayed_at: Option<Millis>,
    pub dismissed_at: Option<Millis>,
    pub completed: bool,
    pub answers: Vec<AnswerView>,
}

/// An answer that is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerView {
    pub question_id: String,
    pub answer: Answer,
    /// Whether the answers still lead to its question.
    pub on_path: bool,
}

/// A link survey as `GET …/surveys/{survey_id}` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkView {
    pub survey: Arc<Survey>,
    pub version: u64,
    /// The language that was asked for.
    pub locale: Option<String>,
    /// The user's, for the texts.
    pub attributes: Arc<BTreeMap<String, Json>>,
}

/// Why a record has no effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    UnknownOffer,
    OfferLapsed,
    /// Other answers to a response that is complete.
    ResponseCompleted,
    UnknownSurvey,
    /// A single-use link by which a response was completed.
    LinkUsed,
    /// A link survey that this gate closes to this user.
    Closed(Gate),
    /// An answer that does not fit; the pointer is into the request's body.
    UnfitAnswer {
        pointer: String,
        detail: String,
    },
    /// A completion without an answer to a required question on the path.
    MissingAnswer {
        question_id: String,
    },
    AttributesTooLarge,
    /// A dismissal asks for a longer time than the survey grants.
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

    /// The member at fault, where there is one.
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
    /// Whether something is needed first.
    pub fn needs_grants(&self) -> bool {
        !self.needs.is_empty() || !self.needs_caps.is_empty()
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.reply = Some(Reply::Refused(refusal));
    }
}
