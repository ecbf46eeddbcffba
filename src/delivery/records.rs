//! Makes the records that the role `delivery` appends: attempts, retry records, dead
//! letters, rejects.

use bytes::Bytes;

use super::fold::row::{DeliveryPhase, PendingDelivery};
use askwhen_domain::time::{Millis, SECOND};
use askwhen_domain::webhook::message::Delivery;
use askwhen_log::{NewRecord, Record, TopicPartition};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{
    self, AttemptEnd, AttemptRecord, DeadRecord, ID_HEADER, Outcome, RejectRecord, RetryRecord, SOURCE_HEADER,
};

/// How much of an unreadable record its reject contains.
const MAX_RAW_BYTES: usize = 1 << 20;

/// A record and the partition that it is appended to.
pub type Write = (TopicPartition, NewRecord);

/// The record of an attempt, or with attempt 0 that of a cancellation before any.
pub fn attempt(partition: u32, row: &PendingDelivery, record: &AttemptRecord) -> Write {
    let id = match record.attempt {
        0 => format!("{}/cancelled", record.delivery_id),
        _ => format!("{}/{}", record.delivery_id, record.attempt),
    };
    keyed(TopicPartition { topic: Topic::Attempts, partition }, row, id, topics::encode(record))
}

/// When a delivery is tried again, and its attempts so far.
#[derive(Debug, Clone, Copy)]
pub struct NextAttempt {
    /// How many attempts were made.
    pub attempt: u32,
    /// How many of them the retry policy does not count.
    pub uncounted: u32,
    pub due_at: Millis,
    pub first_started_at: Millis,
    /// The rest of the wait in milliseconds; it selects the retry topic.
    pub wait: Millis,
}

/// The retry record of a delivery that waits.
pub fn retry(partition: u32, row: &PendingDelivery, next: NextAttempt) -> Write {
    let NextAttempt { attempt, uncounted, due_at, first_started_at, wait } = next;
    let delivery = Box::new(row.delivery.clone());
    let id = format!("{}/{attempt}/waits", delivery.delivery_id);
    let source = row.source.clone();
    let record = RetryRecord { delivery, attempt, due_at, first_started_at, source, uncounted };
    let topic = Topic::for_wait(wait.max(SECOND));
    keyed(TopicPartition { topic, partition }, row, id, topics::encode(&record))
}

/// The dead letter of a delivery that is given up after `attempts`.
pub fn dead(partition: u32, row: &PendingDelivery, attempts: u32, reason: &str, died_at: Millis) -> Write {
    let delivery = Box::new(row.delivery.clone());
    let id = format!("{}/dead", delivery.delivery_id);
    let record = DeadRecord { delivery, attempts, reason: reason.to_owned(), died_at };
    keyed(TopicPartition { topic: Topic::Dead, partition }, row, id, topics::encode(&record))
}

/// The record that cancels a delivery.
pub fn cancelled(partition: u32, row: &PendingDelivery, reason: &str, now: Millis) -> Write {
    let record = AttemptRecord {
        attempts_before: row.attempt,
        started_at: now,
        first_started_at: row.first_started_at.unwrap_or(now),
        ended: Some(AttemptEnd::Cancelled),
        reason: Some(reason.to_owned()),
        ..unfinished_attempt(&row.delivery)
    };
    attempt(partition, row, &record)
}

/// The record that must follow a delivery's last one and is missing, if there is one.
pub fn missing(partition: u32, row: &PendingDelivery, now: Millis) -> Option<Write> {
    match &row.phase {
        DeliveryPhase::Due => None,
        DeliveryPhase::RetryMissing { next_due_at } => {
            let first_started_at = row.first_started_at.unwrap_or(row.due_at);
            let wait = next_due_at - first_started_at.max(row.due_at);
            let (attempt, uncounted, due_at) = (row.attempt, row.uncounted, *next_due_at);
            Some(retry(partition, row, NextAttempt { attempt, uncounted, due_at, first_started_at, wait }))
        }
        DeliveryPhase::DeadMissing { reason, died_at } => Some(dead(partition, row, row.attempt, reason, *died_at)),
        DeliveryPhase::CancelMissing { reason } => Some(cancelled(partition, row, reason, now)),
    }
}

/// The reject of a record that cannot be read, with its first bytes. It is logged, too.
pub fn unreadable(at: TopicPartition, record: &Record, detail: &str) -> Write {
    tracing::error!(%at, offset = record.offset, detail, "a record of the delivery is unreadable");
    reject(at, record, "unreadable", detail)
}

/// The reject of a record that an operator has skipped, with its first bytes.
pub fn skipped(at: TopicPartition, record: &Record) -> Write {
    tracing::warn!(%at, offset = record.offset, "a record of the delivery is skipped");
    reject(at, record, "skipped", "an operator has skipped it")
}

fn reject(at: TopicPartition, record: &Record, reason: &'static str, detail: &str) -> Write {
    let (TopicPartition { topic, partition }, offset) = (at, record.offset);
    let raw = record.value.as_deref().unwrap_or_default();
    let raw = &raw[..raw.len().min(MAX_RAW_BYTES)];
    let value = topics::encode(&RejectRecord::of(topic, partition, offset, reason, detail, raw));
    let new = NewRecord { key: None, headers: Vec::new(), value: Some(value.into()) };
    let id = format!("reject/{}/{partition}/{offset}", topic.name());
    (TopicPartition { topic: Topic::Rejects, partition }, new.header(ID_HEADER, id))
}

/// A record about a delivery, with the user as key, and headers for its id and the journal
/// record behind it.
pub fn keyed(at: TopicPartition, row: &PendingDelivery, id: String, value: Vec<u8>) -> Write {
    let key = Some(Bytes::from(row.delivery.user_id.clone()));
    let new = NewRecord { key, headers: Vec::new(), value: Some(value.into()) };
    let new = new.header(ID_HEADER, id);
    let new = if row.source.is_empty() { new } else { new.header(SOURCE_HEADER, row.source.clone()) };
    (at, new)
}

/// The attempt record of a delivery without a result.
pub fn unfinished_attempt(delivery: &Delivery) -> AttemptRecord {
    AttemptRecord {
        delivery_id: delivery.delivery_id.clone(),
        message_id: delivery.message_id.clone(),
        endpoint_id: delivery.endpoint_id.clone(),
        project: delivery.project.clone(),
        user_id: delivery.user_id.clone(),
        survey_id: delivery.survey_id.clone(),
        attempt: 0,
        attempts_before: 0,
        uncounted: 0,
        started_at: 0,
        duration_ms: 0,
        http_status: None,
        outcome: Outcome::NotSent,
        error: None,
        response: None,
        first_started_at: 0,
        next_due_at: None,
        ended: None,
        reason: None,
        signed: None,
    }
}
