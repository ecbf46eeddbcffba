//! A message between the counter of a cap and a partition.

use crate::engine::state::Engine;
use askwhen_domain::quota::cap::CapMessage;
use askwhen_partition::{Effects, Failure, RecordContext};

/// Applies it, and resumes requests that waited for it.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: CapMessage) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    engine.send_caps(vec![command], at.now, &mut effects)?;
    if engine.quotas.anyone_waits() {
        engine.resume_pending(at, &mut effects)?;
    }
    Ok(effects)
}
