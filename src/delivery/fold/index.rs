//! Keys of the due index: the endpoint's queue, then the due time, then the order of
//! the topic.

use super::error::StateError;
use super::row::PendingDelivery;
use askwhen_domain::time::{DAY, Millis};
use askwhen_domain::webhook::message::Delivery;
use askwhen_store::keys;

/// Where the delivery's id begins in a key: behind queue, time and place, 8 bytes each.
const ID_AT: usize = 24;

/// An entry of the due index, with all that the ordering queues need of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub key: Vec<u8>,
    /// Whether the delivery has had no attempt.
    pub first: bool,
    /// Hash of endpoint and user.
    pub ordering_key: u64,
}

impl Due {
    pub(super) fn new(row: &PendingDelivery) -> Due {
        let queue_id = queue_of(&row.delivery);
        let ordering_key = xxhash_rust::xxh3::xxh3_64_with_seed(row.delivery.user_id.as_bytes(), queue_id);
        Due { key: due_key(row), first: row.attempt == 0, ordering_key }
    }

    /// # Errors
    /// When the entry is not one that was written: a delivery that is misread here would
    /// never be sent.
    pub(super) fn decode(key: Vec<u8>, value: &[u8]) -> Result<Due, StateError> {
        if std::str::from_utf8(key.get(ID_AT..).unwrap_or_default()).ok().is_none_or(str::is_empty) {
            return Err(StateError::Due);
        }
        let (first, ordering_key) = match value.split_first() {
            Some((0, ordering_key)) => (false, ordering_key),
            Some((1, ordering_key)) => (true, ordering_key),
            _ => return Err(StateError::Due),
        };
        let ordering_key = ordering_key.try_into().map(u64::from_be_bytes).map_err(|_| StateError::Due)?;
        Ok(Due { key, first, ordering_key })
    }

    pub(super) fn value(&self) -> Vec<u8> {
        [&[u8::from(self.first)], self.ordering_key.to_be_bytes().as_slice()].concat()
    }
}

/// The queue that a delivery waits in: that of its endpoint, or for an operator's test
/// another one of that endpoint.
pub fn queue_of(delivery: &Delivery) -> u64 {
    queue_id(&delivery.project, &delivery.endpoint_id, delivery.test_for.is_some())
}

pub fn queue_id(project: &str, endpoint_id: &str, test: bool) -> u64 {
    let named = keys::named(project, endpoint_id);
    xxhash_rust::xxh3::xxh3_64_with_seed(&named, u64::from(test))
}

pub fn due_key(row: &PendingDelivery) -> Vec<u8> {
    let rest = [&row.place.to_be_bytes(), row.delivery.delivery_id.as_bytes()].concat();
    [queue_of(&row.delivery).to_be_bytes().as_slice(), &keys::timed(row.due_at, &rest)].concat()
}

/// A key before everything of a queue that is due at `due_at`, and behind everything
/// that is due earlier.
pub fn before(queue_id: u64, due_at: Millis) -> Vec<u8> {
    [queue_id.to_be_bytes().as_slice(), &keys::timed(due_at, &[])].concat()
}

/// Queue and due time of a key of the due index.
pub fn split(key: &[u8]) -> (u64, Millis) {
    let queue_id = key.get(..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
    (queue_id, key.get(8..).and_then(keys::time_of).unwrap_or(0))
}

/// The delivery's id in a key of the due index.
pub fn due_id(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(ID_AT..).unwrap_or_default()).into_owned()
}

pub(super) fn done_key(delivery: &Delivery) -> Vec<u8> {
    keys::timed(delivery.created_at.div_euclid(DAY), delivery.delivery_id.as_bytes())
}
