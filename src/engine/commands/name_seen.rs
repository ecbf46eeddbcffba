//! A report to the registrar of an event or trigger name that a partition met for the first
//! time.

use crate::engine::registrar::write_out;
use crate::engine::state::Engine;
use crate::engine::table::{ListedName, Table, listed_name};
use askwhen_domain::definitions::MAX_NAMES;
use askwhen_domain::json::Json;
use askwhen_partition::{Effects, RecordContext};
use askwhen_wire::definition::{Kind, Trigger};
use askwhen_wire::record::Defined;

pub fn apply(engine: &mut Engine, at: RecordContext<'_>, project: &str, trigger: Trigger) -> Effects {
    let mut effects = Effects::default();
    list(&mut engine.table, at, project, trigger, &mut effects);
    effects
}

/// Lists a name, unless it is listed already. One that was created before it came keeps its
/// name and kind, and is said to have come.
pub fn list(table: &mut Table, at: RecordContext<'_>, project: &str, trigger: Trigger, effects: &mut Effects) {
    let (trigger, created) = match listed_name(table, project, &trigger.trigger_id) {
        ListedName::Seen => return,
        ListedName::Created(listed) => (Trigger { first_seen_at: trigger.first_seen_at, ..listed }, false),
        ListedName::None if table.count(project, Kind::Trigger) >= MAX_NAMES => return,
        ListedName::None => (trigger, true),
    };
    let version = table.row(project, Kind::Trigger, &trigger.trigger_id).map_or(0, |row| row.version) + 1;
    let defined = Defined {
        project: project.to_owned(),
        kind: Kind::Trigger,
        id: trigger.trigger_id.clone(),
        version,
        changed: true,
        created,
        used_new_secret: false,
        body: Some(Json::of(&trigger)),
        actor: None,
    };
    write_out(&defined, at, effects);
    table.take(&defined, at.now, at.origin.offset).expect("a trigger's body is not parsed");
}
