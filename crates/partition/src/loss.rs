//! Records that were lost before they were applied, when an operator accepts the loss.

use std::ops::Range;

use super::admission::Admission;
use super::checkpoint::CheckpointMeta;
use super::setup::Setup;
use super::stop::StopReason;
use askwhen_log::{Log, TopicPartition};
use askwhen_wire::record::{AcceptLoss, Internal};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;

/// Lost records may have caused forwards that their receivers have and the state does not
/// know of. The next forwards get numbers that none of them can have.
const FORWARDS_PASSED: u64 = 1 << 32;

/// The losses that an operator has accepted for this partition.
///
/// # Errors
/// When the journal cannot be read.
pub fn accepted_losses(log: &Log, key: &ClusterKey, partition: u32) -> Result<Vec<AcceptLoss>, StopReason> {
    let journal = TopicPartition { topic: Topic::Events, partition };
    let admission = Admission::new(log, key, partition);
    let bounds = log.bounds(journal)?;
    let mut accepted = Vec::new();
    log.scan::<StopReason>(journal, bounds.start, bounds.end, |record| {
        if let Some(Internal::AcceptLoss(loss)) = admission.trusted_internal(None, &record)
            && loss.partition == partition
        {
            accepted.push(loss);
        }
        Ok(())
    })?;
    Ok(accepted)
}

/// Whether the loss of a range of offsets of a topic is accepted.
pub fn is_accepted(accepted: &[AcceptLoss], topic: Topic, lost: Range<u64>) -> bool {
    accepted.iter().any(|loss| loss.topic == topic.name() && loss.from <= lost.start && lost.end <= loss.to)
}

/// Skips records of the journal that are gone, if an operator has accepted their loss.
pub fn pass_accepted_loss(setup: &Setup, journal: TopicPartition, meta: &mut CheckpointMeta) -> Result<(), StopReason> {
    let partition = journal.partition;
    let begins = setup.log.bounds(journal)?.start.max(setup.log.begins(partition));
    if meta.next >= begins {
        return Ok(());
    }
    let accepted = accepted_losses(&setup.log, &setup.key, partition)?;
    if !is_accepted(&accepted, journal.topic, meta.next..begins) {
        return Ok(());
    }
    tracing::warn!(%journal, from = meta.next, to = begins, "records that an operator has accepted as lost are passed over");
    (meta.next, meta.crc) = (begins, 0);
    // Forwards to this partition may be among them.
    (0..meta.partitions).for_each(|sender| meta.expect_gap(sender));
    meta.forward.iter_mut().for_each(|seq| *seq += FORWARDS_PASSED);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_is_what_was_said_to_be_lost() {
        let loss = |topic: Topic, from, to| AcceptLoss {
            topic: topic.name().to_owned(),
            partition: 0,
            from,
            to,
            asked_at: 0,
            request_id: String::new(),
        };
        let accepted = [loss(Topic::Events, 10, 20), loss(Topic::Deliveries, 0, 5)];
        assert!(is_accepted(&accepted, Topic::Events, 10..20) && is_accepted(&accepted, Topic::Events, 15..18));
        assert!(!is_accepted(&accepted, Topic::Events, 9..20), "an older state has lost more");
        assert!(!is_accepted(&accepted, Topic::Events, 10..21), "more has been lost since");
        assert!(!is_accepted(&accepted, Topic::Attempts, 10..20));
    }
}
