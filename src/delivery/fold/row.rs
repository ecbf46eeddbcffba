//! A delivery that has not ended, as it is stored.

use serde::{Deserialize, Serialize};

use super::error::StateError;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::message::Delivery;
use askwhen_wire::row;

/// About how many bytes a delivery takes.
const ROW_BYTES: usize = 1_024;

/// A delivery that has not ended, and what has happened to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingDelivery {
    pub delivery: Delivery,
    /// How many attempts were made.
    pub attempt: u32,
    pub due_at: Millis,
    /// Its offset in topic `deliveries`, by which deliveries go that are due at the same
    /// time. Zero once it is a retry.
    pub place: u64,
    /// Header `source` of its record: the journal record behind it.
    pub source: String,
    /// Start of the first attempt, once there was one.
    pub first_started_at: Option<Millis>,
    pub phase: DeliveryPhase,
    /// How many of the attempts failed on this side of the wire: the retry
    /// policy does not count them. Stored behind the rest, and only when there
    /// are any, so that rows of version 0.1.0 are read as they are.
    #[serde(skip)]
    pub uncounted: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DeliveryPhase {
    /// It waits for its due time, and stands in the due index.
    Due,
    /// An attempt is on record and the retry record that follows is not.
    RetryMissing { next_due_at: Millis },
    /// The last attempt is on record and the dead letter is not.
    DeadMissing { reason: String, died_at: Millis },
    /// It must not be sent any more, and its cancellation is not on record.
    CancelMissing { reason: String },
}

impl PendingDelivery {
    pub(super) fn encode(&self) -> Vec<u8> {
        let bytes = row::encode(self, ROW_BYTES);
        match self.uncounted {
            0 => bytes,
            uncounted => row::encode_behind(&bytes, &uncounted, 0),
        }
    }

    /// # Errors
    /// When the row is not one that was written.
    pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Result<PendingDelivery, StateError> {
        let (mut row, rest): (PendingDelivery, &[u8]) =
            postcard::take_from_bytes(bytes).map_err(StateError::PendingDelivery)?;
        if !rest.is_empty() {
            let (uncounted, rest): (u32, &[u8]) =
                postcard::take_from_bytes(rest).map_err(StateError::PendingDelivery)?;
            if !rest.is_empty() {
                return Err(StateError::RowTail);
            }
            row.uncounted = uncounted;
        }
        if row.delivery.delivery_id.as_bytes() != key {
            return Err(StateError::RowId);
        }
        Ok(row)
    }

    /// Drops the message of a delivery that is not sent any more.
    pub(super) fn forget_message(&mut self) {
        self.delivery.message.data = None;
    }
}
