//! Finds and changes the windows of a survey: there is one row of windows for the survey,
//! or with `match` one for each value of the property.

use super::apply_context::ApplyContext;
use crate::definitions::Entry;
use crate::eligibility::windows::Window;
use crate::json::Json;
use crate::survey::Survey;
use crate::time::Millis;
use crate::user::{ActivationEvent, MatchedWindows, Offer, PerSurvey, User};

/// The windows of a `match` value, or with `None` those of the survey.
pub(super) fn of<'a>(user: &'a User, survey_id: &str, value: Option<&Json>) -> Option<&'a PerSurvey> {
    let Some(value) = value else { return user.surveys.get(survey_id) };
    matched(user, survey_id).iter().find(|one| one.value == *value).map(|one| &one.state)
}

/// All rows of windows of a survey: one, or one for each `match` value.
pub(super) fn all<'a>(user: &'a User, survey: &Survey) -> impl Iterator<Item = &'a PerSurvey> {
    let (whole, values) = match survey.match_by() {
        None => (user.surveys.get(&survey.survey_id), &[][..]),
        Some(_) => (None, matched(user, &survey.survey_id)),
    };
    whole.into_iter().chain(values.iter().map(|one| &one.state))
}

/// The windows of a survey that are open or wait for their delay, each with its end.
pub(super) fn open<'a>(user: &'a User, entry: &Entry, now: Millis) -> Vec<(Window<'a>, Millis)> {
    let end_of = |at, offset| entry.window_end(at, offset).unwrap_or(at);
    let Some(rules) = entry.rules(&end_of) else { return Vec::new() };
    let states = all(user, &entry.current).filter(|state| state.fingerprint == entry.fingerprint);
    let last = states.filter_map(|state| state.window(rules, now));
    let with_ends = last.map(|window| (window, window.end(rules)));
    with_ends.filter(|(window, end)| !window.shown && window.cancelled_at.is_none() && now < *end).collect()
}

/// Whether a user has a window of a survey that is open or waits for its delay.
pub fn has_open_window(user: &User, entry: &Entry, now: Millis) -> bool {
    !open(user, entry, now).is_empty()
}

fn matched<'a>(user: &'a User, survey_id: &str) -> &'a [MatchedWindows] {
    user.survey_extension(survey_id).map_or(&[], |kept| &kept.matched)
}

/// Changes the windows of a `match` value or of the survey. Windows armed by an earlier
/// activation are disarmed first.
fn change(user: &mut User, entry: &Entry, value: Option<&Json>, with: impl FnOnce(&mut PerSurvey)) {
    let survey_id = &*entry.current.survey_id;
    let state = match value {
        Some(value) => user.extension_mut().survey_mut(survey_id).matched_mut(value, entry.fingerprint),
        None => user.survey_mut(survey_id),
    };
    if state.fingerprint != entry.fingerprint {
        state.facts.clear();
        state.fingerprint = entry.fingerprint;
    }
    with(state);
    if value.is_some() {
        user.extension_mut().survey_mut(survey_id).order_matched();
    }
}

/// Inserts an activation event into the windows of its `match` value or of the survey.
pub(super) fn insert(
    ctx: ApplyContext<'_>,
    user: &mut User,
    entry: &Entry,
    value: Option<&Json>,
    fact: ActivationEvent,
    is_offered: &dyn Fn(u64) -> bool,
) {
    let end_of = |at, offset| entry.window_end(at, offset).unwrap_or(at);
    let Some(rules) = entry.rules(&end_of) else { return };
    let survey_id = &*entry.current.survey_id;
    let (offset, session) = (fact.event.offset, fact.session);
    change(user, entry, value, |state| {
        state.forget_facts(rules, ctx.now);
        state.insert(fact, rules, ctx.now, is_offered);
    });
    if let Some(session) = session {
        let facts: Vec<u64> =
            all(user, &entry.current).flat_map(|state| &state.facts).map(|fact| fact.event.offset).collect();
        user.extension_mut().survey_mut(survey_id).keep_session(offset, session, &facts);
    }
}

/// Merges the windows of an alias into those of its user. Windows armed by another
/// activation than the current one are left out.
pub(super) fn absorb(
    ctx: ApplyContext<'_>,
    user: &mut User,
    survey_id: &str,
    value: Option<&Json>,
    theirs: &PerSurvey,
    is_offered: &dyn Fn(u64) -> bool,
) {
    let Some(entry) = ctx.project.surveys.get(survey_id) else { return };
    let end_of = |at, offset| entry.window_end(at, offset).unwrap_or(at);
    let Some(rules) = entry.rules(&end_of) else { return };
    if theirs.fingerprint != entry.fingerprint || theirs.facts.is_empty() {
        return;
    }
    change(user, entry, value, |state| {
        state.forget_facts(rules, ctx.now);
        state.absorb(theirs, rules, ctx.now, is_offered);
    });
    let facts: Vec<u64> =
        all(user, &entry.current).flat_map(|state| &state.facts).map(|fact| fact.event.offset).collect();
    for fact in &theirs.facts {
        if let Some(session) = fact.session {
            user.extension_mut().survey_mut(survey_id).keep_session(fact.event.offset, session, &facts);
        }
    }
}

/// Notes the display of an offer in the windows of the `match` value that it came from.
pub(super) fn displayed(user: &mut User, offer: &Offer, at: Millis) {
    let Some(offset) = offer.activation.as_ref().map(|activated| activated.offset) else { return };
    let is_its = |one: &MatchedWindows| one.state.facts.iter().any(|fact| fact.event.offset == offset);
    let Some(place) = matched(user, &offer.survey_id).iter().position(is_its) else { return };
    user.extension_mut().survey_mut(&offer.survey_id).matched[place].state.window_displayed(at, offset);
}
