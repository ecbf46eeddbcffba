//! Lists, their filters and pages: the terms in which the bridge asks the console.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

use crate::error::Class;
use crate::tally::ResponseTally;
use askwhen_domain::time::{self, Millis};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    Deliveries,
    Decisions,
    Responses,
}

impl List {
    /// The member that holds the rows.
    pub fn name(self) -> &'static str {
        match self {
            List::Deliveries => "deliveries",
            List::Decisions => "decisions",
            List::Responses => "responses",
        }
    }
}

/// Where the record of a delivery stands in topic `deliveries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPlace {
    pub delivery_id: String,
    pub partition: u32,
    pub offset: u64,
}

/// Where the message of a delivery is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageSource {
    Kept(DeliveryPlace),
    /// Its user was erased since.
    Erased,
    /// Only a retry record has told of it.
    NotKept,
}

/// A delivery as the list shows it alone.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedDelivery {
    pub shown: Value,
    pub message: MessageSource,
}

/// `None` takes everything; times are half-open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub endpoint_id: Option<String>,
    /// A delivery's status, a decision's reason, `completed` or `partial` of a
    /// response.
    pub status: Option<String>,
    pub survey_id: Option<String>,
    pub user_id: Option<String>,
    /// How the last attempt of a delivery went.
    pub outcome: Option<String>,
    /// What the receiver answered last.
    pub http_status: Option<u16>,
    /// The id of what keeps a delivery from its receiver.
    pub cause: Option<String>,
    /// The type of a delivery's message.
    pub kind: Option<String>,
    pub since: Option<Millis>,
    pub until: Option<Millis>,
    /// Responses to these surveys are known from then on alone.
    pub kept_since: BTreeMap<String, Millis>,
}

impl Filter {
    pub fn takes_time(&self, at: Millis) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }
}

/// Which page of a list is wanted: the first, or the one that a `next_cursor`
/// leads to; at most `limit` rows.
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

/// By what a series of results is told apart.
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

/// Which responses of a survey count; times are those of their beginning, half-open.
#[derive(Debug, Clone, Default)]
pub struct ResultsQuery {
    pub since: Option<Millis>,
    pub until: Option<Millis>,
    pub version: Option<u64>,
    pub by: Option<GroupBy>,
}

/// What responses add up to.
#[derive(Debug, Clone, Default)]
pub struct SurveyResults {
    pub total: ResponseTally,
    /// The same by group, in the order of the groups' names.
    pub series: Vec<(String, ResponseTally)>,
    /// The newest text answers of each question.
    pub texts: BTreeMap<String, Vec<Value>>,
}

/// Deliveries that something keeps from their receivers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeliveryCause {
    /// Names the cause in filters.
    pub cause: String,
    pub endpoint_id: String,
    pub outcome: Option<String>,
    pub http_status: Option<u16>,
    pub error: Option<String>,
    pub count: u64,
    #[serde(with = "time::rfc3339")]
    pub first_at: Millis,
    #[serde(with = "time::rfc3339")]
    pub last_at: Millis,
    /// The id of the newest of them.
    pub example: String,
}

/// A page of a list, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    pub rows: Vec<Value>,
    pub next_cursor: Option<String>,
}

/// Why a list, or what is asked of it, cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("the cursor is none of this list")]
    Cursor,
    /// Whoever keeps the lists cannot read them.
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
