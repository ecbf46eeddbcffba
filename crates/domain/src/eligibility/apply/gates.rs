//! The gates of a survey, tried in their order; the first that is shut is the reason in the
//! decision.

use std::sync::Arc;

use serde_json::{Value, json};
use std::borrow::Cow;
use std::cell::OnceCell;

use super::apply_context::ApplyContext;
use super::apply_context::RequestContext;
use super::caps::{self, OfferPlaces};
use super::shares::{self, Draw};
use super::windows;
use crate::definitions::Entry;
use crate::eligibility::decision::{Gate, GateFailure};
use crate::eligibility::windows::Rules;
use crate::quota::QuotaStatus;
use crate::record::Context;
use crate::survey::cycle::{self, CycleUse};
use crate::survey::filter;
use crate::survey::schedule::{Schedule, ScheduleSpan};
use crate::survey::targeting::TargetingContext;
use crate::survey::{AfterDismissal, GlobalCooldown, Repeat, SessionCap, SettingsTargeting, ShowOn, Status, Survey};
use crate::time::{self, Millis};
use crate::user::{Activated, Offer, PerSurvey, Snooze, User, WINDOW_REMEMBERED};

/// A survey that passed all gates; it is offered if it wins the comparison with others.
#[derive(Default)]
pub(super) struct Eligible {
    pub activation: Option<Arc<Activated>>,
    pub expires_at: Millis,
    /// An offer of this survey that the session has and that was not displayed yet.
    pub existing: Option<Arc<Offer>>,
    /// Whether the quota's coordinator has to be asked first.
    pub needs_grant: bool,
    /// The places of counters that an offer would take.
    pub places: OfferPlaces,
    /// Whether its window was displayed before.
    shown: bool,
    /// When the next window of the same `match` value begins without another event.
    next_at: Option<Millis>,
}

/// When a window that is shut opens; a window that has not begun yet waits for its delay,
/// too.
fn opens_at(failure: &GateFailure, delay: Millis) -> Millis {
    let delay = if failure.gate == Gate::DelayPending { 0 } else { delay };
    failure.until.map_or(Millis::MAX, |until| until.saturating_add(delay))
}

/// Hint of the gate `offer_outstanding` when the trigger names no session.
const NEEDS_SESSION: &str = "the trigger has no context.session_id: send the same one with every trigger of a session, \
                             and its undisplayed offer is given again, also after a page is loaded anew";

/// Hint of the gate `out_of_schedule` when the schedule follows the user's zone and the
/// trigger names none.
const NEEDS_ZONE: &str =
    "the schedule is on the user's own clocks: send context.timezone, such as Europe/Berlin, with the trigger";

/// What the evaluation of one survey looks at.
pub(super) struct EligibilityCheck<'a> {
    pub ctx: ApplyContext<'a>,
    pub user: &'a User,
    pub entry: &'a Entry,
    pub request: RequestContext<'a>,
    pub properties: &'a Value,
    /// The user's attributes as one object, built once for all surveys that need it.
    pub attributes: &'a OnceCell<Value>,
}

impl EligibilityCheck<'_> {
    pub(super) fn evaluate(&self) -> Result<Eligible, GateFailure> {
        let survey = &*self.entry.current;
        status(survey, self.ctx.user_id)?;
        schedule(survey, self.ctx, Some(self.request.context))?;
        audience(survey, self.request.context)?;
        self.show_on(survey)?;
        self.evaluate_state(survey)
    }

    /// Evaluates the gates that do not depend on the trigger's context and properties.
    pub(super) fn evaluate_without_trigger(&self) -> Result<Eligible, GateFailure> {
        let survey = &*self.entry.current;
        status(survey, self.ctx.user_id)?;
        schedule(survey, self.ctx, None)?;
        self.evaluate_state(survey)
    }

    /// Evaluates the gates that depend on user and survey alone.
    fn evaluate_state(&self, survey: &Survey) -> Result<Eligible, GateFailure> {
        let mut passed = self.window(survey)?;
        let test = survey.status == Status::Test;
        targeting(survey, self.ctx, self.user, self.attributes, self.request.context)?;
        if !test {
            let drawn = self.drawn(survey, passed.activation.as_deref());
            shares::shares(survey, self.ctx, self.user, self.attributes, drawn)?;
            self.repeat(survey, &passed)?;
            self.cooldowns(survey)?;
            passed.needs_grant = self.quota(survey)?;
            passed.places = self.caps(survey)?;
        }
        passed.existing = self.outstanding(survey, test)?;
        Ok(passed)
    }

    /// What is drawn for when a share is by activation: the activating event, or without
    /// one the offer that the trigger would make.
    fn drawn(&self, survey: &Survey, activation: Option<&Activated>) -> Draw {
        let session = self.request.context.session_id.as_deref();
        let (now, ttl) = (self.ctx.now, self.ctx.project.settings.offer_ttl);
        let is_its = |offer: &&Arc<Offer>| {
            offer.survey_id == survey.survey_id && offer.is_outstanding(now, ttl) && offer.in_session(session)
        };
        match activation {
            Some(activated) => Draw::By(activated.event_id.clone()),
            // Without a trigger there is no offer to draw for.
            None if self.request.trigger.is_empty() => Draw::Unknown,
            None => match self.user.offers.iter().find(is_its) {
                Some(offer) => Draw::By(offer.offer_id.clone()),
                None => Draw::By(self.ctx.origin.offer_id(self.ctx.project_id, self.ctx.user_id)),
            },
        }
    }

    fn state(&self) -> Option<&PerSurvey> {
        self.user.surveys.get(&self.entry.current.survey_id)
    }

    fn show_on(&self, survey: &Survey) -> Result<(), GateFailure> {
        let here = |shown: &&ShowOn| shown.trigger == self.request.trigger;
        let mut failed = None;
        for shown in survey.show_on.iter().filter(here) {
            match filter::first_mismatch(&shown.conditions, self.properties, self.ctx.now) {
                None => return Ok(()),
                Some(mismatch) => failed = Some(mismatch),
            }
        }
        let actual = failed.map_or(Value::Null, |m| json!({"property": m.property, "actual": m.actual}));
        Err(GateFailure::new(Gate::ShowOnMismatch, actual, None))
    }

    /// Checks `not_activated`, `delay_pending`, `cancelled` and `expired`. A survey without
    /// `activate` has a window for each trigger.
    fn window(&self, survey: &Survey) -> Result<Eligible, GateFailure> {
        let now = self.ctx.now;
        let end_of = |at, offset| self.entry.window_end(at, offset).unwrap_or(at);
        let Some(rules) = self.entry.rules(&end_of) else {
            let expires_at = now.saturating_add(self.ctx.project.settings.offer_ttl);
            return Ok(Eligible { expires_at, ..Eligible::default() });
        };
        let mut best: Option<Eligible> = None;
        let mut failed: Option<GateFailure> = None;
        // Of several windows that are shut, the failure comes from the one that opens
        // soonest by itself, else from the one that was open last.
        let nearness = |failure: &GateFailure| (opens_at(failure, survey.delay), failure.gate == Gate::NotActivated);
        // Of several open windows, one that can be offered comes first, then one that was
        // not displayed, then the one that expires soonest.
        let rank = |open: &Eligible| (self.is_spent(survey, open), open.shown, open.expires_at);
        for state in windows::all(self.user, survey) {
            match self.window_of(survey, state, rules) {
                Err(failure) => {
                    let is_nearer = failed.as_ref().is_none_or(|known| nearness(&failure) <= nearness(known));
                    failed = if is_nearer { Some(failure) } else { failed };
                }
                Ok(open) => {
                    if best.as_ref().is_none_or(|best| rank(&open) < rank(best)) {
                        best = Some(open);
                    }
                }
            }
        }
        match (best, failed) {
            // When no open window can be offered, the failure comes from the one that opens
            // next.
            (Some(best), Some(failure)) if self.is_spent(survey, &best) && failure.until.is_some() => {
                let next_at = best.next_at.map_or(Millis::MAX, |at| at.saturating_add(survey.delay));
                if opens_at(&failure, survey.delay) <= next_at { Err(failure) } else { Ok(best) }
            }
            (Some(best), _) => Ok(best),
            (None, failed) => Err(failed.unwrap_or(GateFailure::new(Gate::NotActivated, Value::Null, None))),
        }
    }

    /// Whether a later gate is shut for this window only: it was displayed, or a share by
    /// activation leaves it out.
    fn is_spent(&self, survey: &Survey, open: &Eligible) -> bool {
        let left_out =
            open.activation.as_deref().is_some_and(|by| !shares::let_through(survey, self.ctx, &by.event_id));
        let displayed = open.shown && snoozed(self.user, &survey.survey_id).is_none();
        survey.status != Status::Test && (displayed || left_out)
    }

    /// The same for the windows of one `match` value.
    fn window_of(&self, survey: &Survey, state: &PerSurvey, rules: Rules<'_>) -> Result<Eligible, GateFailure> {
        let now = self.ctx.now;
        let none = |until| Err(GateFailure::new(Gate::NotActivated, Value::Null, until));
        if state.fingerprint != self.entry.fingerprint {
            return none(None);
        }
        // A window begins then; its delay is reported by `delay_pending`.
        let next = || state.next_window(rules, now);
        let Some(window) = state.window(rules, now) else { return none(next()) };
        let (at, by) = (window.by.at, &window.by.by.event);
        let ends_at = window.end(rules);
        let over = window.cancelled_at.map_or(ends_at, |cancelled| cancelled.min(ends_at));
        if now >= over.saturating_add(WINDOW_REMEMBERED) {
            return none(next());
        }
        let opens_at = at.saturating_add(survey.delay);
        if now < opens_at {
            // A cancelled window does not open any more; the next one may.
            let until = match window.cancelled_at {
                None => Some(opens_at),
                Some(_) => next().map(|at| at.saturating_add(survey.delay)),
            };
            return Err(GateFailure::new(Gate::DelayPending, json!(time::format_time(at)), until));
        }
        if let Some(cancelled) = window.cancelled_at.filter(|cancelled| *cancelled < ends_at) {
            return Err(GateFailure::new(Gate::Cancelled, json!(time::format_time(cancelled)), next()));
        }
        if now >= ends_at {
            return Err(GateFailure::new(Gate::Expired, json!(time::format_time(ends_at)), next()));
        }
        // An absence arms later than the event after which it waits.
        let activation = if at == by.at { (*by).clone() } else { Arc::new(Activated { at, ..(**by).clone() }) };
        let (activation, shown) = (Some(activation), window.shown);
        let next_at = if shown { next() } else { None };
        Ok(Eligible { activation, expires_at: ends_at, shown, next_at, ..Eligible::default() })
    }

    /// Checks `already_completed` and `max_displays`.
    fn repeat(&self, survey: &Survey, window: &Eligible) -> Result<(), GateFailure> {
        let used = spent(survey, self.user, self.ctx.now, self.request.context)?;
        let put_off = snoozed(self.user, &survey.survey_id).is_some();
        let opens_at = |until: Option<Millis>| until.unwrap_or(Millis::MAX);
        // When both are used up, `until` is the later of the two times.
        let of_window = (window.shown && !put_off).then_some(window.next_at);
        let of_cycle = survey.frequency.max_displays.filter(|max| used.displays >= *max).map(|_| used.ends_at);
        match of_window.into_iter().chain(of_cycle).max_by_key(|until| opens_at(*until)) {
            Some(until) => Err(GateFailure::new(Gate::MaxDisplays, json!(used.displays), until)),
            None => Ok(()),
        }
    }

    /// Checks `cooldown`, `global_cooldown` and `session_cap`.
    fn cooldowns(&self, survey: &Survey) -> Result<(), GateFailure> {
        let (now, frequency) = (self.ctx.now, &survey.frequency);
        let settings = &self.ctx.project.settings;
        match snoozed(self.user, &survey.survey_id) {
            Some(snooze) => cooling(Gate::Cooldown, Some(snooze.at), snooze.until.saturating_sub(snooze.at), now)?,
            None => self.own_cooldown(survey)?,
        }
        if let Some(span) = frequency.global_cooldown.waits(settings.global_cooldown) {
            cooling(Gate::GlobalCooldown, self.user.last_display_at, span, now)?;
        }
        let shown = self.user.session_displays(self.request.context.session_id.as_deref());
        if frequency.session_cap == SessionCap::Respect && shown >= settings.max_per_session {
            return Err(GateFailure::new(Gate::SessionCap, json!(shown), None));
        }
        Ok(())
    }

    /// Checks the cooldowns after the last display and after the last dismissal; when both
    /// are running, `until` is the later end.
    fn own_cooldown(&self, survey: &Survey) -> Result<(), GateFailure> {
        let Some(state) = self.state() else { return Ok(()) };
        let (now, frequency) = (self.ctx.now, &survey.frequency);
        let displayed = cooling(Gate::Cooldown, state.last_display_at, frequency.cooldown, now);
        let kept = self.user.survey_extension(&survey.survey_id);
        let refused_at = state.dismissed_at.filter(|at| kept.and_then(|kept| kept.closed_at) != Some(*at));
        let dismissed = match frequency.after_dismissal {
            Some(AfterDismissal::Never) if refused_at.is_some() => {
                return Err(GateFailure::new(Gate::Cooldown, time_text(refused_at), None));
            }
            Some(AfterDismissal::Wait(span)) => cooling(Gate::Cooldown, refused_at, span, now),
            _ => Ok(()),
        };
        match (displayed, dismissed) {
            (Err(one), Err(other)) => Err(if one.until >= other.until { one } else { other }),
            (displayed, dismissed) => displayed.and(dismissed),
        }
    }

    /// Checks `quota_full`; returns whether the coordinator has to be asked. An offer that
    /// holds a grant passes.
    fn quota(&self, survey: &Survey) -> Result<bool, GateFailure> {
        let (now, ttl) = (self.ctx.now, self.ctx.project.settings.offer_ttl);
        let is_held = |offer: &Arc<Offer>| {
            offer.survey_id == survey.survey_id && offer.is_outstanding(now, ttl) && offer.holds(now).is_some()
        };
        if self.user.offers.iter().any(is_held) {
            return Ok(false);
        }
        quota(survey, self.ctx)
    }

    /// Checks `cap_reached`; returns the places that an offer takes. An offer that exists
    /// keeps its own.
    fn caps(&self, survey: &Survey) -> Result<OfferPlaces, GateFailure> {
        let (now, ttl) = (self.ctx.now, self.ctx.project.settings.offer_ttl);
        let is_held = |offer: &Arc<Offer>| {
            offer.survey_id == survey.survey_id
                && offer.is_outstanding(now, ttl)
                && !(caps::is_capped(self.user, offer) && offer.has_lapsed(now))
        };
        if self.user.offers.iter().any(is_held) {
            return Ok(OfferPlaces::default());
        }
        caps::caps(survey, self.ctx, self.user, self.attributes)
    }

    /// Whether the display of an offer starts the cooldown between surveys.
    fn starts_cooldown(&self, offer: &Offer) -> bool {
        let entry = self.ctx.project.surveys.get(&offer.survey_id);
        let survey = entry.map(|entry| entry.version(offer.version).unwrap_or(&entry.current));
        survey.is_none_or(|survey| survey.frequency.global_cooldown != GlobalCooldown::Exempt)
    }

    /// Checks `offer_outstanding`; returns an existing offer that the session may get
    /// again.
    fn outstanding(&self, survey: &Survey, test: bool) -> Result<Option<Arc<Offer>>, GateFailure> {
        let settings = &self.ctx.project.settings;
        let session = self.request.context.session_id.as_deref();
        let (mut existing, mut blocked): (_, Option<GateFailure>) = (None, None);
        // Displays in this session, with those that its outstanding offers will add.
        let mut displays = self.user.session_displays(session);
        for offer in &self.user.offers {
            let must_hold = self.ctx.is_limited(&offer.survey_id) || caps::is_capped(self.user, offer);
            let lapsed = must_hold && offer.has_lapsed(self.ctx.now);
            if lapsed || !offer.is_outstanding(self.ctx.now, settings.offer_ttl) {
                continue;
            }
            let same_session = offer.in_session(session);
            let blocks = if offer.survey_id == survey.survey_id {
                if same_session {
                    existing = Some(offer.clone());
                }
                !same_session
            } else {
                // An offer of the same session blocks another survey only through the
                // cooldown that its display will start, or through the session cap.
                displays += u32::from(same_session && !offer.test);
                let caps = survey.frequency.session_cap == SessionCap::Respect;
                let full = caps && same_session && displays >= settings.max_per_session;
                let waits = survey.frequency.global_cooldown.waits(settings.global_cooldown);
                let cooling = waits.is_some_and(|span| !same_session || span > 0) && self.starts_cooldown(offer);
                !test && !offer.test && (cooling || full)
            };
            // The newest of several blocks longest.
            if blocks {
                let until = offer.offered_at.saturating_add(settings.offer_ttl);
                let hint = session.is_none().then_some(NEEDS_SESSION);
                let failure = GateFailure::new(Gate::OfferOutstanding, json!(offer.offer_id), Some(until));
                blocked = Some(GateFailure { hint, ..failure });
            }
        }
        blocked.map_or(Ok(existing), Err)
    }
}

pub(super) fn status(survey: &Survey, user_id: &str) -> Result<(), GateFailure> {
    let tester = survey.test_users.iter().any(|id| id == user_id);
    if survey.status.decides() && (survey.status != Status::Test || tester) {
        Ok(())
    } else {
        Err(GateFailure::new(Gate::NotActive, json!(survey.status), None))
    }
}

/// Checks `out_of_schedule`. A schedule in the user's zone is shut while the context does
/// not name the zone. Without a context only start and end are checked.
pub(super) fn schedule(survey: &Survey, ctx: ApplyContext<'_>, context: Option<&Context>) -> Result<(), GateFailure> {
    let (now, except) = (ctx.now, &ctx.project.settings.except);
    let zone = context.and_then(|context| context.timezone.as_deref());
    let known = survey.schedule.as_ref().map(|schedule| match schedule.for_user(zone) {
        Some(schedule) => (schedule, true),
        None => (Cow::Owned(schedule.span()), false),
    });
    if let Some(span) = except.iter().find(|span| span.contains(now)) {
        let opens_at = opening(known.as_ref().map(|(schedule, _)| &**schedule), except, now);
        return Err(GateFailure::new(Gate::OutOfSchedule, json!({"except": span}), opens_at));
    }
    let Some((schedule, is_known)) = known else { return Ok(()) };
    if !schedule.is_open(now) {
        return Err(GateFailure::new(
            Gate::OutOfSchedule,
            json!(schedule.local_text(now)),
            opening(Some(&*schedule), except, now),
        ));
    }
    if !is_known && context.is_some() {
        let hint = Some(NEEDS_ZONE);
        return Err(GateFailure { hint, ..GateFailure::new(Gate::OutOfSchedule, json!({"timezone": zone}), None) });
    }
    Ok(())
}

/// When a schedule is open next outside of the project's `except`.
fn opening(schedule: Option<&Schedule>, except: &[ScheduleSpan], now: Millis) -> Option<Millis> {
    let mut at = now;
    // Each excluded span is passed once, and behind each the schedule may be shut.
    for _ in 0..=except.len() * 2 + 1 {
        match (except.iter().find(|span| span.contains(at)), schedule) {
            (Some(span), _) => at = span.end_at,
            (None, Some(schedule)) if !schedule.is_open(at) => at = schedule.next_opening(at)?,
            (None, _) => return Some(at),
        }
    }
    None
}

/// Checks `excluded`, the project's targeting, and `targeting_failed`, the survey's.
pub(super) fn targeting(
    survey: &Survey,
    ctx: ApplyContext<'_>,
    user: &User,
    attributes: &OnceCell<Value>,
    context: &Context,
) -> Result<(), GateFailure> {
    let respected = survey.settings_targeting == SettingsTargeting::Respect;
    let project = ctx.project.settings.targeting.as_ref().filter(|_| respected);
    for (gate, rule) in [(Gate::Excluded, project), (Gate::TargetingFailed, survey.targeting.as_ref())] {
        let Some(rule) = rule else { continue };
        let attributes = attributes.get_or_init(|| user.attributes_value());
        let zone = survey.zone_of_days(context.timezone.as_deref());
        let (tags, retentions, now) = (ctx.project.tags(), ctx.project.retentions(), ctx.now);
        let checked = rule.check(TargetingContext { user, attributes, tags, retentions, zone: &zone, now });
        checked.map_err(|missed| GateFailure::new(gate, missed.actual, missed.until))?;
    }
    Ok(())
}

/// Checks `platform_mismatch`, `locale_mismatch` and `version_mismatch`. A filter fails
/// when the context does not name the value that it looks at.
pub(super) fn audience(survey: &Survey, context: &Context) -> Result<(), GateFailure> {
    let platform = context.platform.as_deref();
    if !survey.platforms.is_empty() && !platform.is_some_and(|p| survey.platform_matches(p)) {
        return Err(GateFailure::new(Gate::PlatformMismatch, json!(platform), None));
    }
    let locale = context.locale.as_deref();
    if !survey.locales.is_empty() && !locale.is_some_and(|l| survey.locale_matches(l)) {
        return Err(GateFailure::new(Gate::LocaleMismatch, json!(locale), None));
    }
    let version = context.app_version.as_deref();
    if let Some(range) = &survey.app_version
        && !version.is_some_and(|v| range.matches(v))
    {
        return Err(GateFailure::new(Gate::VersionMismatch, json!(version), None));
    }
    Ok(())
}

/// What a user has used up of the survey's cycle, over all versions and windows; fails when
/// `repeat` forbids another offer.
pub(super) fn spent(survey: &Survey, user: &User, now: Millis, context: &Context) -> Result<CycleUse, GateFailure> {
    let survey_id = &*survey.survey_id;
    let Some(state) = user.surveys.get(survey_id) else { return Ok(CycleUse::default()) };
    let zone = survey.zone_of_days(context.timezone.as_deref());
    let used = cycle::used(survey.frequency.per, state, user.survey_extension(survey_id), &zone, now);
    // A display that ended in a snooze does not count.
    let displays = used.displays - u32::from(used.displays > 0 && snoozed(user, survey_id).is_some());
    let (gate, shut, actual) = match survey.frequency.repeat {
        Repeat::Once => (Gate::MaxDisplays, displays >= 1, json!(used.displays)),
        Repeat::UntilResponded => (Gate::AlreadyCompleted, used.answered_at.is_some(), time_text(used.answered_at)),
        Repeat::UntilCompleted => (Gate::AlreadyCompleted, used.completed_at.is_some(), time_text(used.completed_at)),
        Repeat::EveryActivation => return Ok(used),
    };
    if shut { Err(GateFailure::new(gate, actual, used.ends_at)) } else { Ok(used) }
}

/// The snooze in which the last display ended, unless the user has dismissed the survey
/// since.
fn snoozed(user: &User, survey_id: &str) -> Option<Snooze> {
    let snooze = user.survey_extension(survey_id)?.snooze?;
    let state = user.surveys.get(survey_id)?;
    let later = state.last_display_at.max(state.dismissed_at);
    later.is_none_or(|last| last <= snooze.at).then_some(snooze)
}

/// Checks `quota_full`; returns whether the coordinator has to be asked.
pub(super) fn quota(survey: &Survey, ctx: ApplyContext<'_>) -> Result<bool, GateFailure> {
    match ctx.quota_status(&survey.survey_id) {
        QuotaStatus::Available => Ok(false),
        QuotaStatus::NeedsGrant => Ok(true),
        QuotaStatus::Exhausted => {
            Err(GateFailure::new(Gate::QuotaFull, json!({"max_completed": survey.limits.max_completed}), None))
        }
    }
}

fn time_text(at: Option<Millis>) -> Value {
    json!(at.map(time::format_time))
}

/// The cooldown is half-open: at its end the gate passes.
fn cooling(gate: Gate, last: Option<Millis>, cooldown: Millis, now: Millis) -> Result<(), GateFailure> {
    match last {
        Some(last) if now < last.saturating_add(cooldown) => {
            Err(GateFailure::new(gate, json!(time::format_time(last)), Some(last.saturating_add(cooldown))))
        }
        _ => Ok(()),
    }
}
