//! A definition with its version, from the registrar to every partition.

use crate::engine::changes::forward_quota_messages;
use crate::engine::state::Engine;
use askwhen_domain::id::Kind as IdKind;
use askwhen_domain::quota::cap::{Cap, CapKey};
use askwhen_domain::refs::SurveyKey;
use askwhen_partition::{Effects, EngineReply, Failure, Output, RecordContext};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::Defined;
use askwhen_wire::topic::Topic;

/// Installs the definition in this partition.
///
/// # Errors
/// When the store cannot be read, or the definition is of a later version.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: &Defined) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    install(engine, at, command, &mut effects)?;
    Ok(effects)
}

/// Installs a version of a definition, and answers the request behind it.
///
/// # Errors
/// When the store cannot be read, or the definition is of a later version.
pub fn install(
    engine: &mut Engine,
    at: RecordContext<'_>,
    defined: &Defined,
    effects: &mut Effects,
) -> Result<(), Failure> {
    engine.notice_ends(at, effects);
    let surveys = engine.table.definitions.project(&defined.project).map(|project| &project.surveys);
    let was = surveys.and_then(|surveys| surveys.get(&defined.id)).map(|entry| entry.current.status);
    let caps = caps_of(engine, defined);
    let taken = engine.table.take(defined, at.now, at.origin.offset);
    if let Some(command) = taken.map_err(|error| Failure::Refused(std::sync::Arc::new(error)))? {
        effects.outputs.push(Output {
            topic: Topic::Deliveries,
            key: Some(defined.id.clone().into()),
            id: at.origin.id(IdKind::Definition, &[&defined.project, &defined.id, "command"]),
            value: Some(askwhen_wire::topics::encode(&command).into()),
        });
    }
    effects.reply = Some(EngineReply::Defined {
        partition: at.origin.partition,
        of: at.partitions,
        version: defined.version,
        changed: defined.changed,
        created: defined.created,
        used_new_secret: defined.used_new_secret,
    });
    let new_caps = caps_of(engine, defined);
    if caps != new_caps {
        let scope = if defined.kind == Kind::Survey { defined.id.as_str() } else { "" };
        let changed = new_caps.iter().filter(|cap| !caps.contains(cap));
        let keys: Vec<CapKey> = changed.map(|cap| cap.key(&defined.project, scope, None)).collect();
        keys.into_iter().for_each(|key| engine.quotas.caps.forget_refusals(key.cap));
    }
    let project = engine.table.definitions.project(&defined.project);
    let entry = project.filter(|_| defined.kind == Kind::Survey).and_then(|p| p.surveys.get(&defined.id));
    if let Some(entry) = entry {
        let key = SurveyKey::new(defined.project.clone(), defined.id.clone());
        let (version, limit) = (entry.version, entry.current.limits.max_completed);
        forward_quota_messages(engine.quotas.allocator.set_limit(&key, version, limit, at.now), effects);
        engine.resume_pending(at, effects)?;
    }
    engine.definition_closes(at, defined, was, effects);
    Ok(())
}

/// The caps of a survey or of the settings, as they are in force.
fn caps_of(engine: &Engine, defined: &Defined) -> Vec<Cap> {
    let Some(project) = engine.table.definitions.project(&defined.project) else { return Vec::new() };
    match defined.kind {
        Kind::Survey => project.surveys.get(&defined.id).map_or(Vec::new(), |entry| entry.current.limits.caps.clone()),
        Kind::Settings => project.settings.caps.clone(),
        _ => Vec::new(),
    }
}
