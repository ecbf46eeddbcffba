//! Reads the journal again beside the processes that serve it: to explain a decision,
//! to backtest a survey, to compare what is decided now with what is on record.
//! Nothing in here writes to a topic or sends anything.

pub mod backtest;
mod error;
pub mod explain;
pub mod recorded;
pub mod shadow;
mod source;

pub use error::{Error, ErrorKind};
pub use source::{JournalReader, LogSource, Source, StartingState};

use std::sync::atomic::AtomicU64;

/// How far a run is; a progress bar reads it while the run's threads count.
#[derive(Debug, Default)]
pub struct Progress {
    /// Records that have been applied.
    pub records: AtomicU64,
    /// Records that there are to apply.
    pub all: AtomicU64,
}
