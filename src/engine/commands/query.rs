//! A read of one user: an offer, a link survey, or the whole state.

use super::user_record;
use crate::engine::pending::read_record;
use crate::engine::state::Engine;
use askwhen_partition::{Effects, Failure, RecordContext};
use askwhen_wire::record::Query;

/// Answers the read.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: Query) -> Result<Effects, Failure> {
    user_record::apply(engine, at, &read_record(command))
}
