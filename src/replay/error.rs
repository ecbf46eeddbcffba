//! The error of whatever ends a verb of the command line: reading the journal again,
//! and all that the supervisor does. The verb's exit code follows from its kind.

use askwhen_partition::{Failure, StopReason};
use askwhen_wire::error::Class;

use std::path::{Path, PathBuf};

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The arguments or the configuration cannot be used as they are.
    Usage,
    /// Going on could give wrong results or damage data.
    Refused,
    /// Brokers, a bucket or a server do not answer.
    Unreachable,
    /// Anything else.
    Failed,
}

impl ErrorKind {
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Usage => "usage",
            ErrorKind::Refused => "refused",
            ErrorKind::Unreachable => "unreachable",
            ErrorKind::Failed => "failed",
        }
    }
}

/// What the system says of a file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
struct FileError {
    path: PathBuf,
    source: std::io::Error,
}

/// A kind and a cause, which is another error or a sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct Error {
    kind: ErrorKind,
    source: Cause,
}

impl Error {
    pub fn usage(cause: impl Into<Cause>) -> Error {
        Error { kind: ErrorKind::Usage, source: cause.into() }
    }

    pub fn refused(cause: impl Into<Cause>) -> Error {
        Error { kind: ErrorKind::Refused, source: cause.into() }
    }

    pub fn unreachable(cause: impl Into<Cause>) -> Error {
        Error { kind: ErrorKind::Unreachable, source: cause.into() }
    }

    pub fn failed(cause: impl Into<Cause>) -> Error {
        Error { kind: ErrorKind::Failed, source: cause.into() }
    }

    /// A file or folder that could not be read, written or moved.
    pub fn file(path: &Path, error: std::io::Error) -> Error {
        Error::failed(FileError { path: path.to_owned(), source: error })
    }

    /// The same error, of another kind.
    #[must_use]
    pub fn with_kind(self, kind: ErrorKind) -> Error {
        Error { kind, ..self }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn class(&self) -> Class {
        match self.kind {
            ErrorKind::Usage => Class::Reject,
            ErrorKind::Refused => Class::Refuse,
            ErrorKind::Unreachable => Class::Retry,
            ErrorKind::Failed => Class::Fatal,
        }
    }
}

impl From<askwhen_log::Error> for Error {
    fn from(error: askwhen_log::Error) -> Error {
        match error {
            askwhen_log::Error::Refused(_) | askwhen_log::Error::Lost(_) | askwhen_log::Error::Damaged { .. } => {
                Error::refused(error)
            }
            askwhen_log::Error::Unavailable(_) => Error::unreachable(error),
            askwhen_log::Error::Misconfigured(_) => Error::usage(error),
            _ => Error::failed(error),
        }
    }
}

impl From<askwhen_store::Error> for Error {
    fn from(error: askwhen_store::Error) -> Error {
        Error::failed(error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::failed(error)
    }
}

impl From<StopReason> for Error {
    fn from(stop: StopReason) -> Error {
        Error::refused(stop)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::failed(failure)
    }
}
