//! What a partition's store holds for the engine.

use askwhen_store::Family;

pub use askwhen_partition::checkpoint::META;

/// Project ‖ 0 ‖ user → state.
pub const USERS: Family = Family::original("users");
/// Hash of an event id → when it was first seen.
pub const DEDUPE: Family = Family::original("dedupe");
/// Hour ‖ hash of an event id → the decision's bytes.
pub const DECIDED: Family = Family::original("decided");
/// Kind/project/id → definitions with their past.
pub const DEFINITIONS: Family = Family::original("definitions");
/// Coordinators and leases of quotas, and requests that wait for a grant.
pub const QUOTAS: Family = Family::original("quotas");

/// A replay's shadow holds the same: it can take the serving state's place.
pub const ALL: &[Family] = &[USERS, DEDUPE, DECIDED, DEFINITIONS, QUOTAS, META];
