//! Why a partition's deliveries cannot be folded. A record that cannot be read is no
//! such error: it becomes a reject, and the next one is taken (`input`). Stored state
//! that cannot be read is one: the partition stops, and its state is made again from the
//! topics.

use askwhen_log::TopicPartition;
use askwhen_partition::StopReason;
use askwhen_wire::error::Class;

use crate::delivery::resolver::ResolverError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] askwhen_log::Error),
    #[error(transparent)]
    Store(#[from] askwhen_store::Error),
    /// The store is to be set aside and made again.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store and the log do not belong together.
    #[error(transparent)]
    StateMismatch(#[from] StateMismatch),
    /// The store could not be restored.
    #[error(transparent)]
    Partition(#[from] StopReason),
    #[error("webhooks cannot be sent: {0}")]
    Transport(#[from] ResolverError),
    #[error("a thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
    /// The partition was given up while it was being opened.
    #[error("given up")]
    GivenUp,
}

/// Stored state that cannot be read, or contradicts itself: damage of the store, never
/// the fault of a record.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the delivery's positions are unreadable: {0}")]
    Positions(#[source] serde_json::Error),
    #[error("a stored endpoint is unreadable: {0}")]
    Endpoint(#[source] serde_json::Error),
    #[error("a waiting delivery is unreadable: {0}")]
    PendingDelivery(#[source] postcard::Error),
    #[error("a waiting delivery has bytes behind its end")]
    RowTail,
    #[error("a waiting delivery stands under another one's id")]
    RowId,
    #[error("an entry of the due index is unreadable")]
    Due,
    #[error("{waiting} deliveries wait for a time, and the due index holds {indexed}")]
    DueCount { waiting: u64, indexed: u64 },
    #[error("the delivery's state is that of partition {found}")]
    OtherPartition { found: u32 },
    /// No released version wrote this format, so the state is made again.
    #[error("the delivery's state is of format {found}")]
    Format { found: u32 },
}

/// A store that belongs to another log or another version.
#[derive(Debug, thiserror::Error)]
pub enum StateMismatch {
    #[error(
        "the delivery's state is of format {found}, made by a later version; version {own} reads up to {known}: serve \
         it with the later version",
        own = env!("CARGO_PKG_VERSION")
    )]
    LaterFormat { found: u32, known: u32 },
    #[error(
        "the delivery's state was made from another log than the one that is here: put back the log (or the brokers and \
         the prefix) that it was made with, or restore both from one backup"
    )]
    OtherLog,
    #[error(
        "{at} ends at {end} and the delivery's state is at {next}: the log has lost its end. Restore the data \
         from a backup. Without one, move the delivery's state of the partition (state/delivery/ and its snapshots) aside: \
         it is made anew from what its topics hold, and what was sent already may be sent once more"
    )]
    LostEnd { at: TopicPartition, end: u64, next: u64 },
}

impl Error {
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Log(_) => "log",
            Error::Store(_) => "store",
            Error::State(_) => "state",
            Error::StateMismatch(_) => "mismatch",
            Error::Partition(_) => "partition",
            Error::Transport(_) => "transport",
            Error::Thread(_) => "thread",
            Error::GivenUp => "given_up",
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Error::Log(
                askwhen_log::Error::Damaged { .. } | askwhen_log::Error::Refused(_) | askwhen_log::Error::Lost(_),
            ) => Class::Refuse,
            Error::Log(_) | Error::Thread(_) | Error::GivenUp => Class::Retry,
            Error::Store(error) => error.class(),
            Error::State(_) => Class::Fatal,
            Error::StateMismatch(_) | Error::Transport(_) => Class::Refuse,
            Error::Partition(stop) => stop.class(),
        }
    }
}
