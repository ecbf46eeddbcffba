//! A second opinion on every decision: worked out from the whole past at once,
//! for clarity and not for speed, and compared with what the state gives.

use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

use crate::generated::{Step, step, survey};
use crate::windows::by_hand;
use askwhen_domain::activation::{CANCELS, LATE};
use askwhen_domain::apply::*;
use askwhen_domain::cap::{CapAllocator, CapAnswer, CapAsk, CapEvent, CapMessage, CapSignal, MissingValue};
use askwhen_domain::cycle::Per;
use askwhen_domain::decision::{Decision, DecisionReason, Gate};
use askwhen_domain::definitions::Project;
use askwhen_domain::id::Origin;
use askwhen_domain::json::Json;
use askwhen_domain::quota::QuotaAllocator;
use askwhen_domain::record::{Answers, Body, Context, GivenAnswer, Record, Target};
use askwhen_domain::refs::SurveyKey;
use askwhen_domain::survey::{AfterDismissal, GlobalCooldown, Repeat, Status, Survey};
use askwhen_domain::time::{ClientTimes, DAY, MINUTE, Millis};
use askwhen_domain::user::{Activated, ActivationEvent, OFFER_KNOWN, User, WINDOW_REMEMBERED};
use askwhen_wire::definition;

const KEY: &str = "p";

/// By survey.
type Gates = Vec<(String, Option<Gate>)>;
/// Survey, end of its window, place of the event behind it.
type Winner = (String, Millis, Option<u64>);
/// The smallest wins.
type Rank = (bool, i64, Millis, Millis, usize);

/// An offer, and what was told of it.
#[derive(Debug, Clone)]
struct Made {
    offer_id: String,
    survey_id: String,
    session: String,
    offered_at: Millis,
    /// The place of the event behind it.
    by: Option<u64>,
    displayed_at: Option<Millis>,
    dismissed_at: Option<Millis>,
    /// The dismissal closed a response that was complete.
    closed: bool,
    answered_at: Option<Millis>,
    completed_at: Option<Millis>,
    /// The answer as it was last taken.
    value: Option<i64>,
    /// The caps that it concerns, by their place in the survey, with the user's plan where
    /// it counts.
    caps: Vec<(usize, Option<bool>)>,
}

/// Which bounds over all users are looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bounds {
    None,
    Caps,
    All,
}

/// Everything that happened to one user, in its order.
#[derive(Debug, Clone, Default)]
struct Past {
    /// By survey, as far as it listened.
    facts: BTreeMap<String, Vec<ActivationEvent>>,
    made: Vec<Made>,
    /// Events that rules counted when they came: names and times.
    counted: Vec<(String, Millis)>,
    pro: Option<bool>,
}

struct World {
    project: Project,
    version: u64,
    offset: u64,
    now: Millis,
    allocator: QuotaAllocator,
    counters: CapAllocator,
    users: BTreeMap<String, (User, Past)>,
    /// Whether the anonymous visitor is a user by now.
    is_linked: bool,
}

impl World {
    fn apply(&mut self, user_id: &str, times: ClientTimes, body: &Body<'_>) -> Outputs {
        self.offset += 1;
        let record = Record { project: KEY.into(), user_id: user_id.into(), event_id: None, times, body: body.clone() };
        let before = self.users[user_id].0.clone();
        let key = |id: &String| SurveyKey::new(KEY, id.clone());
        let mut answers = CapAnswers::new();
        loop {
            let quota_statuses =
                self.project.limited().iter().map(|id| (id.clone(), self.allocator.status(&key(id), self.now)));
            let ctx = ApplyContext {
                origin: Origin { incarnation: 1, partition: 0, offset: self.offset },
                now: self.now,
                project_id: KEY,
                user_id,
                project: &self.project,
                quota_statuses: &quota_statuses.collect(),
                caps: &answers,
                may_wait: true,
            };
            let Applied { user, out } = apply(ctx, &before, &record, false);
            if out.needs_grants() {
                out.needs.iter().for_each(|id| drop(self.allocator.ask(&key(id), 1, self.now)));
                self.ask_counters(&out.needs_caps, &mut answers);
                continue;
            }
            let settled: Vec<CapMessage> = out.caps.iter().map(|change| self.counters.settle(*change)).collect();
            let back = answers.keys().map(|key| self.counters.give_back(*key, self.offset));
            let told = settled.into_iter().chain(back).collect();
            assert!(self.counters.receive(told, self.now).is_empty(), "one partition has all counters");
            out.quotas.iter().for_each(|(id, change)| self.allocator.change(&key(id), *change, self.now));
            self.allocator.settle(true, self.now);
            self.users.get_mut(user_id).expect("known").0 = user;
            return out;
        }
    }

    /// Whom somebody is taken for.
    fn name(&self, user: u8) -> &'static str {
        match user {
            0 => "ann",
            1 => "bob",
            _ => {
                if self.is_linked {
                    "ann"
                } else {
                    "anon"
                }
            }
        }
    }

    /// Asks counters in their order, until one is full.
    fn ask_counters(&mut self, asks: &[CapAsk], answers: &mut CapAnswers) {
        for ask in asks.iter().filter(|ask| !answers.contains_key(&ask.key)).copied().collect::<Vec<_>>() {
            let asked = self.counters.ask(ask, self.offset, false, self.now);
            let said = self.counters.receive(vec![asked], self.now);
            let [CapMessage { key, signal: CapSignal::Answer { answer, .. }, .. }] = said[..] else {
                panic!("one partition has all counters: {said:?}");
            };
            answers.insert(key, answer);
            if answer != CapAnswer::Granted {
                break;
            }
        }
    }

    /// The anonymous visitor is ann: her past is that of both.
    fn link(&mut self) {
        if std::mem::replace(&mut self.is_linked, true) {
            return;
        }
        self.offset += 1;
        let (origin, now) = (Origin { incarnation: 1, partition: 0, offset: self.offset }, self.now);
        let (project, quota_statuses, caps) = (&self.project, &NO_QUOTAS, &NO_CAPS);
        let ctx = |user_id| ApplyContext {
            origin,
            now,
            project_id: KEY,
            user_id,
            project,
            quota_statuses,
            caps,
            may_wait: false,
        };
        let Departed { state, left, holds, .. } = depart(ctx("anon"), &self.users["anon"].0, "ann");
        let granted = holds.iter().map(|(survey_id, _)| survey_id.clone()).collect();
        let (merged, arrived) = absorb(ctx("ann"), &self.users["ann"].0, ("anon", state), &granted);
        assert_eq!(holds, arrived);
        for (survey_id, until) in holds {
            let key = SurveyKey::new(KEY, survey_id);
            let epoch = self.allocator.depart(&key, until, now);
            assert_eq!(epoch, self.allocator.epoch(&key));
            assert!(self.allocator.arrive(&key, until, 0, now).is_empty(), "it is the coordinator's partition");
        }
        let (_, theirs) = self.users.insert("anon".into(), (left, Past::default())).expect("known");
        let (user, past) = self.users.get_mut("ann").expect("known");
        *user = merged.user;
        for (survey_id, facts) in theirs.facts {
            past.facts.entry(survey_id).or_default().extend(facts);
        }
        past.made.extend(theirs.made);
        past.counted.extend(theirs.counted);
    }

    fn survey(&self, id: &str) -> &Survey {
        &self.project.surveys[id].current
    }

    fn past(&self, user_id: &str) -> &Past {
        &self.users[user_id].1
    }

    /// Offers of a survey that may still become one of its completions, and those
    /// that have.
    fn taken(&self, survey_id: &str) -> u64 {
        let made = self.users.values().flat_map(|(_, past)| &past.made).filter(|made| made.survey_id == survey_id);
        made.filter(|made| made.completed_at.is_some() || self.holds(made)).count() as u64
    }

    /// Places of a cap that are counted or held, for users of a plan where it counts.
    fn places(&self, survey: &Survey, place: (usize, Option<bool>)) -> u64 {
        let cap = &survey.limits.caps[place.0];
        let counts = |made: &&Made| {
            let at = if cap.count == CapEvent::Displayed { made.displayed_at } else { made.completed_at };
            let lately = |at: Millis| cap.within.is_none_or(|within| at >= self.now - within);
            match at {
                Some(at) => lately(at),
                None => self.holds(made),
            }
        };
        let made = self.users.values().flat_map(|(_, past)| &past.made);
        made.filter(|made| made.survey_id == survey.survey_id && made.caps.contains(&place)).filter(counts).count()
            as u64
    }

    /// The caps that an offer to a user would concern; `None` where one shuts users out who
    /// have no plan.
    fn concerned(&self, past: &Past, survey: &Survey) -> Option<Vec<(usize, Option<bool>)>> {
        let mut all = Vec::new();
        for (n, cap) in survey.limits.caps.iter().enumerate() {
            match (&cap.per, past.pro, cap.missing) {
                (None, ..) => all.push((n, None)),
                (Some(_), Some(pro), _) => all.push((n, Some(pro))),
                (Some(_), None, MissingValue::Pass) => {}
                (Some(_), None, MissingValue::Shut) => return None,
            }
        }
        Some(all)
    }

    fn is_capped(&self, past: &Past, survey: &Survey) -> bool {
        let full = |place: &(usize, Option<bool>)| self.places(survey, *place) >= survey.limits.caps[place.0].max;
        self.concerned(past, survey).is_none_or(|places| places.iter().any(full))
    }

    fn holds(&self, made: &Made) -> bool {
        let ttl = self.project.settings.offer_ttl;
        let known = if made.displayed_at.is_some() { OFFER_KNOWN } else { ttl };
        made.dismissed_at.is_none() && made.completed_at.is_none() && self.now < made.offered_at + known
    }

    fn is_outstanding(&self, made: &Made) -> bool {
        let ttl = self.project.settings.offer_ttl;
        made.displayed_at.is_none() && self.now < made.offered_at + ttl
    }

    /// The first gate that is shut, or what an offer would be made of: the end of
    /// its window, its activation's time and place.
    fn gate(
        &self,
        user_id: &str,
        survey: &Survey,
        (session, platform): (&str, &str),
        bounds: Bounds,
    ) -> Result<(Millis, Option<(Millis, u64)>), Gate> {
        let (past, now) = (self.past(user_id), self.now);
        let settings = &self.project.settings;
        let mine: Vec<&Made> = past.made.iter().filter(|made| made.survey_id == survey.survey_id).collect();
        if survey.status != Status::Active {
            return Err(Gate::NotActive);
        }
        if !survey.platforms.is_empty() && platform != "ios" {
            return Err(Gate::PlatformMismatch);
        }
        let mut window_shown = false;
        let mut window = (now + settings.offer_ttl, None);
        if let Some(activation) = survey.activate.as_deref() {
            let expires = survey.expires_after.expect("with an activation");
            let mut facts = past.facts.get(&survey.survey_id).cloned().unwrap_or_default();
            facts.sort_by_key(ActivationEvent::order);
            let displays: Vec<(u64, Millis)> = mine.iter().filter_map(|m| Some((m.by?, m.displayed_at?))).collect();
            let found = by_hand((activation, survey.on_repeat, expires), &facts, &displays, now);
            let found = found.ok_or(Gate::NotActivated)?;
            let (at, order) = found.by;
            let over = found.cancelled_at.map_or(at + expires, |cancelled| cancelled.min(at + expires));
            if now >= over + WINDOW_REMEMBERED {
                return Err(Gate::NotActivated);
            }
            if now < at + survey.delay {
                return Err(Gate::DelayPending);
            }
            if found.cancelled_at.is_some_and(|cancelled| cancelled < at + expires) {
                return Err(Gate::Cancelled);
            }
            if now >= at + expires {
                return Err(Gate::Expired);
            }
            window_shown = found.shown;
            window = (at + expires, Some((at, order.offset)));
        }
        self.targeted(past, survey)?;
        let displays: Vec<Millis> = mine.iter().filter_map(|made| made.displayed_at).collect();
        let began = self.cycle(survey, &displays);
        let lately = |at: Option<Millis>| at.is_some_and(|at| began.is_some_and(|began| at >= began));
        let in_cycle = displays.iter().filter(|at| lately(Some(**at))).count();
        let shut = match survey.frequency.repeat {
            Repeat::Once => (in_cycle > 0).then_some(Gate::MaxDisplays),
            Repeat::UntilResponded => mine.iter().any(|m| lately(m.answered_at)).then_some(Gate::AlreadyCompleted),
            Repeat::UntilCompleted => mine.iter().any(|m| lately(m.completed_at)).then_some(Gate::AlreadyCompleted),
            Repeat::EveryActivation => None,
        };
        if let Some(gate) = shut {
            return Err(gate);
        }
        if window_shown || survey.frequency.max_displays.is_some_and(|most| in_cycle >= most as usize) {
            return Err(Gate::MaxDisplays);
        }
        if displays.iter().any(|at| now < at + survey.frequency.cooldown) {
            return Err(Gate::Cooldown);
        }
        let refused = mine.iter().filter(|made| made.dismissed_at.is_some()).max_by_key(|made| made.dismissed_at);
        let kept_away =
            refused.filter(|made| !made.closed).is_some_and(|made| match survey.frequency.after_dismissal {
                None => false,
                Some(AfterDismissal::Never) => true,
                Some(AfterDismissal::Wait(span)) => now < made.dismissed_at.expect("just seen") + span,
            });
        if kept_away {
            return Err(Gate::Cooldown);
        }
        let waits = match survey.frequency.global_cooldown {
            GlobalCooldown::Respect => Some(settings.global_cooldown),
            GlobalCooldown::Own(span) => Some(span),
            GlobalCooldown::Ignore | GlobalCooldown::Exempt => None,
        };
        let starts = |made: &&Made| self.survey(&made.survey_id).frequency.global_cooldown != GlobalCooldown::Exempt;
        let all: Vec<Millis> = past.made.iter().filter(starts).filter_map(|made| made.displayed_at).collect();
        if waits.is_some_and(|span| all.iter().any(|at| now < at + span)) {
            return Err(Gate::GlobalCooldown);
        }
        let here = |made: &&Made| made.session == session;
        let shown_here = past.made.iter().filter(here).filter(|made| made.displayed_at.is_some()).count();
        if shown_here >= settings.max_per_session as usize {
            return Err(Gate::SessionCap);
        }
        let outstanding = || past.made.iter().filter(|made| self.is_outstanding(made));
        let stands = outstanding().any(|made| made.survey_id == survey.survey_id);
        let full = || survey.limits.max_completed.is_some_and(|limit| self.taken(&survey.survey_id) >= limit);
        if bounds == Bounds::All && !stands && full() {
            return Err(Gate::QuotaFull);
        }
        if bounds >= Bounds::Caps && !stands && self.is_capped(past, survey) {
            return Err(Gate::CapReached);
        }
        let mut to_be_shown_here = shown_here;
        for made in outstanding() {
            let here = made.session == session;
            if made.survey_id == survey.survey_id {
                if !here {
                    return Err(Gate::OfferOutstanding);
                }
                continue;
            }
            to_be_shown_here += usize::from(here);
            let cooling = starts(&made) && waits.is_some_and(|span| !here || span > 0);
            if cooling || (here && to_be_shown_here >= settings.max_per_session as usize) {
                return Err(Gate::OfferOutstanding);
            }
        }
        Ok(window)
    }

    /// When the cycle began that is now; `None` when none has begun.
    fn cycle(&self, survey: &Survey, displays: &[Millis]) -> Option<Millis> {
        match survey.frequency.per {
            Some(Per::Span(span)) => {
                let mut sorted = displays.to_vec();
                sorted.sort_unstable();
                let first = |began: Option<Millis>, at: Millis| began.filter(|began| at < began + span).or(Some(at));
                let began = sorted.into_iter().fold(None, first)?;
                (self.now < began + span).then_some(began)
            }
            Some(Per::Calendar(_)) => Some(self.now.div_euclid(DAY) * DAY),
            _ => Some(Millis::MIN),
        }
    }

    fn targeted(&self, past: &Past, survey: &Survey) -> Result<(), Gate> {
        let rules = serde_json::to_value(&survey.targeting).expect("it serialises");
        for rule in rules["all"].as_array().into_iter().flatten() {
            let bound = |name: &str| rule[name].as_u64().or(rule["not"][name].as_u64()).map(|bound| bound as usize);
            let at_least = bound("at_least").unwrap_or(1);
            let holds = match rule["not"]["survey"].as_str() {
                _ if rule["event"].is_string() => {
                    let is_its =
                        |(name, at): &&(String, Millis)| rule["event"] == **name && *at >= self.now - 120 * MINUTE;
                    let count = past.counted.iter().filter(is_its).count();
                    count >= at_least && bound("at_most").is_none_or(|most| count <= most)
                }
                _ if rule["not"]["tag"].is_string() => {
                    let shown = past.made.iter().filter_map(|made| made.displayed_at);
                    shown.filter(|at| *at >= self.now - 180 * MINUTE).count() < at_least
                }
                Some(other) => {
                    let done = past.made.iter().filter(|made| made.survey_id == other);
                    let last = done.filter_map(|made| made.completed_at).max();
                    last.is_none_or(|at| at < self.now - 60 * MINUTE)
                }
                None => past.pro == Some(true),
            };
            if !holds {
                return Err(Gate::TargetingFailed);
            }
        }
        Ok(())
    }

    /// What ought to be decided: each survey's gate, and which is offered with
    /// which window.
    fn expected(&self, user_id: &str, session: &str, platform: &str) -> (Gates, Option<Winner>) {
        let mut ids: Vec<&String> = self.project.surveys.keys().collect();
        ids.sort_by_key(|id| (std::cmp::Reverse(self.survey(id).priority), (*id).clone()));
        let mut gates = Vec::new();
        let mut best: Option<(Rank, Winner)> = None;
        for (n, id) in ids.into_iter().enumerate() {
            let survey = self.survey(id);
            match self.gate(user_id, survey, (session, platform), Bounds::All) {
                Err(gate) => gates.push((id.clone(), Some(gate))),
                Ok((expires_at, by)) => {
                    let mut made = self.past(user_id).made.iter();
                    let again = made.any(|m| m.survey_id == *id && m.session == session && self.is_outstanding(m));
                    let rank = (!again, -survey.priority, expires_at, by.map_or(self.now, |(at, _)| at), n);
                    if best.as_ref().is_none_or(|(best, _)| rank < *best) {
                        best = Some((rank, (id.clone(), expires_at, by.map(|(_, offset)| offset))));
                    }
                    gates.push((id.clone(), None));
                }
            }
        }
        let Some((_, winner)) = best else { return (gates, None) };
        for (id, gate) in &mut gates {
            if gate.is_none() && *id != winner.0 {
                *gate = Some(Gate::Preempted);
            }
        }
        (gates, Some(winner))
    }

    fn ask(&mut self, user_id: &str, session: &str, platform: &str) {
        let (gates, offered) = self.expected(user_id, session, platform);
        let context =
            Context { session_id: Some(session.to_owned()), platform: Some(platform.to_owned()), ..Context::default() };
        let out = self.apply(
            user_id,
            ClientTimes::default(),
            &Body::Trigger { trigger: "Main".into(), properties: "{}", context },
        );
        let Some(Reply::Decided(decision)) = out.reply else { panic!("no decision") };
        let reported = |decision: &Decision| -> Gates {
            let of = |e: &askwhen_domain::decision::Evaluation| (e.survey_id.clone(), e.stop.as_ref().map(|s| s.gate));
            decision.evaluations.iter().map(of).collect()
        };
        let mut reported = reported(&decision);
        let first = reported
            .first()
            .map_or(DecisionReason::NoSurvey, |(_, gate)| gate.map_or(DecisionReason::Offered, DecisionReason::Gate));
        // Whether a quota is full, or a cap reached, nobody asks where it does not decide:
        // another gate is shut behind it, or another survey wins.
        for ((id, reported), (_, gate)) in reported.iter_mut().zip(&gates) {
            if matches!(gate, Some(Gate::QuotaFull | Gate::CapReached)) && *reported != *gate {
                let behind = [Bounds::Caps, Bounds::None].map(|bounds| {
                    let shut = self.gate(user_id, self.survey(id), (session, platform), bounds).err();
                    shut.or(offered.is_some().then_some(Gate::Preempted))
                });
                assert!(behind.contains(reported), "of {id}: {reported:?} is none of {behind:?}");
                *reported = *gate;
            }
        }
        assert_eq!(reported, gates, "{:#?}", self.past(user_id));
        assert_eq!(decision.survey.as_ref().map(|s| &s.survey_id), offered.as_ref().map(|(id, ..)| id));
        let Some((survey_id, expires_at, by)) = offered else {
            return assert_eq!(decision.reason, first);
        };
        let offered = decision.survey.expect("just compared");
        let caps = self.concerned(self.past(user_id), self.survey(&survey_id)).unwrap_or_default();
        let past = &mut self.users.get_mut(user_id).expect("known").1;
        let again = past.made.iter().any(|made| made.offer_id == offered.offer_id);
        if !again {
            assert_eq!(offered.expires_at, expires_at);
            past.made.push(Made {
                offer_id: offered.offer_id,
                survey_id,
                session: session.to_owned(),
                offered_at: self.now,
                by,
                displayed_at: None,
                dismissed_at: None,
                closed: false,
                answered_at: None,
                completed_at: None,
                value: None,
                caps,
            });
        }
    }

    fn event(&mut self, user_id: &str, name: &str, ago: Millis) {
        let at = self.now - ago;
        let times = ClientTimes { occurred_at: Some(at), ..ClientTimes::default() };
        let surveys = self.users[user_id].0.surveys.clone();
        let has_facts = |id: &String| surveys.get(id).is_some_and(|state| !state.facts.is_empty());
        self.apply(user_id, times, &Body::Event { name: name.into(), properties: "{}", session_id: None });
        let (offset, now) = (self.offset, self.now);
        let World { project, users, .. } = self;
        let past = &mut users.get_mut(user_id).expect("known").1;
        let counting = project.surveys.values().filter(|entry| entry.current.status.listens());
        if counting.flat_map(|entry| entry.current.counts_events()).any(|pattern| pattern.event == name) {
            past.counted.push((name.to_owned(), at));
        }
        for (id, entry) in &project.surveys {
            let survey = &entry.current;
            let Some(activation) = survey.activate.as_deref().filter(|_| survey.status.listens()) else { continue };
            let named = |pattern: &askwhen_domain::activation::Pattern| pattern.event == name;
            let armed = (0..).zip(activation.patterns()).filter(|(_, pattern)| named(pattern));
            let mut pattern_mask = armed.fold(0_u32, |all, (bit, _)| all | 1 << bit);
            if pattern_mask == 0 && survey.cancel_on.iter().any(named) {
                pattern_mask |= CANCELS;
            }
            // What it would arm is over by now: it counts, but arms nothing.
            let arms_at = at + if activation.waits() { activation.reach() } else { 0 };
            let expires = survey.expires_after.expect("armed");
            let late = arms_at + expires <= now;
            // What it could end under this name is over, too: it is kept where there is
            // something to end. Another name of the user may have more.
            let is_over = at + activation.reach() + expires <= now;
            if pattern_mask != 0 && (!is_over || has_facts(id)) {
                let pattern_mask = pattern_mask | if late { LATE } else { 0 };
                let event =
                    Activated { at, offset, event_id: String::new(), event_name: name.into(), properties: None };
                past.facts.entry(id.clone()).or_default().push(ActivationEvent::new(pattern_mask, event.into()));
            }
        }
    }

    /// Tells something of one of the newest offers.
    fn tell(&mut self, which: u8, step: &Step) {
        let all = self.users.iter().flat_map(|(user_id, (_, past))| past.made.iter().map(move |made| (user_id, made)));
        let mut newest: Vec<(String, Made)> = all.map(|(user_id, made)| (user_id.clone(), made.clone())).collect();
        newest.sort_by_key(|(_, made)| std::cmp::Reverse(made.offered_at));
        let Some((user_id, made)) = newest.into_iter().nth(usize::from(which)) else { return };
        let survey = self.survey(&made.survey_id);
        let limit = survey.limits.max_completed;
        let untouched = made.displayed_at.is_none();
        let must_hold = limit.is_some() || !made.caps.is_empty();
        let gone = self.now >= made.offered_at + OFFER_KNOWN || (must_hold && untouched && !self.holds(&made));
        let reached = |place: &(usize, Option<bool>)| {
            let cap = &survey.limits.caps[place.0];
            cap.count == CapEvent::Completed && self.places(survey, *place) >= cap.max
        };
        let full = limit.is_some_and(|limit| self.taken(&made.survey_id) >= limit) || made.caps.iter().any(reached);
        let offer_id = made.offer_id.clone();
        let value = self.now / MINUTE % 5 + 1;
        let body = match step {
            Step::Displayed { .. } => Body::Displayed { offer_id: offer_id.clone().into() },
            Step::Dismissed { .. } => Body::Dismissed { offer_id: offer_id.clone().into(), ask_again_in: None },
            Step::Answer { completed, .. } => {
                let given = GivenAnswer {
                    question_id: "q1".into(),
                    value: Json::of(&value),
                    answered_at: None,
                    duration_ms: None,
                };
                let target = Target::Offer(offer_id.clone());
                Body::Answers(Answers {
                    target,
                    answers: vec![given],
                    completed: *completed,
                    context: Context::default(),
                })
            }
            _ => unreachable!("nothing of an offer"),
        };
        let completes = matches!(step, Step::Answer { completed: true, .. }) && made.completed_at.is_none();
        let is_answer = matches!(step, Step::Answer { .. });
        let changes_complete = is_answer && made.completed_at.is_some() && made.value != Some(value);
        let refused = gone || (completes && !self.holds(&made) && full) || changes_complete;
        let out = self.apply(&user_id, ClientTimes::default(), &body);
        assert_eq!(matches!(out.reply, Some(Reply::Refused(_))), refused, "{step:?} of {made:?}: {:?}", out.reply);
        if refused {
            return;
        }
        let now = self.now;
        let past = &mut self.users.get_mut(&user_id).expect("known").1;
        let made = past.made.iter_mut().find(|made| made.offer_id == offer_id).expect("just seen");
        made.displayed_at = made.displayed_at.or(Some(now));
        match step {
            Step::Dismissed { .. } => {
                made.closed |= made.dismissed_at.is_none() && made.completed_at.is_some();
                made.dismissed_at = made.dismissed_at.or(Some(now));
            }
            Step::Answer { completed, .. } => {
                // The same again has no effect.
                if made.value != Some(value) || (*completed && made.completed_at.is_none()) {
                    made.answered_at = Some(now);
                }
                made.value = Some(value);
                made.completed_at = made.completed_at.or(completed.then_some(now));
            }
            _ => {}
        }
    }

    fn step(&mut self, (wait, step): &(u8, Step)) {
        self.now += match wait {
            200.. => DAY / 3,
            minutes => Millis::from(*minutes) * MINUTE,
        };
        match step {
            Step::Event { name, ago, anonymous } => {
                // Events of two names at the very same moment have no order.
                self.now += 1;
                let user_id = self.name(if *anonymous { 2 } else { 0 });
                self.event(user_id, &format!("e{name}"), Millis::from(*ago) * MINUTE);
            }
            Step::Alias => self.link(),
            Step::Ask { user, session, platform } => {
                let user_id = self.name(*user);
                // Four in five are at home here.
                let platform = if *platform == 0 { "web" } else { "ios" };
                self.ask(user_id, &format!("s{session}"), platform);
            }
            Step::Displayed { which } | Step::Dismissed { which } | Step::Answer { which, .. } => {
                // At a moment of its own: with an event at the very same one it has no order.
                self.now += 1;
                self.tell(*which, step);
                self.now += 1;
            }
            Step::Plan { pro } => {
                let plan = if *pro { json!("pro") } else { json!("free") };
                self.apply("ann", ClientTimes::default(), &Body::Attributes(vec![("plan".into(), Json::of(&plan))]));
                self.users.get_mut("ann").expect("known").1.pro = Some(*pro);
            }
            Step::Status { survey, status } => {
                let id = format!("s{survey}");
                let Some(entry) = self.project.surveys.get(&id) else { return };
                let status = [Status::Active, Status::Active, Status::Paused, Status::Archived][usize::from(*status)];
                let changed = Survey { status, ..(*entry.current).clone() };
                self.version += 1;
                self.offset += 1;
                self.project.put_survey(self.version, changed, self.now, self.offset);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// A million steps, of which more than a third are decisions.
    #[test]
    fn every_decision_is_what_one_would_work_out_by_hand(
        surveys in prop::collection::vec(survey(), 1..4),
        global in prop::sample::select(vec!["0s", "30m", "3h"]),
        cap in 1..3_u32,
        steps in prop::collection::vec(step(), 40..61),
    ) {
        let mut world = World {
            project: Project::default(),
            version: 1,
            offset: 0,
            now: 100 * DAY,
            allocator: QuotaAllocator::new(0, 1),
            is_linked: false,
            counters: CapAllocator::new(0, 1),
            users: ["ann", "bob", "anon"].map(|user| (user.to_owned(), Default::default())).into(),
        };
        let settings = json!({"global_cooldown": global, "max_per_session": cap});
        world.project.put_settings(1, definition::settings(&settings).expect("settings"));
        for (n, mut survey) in surveys.into_iter().enumerate() {
            survey["survey_id"] = json!(format!("s{n}"));
            let survey = definition::survey(&survey, None).expect("a survey");
            world.version += 1;
            let key = SurveyKey::new(KEY, survey.survey_id.clone());
            world.allocator.limit(&key, world.version, survey.limits.max_completed, world.now);
            world.project.put_survey(world.version, survey, world.now, 0);
        }
        steps.iter().for_each(|step| world.step(step));
    }
}
