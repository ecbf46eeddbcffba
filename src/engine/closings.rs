//! The state of closing surveys in a partition; `closing` changes it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use askwhen_domain::time::Millis;
use askwhen_domain::webhook::message::ClosedReason;

/// The state of closing surveys in a partition.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Closings {
    /// The time up to which ends of schedules were looked for, in milliseconds since the
    /// epoch.
    pub seen_at: Option<Millis>,
    /// Partition 0: closings that wait for counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenClosing>,
    /// Partition 0: the end that was reported, by project and survey id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(rename = "told")]
    pub reported: BTreeMap<String, BTreeMap<String, Millis>>,
    /// The next end of a schedule to which an endpoint subscribes.
    #[serde(skip)]
    pub next_end: Option<Millis>,
    #[serde(skip)]
    pub is_dirty: bool,
}

/// A closing, with the counts collected so far.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenClosing {
    pub project: String,
    pub survey_id: String,
    pub reason: ClosedReason,
    pub at: Millis,
    /// By partition, its completed responses; `None` before it has answered.
    pub counts: Vec<Option<u64>>,
}

impl Closings {
    /// The changed state as it is stored.
    pub fn take_dirty(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.is_dirty).then(|| serde_json::to_vec(self).expect("closings serialise"))
    }
}
