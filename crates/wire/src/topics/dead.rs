//! Topic `dead`: deliveries that were given up.

use serde::{Deserialize, Serialize};

use askwhen_domain::time::Millis;
use askwhen_domain::webhook::message::Delivery;

/// A delivery that was given up, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadRecord {
    pub delivery: Box<Delivery>,
    pub attempts: u32,
    pub reason: String,
    pub died_at: Millis,
}
