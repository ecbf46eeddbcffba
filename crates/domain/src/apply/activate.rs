//! Applies a backend event: it may arm, prevent or cancel each survey that listens to its
//! name.

use std::sync::Arc;

use super::apply_context::ApplyContext;
use crate::activation::{CANCELS, LATE};
use crate::id::Kind;
use crate::json::Json;
use crate::record::Record;
use crate::user::{Activated, ActivationEvent, User};

pub(super) fn event(ctx: ApplyContext<'_>, user: &mut User, record: &Record<'_>, name: &str, properties: &str) {
    let at = record.times.event_time(ctx.now);
    if at.saturating_add(ctx.project.settings.allowed_lateness) < ctx.now {
        return;
    }
    let parsed = Json::from_valid(properties).value();
    // The activations of offers that may still be displayed must not be forgotten.
    let undisplayed = user.offers.iter().filter(|offer| offer.displayed_at.is_none());
    let offered: Vec<u64> = undisplayed.filter_map(|offer| Some(offer.activation.as_ref()?.offset)).collect();
    // The event is stored once, however many surveys keep it.
    let (mut arming, mut cancelling) = (None, None);
    for survey_id in ctx.project.listeners(name) {
        let entry = &ctx.project.surveys[survey_id];
        let survey = &entry.current;
        let (Some(activation), Some(expires_after)) = (&survey.activate, survey.expires_after) else { continue };
        let pattern_mask = survey.pattern_mask(name, &parsed, ctx.now);
        if pattern_mask == 0 {
            continue;
        }
        // A late event whose windows are all over has no effect, unless it prevents or cancels
        // what earlier events have begun.
        let over = at.saturating_add(activation.reach()).saturating_add(expires_after) <= ctx.now;
        let state_now = user.surveys.get(survey_id).filter(|state| state.fingerprint == entry.fingerprint);
        let ends =
            pattern_mask & (CANCELS | activation.prevents()) != 0 && state_now.is_some_and(|s| !s.facts.is_empty());
        if over && !ends {
            continue;
        }
        let late = !activation.waits() && at.saturating_add(expires_after) <= ctx.now;
        let pattern_mask = pattern_mask | if late { LATE } else { 0 };
        let state = user.survey_mut(survey_id);
        if state.fingerprint != entry.fingerprint {
            state.facts.clear();
            state.fingerprint = entry.fingerprint;
        }
        // Nothing asks for the properties of an event that only cancels.
        let event = if pattern_mask & !CANCELS != 0 { &mut arming } else { &mut cancelling };
        let event = event.get_or_insert_with(|| {
            let properties = (pattern_mask & !CANCELS != 0).then(|| Json::from_valid(properties));
            Arc::new(Activated {
                at,
                offset: ctx.origin.offset,
                event_id: event_id(ctx, record),
                event_name: name.to_owned(),
                properties,
            })
        });
        let event = event.clone();
        let end_of = |at, offset| entry.window_end(at, offset).unwrap_or(at);
        let Some(rules) = entry.rules(&end_of) else { continue };
        state.forget_facts(rules, ctx.now);
        state.insert(ActivationEvent { pattern_mask, event }, rules, ctx.now, &|offset| offered.contains(&offset));
    }
}

fn event_id(ctx: ApplyContext<'_>, record: &Record<'_>) -> String {
    record.event_id.as_ref().map_or_else(|| ctx.origin.id(Kind::Event, &[]), |id| id.to_string())
}
