//! Something that the bank of a quota, or one of its customers, has to say.

use crate::engine::changes::post;
use crate::engine::state::Engine;
use askwhen_domain::quota::Mail;
use askwhen_partition::{Effects, Failure, Moment};

/// Takes it, and serves those who have waited for it.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: Moment<'_>, command: &Mail) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    let answers = engine.quotas.ledger.receive(command, at.now);
    post(answers, &mut effects);
    engine.serve_parked(at, &mut effects)?;
    Ok(effects)
}
