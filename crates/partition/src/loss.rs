//! Records that are gone before state was made of them, and an operator's word
//! that the state goes on behind them.

use std::ops::Range;

use super::admission::Admission;
use super::checkpoint::CheckpointMeta;
use super::setup::Setup;
use super::stop::StopReason;
use askwhen_log::{Log, TopicPartition};
use askwhen_wire::record::{AcceptLoss, Internal};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;

/// What was lost may have led to forwards, which their receivers have and the
/// state does not know of. The next ones have numbers that none of them had.
const FORWARDS_PASSED: u64 = 1 << 32;

/// What an operator has accepted as lost for state of this partition.
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

/// Whether state may go on behind these offsets of a topic, whose records are gone.
pub fn is_accepted(accepted: &[AcceptLoss], topic: Topic, lost: Range<u64>) -> bool {
    accepted.iter().any(|loss| loss.topic == topic.name() && loss.from <= lost.start && lost.end <= loss.to)
}

/// Goes on behind records of the journal that are gone, if an operator has
/// accepted that.
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
    // What others have told this partition may be among them.
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
