//! Displays and dismissals of an offer, and reading an offer.

use super::apply_context::ApplyContext;
use super::offers::{FoundOffer, find};
use super::output::{AnswerView, OfferView, Output, Outputs, Refusal, Reply};
use super::{caps, fanout, history, windows};
use crate::eligibility::decision::Offered;
use crate::quota::QuotaChange;
use crate::record::Record;
use crate::survey::GlobalCooldown;
use crate::survey::path;
use crate::time::Millis;
use crate::user::{Answer, Offer, PerSurvey, Snooze, User};
use crate::webhook::endpoint::EventType;
use crate::webhook::message::{OfferEvent, WebhookEvent};

pub(super) fn displayed(
    ctx: ApplyContext<'_>,
    user: &mut User,
    record: &Record<'_>,
    offer_id: &str,
    out: &mut Outputs,
) {
    let Some(found) = find(ctx, user, offer_id, out) else { return };
    let index = found.index;
    let duplicate = user.offers[index].displayed_at.is_some();
    if !duplicate {
        let at = record.times.event_time(ctx.now);
        mark_displayed(ctx, user, index, at, out);
        fanout::offer_event(ctx, user, &found, WebhookEvent { kind: EventType::Displayed, at }, out);
    }
    out.reply = Some(Reply::Accepted { duplicate, response_id: None });
}

pub(super) fn dismissed(
    ctx: ApplyContext<'_>,
    user: &mut User,
    record: &Record<'_>,
    offer_id: &str,
    ask_again_in: Option<Millis>,
    out: &mut Outputs,
) {
    let Some(found) = find(ctx, user, offer_id, out) else { return };
    let (index, survey) = (found.index, &found.survey);
    let most = survey.frequency.snooze;
    if ask_again_in.is_some_and(|asked| most.is_none_or(|most| asked > most)) {
        return out.refuse(Refusal::UnfitSnooze { most });
    }
    let duplicate = user.offers[index].dismissed_at.is_some();
    if !duplicate {
        let at = record.times.event_time(ctx.now).max(user.offers[index].offered_at);
        if user.offers[index].displayed_at.is_none() {
            mark_displayed(ctx, user, index, at, out);
        }
        if let Some(until) = user.offers[index].holds(ctx.now) {
            out.quotas.push((survey.survey_id.clone(), QuotaChange::Release { until }));
            user.offer_mut(index).held_until = None;
        }
        caps::dismissed(ctx, user, index, out);
        user.offer_mut(index).dismissed_at = Some(at);
        out.items.push(seen(ctx, &user.offers[index], EventType::Dismissed, at));
        if !user.offers[index].test {
            history::dismissed(user, &survey.survey_id, at);
            // Closing a completed survey is not a refusal.
            if survey.frequency.after_dismissal.is_some() && user.offers[index].is_completed() {
                user.extension_mut().survey_mut(&survey.survey_id).closed_at = Some(at);
            }
            if let Some(asked) = ask_again_in {
                let snooze = Snooze { at, until: at.saturating_add(asked) };
                user.extension_mut().survey_mut(&survey.survey_id).snooze = Some(snooze);
            }
        }
        fanout::offer_event(ctx, user, &found, WebhookEvent { kind: EventType::Dismissed, at }, out);
    }
    out.reply = Some(Reply::Accepted { duplicate, response_id: None });
}

pub(super) fn show(ctx: ApplyContext<'_>, user: &User, offer_id: &str, out: &mut Outputs) {
    let Some(FoundOffer { index, survey, .. }) = find(ctx, user, offer_id, out) else { return };
    let offer = &user.offers[index];
    let response = offer.response.as_ref();
    let path = response.map(|response| path::follow(&survey.questions, &response.values()));
    let is_on_path = |id: &str| path.as_ref().is_some_and(|path| path.has(&survey.questions, id));
    let view = |(question_id, answer): (&String, &Answer)| AnswerView {
        question_id: question_id.clone(),
        answer: answer.clone(),
        on_path: is_on_path(question_id),
    };
    out.reply = Some(Reply::Offer(Box::new(OfferView {
        offered: Offered::of(offer, &survey, &user.attributes),
        displayed_at: offer.displayed_at,
        dismissed_at: offer.dismissed_at,
        completed: response.is_some_and(|r| r.completed),
        answers: response.map_or_else(Vec::new, |r| r.answers.iter().map(view).collect()),
    })));
}

fn seen(ctx: ApplyContext<'_>, offer: &Offer, kind: EventType, at: Millis) -> Output {
    Output::OfferEvent(OfferEvent {
        kind,
        project: ctx.project_id.to_owned(),
        user_id: ctx.user_id.to_owned(),
        occurred_at: at,
        offer_id: offer.offer_id.clone(),
        survey_id: offer.survey_id.clone(),
        survey_version: offer.version,
        trigger: offer.trigger.clone(),
        test: offer.test,
    })
}

/// Counts a display towards cooldowns, sessions, cycles and caps; displays of a survey in
/// status `test` count nowhere.
pub(super) fn mark_displayed(ctx: ApplyContext<'_>, user: &mut User, index: usize, at: Millis, out: &mut Outputs) {
    let is_capped = caps::is_capped(user, &user.offers[index]);
    let offer = user.offer_mut(index);
    let at = at.max(offer.offered_at);
    offer.displayed_at = Some(at);
    out.items.push(seen(ctx, offer, EventType::Displayed, at));
    if !offer.test && !offer.is_completed() {
        ctx.hold(offer, ctx.project.settings.offer_known, is_capped, out);
    }
    caps::displayed(ctx, user, index, at, out);
    let offer = &user.offers[index];
    if offer.test {
        return;
    }
    let session_id = offer.context.session_id.clone();
    let entry = ctx.project.surveys.get(&offer.survey_id);
    // An edit of the activation has disarmed the window.
    let stands = entry.is_some_and(|entry| {
        let pinned = entry.version(offer.version);
        pinned.is_some_and(|pinned| pinned.activation_fingerprint() == entry.current.activation_fingerprint())
    });
    let activation = offer.activation.as_ref().filter(|_| stands).map(|a| a.offset);
    let fingerprint = entry.map_or(0, |e| e.fingerprint);
    let (survey_id, version, link) = (offer.survey_id.clone(), offer.version, offer.link);
    let pinned = entry.map(|entry| entry.version(version).unwrap_or(&entry.current));
    history::displayed(user, &survey_id, at, pinned.and_then(|survey| survey.frequency.per));
    let state = user.survey_mut_or(&survey_id, || PerSurvey::of(fingerprint));
    match pinned.and_then(|survey| survey.match_by()) {
        None => state.displayed(at, activation),
        Some(_) => {
            state.displayed(at, None);
            if stands {
                let offer = user.offers[index].clone();
                windows::displayed(user, &offer, at);
            }
        }
    }
    let is_exempt = pinned.is_some_and(|survey| survey.frequency.global_cooldown == GlobalCooldown::Exempt);
    if !link && !is_exempt {
        user.last_display_at = user.last_display_at.max(Some(at));
    }
    user.count_session(session_id.as_deref(), at, ctx.project.settings.session_lifetime);
}
