//! Topic `deliveries`: messages for endpoints, and changes of endpoints.

use serde::{Deserialize, Serialize};

use askwhen_domain::json::Json;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::health::Health;
use askwhen_domain::webhook::message::Delivery;

/// A record from the engine to the delivery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryRecord {
    Deliver(Box<Delivery>),
    /// The endpoint's definition from here on; without a body it is removed.
    Endpoint {
        project: String,
        endpoint_id: String,
        version: u64,
        body: Option<Json>,
    },
    /// The endpoint's health from here on.
    Health {
        project: String,
        endpoint_id: String,
        /// A larger one is newer.
        seq: u64,
        /// The process that reported it.
        by: String,
        health: Health,
    },
    /// Cancels all deliveries of a user that still wait, except messages of an erasure.
    CancelUser {
        project: String,
        user_id: String,
    },
    /// An operator skips a record of a topic that the delivery reads, in this partition. The
    /// record has header `skip`, because whoever takes the partition up looks for it first.
    Skip {
        topic: String,
        offset: u64,
        asked_at: Millis,
    },
}
