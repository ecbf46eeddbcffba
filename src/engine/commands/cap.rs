//! Something that the counter of a cap, or a partition that asks it, has to say.

use crate::engine::state::Engine;
use askwhen_domain::quota::cap::CapMessage;
use askwhen_partition::{Effects, Failure, RecordContext};

/// Takes it, and serves those who have waited for it.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: CapMessage) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    engine.send_caps(vec![command], at.now, &mut effects);
    if engine.quotas.anyone_waits() {
        engine.resume_pending(at, &mut effects)?;
    }
    Ok(effects)
}
