//! What the journal can say about one user.

use std::borrow::Cow;

use crate::json::Json;
use crate::time::{ClientTimes, Millis};

/// A record of the journal that concerns one user; borrowed from its bytes,
/// because most events are looked at once and belong to no survey.
#[derive(Debug, Clone, PartialEq)]
pub struct Record<'a> {
    pub project: Cow<'a, str>,
    pub user_id: Cow<'a, str>,
    /// The sender's id, by which a repetition is recognised.
    pub event_id: Option<Cow<'a, str>>,
    pub times: ClientTimes,
    pub body: Body<'a>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body<'a> {
    Event {
        name: Cow<'a, str>,
        properties: &'a str,
        session_id: Option<Cow<'a, str>>,
    },
    Trigger {
        trigger: Cow<'a, str>,
        properties: &'a str,
        context: Context,
    },
    Displayed {
        offer_id: Cow<'a, str>,
    },
    Dismissed {
        offer_id: Cow<'a, str>,
        /// The user wants to be asked again so much later.
        ask_again_in: Option<Millis>,
    },
    Answers(Answers),
    /// Merged member by member; `null` removes one.
    Attributes(Vec<(String, Json)>),
    /// Everything known of the user goes.
    Erase,
    /// Reads; they change nothing.
    ShowOffer {
        offer_id: Cow<'a, str>,
    },
    ShowLink {
        survey_id: Cow<'a, str>,
        context: Context,
        /// Of the link that is opened, if it is for single use.
        link_id: Option<Cow<'a, str>>,
    },
    ShowUser,
}

impl Body<'_> {
    /// The name in metrics and in the record's `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Body::Event { .. } => "event",
            Body::Trigger { .. } => "trigger",
            Body::Displayed { .. } => "displayed",
            Body::Dismissed { .. } => "dismissed",
            Body::Answers(_) => "answers",
            Body::Attributes(_) => "attributes",
            Body::Erase => "erase",
            Body::ShowOffer { .. } | Body::ShowLink { .. } | Body::ShowUser => "query",
        }
    }
}

/// Where a trigger comes from, as the app tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    pub platform: Option<String>,
    pub locale: Option<String>,
    pub app_version: Option<String>,
    pub session_id: Option<String>,
    /// The user's zone, as devices name it: `Europe/Berlin`, `GMT+05:30`.
    pub timezone: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    pub target: Target,
    pub answers: Vec<GivenAnswer>,
    pub completed: bool,
    pub context: Context,
}

/// A link by which one response can be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SingleUseLink {
    pub link_id: String,
    /// After this it is refused whether it was used or not.
    pub expires_at: i64,
}

/// What is being answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Offer(String),
    /// A link survey; with a `response_id`, the response that goes on.
    Link {
        survey_id: String,
        response_id: Option<String>,
        single_use: Option<SingleUseLink>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct GivenAnswer {
    pub question_id: String,
    pub value: Json,
    pub answered_at: Option<i64>,
    pub duration_ms: Option<u64>,
}
