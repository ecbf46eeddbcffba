//! The records of the journal that concern one user.

use std::borrow::Cow;

use crate::json::Json;
use crate::time::{ClientTimes, Millis};

/// A record of the journal that concerns one user. It borrows from the record's bytes,
/// because no survey listens to most events.
#[derive(Debug, Clone, PartialEq)]
pub struct Record<'a> {
    pub project: Cow<'a, str>,
    pub user_id: Cow<'a, str>,
    /// The sender's id of the event; a record with the same one is a repetition.
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
        /// How long the user wants to be left alone, in milliseconds: a snooze.
        ask_again_in: Option<Millis>,
    },
    Answers(Answers),
    /// Attributes to be merged by name; `null` removes one.
    Attributes(Vec<(String, Json)>),
    /// Removes everything that is known of the user.
    Erase,
    /// The `Show` records are reads; they change nothing.
    ShowOffer {
        offer_id: Cow<'a, str>,
    },
    ShowLink {
        survey_id: Cow<'a, str>,
        context: Context,
        /// Id of the link that is opened, if it is for single use.
        link_id: Option<Cow<'a, str>>,
    },
    ShowUser,
}

impl Body<'_> {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self, Body::ShowOffer { .. } | Body::ShowLink { .. } | Body::ShowUser)
    }

    /// The kind of record, for metrics.
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

/// The surroundings of a trigger, as the app reports them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    pub platform: Option<String>,
    pub locale: Option<String>,
    pub app_version: Option<String>,
    pub session_id: Option<String>,
    /// The user's time zone, as devices name it: `Europe/Berlin`, `GMT+05:30`.
    pub timezone: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    pub target: Target,
    pub answers: Vec<GivenAnswer>,
    pub completed: bool,
    pub context: Context,
}

/// A link with which one response can be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SingleUseLink {
    pub link_id: String,
    /// From then on it is refused, used or not; in milliseconds since the epoch.
    pub expires_at: i64,
}

/// What answers belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Offer(String),
    /// A link survey; with `response_id`, a response that is continued.
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
