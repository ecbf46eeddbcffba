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
pub enum Stop {
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

impl Stop {
    pub fn refused(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Stop {
        Stop::Refused(Cause::from(cause.into()))
    }

    pub fn restart(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Stop {
        Stop::Restart(Cause::from(cause.into()))
    }

    pub fn damaged(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Stop {
        Stop::Damaged(Cause::from(cause.into()))
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Stop::Refused(_) => "refused",
            Stop::Restart(_) => "restart",
            Stop::Damaged(_) => "damaged",
            Stop::Waits { .. } => "waits",
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Stop::Refused(_) => Class::Refuse,
            Stop::Restart(_) | Stop::Waits { .. } => Class::Retry,
            Stop::Damaged(_) => Class::Fatal,
        }
    }
}

impl PartitionError for Stop {
    fn class(&self) -> Class {
        Stop::class(self)
    }

    fn waits_on(&self) -> Option<WaitReason> {
        match self {
            Stop::Waits { on, .. } => Some(*on),
            Stop::Refused(_) | Stop::Restart(_) | Stop::Damaged(_) => None,
        }
    }

    fn no_thread(error: std::io::Error) -> Stop {
        Stop::restart(error)
    }
}

impl From<askwhen_store::Error> for Stop {
    fn from(error: askwhen_store::Error) -> Stop {
        match error {
            askwhen_store::Error::Damaged { .. } => Stop::damaged(error),
            askwhen_store::Error::Io { .. } => Stop::restart(error),
        }
    }
}

impl From<askwhen_log::Error> for Stop {
    fn from(error: askwhen_log::Error) -> Stop {
        match error {
            askwhen_log::Error::Damaged { .. } | askwhen_log::Error::Lost(_) => Stop::refused(error),
            // A newer snapshot stands behind what was trimmed.
            _ => Stop::restart(error),
        }
    }
}
