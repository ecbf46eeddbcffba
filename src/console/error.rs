//! Errors of the lists, and of records that are read for them.

/// Why a list cannot be read or updated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cursor is none of this list")]
    Cursor,
    /// The store is set aside and rebuilt from the topics.
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Log(#[from] askwhen_log::Error),
    #[error("{0}")]
    Failed(String),
    #[error("what is being taken in cannot be noted: {0}")]
    Unnoted(#[source] std::io::Error),
}

impl From<askwhen_store::Error> for Error {
    fn from(error: askwhen_store::Error) -> Error {
        match error {
            askwhen_store::Error::Damaged { .. } => Error::Damaged(error.to_string()),
            askwhen_store::Error::Io { .. } => Error::Failed(error.to_string()),
        }
    }
}

/// The result of reading a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    Read,
    /// It cannot be decoded: the lists leave it out, and count that.
    Unreadable,
}
