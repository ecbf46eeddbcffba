//! Why a journal could not be read again.

use askwhen_partition::{Failure, Stop};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked cannot be done as asked.
    #[error("{0}")]
    Usage(String),
    /// Going on could give wrong results or damage data.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Failed(String),
}

impl From<askwhen_log::Error> for Error {
    fn from(error: askwhen_log::Error) -> Error {
        match error {
            askwhen_log::Error::Refused(_) | askwhen_log::Error::Damaged { .. } => Error::Refused(error.to_string()),
            askwhen_log::Error::Unavailable(_) => Error::Unreachable(error.to_string()),
            askwhen_log::Error::Misconfigured(_) => Error::Usage(error.to_string()),
            _ => Error::Failed(error.to_string()),
        }
    }
}

impl From<askwhen_store::Error> for Error {
    fn from(error: askwhen_store::Error) -> Error {
        Error::Failed(error.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Failed(error.to_string())
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Error {
        Error::Refused(stop.to_string())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::Failed(failure.to_string())
    }
}
