//! What a partition's store holds for the delivery.

use askwhen_store::Family;

/// Delivery id → what waits, with its message.
pub const WAITING: Family = Family::original("waiting");
/// Queue ‖ due ‖ place ‖ delivery id.
pub const DUE: Family = Family::original("due");
/// Day ‖ delivery id of what has ended.
pub const DONE: Family = Family::original("done");
/// Project ‖ 0 ‖ endpoint id → definition, and health.
pub const ENDPOINTS: Family = Family::original("endpoints");
/// Positions in the topics.
pub const META: Family = Family::original("meta");

pub const ALL: &[Family] = &[WAITING, DUE, DONE, ENDPOINTS, META];
