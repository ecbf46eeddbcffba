//! The column families of the engine in a partition's store.

use askwhen_store::Family;

pub use askwhen_partition::checkpoint::META;

/// Project ‖ 0 ‖ user id → state.
pub const USERS: Family = Family::original("users").probed();
/// Hash of an event id → when it was first seen.
pub const DEDUPE: Family = Family::original("dedupe").probed();
/// Hour ‖ hash of an event id → the decision's bodies.
pub const DECIDED: Family = Family::original("decided").probed();
/// Kind/project/id → a definition with its earlier versions.
pub const DEFINITIONS: Family = Family::original("definitions");
/// Coordinators and leases of quotas, and requests that wait for a grant.
pub const QUOTAS: Family = Family::original("quotas");

/// The same for the shadow of a replay, which can replace the serving state.
pub const ALL: &[Family] = &[USERS, DEDUPE, DECIDED, DEFINITIONS, QUOTAS, META];
