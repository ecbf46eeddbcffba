//! What a partition is given by its process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::barrier::StartBarrier;
use super::checkpoint::Checkpointer;
use super::reply::Replies;
use askwhen_log::{GroupFence, Log};
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
    pub standing: GroupFence,
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
    /// Of the process's start; absent where partitions come and go.
    pub barrier: Option<Arc<StartBarrier>>,
}

impl Setup {
    pub fn new(log: Log, clock: Clock, key: ClusterKey, replies: Replies, checkpointer: Checkpointer) -> Setup {
        let checkpoint_every = Duration::from_secs(4);
        let standing = GroupFence::Alone;
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
            barrier: None,
        }
    }
}
