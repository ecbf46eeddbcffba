//! What a partition is given by its process, and why it does not go on.

use std::path::PathBuf;
use std::time::Duration;

use super::checkpoint::Checkpointer;
use super::reply::Replies;
use askwhen_log::{Log, Standing};
use askwhen_process::clock::Clock;
use askwhen_wire::seal::ClusterKey;

/// Journal bytes taken in one step.
const STEP_BYTES: usize = 256 << 10;
/// Dirty state that brings the next checkpoint forward.
const CHECKPOINT_BYTES: usize = 32 << 20;

/// What a partition needs from its process.
#[derive(Clone)]
pub struct Setup {
    pub log: Log,
    pub clock: Clock,
    pub key: ClusterKey,
    pub replies: Replies,
    pub checkpointer: Checkpointer,
    /// The group's, told how far a partition is.
    pub standing: Standing,
    /// Whether records of a test clock may move time.
    pub test_clock: bool,
    pub checkpoint_every: Duration,
    /// At most so many journal bytes a step; tests vary it.
    pub step_bytes: usize,
    /// Dirty state that brings the next checkpoint forward.
    pub checkpoint_bytes: usize,
    /// Where notes are kept of what is being applied, so that a record that ends
    /// the process is found; absent where state is in memory.
    pub attempts: Option<PathBuf>,
}

impl Setup {
    pub fn new(log: Log, clock: Clock, key: ClusterKey, replies: Replies, checkpointer: Checkpointer) -> Setup {
        let checkpoint_every = Duration::from_secs(4);
        let standing = Standing::Alone;
        let test_clock = false;
        let step_bytes = STEP_BYTES;
        Setup {
            log,
            clock,
            key,
            replies,
            checkpointer,
            standing,
            test_clock,
            checkpoint_every,
            step_bytes,
            checkpoint_bytes: CHECKPOINT_BYTES,
            attempts: None,
        }
    }
}

/// What a partition can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// This machine's clock is behind the journal's time.
    Clock,
    /// An operator has to say what becomes of a record.
    Skip { offset: u64 },
}

/// Why a partition does not go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Stop {
    /// Going on could lose or forge data; a person has to look.
    #[error("{0}")]
    Refused(String),
    /// Everything since the checkpoint is dropped and done again.
    #[error("{0}")]
    Restart(String),
    /// The store fails its checksums: it is set aside and made again.
    #[error("{0}")]
    Damaged(String),
    /// It goes on by itself once what it waits for has come.
    #[error("{why}")]
    Waits { on: Awaited, why: String },
}

impl From<askwhen_store::Error> for Stop {
    fn from(error: askwhen_store::Error) -> Stop {
        match error {
            askwhen_store::Error::Damaged { .. } => Stop::Damaged(error.to_string()),
            askwhen_store::Error::Io { .. } => Stop::Restart(error.to_string()),
        }
    }
}

impl From<askwhen_log::Error> for Stop {
    fn from(error: askwhen_log::Error) -> Stop {
        match error {
            askwhen_log::Error::Damaged { .. } => Stop::Refused(error.to_string()),
            // A newer snapshot stands behind what was trimmed.
            _ => Stop::Restart(error.to_string()),
        }
    }
}
