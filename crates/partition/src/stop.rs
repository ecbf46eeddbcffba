//! Why a partition does not go on.

use askwhen_store::Cause;
use askwhen_wire::error::Class;

/// What a partition can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// This machine's clock is behind the journal's time.
    Clock,
    /// An operator has to say what becomes of a record.
    Skip { offset: u64 },
}

/// Why a partition could not be opened, or does not go on.
pub trait PartitionError: std::error::Error + Send + 'static {
    fn class(&self) -> Class;

    /// What it waits for, if it goes on by itself once that has come.
    fn waits_on(&self) -> Option<WaitReason>;

    /// The system gave no thread to open it in.
    fn no_thread(error: std::io::Error) -> Self;
}

/// Why a partition does not go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StopReason {
    /// Going on could lose or forge data; a person has to look.
    #[error("{0}")]
    Refused(#[source] Cause),
    /// Everything since the checkpoint is dropped and done again.
    #[error("{0}")]
    Restart(#[source] Cause),
    /// The store fails its checksums: it is set aside and made again.
    #[error("{0}")]
    Damaged(#[source] Cause),
    /// It goes on by itself once what it waits for has come.
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
            // A newer snapshot stands behind what was trimmed.
            _ => StopReason::restart(error),
        }
    }
}
