//! What a process provides to its partitions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::barrier::StartBarrier;
use super::checkpoint::Checkpointer;
use super::reply::Replies;
use askwhen_log::{GroupFence, Log};
use askwhen_process::clock::Clock;
use askwhen_wire::seal::ClusterKey;

/// Bytes of the journal read in one step.
const STEP_BYTES: usize = 256 << 10;
/// Bytes of changed state that bring the next checkpoint forward.
const CHECKPOINT_BYTES: usize = 32 << 20;

/// What a process provides to a partition.
#[derive(Clone)]
pub struct Setup {
    pub log: Log,
    pub clock: Clock,
    pub key: ClusterKey,
    pub replies: Replies,
    pub checkpointer: Checkpointer,
    /// Commits positions to the consumer group.
    pub fence: GroupFence,
    /// Whether records of a test clock may move time.
    pub test_clock: bool,
    pub checkpoint_every: Duration,
    /// Bytes of the journal read in one step; tests vary it.
    pub step_bytes: usize,
    /// Bytes of changed state that bring the next checkpoint forward.
    pub checkpoint_bytes: usize,
    /// Folder for the notes of which records are being applied; `None` when state is in
    /// memory only.
    pub attempts: Option<PathBuf>,
    /// The barrier of the process's start; `None` where partitions come and go.
    pub barrier: Option<Arc<StartBarrier>>,
}

impl Setup {
    pub fn new(log: Log, clock: Clock, key: ClusterKey, replies: Replies, checkpointer: Checkpointer) -> Setup {
        let checkpoint_every = Duration::from_secs(4);
        let fence = GroupFence::Alone;
        let test_clock = false;
        let step_bytes = STEP_BYTES;
        Setup {
            log,
            clock,
            key,
            replies,
            checkpointer,
            fence,
            test_clock,
            checkpoint_every,
            step_bytes,
            checkpoint_bytes: CHECKPOINT_BYTES,
            attempts: None,
            barrier: None,
        }
    }
}
