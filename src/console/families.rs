//! The column families of the lists' store.

use askwhen_store::Family;

/// Index entries by time, for all and for each user → ids.
pub const ENTRIES: Family = Family::original("entries");
/// Ids → rows; counters, facts and erasures.
pub const INDEX: Family = Family::original("index").probed();
/// Positions in the topics, incarnation, format.
pub const META: Family = Family::original("meta");

pub const ALL: &[Family] = &[ENTRIES, INDEX, META];
