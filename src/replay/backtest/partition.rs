//! A partition of the journal while it is read: its engine as it was, and one for
//! each version that is tried.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::{Error, JournalReader, Source, StartingState, look_ahead};
use super::plan::Plan;
use crate::engine::Engine;
use askwhen_domain::time::Millis;
use askwhen_log::TopicPartition;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_partition::replayer::Replayer;
use askwhen_store::{Batch, Store};
use askwhen_wire::topic::Topic;

/// Users kept decoded, over all runs that go on side by side.
const CACHED_BYTES: usize = 512 << 20;
/// Changed state that is not yet in a store, over all runs.
const DIRTY_BYTES: usize = 256 << 20;

/// The engine of one run of a partition: as it was, or with the surveys of a version.
pub(super) struct PartitionRun {
    pub(super) replayer: Replayer<Engine>,
    pub(super) store: Arc<Store>,
    /// How many runs share the memory.
    runs: usize,
}

impl PartitionRun {
    pub(super) fn open(
        source: &Source,
        plan: &Plan,
        partition: u32,
        store: Arc<Store>,
        meta: CheckpointMeta,
    ) -> Result<PartitionRun, Error> {
        // All partitions may be read as one group.
        let runs = source.partitions as usize * (plan.versions.len() + 1);
        let mut engine = Engine::open_for_replay(store.clone(), partition, source.partitions, CACHED_BYTES / runs)?;
        engine.capture_outputs(&plan.project);
        Ok(PartitionRun {
            replayer: Replayer::new(look_ahead::admission(source, partition, &meta)?, meta, engine),
            store,
            runs,
        })
    }

    /// Keeps what is in memory within bounds.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.replayer.dirty_bytes() >= DIRTY_BYTES / self.runs {
            self.replayer.checkpoint(&self.store, Batch::default())?;
        }
        Ok(())
    }
}

/// A partition while it is read.
pub(super) struct BacktestPartition {
    pub(super) partition: u32,
    pub(super) journal_reader: JournalReader,
    pub(super) unread: VecDeque<askwhen_log::Record>,
    /// Whether the journal, or the plan's time, is at its end.
    is_at_end: bool,
    pub(super) base: PartitionRun,
    /// One for each version, once the versions have begun.
    pub(super) tried: Vec<PartitionRun>,
    /// By sender, the sequence number of the last forward to this partition that was
    /// sent before the versions began.
    pub(super) sent: Vec<u64>,
}

impl BacktestPartition {
    pub(super) fn new(
        source: &Source,
        plan: &Plan,
        partition: u32,
        begin: StartingState,
    ) -> Result<BacktestPartition, Error> {
        let at = TopicPartition { topic: Topic::Events, partition };
        let journal_reader = source.reader_to_end("replay", at, begin.meta.next)?;
        let base = PartitionRun::open(source, plan, partition, begin.store, begin.meta)?;
        Ok(BacktestPartition {
            partition,
            journal_reader,
            unread: VecDeque::new(),
            is_at_end: false,
            base,
            tried: Vec::new(),
            sent: Vec::new(),
        })
    }

    /// When the next record was appended; `None` at the end.
    pub(super) fn next_at(&mut self, plan: &Plan) -> Result<Option<Millis>, Error> {
        if self.unread.is_empty() && !self.is_at_end {
            self.unread = self.journal_reader.read()?.into();
            self.is_at_end = self.unread.is_empty();
        }
        let ahead = self.base.replayer.meta.ahead;
        let at = self.unread.front().map(|record| record.appended_at + ahead);
        if at.is_some_and(|at| at > plan.to) {
            self.unread.clear();
            self.is_at_end = true;
            return Ok(None);
        }
        Ok(at)
    }
}
