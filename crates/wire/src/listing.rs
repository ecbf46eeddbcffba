//! Lists, their filters and pages: the terms in which the bridge asks the console.

use serde_json::Value;

use crate::error::Class;
use askwhen_domain::time::Millis;

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

/// `None` takes everything; times are half-open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub endpoint_id: Option<String>,
    /// A delivery's status, a decision's reason, `completed` or `partial` of a
    /// response.
    pub status: Option<String>,
    pub survey_id: Option<String>,
    pub user_id: Option<String>,
    pub since: Option<Millis>,
    pub until: Option<Millis>,
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
