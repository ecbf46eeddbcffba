//! Errors of a log, each with a stable kind and a class.

use std::sync::Arc;

use crate::record::TopicPartition;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The records were removed by retention.
    #[error("{at} begins at {start}, after the offset {offset} that was asked for")]
    Trimmed { at: TopicPartition, offset: u64, start: u64 },
    /// A checksum is wrong, or acknowledged records are missing.
    #[error(
        "{at} is damaged at offset {offset} ({file}): {detail}. Restore it from a backup; nothing behind it is served"
    )]
    Damaged { at: TopicPartition, offset: u64, file: String, detail: String },
    /// A write or a sync has failed, and its outcome is unknown.
    #[error("the log cannot write: {0}. Whether the record is stored is unknown")]
    Unknown(String),
    #[error("the log is read-only: less than {free_mark_bytes} bytes are free on its disk")]
    ReadOnly { free_mark_bytes: u64 },
    /// An earlier write has failed; nothing of this one was written.
    #[error("the log takes nothing before the next start, because a write has failed: {0}")]
    Failed(String),
    /// Nothing was written; the caller may try again.
    #[error("the log's queue is full")]
    Overloaded,
    /// Brokers do not answer, or do not acknowledge in time.
    #[error("the log cannot be reached: {0}")]
    Unavailable(String),
    /// The process is stopping.
    #[error("the log is closed")]
    Closed,
    #[error("{context}: {source}")]
    Io { context: String, source: Arc<std::io::Error> },
    /// The log does not accept such a record, or does not fit this process's settings.
    #[error("{0}")]
    Refused(String),
    /// Acknowledged records of a topic are gone. An operator has to decide before anything
    /// continues after them.
    #[error("{0}")]
    Lost(String),
    /// The configuration of the log cannot be used.
    #[error("{0}")]
    Misconfigured(String),
}

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Nothing has happened: try again.
    Retry,
    /// It is unknown whether it has happened: try again under the same id.
    Unknown,
    /// Trying again does not help.
    Fatal,
}

impl Error {
    pub fn io(context: impl Into<String>, error: std::io::Error) -> Error {
        Error::Io { context: context.into(), source: Arc::new(error) }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Error::Trimmed { .. } => "trimmed",
            Error::Damaged { .. } => "damaged",
            Error::Unknown(_) => "unknown",
            Error::ReadOnly { .. } => "read_only",
            Error::Failed(_) => "failed",
            Error::Overloaded => "overloaded",
            Error::Unavailable(_) => "unavailable",
            Error::Closed => "closed",
            Error::Io { .. } => "io",
            Error::Refused(_) => "refused",
            Error::Lost(_) => "lost",
            Error::Misconfigured(_) => "misconfigured",
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Error::ReadOnly { .. } | Error::Overloaded | Error::Unavailable(_) | Error::Failed(_) => Class::Retry,
            Error::Unknown(_) => Class::Unknown,
            _ => Class::Fatal,
        }
    }
}
