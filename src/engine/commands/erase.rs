//! The user is to be forgotten.

use super::user_record;
use crate::engine::registrar::REQUEST_LIFE;
use crate::engine::state::Engine;
use askwhen_domain::record::{Body, Record};
use askwhen_domain::refs::UserRef;
use askwhen_partition::{Effects, EngineReply, Failure, RecordContext};
use askwhen_wire::record::{DecodeError, Erase};

/// Erases a user, once for each request: a copy of an old record must not erase
/// whoever has come since.
///
/// # Errors
/// When the request is a copy, or the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: Erase) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    let Erase { project, user_id, asked_at, request_id } = command;
    if (at.now - asked_at).abs() > REQUEST_LIFE {
        let detail = "the erasure was asked for long ago; ask anew".into();
        return Err(Failure::Reject(DecodeError { reason: "stale", detail }));
    }
    let request = format!("erase/{asked_at}/{request_id}");
    if !engine.remembered.is_new(&project, &user_id, &request, at.now)? {
        effects.reply = Some(EngineReply::Accepted { duplicate: true, response_id: None });
        return Ok(effects);
    }
    engine.decide_pending_of(at, UserRef::new(&project, &user_id), &mut effects)?;
    let (event_id, times) = (None, Default::default());
    let record = Record { project: project.into(), user_id: user_id.into(), event_id, times, body: Body::Erase };
    let erased = user_record::apply(engine, at, &record)?;
    effects.outputs.extend(erased.outputs);
    effects.forwards.extend(erased.forwards);
    effects.reply = erased.reply;
    Ok(effects)
}
