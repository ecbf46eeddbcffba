//! How far a long run is.

use std::sync::atomic::{AtomicBool, AtomicU64};

/// How far a run is; whoever shows it reads it while the run's threads count.
#[derive(Debug, Default)]
pub struct Progress {
    /// Records that have been applied.
    pub records: AtomicU64,
    /// Records that there are to apply.
    pub all: AtomicU64,
    /// Set by whoever wants the run to end early.
    pub cancelled: AtomicBool,
}
