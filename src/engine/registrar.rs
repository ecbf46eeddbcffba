//! Partition 0 gives definitions their versions: the same content keeps its
//! version, every other one gets the next, and all partitions are told.

use super::table::{Table, knows_trigger};
use super::to_partition;
use crate::actor::{Answer, Effects, Moment, Output};
use crate::domain::definitions::MAX_NAMES;
use crate::domain::endpoint::SealedSecret;
use crate::domain::id::Kind as IdKind;
use crate::domain::json::Json;
use crate::domain::time::{MINUTE, Millis};
use crate::wire::definition::{Kind, Trigger};
use crate::wire::output::{self, DefinitionRecord, definition_key};
use crate::wire::record::{Define, Defined, Internal};
use crate::wire::topic::Topic;

/// A request asked longer ago is a copy of an old record.
const REQUEST_LIFE: Millis = 10 * MINUTE;
const MAX_REQUESTS: usize = 10_000;
/// Surveys, endpoints, … of one project.
const MAX_DEFINITIONS: usize = 10_000;

/// Judges a request; gives what every partition is to take, or a refusal as
/// the reply in `effects`.
pub fn define(table: &mut Table, at: Moment<'_>, define: Define, effects: &mut Effects) -> Option<Defined> {
    let before = table.requests.len();
    table.requests.retain(|(_, asked_at)| at.now - asked_at < 2 * REQUEST_LIFE);
    table.dirty_requests |= table.requests.len() != before;
    let known = table.requests.iter().any(|(id, _)| *id == define.request_id);
    if known || (at.now - define.asked_at).abs() > REQUEST_LIFE || table.requests.len() >= MAX_REQUESTS {
        effects.reply = Some(refused("overloaded", "the request is a repetition, or too old; send it anew"));
        return None;
    }
    table.requests.push((define.request_id.clone(), define.asked_at));
    table.dirty_requests = true;
    match judge(table, &define) {
        Err(refusal) => {
            effects.reply = Some(refusal);
            None
        }
        Ok(defined) => {
            if defined.changed {
                write_out(&defined, at, effects);
            }
            Some(tell_all(defined, at, effects))
        }
    }
}

fn refused(code: &'static str, detail: &str) -> Answer {
    Answer::Refused { code: code.into(), pointer: None, detail: detail.into() }
}

fn judge(table: &Table, define: &Define) -> Result<Defined, Answer> {
    let current = table.row(&define.project, define.kind, &define.id);
    let body_now = current.and_then(|row| row.body.as_ref());
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
            let (body, used) = with_secret(new, old, define.new_secret.as_ref());
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
    })
}

fn archived(survey: &Json) -> Json {
    let mut value = survey.value();
    value["status"] = "archived".into();
    Json::of(&value)
}

/// Keeps the endpoint's secret when the new body names none, or the same one;
/// takes the freshly made one for an endpoint that never had any.
fn with_secret(new: &Json, old: Option<&Json>, fresh: Option<&SealedSecret>) -> (Json, bool) {
    let secret_of = |json: &Json| serde_json::from_value::<SealedSecret>(json.value()["secret"].clone()).ok();
    let old_secret = old.and_then(secret_of);
    let (secret, used_fresh) = match (secret_of(new), old_secret) {
        (Some(given), Some(old)) if given.digest == old.digest => (Some(old), false),
        (Some(given), _) => (Some(given), false),
        (None, Some(old)) => (Some(old), false),
        (None, None) => (fresh.cloned(), fresh.is_some()),
    };
    let mut value = new.value();
    if let Some(members) = value.as_object_mut() {
        // Last, always: the same content has the same bytes.
        members.shift_remove("secret");
        members.insert("secret".into(), serde_json::to_value(&secret).expect("a secret serialises"));
    }
    (Json::of(&value), used_fresh)
}

fn write_out(defined: &Defined, at: Moment<'_>, effects: &mut Effects) {
    effects.outputs.push(Output {
        topic: Topic::Definitions,
        key: Some(definition_key(&defined.project, defined.kind, &defined.id).into()),
        id: at.origin.id(IdKind::Definition, &[&defined.project, defined.kind.name(), &defined.id]),
        value: DefinitionRecord::of(defined, at.now).map(|record| output::encode(&record).into()),
    });
}

fn tell_all(defined: Defined, at: Moment<'_>, effects: &mut Effects) -> Defined {
    let internal = Internal::Defined(defined);
    for partition in 1..at.partitions {
        effects.forwards.push(to_partition(partition, &internal, true));
    }
    let Internal::Defined(defined) = internal else { unreachable!("just made") };
    defined
}

/// Lists a name that some partition has met, unless it is listed already.
pub fn name_seen(table: &mut Table, at: Moment<'_>, project: &str, trigger: Trigger, effects: &mut Effects) {
    if knows_trigger(table, project, &trigger) || table.count(project, Kind::Trigger) >= MAX_NAMES {
        return;
    }
    let version = table.row(project, Kind::Trigger, &trigger.trigger_id).map_or(0, |row| row.version) + 1;
    let defined = Defined {
        project: project.to_owned(),
        kind: Kind::Trigger,
        id: trigger.trigger_id.clone(),
        version,
        changed: true,
        created: true,
        used_new_secret: false,
        body: Some(Json::of(&trigger)),
    };
    write_out(&defined, at, effects);
    table.take(&defined, (at.now, at.origin.offset));
}
