//! Why a round of the fold could not be taken in.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] askwhen_log::Error),
    #[error(transparent)]
    Store(#[from] askwhen_store::Error),
    /// The store is to be set aside and made again.
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Trying again would not help: a person has to look.
    pub fn is_final(&self) -> bool {
        match self {
            Error::Refused(_) => true,
            Error::Log(error) => matches!(error, askwhen_log::Error::Damaged { .. } | askwhen_log::Error::Refused(_)),
            Error::Store(_) | Error::Damaged(_) | Error::Failed(_) => false,
        }
    }
}
