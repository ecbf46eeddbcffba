//! A request to the registrar (partition 0) to create, change or remove a definition.

use crate::engine::commands::defined;
use crate::engine::endpoint_secrets::with_secret;
use crate::engine::registrar::{emit_definition, is_new, refused};
use crate::engine::state::Engine;
use crate::engine::table::Table;
use askwhen_domain::json::Json;
use askwhen_partition::{Effects, EngineReply, Failure, RecordContext};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{Define, Defined};

/// The most definitions of one kind in one project.
const MAX_DEFINITIONS: usize = 10_000;

/// Decides on the request: it is refused, or gets the version that every partition is to
/// install.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: &Define) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    if is_new(&mut engine.table, at, &command.request_id, command.asked_at, &mut effects) {
        let decision = decide(&engine.table, command);
        if let Some(defined) = emit_definition(&engine.table, decision, false, at, &mut effects) {
            defined::install(engine, at, &defined, &mut effects)?;
        }
    }
    Ok(effects)
}

fn decide(table: &Table, define: &Define) -> Result<Defined, EngineReply> {
    let current = table.row(&define.project, define.kind, &define.id);
    let body_now = current.and_then(|row| row.body.as_deref());
    let version_now = current.map_or(0, |row| row.version);
    if define.if_match.is_some_and(|wanted| body_now.is_none() || wanted != version_now) {
        return Err(refused("precondition_failed", "the definition has another version by now; read it again"));
    }
    if define.create && body_now.is_some() {
        return Err(refused("taken", "this id is in use"));
    }
    if body_now.is_none() && table.count(&define.project, define.kind) >= MAX_DEFINITIONS {
        return Err(refused("invalid", "the project has 10000 definitions of this kind; it cannot have more"));
    }
    let (body, used_new_secret) = match (&define.body, body_now) {
        (None, None) => return Err(refused("not_found", "there is no such definition")),
        (None, Some(old)) if define.kind == Kind::Survey => (Some(archived(old)), false),
        (None, Some(_)) => (None, false),
        (Some(new), old) if define.kind == Kind::Endpoint => {
            let (body, used) = with_secret(new, old, define.new_secret.as_ref())?;
            let tls = body.value()["tls"].clone();
            if tls["client_cert"].is_string() && tls["client_key"].is_null() {
                let detail = "client_key is required with a new client_cert".into();
                return Err(EngineReply::Refused {
                    code: "invalid".into(),
                    pointer: Some("/tls/client_key".into()),
                    detail,
                });
            }
            (Some(body), used)
        }
        (Some(new), _) => (Some(new.clone()), false),
    };
    let changed = body.as_ref() != body_now;
    Ok(Defined {
        project: define.project.clone(),
        kind: define.kind,
        id: define.id.clone(),
        version: if changed { version_now + 1 } else { version_now },
        changed,
        created: body_now.is_none(),
        used_new_secret,
        body,
        actor: define.actor.clone(),
    })
}

fn archived(survey: &Json) -> Json {
    let mut value = survey.value();
    value["status"] = "archived".into();
    Json::of(&value)
}
