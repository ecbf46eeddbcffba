//! What the commands of the registrar share. The registrar is partition 0: it gives
//! definitions their versions (the same content keeps its version, any other gets the
//! next), and tells all partitions.

use serde_json::Value;

use super::changes::to_partition;
use super::outputs;
use super::table::Table;
use askwhen_domain::id::Kind as IdKind;
use askwhen_domain::json::Json;
use askwhen_domain::refs::EndpointRef;
use askwhen_domain::time::{MINUTE, Millis};
use askwhen_domain::webhook::health::Health;
use askwhen_partition::{Effects, EngineReply, Output, RecordContext};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{Defined, EndpointHealthReport, Internal};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, DefinitionRecord, KEPT_VERSIONS, definition_key, version_key};

/// The maximum age of a request, in milliseconds; an older one is a copy of an old record.
pub const REQUEST_LIFE: Millis = 10 * MINUTE;
const MAX_REQUESTS: usize = 10_000;

/// Whether a request is new; it is remembered. A copy or an old one is refused.
pub fn is_new(
    table: &mut Table,
    at: RecordContext<'_>,
    request_id: &str,
    asked_at: Millis,
    effects: &mut Effects,
) -> bool {
    let before = table.requests.len();
    // In both directions, because an operator may have put the time back.
    table.requests.retain(|(_, asked_at)| (at.now - asked_at).abs() < 2 * REQUEST_LIFE);
    table.dirty_requests |= table.requests.len() != before;
    let known = table.requests.iter().any(|(id, _)| *id == request_id);
    if known || (at.now - asked_at).abs() > REQUEST_LIFE || table.requests.len() >= MAX_REQUESTS {
        effects.reply = Some(refused("overloaded", "the request is a repetition, or too old; send it anew"));
        return false;
    }
    table.requests.push((request_id.to_owned(), asked_at));
    table.dirty_requests = true;
    true
}

pub fn emit_definition(
    table: &Table,
    decision: Result<Defined, EngineReply>,
    enabled: bool,
    at: RecordContext<'_>,
    effects: &mut Effects,
) -> Option<Defined> {
    match decision {
        Err(refusal) => {
            effects.reply = Some(refusal);
            None
        }
        Ok(defined) => {
            if defined.changed {
                write_out(&defined, at, effects);
            }
            if defined.changed || enabled {
                begin_anew(table, &defined, enabled, at, effects);
            }
            notify_partitions(&Internal::Defined(defined.clone()), true, at, effects);
            Some(defined)
        }
    }
}

/// Resets the health of an endpoint that is removed, comes back, gets another URL or is
/// enabled.
fn begin_anew(table: &Table, defined: &Defined, enabled: bool, at: RecordContext<'_>, effects: &mut Effects) {
    let row = table.row(&defined.project, defined.kind, &defined.id);
    let (Kind::Endpoint, Some(row)) = (defined.kind, row) else { return };
    let before = row.body.as_deref().map(Json::value).unwrap_or_default();
    let after = defined.body.as_ref().map(Json::value).unwrap_or_default();
    let on = |body: &Value| body["enabled"] == true && body["disabled"].is_null();
    if !enabled && before["url"] == after["url"] && (on(&before) || !on(&after)) {
        return;
    }
    effects.outputs.push(health_output(at, EndpointRef::new(&defined.project, &defined.id), None));
    let report = EndpointHealthReport {
        project: defined.project.clone(),
        endpoint_id: defined.id.clone(),
        health: Health::anew(at.now),
        by: String::new(),
        reported_at: at.now,
        seq: Some(at.origin.offset),
    };
    notify_partitions(&Internal::EndpointHealthReport(report.clone()), false, at, effects);
    effects.outputs.extend(outputs::health(at, report));
}

pub fn health_output(at: RecordContext<'_>, endpoint: EndpointRef<'_>, record: Option<&DefinitionRecord>) -> Output {
    let EndpointRef { project, endpoint_id: id } = endpoint;
    Output {
        topic: Topic::Definitions,
        key: Some(definition_key(project, Kind::Health, id).into()),
        id: at.origin.id(IdKind::Definition, &[project, Kind::Health.name(), id]),
        value: record.map(|record| topics::encode(record).into()),
    }
}

pub fn refused(code: &'static str, detail: &str) -> EngineReply {
    EngineReply::Refused { code: code.into(), pointer: None, detail: detail.into() }
}

pub fn write_out(defined: &Defined, at: RecordContext<'_>, effects: &mut Effects) {
    effects.outputs.push(Output {
        topic: Topic::Definitions,
        key: Some(definition_key(&defined.project, defined.kind, &defined.id).into()),
        id: at.origin.id(IdKind::Definition, &[&defined.project, defined.kind.name(), &defined.id]),
        value: DefinitionRecord::of(defined, at.now).map(|record| topics::encode(&record).into()),
    });
    if defined.kind == Kind::Survey {
        write_version(defined, at, effects);
    }
}

/// Writes a version of a survey for operators, and removes the one that is too old.
fn write_version(defined: &Defined, at: RecordContext<'_>, effects: &mut Effects) {
    let mut write = |version: u64, value: Option<bytes::Bytes>| {
        effects.outputs.push(Output {
            topic: Topic::Definitions,
            key: Some(version_key(&defined.project, &defined.id, version).into()),
            id: at
                .origin
                .id(IdKind::Definition, &[&defined.project, "survey_version", &defined.id, &version.to_string()]),
            value,
        });
    };
    write(defined.version, DefinitionRecord::of(defined, at.now).map(|record| topics::encode(&record).into()));
    if let Some(old) = defined.version.checked_sub(KEPT_VERSIONS).filter(|old| *old > 0) {
        write(old, None);
    }
}

/// Forwards to every other partition a record of its own.
pub fn notify_each(at: RecordContext<'_>, effects: &mut Effects, internal: impl Fn(u32) -> Internal) {
    let others = (0..at.partitions).filter(|partition| *partition != at.origin.partition);
    effects.forwards.extend(others.map(|partition| to_partition(partition, &internal(partition), false)));
}

/// Forwards the same record to every other partition; this one has applied it.
pub fn notify_partitions(internal: &Internal, answers: bool, at: RecordContext<'_>, effects: &mut Effects) {
    effects.forwards.extend((1..at.partitions).map(|partition| to_partition(partition, internal, answers)));
}
