//! A second opinion on one survey and one trigger: the first gate that is shut, and when time
//! alone opens it, worked out from the whole past at once, for clarity and not for speed.

use std::collections::{BTreeMap, BTreeSet};

use askwhen_domain::eligibility::decision::Gate;
use askwhen_domain::quota::cap::{Cap, MissingValue};
use askwhen_domain::record::Context;
use askwhen_domain::survey::activation::Activation;
use askwhen_domain::survey::cycle::Per;
use askwhen_domain::survey::schedule::{Calendar, Day, MonthDay, ScheduleSpan};
use askwhen_domain::survey::share::{Purpose, Share, Unit, place};
use askwhen_domain::survey::{AfterDismissal, GlobalCooldown, Repeat, SessionCap, SettingsTargeting, Status, Survey};
use askwhen_domain::time::{HOUR, Millis};
use askwhen_domain::user::{ActivationEvent, EventOrder, WINDOW_REMEMBERED};

use crate::clocks::Clocks;
use crate::past::{Asking, Made, Past, Place};
use crate::reference::{KEY, World};
use crate::windows::{Stretch, armings, by_hand};

/// Which bounds over all users are looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bounds {
    None,
    Caps,
    All,
}

/// A gate that is shut, and when it opens by itself. Where several stand in the way at once,
/// each of their times will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    pub gate: Gate,
    pub untils: Vec<Option<Millis>>,
}

impl Shut {
    fn until(gate: Gate, until: Option<Millis>) -> Shut {
        Shut { gate, untils: vec![until] }
    }
}

/// What an offer would be made of.
#[derive(Debug, Clone)]
pub struct Open {
    pub expires_at: Millis,
    /// Time, place and id of the activation.
    pub by: Option<(Millis, u64)>,
    event_id: String,
    shown: bool,
    /// When the next window of the same value begins.
    next_at: Option<Millis>,
}

fn shut(gate: Gate) -> Result<(), Shut> {
    Err(Shut::until(gate, None))
}

fn calendar_days(survey: &Survey, context: &Context) -> Clocks {
    let Some(schedule) = &survey.schedule else { return Clocks::Utc };
    match (schedule.timezone.name(), &context.timezone) {
        ("user", Some(zone)) => Clocks::named(zone),
        ("user", None) => Clocks::Utc,
        (name, _) => Clocks::named(name),
    }
}

impl World {
    pub fn opinion(&self, asking: &Asking, survey: &Survey, bounds: Bounds) -> Result<Open, Shut> {
        let past = self.past(&asking.user_id);
        let is_test = survey.status == Status::Test;
        match survey.status {
            Status::Active | Status::Shadow => {}
            Status::Test if survey.test_users.contains(&asking.user_id) => {}
            _ => shut(Gate::NotActive)?,
        }
        self.in_schedule(survey, asking)?;
        audience(survey, asking)?;
        let window = self.window(past, survey, asking)?;
        self.targeted(past, survey, asking)?;
        if is_test {
            self.outstanding(past, survey, asking)?;
            return Ok(window);
        }
        self.in_shares(past, survey, asking, &window)?;
        self.repeats(past, survey, asking, &window)?;
        self.cooled(past, survey, asking)?;
        let stands = |made: &&Made| made.is_of(survey) && self.is_outstanding(made);
        let full = || survey.limits.max_completed.is_some_and(|limit| self.taken(&survey.survey_id) >= limit);
        if bounds == Bounds::All && !past.real().any(|made| stands(&made)) && full() {
            shut(Gate::QuotaFull)?;
        }
        if bounds >= Bounds::Caps && !past.made.iter().any(|made| stands(&made)) {
            self.in_caps(past, survey)?;
        }
        self.outstanding(past, survey, asking)?;
        Ok(window)
    }

    /// A link is open to a user whom status, schedule, audience, targeting, shares, `repeat`
    /// and limits let in.
    pub fn opinion_of_link(&self, asking: &Asking, survey: &Survey) -> Result<(), Shut> {
        let past = self.past(&asking.user_id);
        match survey.status {
            Status::Active | Status::Shadow => {}
            Status::Test if survey.test_users.contains(&asking.user_id) => {}
            _ => shut(Gate::NotActive)?,
        }
        self.in_span(survey)?;
        self.targeted(past, survey, asking)?;
        if survey.status == Status::Test {
            return Ok(());
        }
        let user = Open { expires_at: 0, by: None, event_id: String::new(), shown: false, next_at: None };
        self.in_shares(past, survey, asking, &user)?;
        self.spent(past, survey, asking).map_or(Ok(()), Err)?;
        if survey.limits.max_completed.is_some_and(|limit| self.taken(&survey.survey_id) >= limit) {
            shut(Gate::QuotaFull)?;
        }
        self.in_caps(past, survey)
    }

    /// Open by the schedule of the survey and outside of what the project leaves out.
    fn in_schedule(&self, survey: &Survey, asking: &Asking) -> Result<(), Shut> {
        let except = &self.project.settings.except;
        let is_excepted = |at: Millis| except.iter().any(|span| span.contains(at));
        let on_clocks = |at: Millis| is_open(survey, &asking.context, at);
        match (is_excepted(self.now), on_clocks(self.now)) {
            (false, Some(true)) => Ok(()),
            // The user's clocks are not known: no time opens it.
            (false, None) => shut(Gate::OutOfSchedule),
            // Everything begins and ends at a whole hour, or half of one in Kolkata.
            _ => {
                let first = self.now.div_euclid(HOUR / 2) + 1;
                let mut halves = (first..first + 24 * 2 * 64).map(|half| half * (HOUR / 2));
                let opens = halves.find(|at| !is_excepted(*at) && on_clocks(*at).is_none_or(|is_open| is_open));
                Err(Shut::until(Gate::OutOfSchedule, opens))
            }
        }
    }

    /// The same where nobody tells of clocks: what holds on any.
    fn in_span(&self, survey: &Survey) -> Result<(), Shut> {
        let except = self.project.settings.except.iter().any(|span| span.contains(self.now));
        let schedule = survey.schedule.as_ref();
        let is_shut = schedule.is_some_and(|schedule| match schedule.timezone.name() {
            "user" => !in_spans(survey, self.now),
            _ => is_open(survey, &Context::default(), self.now) == Some(false),
        });
        if except || is_shut { shut(Gate::OutOfSchedule) } else { Ok(()) }
    }

    /// Of several windows the one that is not used up and expires soonest; where there is
    /// none, the one that opens next says why.
    fn window(&self, past: &Past, survey: &Survey, asking: &Asking) -> Result<Open, Shut> {
        let now = self.now;
        let Some(arming) = &survey.activate else {
            let (expires_at, event_id) = (now + self.project.settings.offer_ttl, String::new());
            return Ok(Open { expires_at, by: None, event_id, shown: false, next_at: None });
        };
        let none = Vec::new();
        let facts = past.facts.get(&survey.survey_id).unwrap_or(&none);
        let values: BTreeSet<Option<i64>> = facts.iter().map(|fact| fact.value).collect();
        let mut all: Vec<(EventOrder, Result<Open, Shut>)> = Vec::new();
        for value in values {
            let its = facts.iter().filter(|fact| fact.value == value).map(|fact| fact.event.clone());
            let mut its: Vec<ActivationEvent> = its.collect();
            its.sort_by_key(ActivationEvent::order);
            let newest = its.last().expect("a value has an event").order();
            all.push((newest, self.window_of(past, survey, arming, &its)));
        }
        all.sort_by_key(|(newest, _)| *newest);
        let opens = |shut: &Shut| {
            let delay = if shut.gate == Gate::DelayPending { 0 } else { survey.delay };
            shut.untils[0].map_or(Millis::MAX, |until| until + delay)
        };
        let is_used_up = |open: &Open| self.is_used_up(past, survey, asking, open);
        let open = all.iter().filter_map(|(_, window)| window.as_ref().ok());
        let best = open.min_by_key(|open| (is_used_up(open), open.shown, open.expires_at));
        let shut = all.iter().rev().filter_map(|(_, window)| window.as_ref().err());
        let next = shut.min_by_key(|shut| (opens(shut), shut.gate == Gate::NotActivated));
        match (best, next) {
            (Some(best), None) => Ok(best.clone()),
            (Some(best), Some(_)) if !is_used_up(best) => Ok(best.clone()),
            (Some(best), Some(next)) => {
                let again = best.next_at.map_or(Millis::MAX, |at| at + survey.delay);
                let is_next = opens(next) < Millis::MAX && opens(next) <= again;
                if is_next { Err(next.clone()) } else { Ok(best.clone()) }
            }
            (None, Some(next)) => Err(next.clone()),
            (None, None) => Err(Shut::until(Gate::NotActivated, None)),
        }
    }

    /// The window of one value.
    fn window_of(
        &self,
        past: &Past,
        survey: &Survey,
        activation: &Activation,
        facts: &[ActivationEvent],
    ) -> Result<Open, Shut> {
        let now = self.now;
        let expires = survey.expires_after.expect("with an activation");
        let mine = past.real().filter(|made| made.is_of(survey));
        let displays: Vec<(u64, Millis)> = mine.filter_map(|made| Some((made.by?, made.displayed_at?))).collect();
        let found = by_hand((activation, survey.on_repeat, expires), facts, &displays, now);
        let next_at = armings(activation, facts).into_iter().map(|(at, _)| at).filter(|at| *at > now).min();
        let over = |found: &Stretch| found.cancelled_at.map_or(Millis::MAX, |at| at).min(found.by.0 + expires);
        let Some(found) = found.filter(|found| now < over(found) + WINDOW_REMEMBERED) else {
            return Err(Shut::until(Gate::NotActivated, next_at));
        };
        let (at, order) = found.by;
        let ends_at = at + expires;
        if now < at + survey.delay {
            // One that was taken back meanwhile is not opened by time.
            let until = found.cancelled_at.map_or(Some(at + survey.delay), |_| next_at.map(|at| at + survey.delay));
            return Err(Shut::until(Gate::DelayPending, until));
        }
        if found.cancelled_at.is_some_and(|cancelled| cancelled < ends_at) {
            return Err(Shut::until(Gate::Cancelled, next_at));
        }
        if now >= ends_at {
            return Err(Shut::until(Gate::Expired, next_at));
        }
        let by = facts.iter().find(|fact| fact.event.offset == order.offset).expect("it is one of them");
        let (event_id, shown) = (by.event.event_id.clone(), found.shown);
        Ok(Open { expires_at: ends_at, by: Some((at, order.offset)), event_id, shown, next_at })
    }

    /// Whether a window can't be offered for reasons of its own: it was displayed, and the user
    /// has not asked for it again; or it is none of those that are drawn.
    fn is_used_up(&self, past: &Past, survey: &Survey, asking: &Asking, open: &Open) -> bool {
        let draws = |unit: &Unit| *unit == Unit::Activation;
        let at = |share: &Share, purpose| share.place(purpose, KEY, &[&asking.user_id, &*open.event_id].join("\0"));
        let holdout = survey.holdout.share(&survey.survey_id);
        let is_held_out = draws(&holdout.by) && holdout.holds(at(&holdout, Purpose::Holdout));
        let sampling = &survey.sampling;
        let is_left_out = draws(&sampling.by) && !sampling.holds(at(sampling, Purpose::Sampling));
        let is_shown = open.shown && self.snooze(past, survey).is_none();
        survey.status != Status::Test && (is_shown || is_held_out || is_left_out)
    }

    /// The wish to be asked again: when it was told, and the time that it asks for. A later
    /// display or refusal ends it.
    fn snooze(&self, past: &Past, survey: &Survey) -> Option<(Millis, Millis)> {
        let mine: Vec<&Made> = past.real().filter(|made| made.is_of(survey)).collect();
        let wishes = mine.iter().filter_map(|made| Some((made.dismissed_at?, made.again_at?)));
        let (at, until) = wishes.max()?;
        let later =
            mine.iter().flat_map(|made| [made.displayed_at, made.dismissed_at]).flatten().any(|other| other > at);
        (!later).then_some((at, until))
    }

    fn in_shares(&self, past: &Past, survey: &Survey, asking: &Asking, window: &Open) -> Result<(), Shut> {
        // What stands for an activation that there is not: the offer, or for a link the user.
        let drawn = match (&window.by, survey.activate.is_none() && window.expires_at > 0) {
            (Some(_), _) => [&asking.user_id, &*window.event_id].join("\0"),
            (None, true) => {
                let mut own = past.made.iter().filter(|made| made.is_of(survey) && self.is_outstanding(made));
                let own = own.find(|made| made.session.is_some() && made.session == asking.context.session_id);
                [&*asking.user_id, own.map_or(&*asking.offer_id, |made| &*made.offer_id)].join("\0")
            }
            (None, false) => asking.user_id.clone(),
        };
        let key = |share: &Share| match &share.by {
            Unit::User => Some(asking.user_id.clone()),
            Unit::Activation => Some(drawn.clone()),
            Unit::Attribute(name) => past.attributes.get(name).map(ToString::to_string),
        };
        let holds = |share: &Share, purpose| key(share).is_some_and(|key| share.holds(share.place(purpose, KEY, &key)));
        if survey.holdout.percent > 0.0 && holds(&survey.holdout.share(&survey.survey_id), Purpose::Holdout) {
            shut(Gate::Holdout)?;
        }
        let everybody = survey.sampling.percent >= 100.0 && survey.sampling.by == Unit::User;
        if !everybody && !holds(&survey.sampling, Purpose::Sampling) {
            shut(Gate::NotSampled)?;
        }
        if let (Some(spread), Some(schedule)) = (survey.spread, &survey.schedule) {
            let part = place(Purpose::Spread, [KEY, &survey.survey_id, &asking.user_id]) / 100.0;
            let begins_at = schedule.start_at.expect("with a spread") + (part * spread as f64) as Millis;
            if self.now < begins_at {
                return Err(Shut::until(Gate::NotSampled, Some(begins_at)));
            }
        }
        let Some(experiment) = &survey.experiment else { return Ok(()) };
        let arm = self.arm(past, &experiment.name, &asking.user_id);
        if arm.is_some_and(|arm| arm != experiment.arm) { shut(Gate::OtherArm) } else { Ok(()) }
    }

    /// The arm that was offered; else, of those whose samples hold the user, the one with the
    /// highest draw.
    fn arm(&self, past: &Past, name: &str, user_id: &str) -> Option<String> {
        if let Some(arm) = past.arms.get(name) {
            return Some(arm.clone());
        }
        let mut arms: Vec<(f64, String)> = Vec::new();
        for survey in self.project.surveys.values().map(|entry| &entry.current) {
            let Some(experiment) = survey.experiment.as_ref().filter(|experiment| experiment.name == name) else {
                continue;
            };
            let key = match &survey.sampling.by {
                Unit::User => Some(user_id.to_owned()),
                Unit::Activation => None,
                Unit::Attribute(name) => Some(past.attributes.get(name).map_or(String::new(), ToString::to_string)),
            };
            let holds = |key: String| {
                !key.is_empty() && survey.sampling.holds(survey.sampling.place(Purpose::Sampling, KEY, &key))
            };
            if !matches!(survey.status, Status::Draft | Status::Test) && key.is_none_or(holds) {
                let salt = [name, &experiment.arm].join("\0");
                arms.push((place(Purpose::Arm, [KEY, &salt, user_id]), experiment.arm.clone()));
            }
        }
        arms.into_iter().max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, arm)| arm)
    }

    /// What `repeat` says of the cycle that is now.
    fn spent(&self, past: &Past, survey: &Survey, asking: &Asking) -> Option<Shut> {
        let mine: Vec<&Made> = past.real().filter(|made| made.is_of(survey)).collect();
        let (counts, ends_at) = self.cycle(survey, &mine, asking);
        let has =
            |time: fn(&Made) -> Option<Millis>| mine.iter().any(|made| time(made).is_some_and(|at| counts(made, at)));
        let displays = mine.iter().filter(|made| made.displayed_at.is_some_and(|at| counts(made, at))).count();
        let forgiven = usize::from(displays > 0 && self.snooze(past, survey).is_some());
        let gate = match survey.frequency.repeat {
            Repeat::Once => (displays > forgiven).then_some(Gate::MaxDisplays),
            Repeat::UntilResponded => has(|made| made.answered_at).then_some(Gate::AlreadyCompleted),
            Repeat::UntilCompleted => has(|made| made.completed_at).then_some(Gate::AlreadyCompleted),
            Repeat::EveryActivation => None,
        };
        gate.map(|gate| Shut::until(gate, ends_at))
    }

    fn repeats(&self, past: &Past, survey: &Survey, asking: &Asking, window: &Open) -> Result<(), Shut> {
        if let Some(shut) = self.spent(past, survey, asking) {
            return Err(shut);
        }
        let mine: Vec<&Made> = past.real().filter(|made| made.is_of(survey)).collect();
        let (counts, ends_at) = self.cycle(survey, &mine, asking);
        let displays = mine.iter().filter(|made| made.displayed_at.is_some_and(|at| counts(made, at))).count();
        let is_spent = survey.frequency.max_displays.is_some_and(|most| displays >= most as usize);
        let is_shown = window.shown && self.snooze(past, survey).is_none();
        let ends = [is_spent.then_some(ends_at), is_shown.then_some(window.next_at)].into_iter().flatten();
        // Both have to be over.
        match ends.max_by_key(|at| at.unwrap_or(Millis::MAX)) {
            Some(until) => Err(Shut::until(Gate::MaxDisplays, until)),
            None => Ok(()),
        }
    }

    /// What of a time counts in the cycle that is now, and when that one ends.
    #[expect(clippy::type_complexity, reason = "one rule for each kind of cycle")]
    fn cycle(
        &self,
        survey: &Survey,
        mine: &[&Made],
        asking: &Asking,
    ) -> (Box<dyn Fn(&Made, Millis) -> bool>, Option<Millis>) {
        let since = |began: Millis| move |_: &Made, at: Millis| at >= began;
        match survey.frequency.per {
            None | Some(Per::Wave(1)) => (Box::new(|_, _| true), None),
            Some(Per::Wave(wave)) => {
                (Box::new(move |made, _| made.survey.frequency.per == Some(Per::Wave(wave))), None)
            }
            Some(Per::Calendar(calendar)) => {
                let (began, next) = calendar_days(survey, &asking.context).period(calendar, self.now);
                (Box::new(since(began)), Some(next))
            }
            Some(Per::Span(span)) => {
                let mut displays: Vec<Millis> = mine.iter().filter_map(|made| made.displayed_at).collect();
                displays.sort_unstable();
                let first = |began: Option<Millis>, at: Millis| began.filter(|began| at < began + span).or(Some(at));
                match displays.into_iter().fold(None, first).filter(|began| self.now < began + span) {
                    Some(began) => (Box::new(since(began)), Some(began + span)),
                    None => (Box::new(|_, _| false), None),
                }
            }
        }
    }

    fn cooled(&self, past: &Past, survey: &Survey, asking: &Asking) -> Result<(), Shut> {
        let (now, settings, frequency) = (self.now, &self.project.settings, &survey.frequency);
        let mine: Vec<&Made> = past.real().filter(|made| made.is_of(survey)).collect();
        let displayed = mine.iter().filter_map(|made| made.displayed_at).max();
        let refused = mine.iter().filter(|made| made.dismissed_at.is_some()).max_by_key(|made| made.dismissed_at);
        let refused = refused.filter(|made| !made.is_closed).and_then(|made| made.dismissed_at);
        let ends: Vec<Option<Millis>> = match (self.snooze(past, survey), frequency.after_dismissal) {
            (Some((_, until)), _) => vec![Some(until)],
            (None, Some(AfterDismissal::Never)) if refused.is_some() => vec![None],
            (None, Some(AfterDismissal::Wait(span))) => {
                let ends = [displayed.map(|at| at + frequency.cooldown), refused.map(|at| at + span)];
                ends.into_iter().flatten().map(Some).collect()
            }
            (None, _) => displayed.map(|at| Some(at + frequency.cooldown)).into_iter().collect(),
        };
        if let Some(until) = ends.into_iter().filter(|end| end.is_none_or(|end| now < end)).max() {
            return Err(Shut::until(Gate::Cooldown, until));
        }
        let waits = match frequency.global_cooldown {
            GlobalCooldown::Respect => Some(settings.global_cooldown),
            GlobalCooldown::Own(span) => Some(span),
            GlobalCooldown::Ignore | GlobalCooldown::Exempt => None,
        };
        let starts = past.real().filter(|made| starts_cooldown(made)).filter_map(|made| made.displayed_at);
        let last = starts.chain(past.kept_display_at).max();
        if let Some(until) = waits.and_then(|span| Some(last? + span)).filter(|until| now < *until) {
            return Err(Shut::until(Gate::GlobalCooldown, Some(until)));
        }
        let here = past.displays_in(asking.context.session_id.as_deref(), settings.session_lifetime);
        let is_capped = frequency.session_cap == SessionCap::Respect && here >= settings.max_per_session as usize;
        if is_capped { shut(Gate::SessionCap) } else { Ok(()) }
    }

    /// Offers that were not displayed yet and would break a rule beside another one.
    fn outstanding(&self, past: &Past, survey: &Survey, asking: &Asking) -> Result<(), Shut> {
        let settings = &self.project.settings;
        let session = asking.context.session_id.as_deref();
        let waits = match survey.frequency.global_cooldown {
            GlobalCooldown::Respect => Some(settings.global_cooldown),
            GlobalCooldown::Own(span) => Some(span),
            GlobalCooldown::Ignore | GlobalCooldown::Exempt => None,
        };
        let mut to_be_shown = past.displays_in(session, settings.session_lifetime);
        let mut blocked = Vec::new();
        let mut offers: Vec<&Made> = past.made.iter().filter(|made| self.is_outstanding(made)).collect();
        offers.sort_by_key(|made| made.offered_at);
        for made in offers {
            let is_here = session.is_some() && made.session.as_deref() == session;
            if made.is_of(survey) {
                blocked.extend((!is_here).then_some(made.offered_at));
                continue;
            }
            to_be_shown += usize::from(is_here && !made.is_test);
            let cooling = starts_cooldown(made) && waits.is_some_and(|span| !is_here || span > 0);
            let respects = survey.frequency.session_cap == SessionCap::Respect;
            let fills = respects && is_here && to_be_shown >= settings.max_per_session as usize;
            let is_test = survey.status == Status::Test || made.is_test;
            blocked.extend((!is_test && (cooling || fills)).then_some(made.offered_at));
        }
        // All of them have to be out of the way.
        match blocked.into_iter().max() {
            Some(at) => Err(Shut::until(Gate::OfferOutstanding, Some(at + settings.offer_ttl))),
            None => Ok(()),
        }
    }

    /// The caps that an offer to a user would concern; `None` where one shuts users out who
    /// lack the attribute.
    pub fn concerned(&self, past: &Past, survey: &Survey) -> Option<Vec<Place>> {
        let own = survey.limits.caps.iter().enumerate().map(|(index, cap)| (survey.survey_id.clone(), index, cap));
        let shared = self.project.settings.caps.iter().enumerate().map(|(index, cap)| (String::new(), index, cap));
        let mut all = Vec::new();
        for (of, index, cap) in own.chain(shared) {
            let value = cap.per.as_ref().map(|name| past.attributes.get(name).map(ToString::to_string));
            match (value, cap.missing) {
                (Some(None), MissingValue::Pass) => {}
                (Some(None), MissingValue::Shut) => return None,
                (value, _) => all.push(Place { of, index, value: value.flatten() }),
            }
        }
        Some(all)
    }

    pub fn cap(&self, place: &Place) -> &Cap {
        match &*place.of {
            "" => &self.project.settings.caps[place.index],
            of => &self.survey(of).limits.caps[place.index],
        }
    }

    /// When each place of a cap that is counted or held ends by itself.
    pub fn places(&self, place: &Place) -> Vec<Option<Millis>> {
        let cap = self.cap(place);
        let ends = |made: &Made| match made.counted_at(cap.count) {
            Some(at) => match cap.within {
                Some(within) => (self.now <= at + within).then_some(Some(at + within + 1)),
                None => Some(None),
            },
            None => self.held_until(made).map(Some),
        };
        self.all_made().filter(|made| made.places.contains(place)).filter_map(ends).collect()
    }

    pub fn in_caps(&self, past: &Past, survey: &Survey) -> Result<(), Shut> {
        let Some(places) = self.concerned(past, survey) else {
            return Err(Shut { gate: Gate::CapReached, untils: self.full(past, survey).chain([None]).collect() });
        };
        let untils: Vec<Option<Millis>> = places.iter().filter_map(|place| self.opens(place)).collect();
        if untils.is_empty() { Ok(()) } else { Err(Shut { gate: Gate::CapReached, untils }) }
    }

    /// When a cap that is full is so no more.
    fn opens(&self, place: &Place) -> Option<Option<Millis>> {
        let mut ends = self.places(place);
        let max = self.cap(place).max as usize;
        // Those that do not end by themselves come last.
        ends.sort_by_key(|end| end.unwrap_or(Millis::MAX));
        (ends.len() >= max).then(|| ends[ends.len() - max])
    }

    fn full<'a>(&'a self, past: &'a Past, survey: &'a Survey) -> impl Iterator<Item = Option<Millis>> + 'a {
        let own = (0..survey.limits.caps.len()).map(|index| (survey.survey_id.clone(), index));
        let value = |place: Place| {
            let name = self.cap(&place).per.clone();
            let value = name.and_then(|name| past.attributes.get(&name).map(ToString::to_string));
            Place { value, ..place }
        };
        own.map(move |(of, index)| value(Place { of, index, value: None })).filter_map(|place| self.opens(&place))
    }

    /// Whether the survey's rules let the user in, and the settings'.
    fn targeted(&self, past: &Past, survey: &Survey, asking: &Asking) -> Result<(), Shut> {
        let clocks = calendar_days(survey, &asking.context);
        let of_project = self.rules.get("").filter(|_| survey.settings_targeting == SettingsTargeting::Respect);
        let own = self.rules.get(&survey.survey_id);
        for (gate, rule) in [(Gate::Excluded, of_project), (Gate::TargetingFailed, own)] {
            let Some(rule) = rule else { continue };
            if let Err(until) = (crate::rules::Known { world: self, past, clocks }).unmet(rule) {
                return Err(Shut::until(gate, until));
            }
        }
        Ok(())
    }
}

pub fn starts_cooldown(made: &Made) -> bool {
    !made.is_link && made.survey.frequency.global_cooldown != GlobalCooldown::Exempt
}

fn in_spans(survey: &Survey, at: Millis) -> bool {
    let Some(schedule) = &survey.schedule else { return true };
    let within = |spans: &[ScheduleSpan]| spans.iter().any(|span| span.start_at <= at && at < span.end_at);
    schedule.start_at.is_none_or(|start| start <= at)
        && schedule.end_at.is_none_or(|end| at < end)
        && (schedule.windows.is_empty() || within(&schedule.windows))
        && !within(&schedule.except)
}

/// Whether the schedule is open; `None` where it would be, but the clocks are the user's and
/// not known.
fn is_open(survey: &Survey, context: &Context, at: Millis) -> Option<bool> {
    let Some(schedule) = &survey.schedule else { return Some(true) };
    if !in_spans(survey, at) {
        return Some(false);
    }
    let hours: Option<BTreeMap<&str, i64>> = schedule.hours.map(|hours| {
        let spelled = serde_json::to_value(hours).expect("it serialises");
        let hour = |index: usize| spelled[index].as_str().and_then(|text| text[..2].parse().ok()).expect("an hour");
        [("from", hour(0)), ("to", hour(1))].into()
    });
    if hours.is_none() && schedule.days.is_empty() && schedule.month_days.is_empty() {
        return Some(true);
    }
    if schedule.timezone.name() == "user" && context.timezone.is_none() {
        return None;
    }
    let clocks = calendar_days(survey, context);
    let has = |at: Millis| {
        let date = clocks.date(at);
        let of_week = schedule.days.is_empty() || schedule.days.contains(&Day::ALL[date.weekday as usize].1);
        let is_it = |day: &MonthDay| match day {
            MonthDay::Nth(day) => i64::from(*day) == date.day,
            MonthDay::Last => date.is_last_of_month(),
        };
        of_week && (schedule.month_days.is_empty() || schedule.month_days.iter().any(is_it))
    };
    let Some(hours) = hours else { return Some(has(at)) };
    let (from, to, hour) = (hours["from"], hours["to"], clocks.hour(at));
    // Hours past midnight belong to the day on which they begin.
    let yesterday = clocks.period(Calendar::Day, at).0 - 1;
    Some(if from < to {
        (from..to).contains(&hour) && has(at)
    } else {
        (hour >= from && has(at)) || (hour < to && has(yesterday))
    })
}

fn audience(survey: &Survey, asking: &Asking) -> Result<(), Shut> {
    let Context { platform, locale, app_version, .. } = &asking.context;
    if !survey.platforms.is_empty() && platform.as_deref() != Some("ios") {
        shut(Gate::PlatformMismatch)?;
    }
    if !survey.locales.is_empty() && !locale.as_ref().is_some_and(|locale| locale.starts_with("de")) {
        shut(Gate::LocaleMismatch)?;
    }
    if survey.app_version.is_some() && app_version.as_deref() != Some("2.1") {
        shut(Gate::VersionMismatch)?;
    }
    let fits = survey.show_on[0].conditions.iter().all(|condition| condition.value == asking.tab);
    if fits { Ok(()) } else { shut(Gate::ShowOnMismatch) }
}
