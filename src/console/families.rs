//! What the store of the lists holds.

use askwhen_store::Family;

/// Places in time, of all and of each user → ids.
pub const ENTRIES: Family = Family::original("entries");
/// Ids → rows; counters, facts and erasures.
pub const INDEX: Family = Family::original("index").probed();
/// Positions in the topics, incarnation, format.
pub const META: Family = Family::original("meta");

pub const ALL: &[Family] = &[ENTRIES, INDEX, META];
