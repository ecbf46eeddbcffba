//! What a partition keeps of surveys that close; `closing` moves it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use askwhen_domain::time::Millis;
use askwhen_domain::webhook::message::ClosedReason;

/// What a partition keeps of surveys that close.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Closings {
    /// The time up to which ends of schedules were looked for.
    pub seen_at: Option<Millis>,
    /// Partition 0: closings of which counts are awaited, with what has come of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenClosing>,
    /// Partition 0: the end that was told of, by project and survey.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<String, BTreeMap<String, Millis>>,
    /// The next end of a schedule that somebody wants to know of.
    #[serde(skip)]
    pub next_end: Option<Millis>,
    #[serde(skip)]
    pub is_dirty: bool,
}

/// Counts of partitions that are collected.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenClosing {
    pub project: String,
    pub survey_id: String,
    pub reason: ClosedReason,
    pub at: Millis,
    /// Completions, by partition.
    pub counts: Vec<Option<u64>>,
}

impl Closings {
    /// What has changed, as it is stored.
    pub fn take_dirty(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.is_dirty).then(|| serde_json::to_vec(self).expect("closings serialise"))
    }
}
