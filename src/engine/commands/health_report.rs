//! The health of an endpoint: reported by a delivery to the registrar, and by the registrar
//! with a number to every partition.

use crate::engine::outputs;
use crate::engine::registrar::{REQUEST_LIFE, health_output, notify_partitions};
use crate::engine::state::Engine;
use crate::engine::table::Table;
use askwhen_domain::json::Json;
use askwhen_domain::refs::EndpointRef;
use askwhen_domain::time;
use askwhen_partition::{Effects, Failure, RecordContext};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{EndpointHealthReport, Internal};
use askwhen_wire::topics::DefinitionRecord;

/// Applies a report, or in the registrar numbers it and passes it on.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: EndpointHealthReport) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    let numbered = match command.seq {
        Some(_) => Some(command),
        None if !is_first(engine, at, &command)? => None,
        None => registered(&engine.table, at, command, &mut effects),
    };
    effects.outputs.extend(numbered.and_then(|report| outputs::health(at, report)));
    Ok(effects)
}

/// Whether a process makes this report for the first time: a copy of an old record must not
/// restore an old health.
fn is_first(
    engine: &mut Engine,
    at: RecordContext<'_>,
    report: &EndpointHealthReport,
) -> Result<bool, askwhen_store::Error> {
    let request = format!("fares/{}/{}", report.reported_at, report.by);
    engine.remembered.is_new(&report.project, &report.endpoint_id, &request, at.now)
}

/// The health of an endpoint, numbered for every partition; `None` when there is no such
/// endpoint, or the report is old.
fn registered(
    table: &Table,
    at: RecordContext<'_>,
    mut report: EndpointHealthReport,
    effects: &mut Effects,
) -> Option<EndpointHealthReport> {
    let row = table.row(&report.project, Kind::Endpoint, &report.endpoint_id);
    if row.is_none_or(|row| row.body.is_none()) || (at.now - report.reported_at).abs() > REQUEST_LIFE {
        return None;
    }
    report.seq = Some(at.origin.offset);
    let record = DefinitionRecord {
        kind: Kind::Health,
        project: report.project.clone(),
        id: report.endpoint_id.clone(),
        version: at.origin.offset,
        body: Json::of(&report.health),
        updated_at: time::format_time(at.now),
        actor: None,
    };
    effects.outputs.push(health_output(at, EndpointRef::new(&report.project, &report.endpoint_id), Some(&record)));
    notify_partitions(&Internal::EndpointHealthReport(report.clone()), false, at, effects);
    Some(report)
}
