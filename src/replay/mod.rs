//! Reads the journal again beside the processes that serve it: to explain a decision,
//! to backtest a survey, to compare what is decided now with what is on record.
//! Nothing in here writes to a topic or sends anything.

pub mod backtest;
mod erasure;
mod error;
pub mod explain;
mod look_ahead;
pub mod recorded;
mod said;
pub mod shadow;
mod source;
pub mod starts;
pub mod timeline;

pub use error::{Error, ErrorKind};
pub use source::{JournalReader, LogSource, Source, StartingState};

pub use askwhen_process::progress::Progress;
