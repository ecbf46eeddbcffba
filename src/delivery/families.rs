//! The families of a delivery store; `‖` joins the parts of a key.

use askwhen_store::Family;

/// Delivery id → the row of a delivery that has not ended, with its message.
pub const WAITING: Family = Family::original("waiting");
/// Queue ‖ due time ‖ place ‖ delivery id → whether it has had no attempt, ordering key.
pub const DUE: Family = Family::original("due");
/// Day ‖ delivery id of a delivery that has ended → nothing.
pub const DONE: Family = Family::original("done").probed();
/// Project ‖ 0 ‖ endpoint id → the newest definition, and the newest health.
pub const ENDPOINTS: Family = Family::original("endpoints");
/// Positions in the topics.
pub const META: Family = Family::original("meta");

pub const ALL: &[Family] = &[WAITING, DUE, DONE, ENDPOINTS, META];
