//! How a replay runs, and what it came to.

use serde_json::Value;
use std::time::Duration;

use askwhen_domain::webhook::rate::Rate;

/// Users kept decoded, over all partitions.
pub(super) const CACHED_BYTES: usize = 512 << 20;

/// How fast a replay may go.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// At most one for each partition is used.
    pub threads: usize,
    /// Records a second of all threads; `None` is as fast as can be.
    pub rate: Option<Rate>,
}

/// What a run has done.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// Records of the journal that were applied.
    pub records: u64,
    pub took: Duration,
    /// How long all threads together read the journal.
    pub read_in: Duration,
    pub threads: usize,
    /// As [`Shadow::report`](super::Shadow::report) gives it.
    pub report: Value,
}
