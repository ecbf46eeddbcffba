//! What can go wrong with a list, and with a record that belongs in one.

/// What is wrong with a list, or with what it comes from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cursor is none of this list")]
    Cursor,
    /// The store is set aside and made again from the topics.
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Log(#[from] askwhen_log::Error),
    #[error("{0}")]
    Failed(String),
}

impl From<askwhen_store::Error> for Error {
    fn from(error: askwhen_store::Error) -> Error {
        match error {
            askwhen_store::Error::Damaged { .. } => Error::Damaged(error.to_string()),
            askwhen_store::Error::Io { .. } => Error::Failed(error.to_string()),
        }
    }
}

/// What has become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    Read,
    /// It cannot be read: the lists leave it out, and say so.
    Unreadable,
}
