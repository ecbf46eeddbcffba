//! Why a partition stops.

use askwhen_store::Cause;
use askwhen_wire::error::Class;
use askwhen_wire::topic::Topic;

/// What a partition may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// This machine's clock is behind the journal's time.
    Clock,
    /// An operator has to say what happens with a record.
    Skip { topic: Topic, offset: u64 },
}

/// The errors of a role's partitions.
pub trait PartitionError: std::error::Error + Send + 'static {
    fn class(&self) -> Class;

    /// What the partition waits for, if it goes on by itself after that.
    fn waits_on(&self) -> Option<WaitReason>;

    /// No thread could be started to open the partition.
    fn no_thread(error: std::io::Error) -> Self;
}

/// Why a partition stops.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StopReason {
    /// Going on could lose or forge data; an operator has to look.
    #[error("{0}")]
    Refused(#[source] Cause),
    /// Everything since the checkpoint is dropped and reprocessed.
    #[error("{0}")]
    Restart(#[source] Cause),
    /// The store fails its checksums; it is set aside and rebuilt.
    #[error("{0}")]
    Damaged(#[source] Cause),
    /// It goes on by itself when what it waits for has happened.
    #[error("{why}")]
    Waits { on: WaitReason, why: String },
}

impl StopReason {
    pub fn refused(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StopReason {
        StopReason::Refused(Cause::from(cause.into()))
    }

    pub fn restart(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StopReason {
        StopReason::Restart(Cause::from(cause.into()))
    }

    pub fn damaged(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StopReason {
        StopReason::Damaged(Cause::from(cause.into()))
    }

    pub fn kind(&self) -> &'static str {
        match self {
            StopReason::Refused(_) => "refused",
            StopReason::Restart(_) => "restart",
            StopReason::Damaged(_) => "damaged",
            StopReason::Waits { .. } => "waits",
        }
    }

    pub fn class(&self) -> Class {
        match self {
            StopReason::Refused(_) => Class::Refuse,
            StopReason::Restart(_) | StopReason::Waits { .. } => Class::Retry,
            StopReason::Damaged(_) => Class::Fatal,
        }
    }
}

impl PartitionError for StopReason {
    fn class(&self) -> Class {
        StopReason::class(self)
    }

    fn waits_on(&self) -> Option<WaitReason> {
        match self {
            StopReason::Waits { on, .. } => Some(*on),
            StopReason::Refused(_) | StopReason::Restart(_) | StopReason::Damaged(_) => None,
        }
    }

    fn no_thread(error: std::io::Error) -> StopReason {
        StopReason::restart(error)
    }
}

impl From<askwhen_store::Error> for StopReason {
    fn from(error: askwhen_store::Error) -> StopReason {
        match error {
            askwhen_store::Error::Damaged { .. } => StopReason::damaged(error),
            askwhen_store::Error::Io { .. } => StopReason::restart(error),
        }
    }
}

impl From<askwhen_log::Error> for StopReason {
    fn from(error: askwhen_log::Error) -> StopReason {
        match error {
            askwhen_log::Error::Damaged { .. } | askwhen_log::Error::Lost(_) => StopReason::refused(error),
            // A newer snapshot may be behind what was trimmed.
            _ => StopReason::restart(error),
        }
    }
}
