//! Shows what the engine knows of one user: open windows, counters, and for each survey
//! whether it could be offered, apart from what depends on the trigger.

use std::cell::OnceCell;

use super::apply_context::ApplyContext;
use super::apply_context::RequestContext;
use super::gates::EligibilityCheck;
use super::output::{Outputs, Reply};
use super::view::{AliasView, Counters, OfferLine, SurveyAvailability, SurveyCounters, UserView, WindowView};
use super::{shares, windows};
use crate::eligibility::decision::ActivationView;
use crate::record::Context;
use crate::survey::Status;
use crate::time::{self, Millis};
use crate::user::{Offer, PerSurvey, User};

pub(super) fn user(ctx: ApplyContext<'_>, user: &User, out: &mut Outputs) {
    let surveys = availabilities(ctx, user, out);
    if out.needs_grants() {
        return;
    }
    let view = UserView {
        user_id: ctx.user_id.to_owned(),
        known: !user.is_erased(),
        aliases: user
            .aliases()
            .iter()
            .map(|alias| AliasView { alias: alias.name.clone(), since: alias.since })
            .collect(),
        attributes: (*user.attributes).clone(),
        windows: windows(ctx, user),
        offers: user.offers.iter().map(|offer| line(offer)).collect(),
        counters: Counters {
            last_display_at: user.last_display_at.map(time::format_time),
            surveys: user.surveys.iter().map(|(id, state)| (id.to_string(), counters(state))).collect(),
        },
        arms: shares::arms(ctx, user),
        surveys,
    };
    out.reply = Some(Reply::User(Box::new(view)));
}

fn windows(ctx: ApplyContext<'_>, user: &User) -> Vec<WindowView> {
    let mut open = Vec::new();
    for entry in ctx.project.surveys.values() {
        for (window, expires_at) in windows::open(user, entry, ctx.now) {
            let activation = ActivationView { occurred_at: window.by.at, ..ActivationView::of(&window.by.by.event) };
            let opens_at = window.by.at.saturating_add(entry.current.delay);
            open.push(WindowView { survey_id: entry.current.survey_id.to_string(), opens_at, expires_at, activation });
        }
    }
    open
}

fn line(offer: &Offer) -> OfferLine {
    OfferLine {
        offer_id: offer.offer_id.clone(),
        survey_id: offer.survey_id.clone(),
        version: offer.version,
        trigger: offer.trigger.clone(),
        offered_at: time::format_time(offer.offered_at),
        expires_at: time::format_time(offer.expires_at),
        displayed_at: offer.displayed_at.map(time::format_time),
        dismissed_at: offer.dismissed_at.map(time::format_time),
        answered: offer.response.is_some(),
        completed: offer.response.as_ref().is_some_and(|response| response.completed),
        test: offer.test,
        link: offer.link,
    }
}

fn counters(state: &PerSurvey) -> SurveyCounters {
    let time_text = |at: Option<Millis>| at.map(time::format_time);
    SurveyCounters {
        displays: state.displays,
        last_offer_at: time_text(state.offered_at),
        last_display_at: time_text(state.last_display_at),
        last_answer_at: time_text(state.answered_at),
        last_completion_at: time_text(state.completed_at),
        last_dismissal_at: time_text(state.dismissed_at),
    }
}

/// For each survey whether it could be offered, by priority, then id. Grants and places
/// that only coordinators and counters know are noted as needed.
fn availabilities(ctx: ApplyContext<'_>, user: &User, out: &mut Outputs) -> Vec<SurveyAvailability> {
    let (context, properties, attributes) = (Context::default(), serde_json::json!({}), OnceCell::new());
    let request = RequestContext { trigger: "", properties: "{}", context: &context };
    let mut entries: Vec<_> = ctx.project.surveys.values().filter(|entry| entry.current.status.decides()).collect();
    entries.sort_by_key(|entry| (std::cmp::Reverse(entry.current.priority), entry.current.survey_id.clone()));
    let mut availabilities = Vec::new();
    for entry in entries.into_iter().filter(|entry| !entry.current.show_on.is_empty()) {
        let check = EligibilityCheck { ctx, user, entry, request, properties: &properties, attributes: &attributes };
        let evaluated = check.evaluate_without_trigger();
        if let Ok(passed) = &evaluated {
            out.needs.extend(passed.needs_grant.then(|| entry.current.survey_id.clone()));
            out.needs_caps.extend(passed.places.asks().filter(|ask| !ctx.caps.contains_key(&ask.key)));
        }
        let failure = evaluated.err();
        availabilities.push(SurveyAvailability {
            survey_id: entry.current.survey_id.clone(),
            eligible: failure.is_none() && entry.current.status != Status::Shadow,
            gate: failure.as_ref().map(|failure| failure.gate),
            until: failure.and_then(|failure| failure.until).map(time::format_time),
        });
    }
    out.needs_caps.sort_by_key(|ask| ask.key);
    out.needs_caps.dedup();
    availabilities
}
