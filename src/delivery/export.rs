//! Waiting deliveries as records for another log.

use super::fold::{DeliveryPhase, Error, Fold, PendingDelivery};
use super::records::{self, NextAttempt, Write};
use askwhen_domain::id;
use askwhen_domain::time::Millis;
use askwhen_log::{NewRecord, TopicPartition};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, DeliveryRecord};

/// Every delivery that has not ended, by due time.
///
/// # Errors
/// When the store cannot be read.
pub fn waiting(fold: &Fold) -> Result<Vec<PendingDelivery>, Error> {
    let mut rows = Vec::new();
    fold.each_row(|row| rows.push(row))?;
    rows.sort_by_key(|row| (row.due_at, row.place));
    Ok(rows)
}

/// The records that make a delivery wait in another log: the delivery itself, without
/// which a retry record has no effect, and the record of its phase.
pub fn records(row: &PendingDelivery, partitions: u32, now: Millis) -> Vec<Write> {
    let partition = id::partition_of(&row.delivery.user_id, partitions);
    let deliver = DeliveryRecord::Deliver(Box::new(row.delivery.clone()));
    let id = row.delivery.delivery_id.clone();
    let at = TopicPartition { topic: Topic::Deliveries, partition };
    let delivery = records::keyed(at, row, id, topics::encode(&deliver));
    let first = row.first_started_at.unwrap_or(row.due_at);
    let waits = |due_at: Millis| {
        let (attempt, uncounted) = (row.attempt, row.uncounted);
        let next = NextAttempt { attempt, uncounted, due_at, first_started_at: first, wait: due_at - now };
        records::retry(partition, row, next)
    };
    let phase = match &row.phase {
        DeliveryPhase::Due if row.attempt == 0 => None,
        DeliveryPhase::Due => Some(waits(row.due_at)),
        DeliveryPhase::RetryMissing { next_due_at } => Some(waits(*next_due_at)),
        DeliveryPhase::DeadMissing { reason, died_at } => {
            Some(records::dead(partition, row, row.attempt, reason, *died_at))
        }
        DeliveryPhase::CancelMissing { reason } => Some(records::cancelled(partition, row, reason, now)),
    };
    [Some(delivery), phase].into_iter().flatten().collect()
}

/// A command of topic `deliveries` for one partition.
pub fn command(command: &DeliveryRecord, partition: u32) -> Write {
    let key = match command {
        DeliveryRecord::Endpoint { endpoint_id, .. } | DeliveryRecord::Health { endpoint_id, .. } => {
            endpoint_id.clone()
        }
        DeliveryRecord::Deliver(delivery) => delivery.user_id.clone(),
        DeliveryRecord::CancelUser { user_id, .. } => user_id.clone(),
        DeliveryRecord::Skip { topic, .. } => topic.clone(),
    };
    let new = NewRecord { key: Some(key.into()), headers: Vec::new(), value: Some(topics::encode(command).into()) };
    (TopicPartition { topic: Topic::Deliveries, partition }, new)
}
