//! A message between the coordinator of a quota and a lease.

use crate::engine::changes::forward_quota_messages;
use crate::engine::state::Engine;
use askwhen_domain::quota::QuotaMessage;
use askwhen_partition::{Effects, Failure, RecordContext};

/// Applies it, and resumes requests that waited for it.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: &QuotaMessage) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    let answers = engine.quotas.allocator.receive(command, at.now);
    forward_quota_messages(answers, &mut effects);
    engine.resume_pending(at, &mut effects)?;
    Ok(effects)
}
