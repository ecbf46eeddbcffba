//! The journal, as far as HTTP asks it: explanations and timelines.

use serde_json::Value;
use std::sync::Arc;

use askwhen_domain::record::Context;
use askwhen_domain::time::Millis;
use askwhen_process::progress::Progress;

/// Explanations and timelines that are made at once.
pub const MAX_READERS: usize = 2;

/// A trigger that is assumed to come.
pub struct ExplainTrigger {
    pub trigger: String,
    pub properties: String,
    pub context: Context,
}

/// Whom to explain, at which moment.
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

/// Surveys that are tried on the recorded journal; the parameters are those of the job.
pub struct BacktestRequest {
    pub project: String,
    pub parameters: Value,
}

/// One line of a timeline: its time, its id and what is shown.
pub type TimelineEntry = (Millis, String, Value);

/// Why the journal tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// What was before is not kept any more.
    #[error("{0}")]
    Trimmed(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The journal, as far as HTTP asks it.
pub trait JournalLookup: Send + Sync {
    /// # Errors
    /// When the journal cannot be read, or does not reach so far back.
    fn explain(&self, request: ExplainRequest) -> Result<Value, HistoryError>;

    /// Newest first.
    ///
    /// # Errors
    /// When the journal cannot be read.
    fn timeline(&self, request: TimelineRequest) -> Result<Vec<TimelineEntry>, HistoryError>;

    /// Tries surveys on the journal; says on the way how far it is, and ends early when
    /// that is wanted.
    ///
    /// # Errors
    /// When the journal cannot be read, or there is nothing to try.
    fn backtest(&self, request: BacktestRequest, progress: &Progress) -> Result<Value, HistoryError>;
}

/// The journal, and who may read it at once.
pub struct HistoryReader {
    pub history: Arc<dyn JournalLookup>,
    pub turns: tokio::sync::Semaphore,
}
