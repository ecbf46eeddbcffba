//! Restores topic `definitions` when it has lost records: the partition that writes the
//! topic writes them again.

use crate::checkpoint::CheckpointMeta;
use crate::machine::Machine;
use crate::setup::Setup;
use crate::stop::StopReason;
use askwhen_log::{Log, TopicPartition};
use askwhen_wire::topic::Topic;

const DEFINITIONS: TopicPartition = TopicPartition { topic: Topic::Definitions, partition: 0 };

/// Progress of restoring topic `definitions`. Partitions that do not write the topic have
/// nothing to do.
pub struct LostDefinitions {
    writes_topic: bool,
    /// The topic is complete again when the journal has been applied up to this offset and
    /// all outputs are durable. `None` when nothing was lost at the start.
    until: Option<u64>,
}

impl LostDefinitions {
    /// Writes the definitions again that are in the state and not in the topic. The others
    /// are written again as the journal is applied up to `journal_end`.
    ///
    /// # Errors
    /// When the log cannot be read or written.
    pub fn restore<M: Machine>(
        setup: &Setup,
        partition: u32,
        meta: &mut CheckpointMeta,
        machine: &M,
        journal_end: u64,
    ) -> Result<LostDefinitions, StopReason> {
        if !machine.output_topics(partition).contains(&Topic::Definitions) {
            return Ok(LostDefinitions { writes_topic: false, until: None });
        }
        let until = setup.log.has_lost_definitions().then_some(journal_end);
        let lost = machine.lost_definitions(&setup.log, meta)?;
        if !lost.is_empty() {
            tracing::warn!(
                count = lost.len(),
                "topic definitions has lost records: they are written again from the state"
            );
            setup.log.append_and_wait(DEFINITIONS, lost)?;
        }
        // The next restart looks for outputs from the topic's current end.
        let end = setup.log.bounds(DEFINITIONS)?.end;
        if let Some(named) = meta.out_start.get_mut(Topic::Definitions.name()) {
            *named = end.min(*named);
        }
        Ok(LostDefinitions { writes_topic: true, until })
    }

    /// Tells the log that the topic is complete, once it is: the journal has been applied
    /// up to `next`, and `is_durable` says whether all outputs are durable.
    ///
    /// # Errors
    /// [`StopReason`] to restart the partition, which then writes what has been lost since.
    pub fn step(&mut self, log: &Log, next: u64, is_durable: bool) -> Result<(), StopReason> {
        if !self.writes_topic || !log.has_lost_definitions() {
            return Ok(());
        }
        let Some(until) = self.until else {
            return Err(StopReason::restart("topic definitions has lost records: they are written again"));
        };
        if next >= until && is_durable {
            log.definitions_are_back()?;
            self.until = None;
        }
        Ok(())
    }
}
