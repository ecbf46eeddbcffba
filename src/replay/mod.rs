//! The journal read again, beside those who serve it: to explain a decision, to
//! try a survey on what has happened, to compare what would be decided now with
//! what was. Nothing in here writes to a topic or sends anything.

pub mod backtest;
mod error;
pub mod explain;
pub mod recorded;
pub mod shadow;
mod source;

pub use error::{Error, ErrorKind};
pub use source::{JournalReader, LogSource, Source, StartingState};

use std::sync::atomic::AtomicU64;

/// How far a run is, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    pub records: AtomicU64,
    pub all: AtomicU64,
}
