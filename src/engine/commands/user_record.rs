//! A record about a user, which any producer may write: an event, a trigger, a display,
//! answers and so on.

use super::name_seen;
use crate::engine::changes::to_partition;
use crate::engine::state::Engine;
use askwhen_domain::record::{Body, Record};
use askwhen_domain::time;
use askwhen_partition::{Effects, Failure, RecordContext};
use askwhen_wire::definition::{Trigger, TriggerKind};
use askwhen_wire::record::Internal;

/// Applies it, or lets it wait for a grant.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, record: &Record<'_>) -> Result<Effects, Failure> {
    if let Some(metrics) = engine.metrics() {
        metrics.engine_records.with_label_values(&[record.body.kind()]).inc();
    }
    if askwhen_process::fault::mutant("skip_dedupe") && record.event_id.is_some() {
        return apply(engine, at, &Record { event_id: None, ..record.clone() });
    }
    let mut effects = engine.decide_or_wait(at, record)?;
    // Last, so that a record that panics does not mark its name as met.
    report_name(engine, at, record, &mut effects);
    Ok(effects)
}

/// Reports a name that is met for the first time to the registrar.
fn report_name(engine: &mut Engine, at: RecordContext<'_>, record: &Record<'_>, effects: &mut Effects) {
    let (name, kind) = match &record.body {
        Body::Event { name, .. } => (name, TriggerKind::Backend),
        Body::Trigger { trigger, .. } => (trigger, TriggerKind::Frontend),
        _ => return,
    };
    if !engine.table.add_name(&record.project, name) {
        return;
    }
    let trigger = Trigger {
        trigger_id: name.to_string(),
        name: name.to_string(),
        kind,
        first_seen_at: Some(time::format_time(at.now)),
    };
    if at.origin.partition == 0 {
        name_seen::list(&mut engine.table, at, &record.project, trigger, effects);
    } else {
        let seen = Internal::NameSeen { project: record.project.to_string(), trigger };
        effects.forwards.push(to_partition(0, &seen, false));
    }
}
