//! Applies a backend event: it may arm, prevent or cancel each survey that listens to its
//! name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::apply_context::ApplyContext;
use super::windows;
use serde_json::{Map, Value};

use crate::id::Kind;
use crate::json::{Json, LazyJson};
use crate::record::Record;
use crate::survey::activation::{CANCELS, LATE};
use crate::survey::filter;
use crate::user::completed;
use crate::user::distinct::session_hash;
use crate::user::{Activated, ActivationEvent, RememberedEvent, User};

/// The largest property of a remembered event, in bytes of JSON.
const MAX_KEPT_BYTES: usize = 1 << 10;

/// The content of a backend event.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventContext<'a> {
    pub name: &'a str,
    pub properties: &'a str,
    pub session_id: Option<&'a str>,
}

pub(super) fn event(ctx: ApplyContext<'_>, user: &mut User, record: &Record<'_>, event: EventContext<'_>) {
    let EventContext { name, properties, session_id } = event;
    let at = record.times.event_time(ctx.now);
    if at.saturating_add(ctx.project.settings.allowed_lateness) < ctx.now {
        return;
    }
    let parsed = LazyJson::from_valid(properties);
    let session = session_id.map(session_hash);
    if let Some(paths) = ctx.project.remembers(name) {
        let properties = asked_for(parsed.value(), paths);
        user.extension_mut().remember(name, RememberedEvent { at, offset: ctx.origin.offset, session, properties });
    }
    // An event whose offer may still be displayed must not be forgotten.
    let undisplayed = user.offers.iter().filter(|offer| offer.displayed_at.is_none());
    let offered: Vec<u64> = undisplayed.filter_map(|offer| Some(offer.activation.as_ref()?.offset)).collect();
    // The event is allocated once and shared by all surveys that keep it.
    let (mut arming, mut cancelling) = (None, None);
    for survey_id in ctx.project.listeners(name) {
        let entry = &ctx.project.surveys[survey_id];
        let survey = &entry.current;
        let (Some(activation), Some(expires_after)) = (survey.activate.as_deref(), survey.expires_after) else {
            continue;
        };
        let pattern_mask = survey.pattern_mask(name, &parsed, ctx.now);
        if pattern_mask == 0 {
            continue;
        }
        let value = survey.match_by().map(|property| matched_value(parsed.value(), property));
        // A record without the property does not take part.
        if value.as_ref().is_some_and(Option::is_none) {
            continue;
        }
        let value = value.flatten();
        // A late event whose windows have all ended is ignored, unless it prevents or
        // cancels what an earlier event began.
        let over = at.saturating_add(activation.reach()).saturating_add(expires_after) <= ctx.now;
        let state_now = windows::of(user, survey_id, value.as_ref());
        let state_now = state_now.filter(|state| state.fingerprint == entry.fingerprint);
        let ends =
            pattern_mask & (CANCELS | activation.prevents()) != 0 && state_now.is_some_and(|s| !s.facts.is_empty());
        if over && !ends {
            continue;
        }
        let late = !activation.waits() && at.saturating_add(expires_after) <= ctx.now;
        let pattern_mask = pattern_mask | if late { LATE } else { 0 };
        // The properties of an event that only cancels are never read.
        let event = if pattern_mask & !CANCELS != 0 { &mut arming } else { &mut cancelling };
        let event = event.get_or_insert_with(|| {
            let properties = (pattern_mask & !CANCELS != 0).then(|| Json::from_valid(properties));
            Arc::new(Activated {
                at,
                offset: ctx.origin.offset,
                event_id: event_id(ctx, record),
                event_name: Activated::name(name),
                properties,
            })
        });
        let session = session.filter(|_| activation.counts_sessions());
        let fact = ActivationEvent { session, ..ActivationEvent::new(pattern_mask, event.clone()) };
        let is_offered = |offset: u64| offered.contains(&offset);
        windows::insert(ctx, user, entry, value.as_ref(), fact, &is_offered);
    }
}

/// The properties at `paths`, as one object; `None` when the event has none of them.
fn asked_for(properties: &Value, paths: &BTreeSet<String>) -> Option<Json> {
    let found = paths.iter().filter_map(|path| Some((path.clone(), filter::lookup(properties, path)?)));
    let kept: Map<String, Value> = found.filter_map(|(path, value)| Some((path, shortened(value)?))).collect();
    (!kept.is_empty()).then(|| Json::of(&kept))
}

/// The value as it is kept: a long text is cut off, any other large value is left out.
fn shortened(value: &Value) -> Option<Value> {
    let json = completed::shortened(&Json::of(value));
    (json.len_bytes() <= MAX_KEPT_BYTES).then(|| json.value())
}

/// The value of the `match` property; a list or an object does not count as one.
fn matched_value(properties: &Value, property: &str) -> Option<Json> {
    let value = filter::lookup(properties, property)?;
    let is_plain = value.is_string() || value.is_number() || value.is_boolean();
    is_plain.then(|| Json::canonical(value)).filter(|value| value.len_bytes() <= MAX_KEPT_BYTES)
}

fn event_id(ctx: ApplyContext<'_>, record: &Record<'_>) -> String {
    record.event_id.as_ref().map_or_else(|| ctx.origin.id(Kind::Event, &[]), |id| id.to_string())
}
