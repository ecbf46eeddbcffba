//! The port through which the bridge reads the journal: explanations, timelines, backtests.

use serde_json::Value;
use std::sync::Arc;

use askwhen_domain::record::Context;
use askwhen_domain::time::Millis;
use askwhen_process::progress::Progress;

/// The most explanations and timelines at once.
pub const MAX_READERS: usize = 2;

/// A trigger that is assumed to come.
pub struct ExplainTrigger {
    pub trigger: String,
    pub properties: String,
    pub context: Context,
}

/// The user and the moment to be explained.
pub struct ExplainRequest {
    pub project: String,
    pub user_id: String,
    pub at: Option<Millis>,
    pub trigger: Option<ExplainTrigger>,
}

/// Which records of a user are wanted; both times are inclusive.
pub struct TimelineRequest {
    pub project: String,
    pub user_id: String,
    pub since: Millis,
    pub until: Millis,
    pub limit: usize,
}

/// Surveys to be tried on the recorded journal, with the job's parameters.
pub struct BacktestRequest {
    pub project: String,
    pub parameters: Value,
}

/// A line of a timeline: its time, its id, and its content.
pub type TimelineEntry = (Millis, String, Value);

/// Why the journal cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Earlier records are not kept any more.
    #[error("{0}")]
    Trimmed(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reads of the journal.
pub trait JournalLookup: Send + Sync {
    /// Explains a trigger.
    ///
    /// # Errors
    /// When the journal cannot be read, or does not reach back far enough.
    fn explain(&self, request: ExplainRequest) -> Result<Value, HistoryError>;

    /// A timeline, newest first.
    ///
    /// # Errors
    /// When the journal cannot be read.
    fn timeline(&self, request: TimelineRequest) -> Result<Vec<TimelineEntry>, HistoryError>;

    /// Tries surveys on the journal. Counts in `progress`, and ends early when that says
    /// so.
    ///
    /// # Errors
    /// When the journal cannot be read, or there is nothing to try.
    fn backtest(&self, request: BacktestRequest, progress: &Progress) -> Result<Value, HistoryError>;
}

/// The journal, with a bound on concurrent reads.
pub struct HistoryReader {
    pub history: Arc<dyn JournalLookup>,
    pub turns: tokio::sync::Semaphore,
}
