//! `apply(state, record) -> (state, outputs)`: one file per kind of record.

mod activate;
mod answer;
mod apply_context;
mod decide;
mod display;
mod fanout;
mod gates;
mod inspect;
mod link;
mod offers;
mod output;
mod view;

use super::definitions::Project;
use super::id::{self};
use super::json::Json;
use super::quota::Change;
use super::record::{Body, Record};
use super::user::{MAX_ATTRIBUTES_BYTES, User};

pub use apply_context::{ApplyContext, NO_QUOTAS, QuotaStatuses};
pub use output::{LinkView, OfferView, Output, Outputs, Refusal, Reply};
pub use view::UserView;

/// Whether a record can change or read its user's state at all. Most events
/// are of names that no survey listens to; they need no state.
pub fn touches_user(project: &Project, record: &Record<'_>) -> bool {
    match &record.body {
        Body::Event { name, .. } => !project.listeners(name).is_empty(),
        Body::Trigger { trigger, .. } => !project.shown_on(trigger).is_empty(),
        _ => true,
    }
}

/// Applies one record to its user. `seen_before` says that the store knows the
/// record's event id although the state no longer holds it.
pub fn apply(ctx: ApplyContext<'_>, user: &mut User, record: &Record<'_>, seen_before: bool) -> Outputs {
    let mut out = Outputs::default();
    if !touches_user(ctx.project, record) {
        if let Body::Trigger { trigger, .. } = &record.body {
            decide::nothing_shows(ctx, record, trigger, &mut out);
        }
        return out;
    }
    user.forget(ctx.now);
    if let Some(event_id) = &record.event_id
        && deduplicated(&record.body)
    {
        let hash = id::event_hash(&record.project, &record.user_id, event_id);
        if seen_before || user.has_seen(hash) {
            out.reply = Some(Reply::Repeated);
            return out;
        }
        out.spilled.extend(user.remember(hash, ctx.now));
    }
    match &record.body {
        Body::Event { name, properties } => activate::event(ctx, user, record, name, properties),
        Body::Trigger { trigger, properties, context } => {
            decide::trigger(
                ctx,
                user,
                record,
                apply_context::RequestContext { trigger, properties, context },
                &mut out,
            );
        }
        Body::Displayed { offer_id } => display::displayed(ctx, user, record, offer_id, &mut out),
        Body::Dismissed { offer_id } => display::dismissed(ctx, user, record, offer_id, &mut out),
        Body::Answers(answers) => answer::answers(ctx, user, record, answers, &mut out),
        Body::Attributes(merge) => attributes(user, merge, &mut out),
        Body::Erase => erase(ctx, user, &mut out),
        Body::ShowOffer { offer_id } => display::show(ctx, user, offer_id, &mut out),
        Body::ShowUser => inspect::user(ctx, user, &mut out),
        Body::ShowLink { survey_id, context } => link::show(ctx, user, survey_id, context, &mut out),
    }
    if !out.needs.is_empty() {
        return Outputs { needs: out.needs, ..Outputs::default() };
    }
    user.bound();
    out
}

/// Displays, dismissals, answers and attributes are idempotent by what they
/// say; reads have nothing to repeat.
fn deduplicated(body: &Body<'_>) -> bool {
    matches!(body, Body::Event { .. } | Body::Trigger { .. })
}

fn attributes(user: &mut User, merge: &[(String, Json)], out: &mut Outputs) {
    let mut merged = (*user.attributes).clone();
    for (name, value) in merge {
        if value.is_null() {
            merged.remove(name);
        } else {
            merged.insert(name.clone(), value.clone());
        }
    }
    let bytes: usize = merged.iter().map(|(k, v)| k.len() + v.len_bytes() + 4).sum();
    if bytes > MAX_ATTRIBUTES_BYTES {
        return out.refuse(Refusal::AttributesTooLarge);
    }
    user.attributes = merged.into();
    out.reply = Some(Reply::Accepted { duplicate: false, response_id: None });
}

/// Only the hashes of event ids stay: a late copy of an event must not bring
/// the user back.
fn erase(ctx: ApplyContext<'_>, user: &mut User, out: &mut Outputs) {
    for offer in &user.offers {
        let held = offer.holds(ctx.now).map(|until| (offer.survey_id.clone(), Change::Release { until }));
        out.quotas.extend(held);
    }
    out.spilled.extend(std::mem::take(user).recent);
    out.items.push(Output::CancelDeliveries);
    fanout::erased(ctx, out);
    out.reply = Some(Reply::Accepted { duplicate: false, response_id: None });
}
