//! Partition 0 gives definitions their versions: the same content keeps its
//! version, every other one gets the next, and all partitions are told.

use serde_json::Value;

use super::changes::to_partition;
use super::outputs;
use super::table::{Table, knows_trigger};
use askwhen_domain::definitions::MAX_NAMES;
use askwhen_domain::endpoint::{Disabled, PreviousSecret, SEALED, SealedSecret};
use askwhen_domain::health::Health;
use askwhen_domain::id::Kind as IdKind;
use askwhen_domain::json::Json;
use askwhen_domain::time::{self, MINUTE, Millis};
use askwhen_partition::{Answer, Effects, Moment, Output};
use askwhen_wire::definition::{Kind, Trigger};
use askwhen_wire::output::{self, DefinitionRecord, definition_key};
use askwhen_wire::record::{Act, Define, Defined, Fares, Internal, Operate};
use askwhen_wire::topic::Topic;

/// What was asked for longer ago is a copy of an old record.
pub const REQUEST_LIFE: Millis = 10 * MINUTE;
const MAX_REQUESTS: usize = 10_000;
/// Secrets of before that sign on.
const MAX_PREVIOUS: usize = 5;
/// Surveys, endpoints, … of one project.
const MAX_DEFINITIONS: usize = 10_000;

/// Judges a request; gives what every partition is to take, or a refusal as
/// the reply in `effects`.
pub fn define(table: &mut Table, at: Moment<'_>, define: Define, effects: &mut Effects) -> Option<Defined> {
    if !is_new(table, at, (&define.request_id, define.asked_at), effects) {
        return None;
    }
    let judged = judge(table, &define);
    conclude(table, (judged, false), at, effects)
}

/// Does something with an endpoint, as [`define`].
pub fn operate(table: &mut Table, at: Moment<'_>, operate: &Operate, effects: &mut Effects) -> Option<Defined> {
    if !is_new(table, at, (&operate.request_id, operate.asked_at), effects) {
        return None;
    }
    let judged = operated(table, at, operate);
    conclude(table, (judged, matches!(operate.act, Act::Enable)), at, effects)
}

/// Whether a request is neither a copy nor old; from here on it is known. One that
/// is has its refusal.
fn is_new(table: &mut Table, at: Moment<'_>, (request_id, asked_at): (&str, Millis), effects: &mut Effects) -> bool {
    let before = table.requests.len();
    // Both ways: an operator may have put the time back.
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

fn conclude(
    table: &Table,
    (judged, enabled): (Result<Defined, Answer>, bool),
    at: Moment<'_>,
    effects: &mut Effects,
) -> Option<Defined> {
    match judged {
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
            Some(tell_all(defined, at, effects))
        }
    }
}

/// An endpoint that is gone has no health; one that comes back, goes elsewhere or
/// is enabled begins anew.
fn begin_anew(table: &Table, defined: &Defined, enabled: bool, at: Moment<'_>, effects: &mut Effects) {
    let row = table.row(&defined.project, defined.kind, &defined.id);
    let (Kind::Endpoint, Some(row)) = (defined.kind, row) else { return };
    let before = row.body.as_ref().map(Json::value).unwrap_or_default();
    let after = defined.body.as_ref().map(Json::value).unwrap_or_default();
    let on = |body: &Value| body["enabled"] == true && body["disabled"].is_null();
    if !enabled && before["url"] == after["url"] && (on(&before) || !on(&after)) {
        return;
    }
    effects.outputs.push(health_output(at, (&defined.project, &defined.id), None));
    let fares = Internal::Fares(Fares {
        project: defined.project.clone(),
        endpoint_id: defined.id.clone(),
        health: Health::anew(at.now),
        by: String::new(),
        told_at: at.now,
        seq: Some(at.origin.offset),
    });
    for partition in 1..at.partitions {
        effects.forwards.push(to_partition(partition, &fares, false));
    }
    let Internal::Fares(fares) = fares else { unreachable!("just made") };
    effects.outputs.extend(outputs::fares(at, fares));
}

fn operated(table: &Table, at: Moment<'_>, operate: &Operate) -> Result<Defined, Answer> {
    let row = table.row(&operate.project, Kind::Endpoint, &operate.endpoint_id);
    let Some((old, version)) = row.and_then(|row| Some((row.body.as_ref()?, row.version))) else {
        return Err(refused("not_found", "there is no such endpoint"));
    };
    if operate.if_match.is_some_and(|wanted| wanted != version) {
        return Err(refused("precondition_failed", "the definition has another version by now; read it again"));
    }
    let mut value = old.value();
    let mut kept = Kept::of(old);
    match &operate.act {
        Act::Enable => {
            value["enabled"] = true.into();
            kept.disabled = None;
        }
        Act::Disable { reason } => {
            kept.disabled.get_or_insert(Disabled { reason: *reason, since_ms: at.now });
        }
        Act::Rotate { secret, overlap } => {
            let same = kept.secret.as_ref().is_some_and(|old| old.digest == secret.digest);
            if !same {
                kept.previous.retain(|before| before.until_ms > at.now);
                match kept.secret.replace(secret.clone()) {
                    Some(before) if *overlap > 0 => {
                        let until_ms = at.now.saturating_add(*overlap);
                        kept.previous.insert(0, PreviousSecret { secret: before, until_ms });
                        kept.previous.truncate(MAX_PREVIOUS);
                    }
                    // Whatever was known of them, nothing of before signs any more.
                    _ => kept.previous.clear(),
                }
            }
        }
    }
    let body = kept.put_into(&mut value);
    let changed = body != *old;
    Ok(Defined {
        project: operate.project.clone(),
        kind: Kind::Endpoint,
        id: operate.endpoint_id.clone(),
        version: if changed { version + 1 } else { version },
        changed,
        created: false,
        used_new_secret: false,
        body: Some(body),
    })
}

/// How an endpoint fares, as every partition is to take it; `None` when there
/// is no such endpoint, or it is said of long ago.
pub fn fares(table: &Table, at: Moment<'_>, mut fares: Fares, effects: &mut Effects) -> Option<Fares> {
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
    let internal = Internal::Fares(fares);
    for partition in 1..at.partitions {
        effects.forwards.push(to_partition(partition, &internal, false));
    }
    let Internal::Fares(fares) = internal else { unreachable!("just made") };
    Some(fares)
}

fn health_output(at: Moment<'_>, (project, id): (&str, &str), record: Option<&DefinitionRecord>) -> Output {
    Output {
        topic: Topic::Definitions,
        key: Some(definition_key(project, Kind::Health, id).into()),
        id: at.origin.id(IdKind::Definition, &[project, Kind::Health.name(), id]),
        value: record.map(|record| output::encode(record).into()),
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
            let (body, used) = with_secret(new, old, define.new_secret.as_ref())?;
            let tls = body.value()["tls"].clone();
            if tls["client_cert"].is_string() && tls["client_key"].is_null() {
                let detail = "client_key is required with a new client_cert".into();
                return Err(Answer::Refused {
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
    })
}

fn archived(survey: &Json) -> Json {
    let mut value = survey.value();
    value["status"] = "archived".into();
    Json::of(&value)
}

/// What an endpoint's definition carries that no body from outside does.
struct Kept {
    secret: Option<SealedSecret>,
    previous: Vec<PreviousSecret>,
    disabled: Option<Disabled>,
}

impl Kept {
    fn of(body: &Json) -> Kept {
        let value = body.value();
        Kept {
            secret: serde_json::from_value(value["secret"].clone()).ok(),
            previous: serde_json::from_value(value["previous_secrets"].clone()).unwrap_or_default(),
            disabled: serde_json::from_value(value["disabled"].clone()).ok(),
        }
    }

    /// Last, always in this order: the same content has the same bytes.
    fn put_into(self, value: &mut Value) -> Json {
        let Some(members) = value.as_object_mut() else { return Json::of(value) };
        for name in ["secret", "previous_secrets", "disabled"] {
            members.shift_remove(name);
        }
        let json = |part: serde_json::Result<Value>| part.expect("it serialises");
        members.insert("secret".into(), json(serde_json::to_value(self.secret)));
        if !self.previous.is_empty() {
            members.insert("previous_secrets".into(), json(serde_json::to_value(self.previous)));
        }
        if let Some(disabled) = self.disabled {
            members.insert("disabled".into(), json(serde_json::to_value(disabled)));
        }
        Json::of(value)
    }
}

/// Keeps what the endpoint has: its secret when the new body names none, or the
/// same one, unless the new profile signs in another way; that it was given up,
/// while it goes to the same place. Takes the freshly made secret for an
/// endpoint that has none.
fn with_secret(new: &Json, old: Option<&Json>, fresh: Option<&SealedSecret>) -> Result<(Json, bool), Answer> {
    let given = Kept::of(new).secret;
    let (mut value, before) = (new.value(), old.map(Json::value).unwrap_or_default());
    let mut kept = old.map_or(Kept { secret: None, previous: Vec::new(), disabled: None }, Kept::of);
    // Any text will do for the hex form but a private key, which no receiver has;
    // the others need theirs.
    let is_hex = |body: &Value| body["profile"] == "blitzllama";
    let is_private = before["secret"]["public_key"].is_string();
    if is_hex(&value) != is_hex(&before) && (is_hex(&before) || is_private) {
        (kept.secret, kept.previous) = (None, Vec::new());
    }
    let mut used_fresh = false;
    match (given, &kept.secret) {
        (Some(given), Some(known)) if given.digest == known.digest => {}
        (Some(given), _) => (kept.secret, kept.previous) = (Some(given), Vec::new()),
        (None, Some(_)) => {}
        (None, None) => {
            kept.secret = fresh.cloned();
            used_fresh = fresh.is_some();
        }
    }
    if value["url"] != before["url"] || value["enabled"] != before["enabled"] {
        kept.disabled = None;
    }
    keep_client_key(&mut value, &before);
    keep_headers(&mut value, &before)?;
    Ok((kept.put_into(&mut value), used_fresh))
}

/// The value of a header stays when the new definition names none but what it is
/// shown as, and the same value keeps its bytes.
fn keep_headers(new: &mut Value, old: &Value) -> Result<(), Answer> {
    let Some(headers) = new.get_mut("headers").and_then(Value::as_object_mut) else { return Ok(()) };
    for (name, given) in headers {
        let known = &old["headers"][name.as_str()];
        let same = given["digest"].is_string() && given["digest"] == known["digest"];
        if *given == SEALED && known.is_null() {
            return Err(Answer::Refused {
                code: "invalid".into(),
                pointer: Some(format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"))),
                detail: format!("{SEALED} keeps the value that is there, and there is none: give the value"),
            });
        }
        if same || *given == SEALED {
            *given = known.clone();
        }
    }
    Ok(())
}

/// The private key of the same certificate stays when none is given, and the
/// same one keeps its bytes.
fn keep_client_key(new: &mut Value, old: &Value) {
    let (given, known) = (&new["tls"]["client_key"], &old["tls"]["client_key"]);
    let cert = &new["tls"]["client_cert"];
    let left_out = given.is_null() && cert.is_string() && *cert == old["tls"]["client_cert"];
    let same = given["digest"].is_string() && given["digest"] == known["digest"];
    if (left_out || same) && known.is_object() {
        new["tls"]["client_key"] = known.clone();
    }
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
