//! Decides a frontend trigger: which survey, if any, is offered to the user.

use std::cell::OnceCell;
use std::sync::Arc;

use super::apply_context::ApplyContext;
use super::apply_context::RequestContext;
use super::caps;
use super::gates::{EligibilityCheck, Eligible};
use super::output::{Output, Outputs, Reply};
use super::shares;
use crate::definitions::Entry;
use crate::eligibility::decision::{Decision, DecisionReason, Evaluation, Gate, GateFailure, Offered};
use crate::id::Kind;
use crate::json::Json;
use crate::record::Record;
use crate::survey::Status;
use crate::user::{Offer, OfferContext, PerSurvey, User};

/// The decision on a trigger on which no survey is shown; the user's state is not read.
pub(super) fn without_surveys(ctx: ApplyContext<'_>, record: &Record<'_>, trigger: &str, out: &mut Outputs) {
    let reason = if is_stale(ctx, record) { DecisionReason::Stale } else { DecisionReason::NoSurvey };
    emit(ctx, record, trigger, Conclusion::without_offer(reason), out);
}

pub(super) fn trigger(
    ctx: ApplyContext<'_>,
    user: &mut User,
    record: &Record<'_>,
    request: RequestContext<'_>,
    out: &mut Outputs,
) {
    if is_stale(ctx, record) {
        return emit(ctx, record, request.trigger, Conclusion::without_offer(DecisionReason::Stale), out);
    }
    if let Some(lifetime) = ctx.project.settings.session_lifetime {
        user.hear_session(request.context.session_id.as_deref(), ctx.now, lifetime);
    }
    let (mut evaluations, passed) = evaluate_all(ctx, user, request);
    let Some((chosen, winner)) = choose(ctx, &mut evaluations, passed) else {
        let first = evaluations.iter().find(|e| !e.shadow).and_then(|e| e.failure.as_ref());
        let reason = first.map_or(DecisionReason::NoSurvey, |failure| DecisionReason::Gate(failure.gate));
        let conclusion = Conclusion { evaluations, ..Conclusion::without_offer(reason) };
        return emit(ctx, record, request.trigger, conclusion, out);
    };
    let entry = &ctx.project.surveys[&evaluations[chosen].survey_id];
    if winner.needs_grant || winner.places.is_unanswered {
        out.needs.extend(winner.needs_grant.then(|| entry.current.survey_id.clone()));
        if winner.places.is_unanswered {
            out.needs_caps.extend(winner.places.asks());
        }
        return;
    }
    let offered = match winner.existing {
        Some(offer) => {
            let pinned = entry.version(offer.version).unwrap_or(&entry.current);
            let offer = in_language(user, offer, request.context.locale.as_deref());
            Offered::of(&offer, pinned, &user.attributes)
        }
        None => make_offer(ctx, user, request, entry, winner, out),
    };
    let conclusion = Conclusion { reason: DecisionReason::Offered, survey: Some(offered), evaluations };
    emit(ctx, record, request.trigger, conclusion, out);
}

/// Evaluates the surveys shown on the trigger, by id. Returns the evaluations, and those that
/// passed and may be offered, each with its index.
fn evaluate_all(
    ctx: ApplyContext<'_>,
    user: &User,
    request: RequestContext<'_>,
) -> (Vec<Evaluation>, Vec<(usize, Eligible)>) {
    let properties = Json::from_valid(request.properties).value();
    let mut evaluations = Vec::new();
    let mut passed = Vec::new();
    let attributes = OnceCell::new();
    for survey_id in ctx.project.shown_on(request.trigger) {
        let entry = &ctx.project.surveys[survey_id];
        let check = EligibilityCheck { ctx, user, entry, request, properties: &properties, attributes: &attributes };
        let shadow = entry.current.status == Status::Shadow;
        let failure = match check.evaluate() {
            Err(failure) => Some(failure),
            Ok(ok) => {
                if !shadow {
                    passed.push((evaluations.len(), ok));
                }
                None
            }
        };
        evaluations.push(Evaluation { survey_id: survey_id.clone(), failure, shadow });
    }
    (evaluations, passed)
}

/// Makes the offer of the survey that was chosen, with its hold on quotas and caps.
fn make_offer(
    ctx: ApplyContext<'_>,
    user: &mut User,
    request: RequestContext<'_>,
    entry: &Entry,
    winner: Eligible,
    out: &mut Outputs,
) -> Offered {
    let mut offer = Offer {
        offer_id: ctx.origin.offer_id(ctx.project_id, ctx.user_id),
        survey_id: entry.current.survey_id.clone(),
        version: entry.version,
        offered_at: ctx.now,
        expires_at: winner.expires_at,
        trigger: request.trigger.to_owned(),
        trigger_properties: Json::from_valid(request.properties),
        context: OfferContext::from(request.context),
        activation: winner.activation,
        displayed_at: None,
        dismissed_at: None,
        test: entry.current.status == Status::Test,
        link: false,
        held_until: None,
        response: None,
    };
    let offered = Offered::of(&offer, &entry.current, &user.attributes);
    if !offer.test {
        let span = ctx.project.settings.offer_ttl.min(ctx.project.settings.offer_known);
        let is_capped = !winner.places.pins.is_empty();
        ctx.hold(&mut offer, span, is_capped, out);
        if is_capped {
            caps::hold(user, &offer.offer_id, winner.places, ctx.now.saturating_add(span), out);
        }
        let state = user.survey_mut_or(&offer.survey_id, || PerSurvey::of(entry.fingerprint));
        state.offered_at = Some(ctx.now);
        shares::enter_arm(user, &entry.current);
    }
    user.offers.push(Arc::new(offer));
    offered
}

/// The existing offer in the language that the trigger asks for.
fn in_language(user: &mut User, offer: Arc<Offer>, locale: Option<&str>) -> Arc<Offer> {
    let place = user.offers.iter().position(|known| known.offer_id == offer.offer_id);
    let Some(index) = place.filter(|_| locale.is_some() && offer.context.locale.as_deref() != locale) else {
        return offer;
    };
    user.offer_mut(index).context.locale = locale.map(str::to_owned);
    user.offers[index].clone()
}

/// Whether the trigger reached the server so late that the user has left that place in the
/// app.
fn is_stale(ctx: ApplyContext<'_>, record: &Record<'_>) -> bool {
    record.times.held_back().is_some_and(|span| span > ctx.project.settings.offer_ttl)
}

/// Chooses among the surveys that passed: an offer that the session already has, then the
/// highest priority, the soonest expiry, the oldest activation, the smallest id. The
/// windows of the others stay open.
fn choose(
    ctx: ApplyContext<'_>,
    evaluations: &mut [Evaluation],
    passed: Vec<(usize, Eligible)>,
) -> Option<(usize, Eligible)> {
    let rank = |(at, passed): &(usize, Eligible)| {
        let priority = ctx.project.surveys[&evaluations[*at].survey_id].current.priority;
        let activated_at = passed.activation.as_ref().map_or(ctx.now, |a| a.at);
        (passed.existing.is_none(), std::cmp::Reverse(priority), passed.expires_at, activated_at, *at)
    };
    let best = passed.iter().map(rank).min()?.4;
    let winner_id = evaluations[best].survey_id.clone();
    let mut winner = None;
    for (at, passed) in passed {
        if at == best {
            winner = Some((at, passed));
        } else {
            let actual = serde_json::Value::from(winner_id.as_str());
            evaluations[at].failure = Some(GateFailure::new(Gate::Preempted, actual, None));
        }
    }
    winner
}

/// The outcome for a trigger, before it becomes a [`Decision`].
struct Conclusion {
    reason: DecisionReason,
    survey: Option<Offered>,
    evaluations: Vec<Evaluation>,
}

impl Conclusion {
    fn without_offer(reason: DecisionReason) -> Conclusion {
        Conclusion { reason, survey: None, evaluations: Vec::new() }
    }
}

fn emit(ctx: ApplyContext<'_>, record: &Record<'_>, trigger: &str, conclusion: Conclusion, out: &mut Outputs) {
    let Conclusion { reason, survey, evaluations } = conclusion;
    let decision = Arc::new(Decision {
        decision_id: ctx.origin.id(Kind::Decision, &[]),
        event_id: match &record.event_id {
            Some(id) => id.to_string(),
            None => ctx.origin.id(Kind::Event, &[]),
        },
        user_id: record.user_id.to_string(),
        trigger: trigger.to_owned(),
        decided_at: ctx.now,
        reason,
        survey,
        evaluations,
    });
    out.items.push(Output::Decision(decision.clone()));
    out.reply = Some(Reply::Decided(decision));
}
