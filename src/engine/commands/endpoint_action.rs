//! A request to the registrar to change the state or the secret of an endpoint.

use crate::engine::commands::defined;
use crate::engine::endpoint_secrets::EndpointSecrets;
use crate::engine::registrar::{emit_definition, is_new, refused};
use crate::engine::state::Engine;
use crate::engine::table::Table;
use askwhen_domain::webhook::endpoint::{Disabled, PreviousSecret};
use askwhen_partition::{Effects, EngineReply, Failure, RecordContext};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{Defined, EndpointAction, EndpointCommand};

/// The most earlier secrets that still sign.
const MAX_PREVIOUS: usize = 5;

/// Decides on the request, as [`define`](super::define) does: the result is another version
/// of the endpoint's definition.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: &EndpointCommand) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    if is_new(&mut engine.table, at, &command.request_id, command.asked_at, &mut effects) {
        let decision = decide(&engine.table, at, command);
        let enables = matches!(command.act, EndpointAction::Enable);
        if let Some(defined) = emit_definition(&engine.table, decision, enables, at, &mut effects) {
            defined::install(engine, at, &defined, &mut effects)?;
        }
    }
    Ok(effects)
}

fn decide(table: &Table, at: RecordContext<'_>, command: &EndpointCommand) -> Result<Defined, EngineReply> {
    let row = table.row(&command.project, Kind::Endpoint, &command.endpoint_id);
    let Some((old, version)) = row.and_then(|row| Some((row.body.as_deref()?, row.version))) else {
        return Err(refused("not_found", "there is no such endpoint"));
    };
    if command.if_match.is_some_and(|wanted| wanted != version) {
        return Err(refused("precondition_failed", "the definition has another version by now; read it again"));
    }
    let mut value = old.value();
    let mut kept = EndpointSecrets::of(old);
    match &command.act {
        EndpointAction::Enable => {
            value["enabled"] = true.into();
            kept.disabled = None;
        }
        EndpointAction::Disable { reason } => {
            kept.disabled.get_or_insert(Disabled { reason: *reason, since_ms: at.now });
        }
        EndpointAction::Rotate { secret, overlap } => {
            let same = kept.secret.as_ref().is_some_and(|old| old.digest == secret.digest);
            if !same {
                kept.previous.retain(|before| before.until_ms > at.now);
                match kept.secret.replace(secret.clone()) {
                    Some(before) if *overlap > 0 => {
                        let until_ms = at.now.saturating_add(*overlap);
                        kept.previous.insert(0, PreviousSecret { secret: before, until_ms });
                        kept.previous.truncate(MAX_PREVIOUS);
                    }
                    // Without an overlap no earlier secret signs any more.
                    _ => kept.previous.clear(),
                }
            }
        }
    }
    let body = kept.put_into(&mut value);
    let changed = body != *old;
    Ok(Defined {
        project: command.project.clone(),
        kind: Kind::Endpoint,
        id: command.endpoint_id.clone(),
        version: if changed { version + 1 } else { version },
        changed,
        created: false,
        used_new_secret: false,
        body: Some(body),
        actor: command.actor.clone(),
    })
}
