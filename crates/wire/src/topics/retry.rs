//! Topics `deliveries.retry.*`: deliveries that wait, each with its due time.

use serde::{Deserialize, Serialize};

use super::left_out::is_zero;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::message::Delivery;

/// A delivery that waits for another attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryRecord {
    pub delivery: Box<Delivery>,
    /// Attempts made so far.
    pub attempt: u32,
    pub due_at: Millis,
    pub first_started_at: Millis,
    /// The header `source` of the delivery's first record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// As in [`AttemptRecord`](super::AttemptRecord).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted: u32,
}
