//! The gate `cap_reached`, and the changes of the places that an offer holds.

use serde_json::{Value, json};
use std::cell::OnceCell;

use super::apply_context::ApplyContext;
use super::output::Outputs;
use crate::eligibility::decision::{Gate, GateFailure};
use crate::quota::cap::{
    Cap, CapAnswer, CapAsk, CapChange, CapEvent, CapOutcome, CapPlace, CapRefusal, MissingValue, PinnedCap,
};
use crate::survey::Survey;
use crate::survey::filter;
use crate::time::Millis;
use crate::user::{Offer, User};

/// The places of counters that an offer of a survey takes.
#[derive(Debug, Clone, Default)]
pub(super) struct OfferPlaces {
    /// In the order in which they are requested.
    pub pins: Vec<PinnedCap>,
    /// Whether a counter has not answered yet.
    pub is_unanswered: bool,
}

impl OfferPlaces {
    pub(super) fn asks(&self) -> impl Iterator<Item = CapAsk> {
        self.pins.iter().map(|pin| CapAsk { key: pin.key, rule: pin.rule })
    }
}

/// Checks the gate `cap_reached`; returns the places that an offer would take. When several
/// counters are full, the failure names the one that frees a place last.
pub(super) fn caps(
    survey: &Survey,
    ctx: ApplyContext<'_>,
    user: &User,
    attributes: &OnceCell<Value>,
) -> Result<OfferPlaces, GateFailure> {
    let mut places = OfferPlaces::default();
    let (mut shut, mut unknown): (Option<GateFailure>, Option<GateFailure>) = (None, None);
    for (scope, cap) in ctx.project.caps(survey) {
        let value = cap.per.as_ref().map(|name| {
            let attributes = attributes.get_or_init(|| user.attributes_value());
            filter::lookup(attributes, name).filter(|value| !value.is_null())
        });
        let value = match (value, cap.missing) {
            (Some(None), MissingValue::Pass) => continue,
            (Some(None), MissingValue::Shut) => return Err(failure(scope, cap, None, None)),
            (value, _) => value.flatten(),
        };
        let key = cap.key(ctx.project_id, scope, value);
        let failure = match ctx.caps.get(&key) {
            Some(CapAnswer::Granted) => None,
            Some(CapAnswer::Refused(refusal)) => Some(failure(scope, cap, value, Some(*refusal))),
            None if ctx.may_wait => {
                places.is_unanswered = true;
                None
            }
            // Nobody could tell in time; a cap that is known to be full says more.
            None => {
                unknown = unknown.or_else(|| Some(failure(scope, cap, value, None)));
                None
            }
        };
        let opens_at = |failure: &GateFailure| failure.until.unwrap_or(Millis::MAX);
        if let Some(failure) = failure {
            let is_later = shut.as_ref().is_none_or(|known| opens_at(known) < opens_at(&failure));
            shut = if is_later { Some(failure) } else { shut };
        }
        let place = Some(CapPlace::Request(ctx.origin.offset));
        places.pins.push(PinnedCap { key, rule: cap.rule(), count: cap.count, place });
    }
    places.pins.sort_by_key(|pin| pin.key);
    shut.or(unknown).map_or(Ok(places), Err)
}

fn failure(scope: &str, cap: &Cap, value: Option<&Value>, refusal: Option<CapRefusal>) -> GateFailure {
    let mut actual = json!({"cap": cap, "count": refusal.map(|refusal| refusal.count)});
    if cap.per.is_some() {
        actual["value"] = value.cloned().unwrap_or(Value::Null);
    }
    if scope.is_empty() {
        actual["of"] = "settings".into();
    }
    GateFailure { gate: Gate::CapReached, actual, until: refusal.and_then(|refusal| refusal.until), hint: None }
}

/// Whether an offer can be used only while it holds its places.
pub(super) fn is_capped(user: &User, offer: &Offer) -> bool {
    user.extension.as_ref().is_some_and(|extension| extension.caps.contains_key(&offer.offer_id))
}

fn change(pin: &mut PinnedCap, outcome: CapOutcome, out: &mut Outputs) {
    let Some(place) = pin.place.take() else { return };
    out.caps.push(CapChange { key: pin.key, place, outcome });
    if let CapOutcome::Held(until) = outcome {
        pin.place = Some(CapPlace::Held(until));
    }
}

/// Lets a new offer hold its places until `until`.
pub(super) fn hold(user: &mut User, offer_id: &str, places: OfferPlaces, until: Millis, out: &mut Outputs) {
    let mut pins = places.pins;
    pins.iter_mut().for_each(|pin| change(pin, CapOutcome::Held(until), out));
    keep(user, offer_id, pins);
}

/// Notes the places of a response to a link; its display is counted at once.
pub(super) fn keep(user: &mut User, offer_id: &str, pins: Vec<PinnedCap>) {
    if !pins.is_empty() {
        user.extension_mut().caps.insert(offer_id.to_owned(), pins);
    }
}

/// Changes the places that an offer still holds.
fn each(ctx: ApplyContext<'_>, user: &mut User, offer_id: &str, mut then: impl FnMut(&mut PinnedCap)) {
    if user.extension.as_ref().is_none_or(|extension| !extension.caps.contains_key(offer_id)) {
        return;
    }
    let pins = user.extension_mut().caps.get_mut(offer_id).into_iter().flatten();
    pins.filter(|pin| pin.holds(ctx.now)).for_each(&mut then);
}

/// Counts a display. Places of counters that count completions are still held.
pub(super) fn displayed(ctx: ApplyContext<'_>, user: &mut User, index: usize, at: Millis, out: &mut Outputs) {
    let offer = user.offers[index].clone();
    let until = offer.offered_at.saturating_add(ctx.project.settings.offer_known);
    each(ctx, user, &offer.offer_id, |pin| match pin.count {
        CapEvent::Displayed => change(pin, CapOutcome::Counted(at), out),
        // It is counted by the completion itself.
        CapEvent::Completed if offer.is_completed() => {}
        CapEvent::Completed if pin.place == Some(CapPlace::Held(until)) => {}
        CapEvent::Completed => change(pin, CapOutcome::Held(until), out),
    });
}

/// A dismissal releases the places of counters that count completions.
pub(super) fn dismissed(ctx: ApplyContext<'_>, user: &mut User, index: usize, out: &mut Outputs) {
    let offer_id = user.offers[index].offer_id.clone();
    each(ctx, user, &offer_id, |pin| change(pin, CapOutcome::Free, out));
}

/// Whether a completion must be refused for want of a place; a completion after a dismissal
/// takes new ones. Places that are needed first are noted in `out`.
pub(super) fn refuses_completion(ctx: ApplyContext<'_>, user: &User, index: usize, out: &mut Outputs) -> bool {
    let offer_id = &user.offers[index].offer_id;
    let pins = user.extension.iter().filter_map(|extension| extension.caps.get(offer_id)).flatten();
    let lost: Vec<&PinnedCap> = pins.filter(|pin| pin.count == CapEvent::Completed && !pin.holds(ctx.now)).collect();
    let answers = || lost.iter().map(|pin| ctx.caps.get(&pin.key));
    let is_refused = |answer: Option<&CapAnswer>| match answer {
        Some(CapAnswer::Granted) => false,
        Some(CapAnswer::Refused(_)) => true,
        None => !ctx.may_wait,
    };
    if answers().any(is_refused) {
        return true;
    }
    if answers().any(|answer| answer.is_none()) {
        out.needs_caps.extend(lost.iter().map(|pin| CapAsk { key: pin.key, rule: pin.rule }));
    }
    false
}

pub(super) fn completed(ctx: ApplyContext<'_>, user: &mut User, index: usize, at: Millis, out: &mut Outputs) {
    let offer_id = user.offers[index].offer_id.clone();
    if !is_capped(user, &user.offers[index]) {
        return;
    }
    let pins = user.extension_mut().caps.get_mut(&offer_id).into_iter().flatten();
    for pin in pins.filter(|pin| pin.count == CapEvent::Completed) {
        if !pin.holds(ctx.now) {
            pin.place = Some(CapPlace::Request(ctx.origin.offset));
        }
        change(pin, CapOutcome::Counted(at), out);
    }
}

/// Releases the places of an offer whose user is erased.
pub(super) fn released(ctx: ApplyContext<'_>, user: &User, offer_id: &str, out: &mut Outputs) {
    let pins = user.extension.iter().filter_map(|extension| extension.caps.get(offer_id)).flatten();
    for pin in pins.filter(|pin| pin.holds(ctx.now)) {
        change(&mut pin.clone(), CapOutcome::Free, out);
    }
}
