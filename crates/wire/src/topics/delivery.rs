//! Topic `deliveries`: a message for an endpoint, or a command.

use serde::{Deserialize, Serialize};

use askwhen_domain::json::Json;
use askwhen_domain::webhook::health::Health;
use askwhen_domain::webhook::message::Delivery;

/// What the engine tells the delivery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryRecord {
    Deliver(Box<Delivery>),
    /// The endpoint's definition from here on; without a body it is gone.
    Endpoint {
        project: String,
        endpoint_id: String,
        version: u64,
        body: Option<Json>,
    },
    /// How an endpoint fares from here on.
    Health {
        project: String,
        endpoint_id: String,
        /// The larger, the newer.
        seq: u64,
        /// Which process found out.
        by: String,
        health: Health,
    },
    /// Everything that waits of this user is cancelled, but for what tells of
    /// an erasure.
    CancelUser {
        project: String,
        user_id: String,
    },
}
