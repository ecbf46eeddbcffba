//! A backend event: it takes part in what arms or cancels the surveys that
//! listen to it.

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
    // By what they are armed: offers that may still be displayed.
    let undisplayed = user.offers.iter().filter(|offer| offer.displayed_at.is_none());
    let offered: Vec<u64> = undisplayed.filter_map(|offer| Some(offer.activation.as_ref()?.offset)).collect();
    // One for all surveys.
    let (mut arming, mut cancelling) = (None, None);
    for survey_id in ctx.project.listeners(name) {
        let entry = &ctx.project.surveys[survey_id];
        let survey = &entry.current;
        let (Some(activation), Some(expires_after)) = (&survey.activate, survey.expires_after) else { continue };
        let pattern_mask = survey.pattern_mask(name, &parsed, ctx.now);
        if pattern_mask == 0 {
            continue;
        }
        // Too late to take part in anything that is not over, unless it ends what
        // had begun before it: then what came after stands by itself.
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
        // What cancels is asked for nothing more.
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
