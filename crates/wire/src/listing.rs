//! Filters, pages and results of lists: the types in which the bridge queries the console's
//! projection.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

use crate::error::Class;
use crate::tally::ResultsTally;
use askwhen_domain::time::{self, Millis};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    Deliveries,
    Decisions,
    Responses,
}

impl List {
    /// The member that contains the rows.
    pub fn name(self) -> &'static str {
        match self {
            List::Deliveries => "deliveries",
            List::Decisions => "decisions",
            List::Responses => "responses",
        }
    }
}

/// The position of a delivery's record in topic `deliveries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPlace {
    pub delivery_id: String,
    pub partition: u32,
    pub offset: u64,
}

/// Where the message of a delivery can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageSource {
    Kept(DeliveryPlace),
    /// Its user was erased since.
    Erased,
    /// Only a retry record is known.
    NotKept,
}

/// A delivery, as it is shown by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedDelivery {
    pub shown: Value,
    pub message: MessageSource,
}

/// A filter of a list; `None` accepts everything; time spans are half-open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub endpoint_id: Option<String>,
    /// The status of a delivery, the reason of a decision, or `completed` or `partial` for
    /// a response.
    pub status: Option<String>,
    pub survey_id: Option<String>,
    pub user_id: Option<String>,
    /// The outcome of a delivery's last attempt.
    pub outcome: Option<String>,
    /// The HTTP status of the last attempt.
    pub http_status: Option<u16>,
    /// The id of a [`DeliveryCause`].
    pub cause: Option<String>,
    /// The type of a delivery's message.
    pub kind: Option<String>,
    pub since: Option<Millis>,
    pub until: Option<Millis>,
    /// By survey id, the time from which on its responses are kept.
    pub kept_since: BTreeMap<String, Millis>,
}

impl Filter {
    pub fn takes_time(&self, at: Millis) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }
}

/// A page of a list: the first, or the one at a `next_cursor`, with at most `limit` rows.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest<'a> {
    pub cursor: Option<&'a str>,
    pub limit: usize,
}

impl<'a> PageRequest<'a> {
    pub fn first(limit: usize) -> PageRequest<'a> {
        PageRequest { cursor: None, limit }
    }
}

/// How results are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    Day,
    Week,
    Month,
    Version,
    Locale,
    Platform,
    Trigger,
}

impl GroupBy {
    pub const ALL: [(&'static str, GroupBy); 7] = [
        ("day", GroupBy::Day),
        ("week", GroupBy::Week),
        ("month", GroupBy::Month),
        ("version", GroupBy::Version),
        ("locale", GroupBy::Locale),
        ("platform", GroupBy::Platform),
        ("trigger", GroupBy::Trigger),
    ];
}

/// Which responses of a survey count, by the time when they began; half-open.
#[derive(Debug, Clone, Default)]
pub struct ResultsQuery {
    pub since: Option<Millis>,
    pub until: Option<Millis>,
    pub version: Option<u64>,
    pub by: Option<GroupBy>,
}

/// The results of a survey.
#[derive(Debug, Clone, Default)]
pub struct SurveyResults {
    pub total: ResultsTally,
    /// By group, in the order of the groups' names.
    pub series: Vec<(String, ResultsTally)>,
    /// By question id, the newest text answers.
    pub texts: BTreeMap<String, Vec<Value>>,
}

/// Failed deliveries with the same cause.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeliveryCause {
    /// Id of the cause, for filters.
    pub cause: String,
    pub endpoint_id: String,
    pub outcome: Option<String>,
    pub http_status: Option<u16>,
    pub error: Option<String>,
    pub count: u64,
    /// How many of them were sent again since.
    pub resent: u64,
    #[serde(with = "time::rfc3339")]
    pub first_at: Millis,
    #[serde(with = "time::rfc3339")]
    pub last_at: Millis,
    /// The delivery id of the newest.
    pub example: String,
}

/// A page of a list, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    pub rows: Vec<Value>,
    pub next_cursor: Option<String>,
}

/// Why a list cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("the cursor is none of this list")]
    Cursor,
    /// The projection cannot be read.
    #[error("{0}")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ListError {
    pub fn kind(&self) -> &'static str {
        match self {
            ListError::Cursor => "cursor",
            ListError::Unreadable(_) => "unreadable",
        }
    }

    pub fn class(&self) -> Class {
        match self {
            ListError::Cursor => Class::Reject,
            ListError::Unreadable(_) => Class::Retry,
        }
    }
}
