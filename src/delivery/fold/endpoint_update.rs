//! What the topics tell of endpoints.

use serde::{Deserialize, Serialize};

use askwhen_domain::json::Json;
use askwhen_domain::webhook::health::Health;
use askwhen_store::keys;

/// What is known of an endpoint: its definition, how it fares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointUpdate {
    pub project: String,
    pub endpoint_id: String,
    pub what: EndpointChange,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EndpointChange {
    /// Without a body it is gone.
    Defined { version: u64, body: Option<Json> },
    #[serde(rename = "Fares")]
    Health { seq: u64, by: String, health: Health },
}

impl EndpointUpdate {
    /// Where it is kept, and its place among those kept there before and after.
    pub(super) fn key(&self) -> (Vec<u8>, u64) {
        let named = keys::named(&self.project, &self.endpoint_id);
        match &self.what {
            EndpointChange::Defined { version, .. } => ([b"d", named.as_slice()].concat(), *version),
            EndpointChange::Health { seq, .. } => ([b"h", named.as_slice()].concat(), *seq),
        }
    }
}
