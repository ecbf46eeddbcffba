//! The console's projection: what the engine and the delivery put out, arranged
//! for lists and counted. It trails the topics by a moment and can be thrown
//! away at any time; rows go when their topics' retention is over.

mod deliveries;
mod follow;
mod kept;
mod order;
mod projection;
mod stats;
mod unknown;

pub use follow::{Keep, Projection};
pub use projection::{Console, OpenStore};

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
enum Taken {
    Read,
    /// It cannot be read: the lists leave it out, and say so.
    Unreadable,
}

#[cfg(test)]
mod tests;
