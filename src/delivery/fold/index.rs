//! How the due index is spelled: a line for each endpoint, then time, then the
//! order of the topic.

use super::error::StateError;
use super::row::PendingDelivery;
use askwhen_domain::message::Delivery;
use askwhen_domain::time::{DAY, Millis};
use askwhen_store::keys;

/// Where the delivery's id begins in a key: behind line, time and place.
const ID_AT: usize = 24;

/// An entry of the due index: enough to know whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub key: Vec<u8>,
    /// It has had no attempt.
    pub first: bool,
    /// Hash of endpoint and user.
    pub ordering_key: u64,
}

impl Due {
    pub(super) fn new(row: &PendingDelivery) -> Due {
        let queue_id = line_of(&row.delivery);
        let ordering_key = xxhash_rust::xxh3::xxh3_64_with_seed(row.delivery.user_id.as_bytes(), queue_id);
        Due { key: due_key(row), first: row.attempt == 0, ordering_key }
    }

    /// # Errors
    /// When the entry is not one that was written: read as another it would never
    /// be sent.
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

/// What waits at one endpoint waits in one line; an operator's tests wait in one
/// of their own.
pub fn line_of(delivery: &Delivery) -> u64 {
    queue_id(&delivery.project, &delivery.endpoint_id, delivery.test_for.is_some())
}

pub fn queue_id(project: &str, endpoint_id: &str, test: bool) -> u64 {
    let named = keys::named(project, endpoint_id);
    xxhash_rust::xxh3::xxh3_64_with_seed(&named, u64::from(test))
}

pub fn due_key(row: &PendingDelivery) -> Vec<u8> {
    let rest = [&row.place.to_be_bytes(), row.delivery.delivery_id.as_bytes()].concat();
    [line_of(&row.delivery).to_be_bytes().as_slice(), &keys::timed(row.due_at, &rest)].concat()
}

/// Before everything of a line that is due then, behind everything due earlier.
pub fn before(queue_id: u64, due_at: Millis) -> Vec<u8> {
    [queue_id.to_be_bytes().as_slice(), &keys::timed(due_at, &[])].concat()
}

/// Line and time of a key of the due index.
pub fn split(key: &[u8]) -> (u64, Millis) {
    let queue_id = key.get(..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
    (queue_id, key.get(8..).and_then(keys::time_of).unwrap_or(0))
}

/// The delivery of a key of the due index.
pub fn due_id(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(ID_AT..).unwrap_or_default()).into_owned()
}

pub(super) fn done_key(delivery: &Delivery) -> Vec<u8> {
    keys::timed(delivery.created_at.div_euclid(DAY), delivery.delivery_id.as_bytes())
}
