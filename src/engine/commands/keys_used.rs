//! A report to the registrar of when keys were last used. It is written to topic
//! `definitions` for operators and takes part in no decision.

use crate::engine::registrar::REQUEST_LIFE;
use askwhen_domain::id::Kind as IdKind;
use askwhen_domain::json::Json;
use askwhen_domain::time;
use askwhen_partition::{Effects, Output, RecordContext};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::KeyUse;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, DefinitionRecord, definition_key};
use serde_json::json;

pub fn apply(at: RecordContext<'_>, uses: &[KeyUse]) -> Effects {
    let mut effects = Effects::default();
    // A copy of an old record must not restore an old time.
    let is_recent = |used: &&KeyUse| (at.now - used.last_used_at).abs() <= REQUEST_LIFE;
    for KeyUse { project, key_id, last_used_at } in uses.iter().filter(is_recent) {
        let record = DefinitionRecord {
            kind: Kind::KeyUse,
            project: project.clone(),
            id: key_id.clone(),
            version: at.origin.offset,
            body: Json::of(&json!({"last_used_at": time::format_time(*last_used_at)})),
            updated_at: time::format_time(at.now),
            actor: None,
        };
        effects.outputs.push(Output {
            topic: Topic::Definitions,
            key: Some(definition_key(project, Kind::KeyUse, key_id).into()),
            id: at.origin.id(IdKind::Definition, &[project, Kind::KeyUse.name(), key_id]),
            value: Some(topics::encode(&record).into()),
        });
    }
    effects
}
