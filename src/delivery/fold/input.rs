//! Decodes records of the delivery's topics. It looks at the record alone, so that
//! damage of the store can never make a record a reject.

use serde::de::DeserializeOwned;

use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{AttemptRecord, DeadRecord, DeliveryRecord, RetryRecord};

/// A record that cannot be read. It becomes a reject, and the next one is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct DecodeError(String);

/// A record of one of the delivery's topics.
pub(super) enum FoldInput {
    Deliveries(DeliveryRecord),
    Attempt(Box<AttemptRecord>),
    Retry(RetryRecord),
    Dead(DeadRecord),
}

impl FoldInput {
    /// # Errors
    /// What is wrong with the record's value.
    pub(super) fn decode(topic: Topic, record: &askwhen_log::Record) -> Result<FoldInput, DecodeError> {
        Ok(match topic {
            Topic::Deliveries => FoldInput::Deliveries(decode(record)?),
            Topic::Attempts => FoldInput::Attempt(Box::new(decode(record)?)),
            Topic::Dead => FoldInput::Dead(decode(record)?),
            _ => FoldInput::Retry(decode(record)?),
        })
    }
}

fn decode<T: DeserializeOwned>(record: &askwhen_log::Record) -> Result<T, DecodeError> {
    serde_json::from_slice(record.value.as_deref().unwrap_or_default()).map_err(|e| DecodeError(e.to_string()))
}
