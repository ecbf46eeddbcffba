//! Erases a user.

use super::user_record;
use crate::engine::changes::about_name;
use crate::engine::passing;
use crate::engine::registrar::REQUEST_LIFE;
use crate::engine::state::Engine;
use askwhen_domain::record::{Body, Record};
use askwhen_domain::refs::UserRef;
use askwhen_partition::{Effects, EngineReply, Failure, RecordContext};
use askwhen_wire::record::{AliasAction, AliasStep, DecodeError, Erase, Internal};

/// Handles a request, once: a copy of an old record must not erase a user who has come
/// since.
///
/// # Errors
/// When the request is a copy, or the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: Erase) -> Result<Effects, Failure> {
    let Erase { project, user_id, asked_at, request_id } = &command;
    if (at.now - asked_at).abs() > REQUEST_LIFE {
        let detail = "the erasure was asked for long ago; ask anew".into();
        return Err(Failure::Reject(DecodeError { reason: "stale", detail }));
    }
    let request = format!("erase/{asked_at}/{request_id}");
    let is_done = match at.passed_on {
        None => !engine.remembered.is_new(project, user_id, &request, at.now)?,
        Some(_) => engine.was_erased_since(at, project, user_id)?,
    };
    if is_done {
        let reply = Some(EngineReply::Accepted { duplicate: true, response_id: None });
        return Ok(Effects { reply, ..Effects::default() });
    }
    if let Some(passed_on) = engine.sends_back(at, project, user_id)? {
        let name = passed_on.name.clone();
        return Ok(passing::erasure(at, command, &name, Some(passed_on)));
    }
    erase_names(engine, at, command)
}

/// Erases a user's aliases one after the other, then the user, so that records forwarded by
/// an alias before have arrived by then. Erasing an alias erases its user.
///
/// # Errors
/// When the store cannot be read.
pub fn erase_names(engine: &mut Engine, at: RecordContext<'_>, command: Erase) -> Result<Effects, Failure> {
    let found = engine.users.get(&command.project, &command.user_id)?;
    if let Some(owner) = found.alias_of() {
        return Ok(passing::erasure(at, command, owner, None));
    }
    if let Some(alias) = found.aliases().first() {
        let step = AliasStep {
            project: command.project.clone(),
            at: alias.name.clone(),
            alias: alias.name.clone(),
            action: AliasAction::Forget(command),
        };
        return Ok(about_name(at, &alias.name, &Internal::AliasStep(step)));
    }
    erase_name(engine, at, UserRef::new(&command.project, &command.user_id))
}

/// Erases the state under one name.
///
/// # Errors
/// When the store cannot be read.
pub fn erase_name(engine: &mut Engine, at: RecordContext<'_>, user: UserRef<'_>) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    engine.decide_pending_of(at, user, &mut effects)?;
    let (event_id, times) = (None, Default::default());
    let (project, user_id) = (user.project.into(), user.user_id.into());
    let record = Record { project, user_id, event_id, times, body: Body::Erase };
    let erased = user_record::apply(engine, at, &record)?;
    effects.outputs.extend(erased.outputs);
    effects.forwards.extend(erased.forwards);
    effects.reply = erased.reply;
    Ok(effects)
}
