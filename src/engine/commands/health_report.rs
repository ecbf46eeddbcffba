//! How an endpoint fares: from a delivery to the registrar, and with a number from
//! there to every partition.

use crate::engine::outputs;
use crate::engine::registrar::{REQUEST_LIFE, health_output, tell_others};
use crate::engine::state::Engine;
use crate::engine::table::Table;
use askwhen_domain::json::Json;
use askwhen_domain::time;
use askwhen_partition::{Effects, Failure, RecordContext};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{EndpointHealthReport, Internal};
use askwhen_wire::topics::DefinitionRecord;

/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: EndpointHealthReport) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    let told = match command.seq {
        Some(_) => Some(command),
        None if !is_first(engine, at, &command)? => None,
        None => registered(&engine.table, at, command, &mut effects),
    };
    effects.outputs.extend(told.and_then(|fares| outputs::fares(at, fares)));
    Ok(effects)
}

/// Whether a process reports this of an endpoint for the first time: a copy of
/// its record must not bring back what was.
fn is_first(
    engine: &mut Engine,
    at: RecordContext<'_>,
    fares: &EndpointHealthReport,
) -> Result<bool, askwhen_store::Error> {
    let request = format!("fares/{}/{}", fares.told_at, fares.by);
    engine.remembered.is_new((&fares.project, &fares.endpoint_id), &request, at.now)
}

/// How an endpoint fares, as every partition is to take it; `None` when there
/// is no such endpoint, or it is said of long ago.
fn registered(
    table: &Table,
    at: RecordContext<'_>,
    mut fares: EndpointHealthReport,
    effects: &mut Effects,
) -> Option<EndpointHealthReport> {
    let row = table.row(&fares.project, Kind::Endpoint, &fares.endpoint_id);
    if row.is_none_or(|row| row.body.is_none()) || (at.now - fares.told_at).abs() > REQUEST_LIFE {
        return None;
    }
    fares.seq = Some(at.origin.offset);
    let record = DefinitionRecord {
        kind: Kind::Health,
        project: fares.project.clone(),
        id: fares.endpoint_id.clone(),
        version: at.origin.offset,
        body: Json::of(&fares.health),
        updated_at: time::format_time(at.now),
    };
    effects.outputs.push(health_output(at, (&fares.project, &fares.endpoint_id), Some(&record)));
    tell_others(&Internal::EndpointHealthReport(fares.clone()), false, at, effects);
    Some(fares)
}
