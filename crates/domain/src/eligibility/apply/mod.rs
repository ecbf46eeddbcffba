//! `apply(state, record) -> (state, outputs)`, one file for each kind of record.

mod activate;
mod alias;
mod answer;
mod apply_context;
mod caps;
mod decide;
mod display;
mod fanout;
mod fit;
mod gates;
mod history;
mod inspect;
mod link;
mod offers;
mod output;
mod shares;
mod view;
mod windows;

use crate::definitions::Project;
use crate::id::{self};
use crate::json::Json;
use crate::quota::QuotaChange;
use crate::record::{Answers, Body, Record, Target};
use crate::user::{Alias, MAX_ATTRIBUTES_BYTES, User};

pub use alias::{Departed, absorb, depart};
pub use apply_context::{ApplyContext, CapAnswers, NO_CAPS, NO_QUOTAS, QuotaStatuses};
pub use fit::{UnfitValue, fitted};
pub use output::{AnswerView, Applied, LinkView, OfferView, Output, Outputs, Refusal, Reply};
pub use view::UserView;
pub use windows::has_open_window;

/// Whether a record can read or change its user's state. No survey listens to most events,
/// so they need no state.
pub fn touches_user(project: &Project, record: &Record<'_>) -> bool {
    match &record.body {
        Body::Event { name, .. } => !project.listeners(name).is_empty() || project.remembers(name).is_some(),
        Body::Trigger { trigger, .. } => !project.shown_on(trigger).is_empty(),
        _ => true,
    }
}

/// The surveys with a quota whose status a record can ask for: those of the user's offers, and
/// those that the record may make an offer of. A project may have hundreds of others. An event
/// looks at none.
pub fn quota_surveys<'a>(
    project: &'a Project,
    record: &'a Record<'_>,
    user: &'a User,
) -> impl Iterator<Item = &'a str> {
    let named: &'a [String] = match &record.body {
        Body::Trigger { trigger, .. } => project.shown_on(trigger),
        Body::ShowUser => project.limited(),
        _ => &[],
    };
    let linked = match &record.body {
        Body::Answers(Answers { target: Target::Link { survey_id, .. }, .. }) => Some(&**survey_id),
        Body::ShowLink { survey_id, .. } => Some(&**survey_id),
        _ => None,
    };
    let is_event = matches!(record.body, Body::Event { .. });
    let offered = user.offers.iter().filter(move |_| !is_event).map(|offer| &*offer.survey_id);
    named.iter().map(|id| &**id).chain(linked).chain(offered).filter(|id| project.is_limited(id))
}

/// Applies one record to its user. `seen_before` says that the store knows the
/// record's event id although the state no longer holds it.
pub fn apply(ctx: ApplyContext<'_>, before: &User, record: &Record<'_>, seen_before: bool) -> Applied {
    let mut out = Outputs::default();
    if !touches_user(ctx.project, record) {
        if let Body::Trigger { trigger, .. } = &record.body {
            decide::without_surveys(ctx, record, trigger, &mut out);
        }
        return Applied { user: before.clone(), out };
    }
    let before_now = before.as_of(ctx.now, ctx.project.settings.offer_known);
    let mut user = User::clone(&before_now);
    user.forget_answers(ctx.project.retentions(), ctx.now);
    change(ctx, &mut user, record, seen_before, &mut out);
    if out.needs_grants() {
        let Outputs { needs, needs_caps, .. } = out;
        return Applied { user: before.clone(), out: Outputs { needs, needs_caps, ..Outputs::default() } };
    }
    user.settle(&before_now);
    Applied { user, out }
}

fn change(ctx: ApplyContext<'_>, user: &mut User, record: &Record<'_>, seen_before: bool, out: &mut Outputs) {
    if let Some(event_id) = &record.event_id
        && deduplicated(&record.body)
    {
        let hash = id::event_hash(&record.project, &record.user_id, event_id);
        let known_as = |alias: &Alias| user.has_seen(id::event_hash(&record.project, &alias.name, event_id));
        if seen_before || user.has_seen(hash) || user.aliases().iter().any(known_as) {
            out.reply = Some(Reply::Repeated);
            return;
        }
        out.spilled.extend(user.remember(hash, ctx.now, ctx.project.settings.id_remembered()));
    }
    match &record.body {
        Body::Event { name, properties, session_id } => {
            let event = activate::EventContext { name, properties, session_id: session_id.as_deref() };
            activate::event(ctx, user, record, event);
        }
        Body::Trigger { trigger, properties, context } => {
            decide::trigger(ctx, user, record, apply_context::RequestContext { trigger, properties, context }, out);
        }
        Body::Displayed { offer_id } => display::displayed(ctx, user, record, offer_id, out),
        Body::Dismissed { offer_id, ask_again_in } => {
            display::dismissed(ctx, user, record, offer_id, *ask_again_in, out);
        }
        Body::Answers(answers) => answer::answers(ctx, user, record, answers, out),
        Body::Attributes(merge) => attributes(ctx, user, merge, out),
        Body::Erase => erase(ctx, user, out),
        Body::ShowOffer { offer_id } => display::show(ctx, user, offer_id, out),
        Body::ShowUser => inspect::user(ctx, user, out),
        Body::ShowLink { survey_id, context, link_id } => {
            link::show(ctx, user, link::OpenedLink { survey_id, context, link_id: link_id.as_deref() }, out);
        }
    }
}

/// Whether repeated records are recognised by their event id. Displays, dismissals, answers
/// and attributes are idempotent by themselves; reads change nothing.
fn deduplicated(body: &Body<'_>) -> bool {
    matches!(body, Body::Event { .. } | Body::Trigger { .. })
}

fn attributes(ctx: ApplyContext<'_>, user: &mut User, merge: &[(String, Json)], out: &mut Outputs) {
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
    if user.attributes.is_empty() != merged.is_empty() {
        user.identity_mut().attributes_since = (!merged.is_empty()).then_some(ctx.now);
    }
    user.attributes = merged.into();
    out.reply = Some(Reply::Accepted { duplicate: false, response_id: None });
}

/// Erases a user. Only the hashes of event ids are kept, so that a late copy of an event
/// does not bring the user back.
fn erase(ctx: ApplyContext<'_>, user: &mut User, out: &mut Outputs) {
    for offer in &user.offers {
        let held = offer.holds(ctx.now).map(|until| (offer.survey_id.clone(), QuotaChange::Release { until }));
        out.quotas.extend(held);
        caps::released(ctx, user, &offer.offer_id, out);
    }
    let last_display_at = user.last_display_at.filter(|_| ctx.project.settings.erase_keeps_cooldown);
    out.spilled.extend(user.erase().iter());
    if last_display_at.is_some() {
        // The store's table has the event ids.
        (user.last_display_at, user.overflowed) = (last_display_at, true);
    }
    out.items.push(Output::CancelDeliveries);
    fanout::erased(ctx, out);
    out.reply = Some(Reply::Accepted { duplicate: false, response_id: None });
}
