//! Progress of a long run.

use std::sync::atomic::{AtomicBool, AtomicU64};

/// Progress of a run, counted by its threads and read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Records that were applied.
    pub records: AtomicU64,
    /// Records in total.
    pub all: AtomicU64,
    /// Set to end the run early.
    pub cancelled: AtomicBool,
}
