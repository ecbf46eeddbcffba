//! A world of a few users and surveys, to whom things happen: the machine applies each record,
//! and the past is written down beside it. What the machine decides is compared with what
//! [`crate::opinion`] works out from that past. It is long because each kind of record is applied
//! and written down side by side.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

use crate::generated::Step;
use crate::opinion::{Bounds, Open, Shut};
use crate::past::{Asking, Counted, Fact, Made, Past};
use askwhen_domain::definitions::Project;
use askwhen_domain::eligibility::apply::*;
use askwhen_domain::eligibility::decision::{Decision, DecisionReason, Gate};
use askwhen_domain::id::Origin;
use askwhen_domain::json::Json;
use askwhen_domain::quota::QuotaAllocator;
use askwhen_domain::quota::cap::{CapAllocator, CapAnswer, CapAsk, CapEvent, CapMessage, CapSignal};
use askwhen_domain::record::{Answers, Body, Context, GivenAnswer, Record, Target};
use askwhen_domain::refs::SurveyKey;
use askwhen_domain::survey::activation::{CANCELS, LATE, Pattern};
use askwhen_domain::survey::cycle::Per;
use askwhen_domain::survey::{Status, Survey};
use askwhen_domain::time::{ClientTimes, DAY, MINUTE, Millis, parse_time};
use askwhen_domain::user::distinct::session_hash;
use askwhen_domain::user::{Activated, ActivationEvent, User};
use askwhen_wire::definition;

pub const KEY: &str = "p";
/// Three days before clocks in Berlin go back.
pub const START: &str = "2026-10-22T06:00:00Z";

/// By survey; of one that could be asked it says so.
type Gates = Vec<(String, Option<Shut>)>;
/// The smallest wins.
type Rank = (bool, i64, Millis, Millis, usize);

pub struct World {
    pub project: Project,
    /// Rules by survey, as the files spell them; those of the settings have no id.
    pub rules: BTreeMap<String, Value>,
    version: u64,
    offset: u64,
    pub now: Millis,
    allocator: QuotaAllocator,
    counters: CapAllocator,
    pub users: BTreeMap<String, (User, Past)>,
    /// What users had made who were erased since.
    erased: Vec<Made>,
    /// Since when the anonymous visitor is a user.
    pub linked_at: Option<Millis>,
    /// Each decision in a word, and which survey it offered.
    pub decided: Vec<(DecisionReason, Option<String>)>,
}

impl World {
    pub fn new(settings: &Value, surveys: &[Value]) -> World {
        let mut world = World {
            project: Project::default(),
            rules: BTreeMap::new(),
            version: 1,
            offset: 0,
            now: parse_time(START).expect("a time"),
            allocator: QuotaAllocator::new(0, 1),
            counters: CapAllocator::new(0, 1),
            users: ["ann", "bob", "anon"].map(|user| (user.to_owned(), Default::default())).into(),
            erased: Vec::new(),
            linked_at: None,
            decided: Vec::new(),
        };
        world.rules.extend(settings.get("targeting").map(|rule| (String::new(), rule.clone())));
        world.project.put_settings(1, definition::settings(settings).unwrap_or_else(|e| panic!("{settings}: {e:?}")));
        let low = json!({"endpoint_id": "low", "url": "https://crm.example/", "events": ["response.completed"],
            "surveys": ["s0"], "where": [{"survey": "s0", "question_id": "q1", "op": "lte", "value": 2}]});
        let low = definition::endpoint(&low, None, definition::Target::Check(&[])).unwrap_or_else(|e| panic!("{e:?}"));
        world.project.put_endpoint(1, low.endpoint);
        for (n, survey) in surveys.iter().enumerate() {
            let mut survey = survey.clone();
            survey["survey_id"] = json!(format!("s{n}"));
            let rule = survey.get("targeting").map(|rule| (format!("s{n}"), rule.clone()));
            world.rules.extend(rule.filter(|(_, rule)| !rule.is_null()));
            let survey = definition::survey(&survey, None).unwrap_or_else(|e| panic!("{survey}: {e:?}"));
            let key = SurveyKey::new(KEY, survey.survey_id.clone());
            world.version += 1;
            world.allocator.set_limit(&key, world.version, survey.limits.max_completed, world.now);
            world.project.put_survey(world.version, survey, world.now, 0);
        }
        world
    }

    fn origin(&self) -> Origin {
        Origin { incarnation: 1, partition: 0, offset: self.offset }
    }

    fn apply(&mut self, user_id: &str, times: ClientTimes, body: &Body<'_>) -> Outputs {
        self.offset += 1;
        let event_id = matches!(body, Body::Event { .. }).then(|| format!("ev{}", self.offset).into());
        let record = Record { project: KEY.into(), user_id: user_id.into(), event_id, times, body: body.clone() };
        let before = self.users[user_id].0.clone();
        let key = |id: &str| SurveyKey::new(KEY, id);
        let mut answers = CapAnswers::new();
        loop {
            let status = |id: &str| (id.to_owned(), self.allocator.status(&key(id), self.now));
            let quota_statuses = quota_surveys(&self.project, &record, &before).map(status);
            let ctx = ApplyContext {
                origin: self.origin(),
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
            self.allocator.return_unused(self.now);
            self.users.get_mut(user_id).expect("known").0 = user;
            return out;
        }
    }

    /// Whom somebody is taken for.
    fn name(&self, user: u8) -> &'static str {
        match user {
            0 => "ann",
            1 => "bob",
            _ if self.linked_at.is_some() => "ann",
            _ => "anon",
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
        // Whether an idle session goes on under another name is told nowhere.
        if self.project.settings.session_lifetime.is_some() || self.linked_at.is_some() {
            return;
        }
        self.linked_at = Some(self.now);
        self.offset += 1;
        let (origin, now) = (self.origin(), self.now);
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
        let (merged, arrived) = absorb(ctx("ann"), &self.users["ann"].0, "anon", state, &granted);
        assert_eq!(holds, arrived);
        for (survey_id, until) in holds {
            let key = SurveyKey::new(KEY, survey_id);
            let epoch = self.allocator.move_hold_out(&key, until, now);
            assert_eq!(epoch, self.allocator.epoch(&key));
            assert!(self.allocator.move_hold_in(&key, until, 0, now).is_empty(), "it is the coordinator's partition");
        }
        let (_, theirs) = self.users.insert("anon".into(), (left, Past::default())).expect("known");
        let (user, past) = self.users.get_mut("ann").expect("known");
        *user = merged.user;
        for (survey_id, facts) in theirs.facts {
            past.facts.entry(survey_id).or_default().extend(facts);
        }
        past.made.extend(theirs.made);
        past.counted.extend(theirs.counted);
        past.heard.extend(theirs.heard);
        past.kept_display_at = past.kept_display_at.max(theirs.kept_display_at);
        for (experiment, arm) in theirs.arms {
            past.arms.entry(experiment).or_insert(arm);
        }
        // The attributes that began first stay.
        let ours_since = past.attributes_since.unwrap_or(Millis::MAX);
        let their_since = theirs.attributes_since.unwrap_or(Millis::MAX);
        let mut theirs_first = theirs.attributes;
        if ours_since <= their_since {
            theirs_first.extend(std::mem::take(&mut past.attributes));
            past.attributes = theirs_first;
        } else {
            past.attributes.extend(theirs_first);
        }
        past.attributes_since = past.attributes_since.into_iter().chain(theirs.attributes_since).min();
    }

    pub fn survey(&self, id: &str) -> &Survey {
        &self.project.surveys[id].current
    }

    pub fn past(&self, user_id: &str) -> &Past {
        &self.users[user_id].1
    }

    /// What everybody has made, those included who were erased.
    pub fn all_made(&self) -> impl Iterator<Item = &Made> {
        self.users.values().flat_map(|(_, past)| &past.made).chain(&self.erased)
    }

    /// Offers of a survey that may still become one of its completions, and those
    /// that have.
    pub fn taken(&self, survey_id: &str) -> u64 {
        let made = self.all_made().filter(|made| made.survey.survey_id == survey_id && !made.is_test);
        made.filter(|made| made.completed_at.is_some() || self.held_until(made).is_some()).count() as u64
    }

    /// Until when an offer holds what it may still use up.
    pub fn held_until(&self, made: &Made) -> Option<Millis> {
        let settings = &self.project.settings;
        let known = settings.offer_known;
        let span = if made.displayed_at.is_some() { known } else { settings.offer_ttl.min(known) };
        let until = made.offered_at + span;
        let is_over = made.is_test || made.is_erased || made.dismissed_at.is_some() || made.completed_at.is_some();
        (!is_over && self.now < until).then_some(until)
    }

    pub fn is_outstanding(&self, made: &Made) -> bool {
        !made.is_link && made.displayed_at.is_none() && self.now < made.offered_at + self.project.settings.offer_ttl
    }

    /// What ought to be decided: each survey's gate, and which is offered.
    fn expected(&self, asking: &Asking) -> (Gates, Option<(String, Open)>) {
        let mut ids: Vec<&String> = self.project.surveys.keys().collect();
        ids.sort_by_key(|id| (std::cmp::Reverse(self.survey(id).priority), (*id).clone()));
        let mut gates = Vec::new();
        let mut best: Option<(Rank, (String, Open))> = None;
        for (n, id) in ids.into_iter().enumerate() {
            let survey = self.survey(id);
            match self.opinion(asking, survey, Bounds::All) {
                Err(shut) => gates.push((id.clone(), Some(shut))),
                Ok(open) => {
                    gates.push((id.clone(), None));
                    let session = asking.context.session_id.as_deref();
                    let again = self.past(&asking.user_id).made.iter().any(|made| {
                        made.is_of(survey)
                            && session.is_some()
                            && made.session.as_deref() == session
                            && self.is_outstanding(made)
                    });
                    let at = open.by.map_or(self.now, |(at, _)| at);
                    let rank = (!again, -survey.priority, open.expires_at, at, n);
                    if survey.status != Status::Shadow && best.as_ref().is_none_or(|(best, _)| rank < *best) {
                        best = Some((rank, (id.clone(), open)));
                    }
                }
            }
        }
        let Some((_, winner)) = best else { return (gates, None) };
        for (id, gate) in &mut gates {
            if gate.is_none() && *id != winner.0 && self.survey(id).status != Status::Shadow {
                *gate = Some(Shut { gate: Gate::Preempted, untils: vec![None] });
            }
        }
        (gates, Some(winner))
    }

    fn ask(&mut self, user_id: &str, context: &Context, tab: i64) {
        let (now, next) = (self.now, Origin { offset: self.offset + 1, ..self.origin() });
        self.users.get_mut(user_id).expect("known").1.hear(context.session_id.as_deref(), now);
        let offer_id = next.offer_id(KEY, user_id);
        let asking = Asking { user_id: user_id.to_owned(), context: context.clone(), tab, offer_id };
        let (gates, offered) = self.expected(&asking);
        let properties = format!("{{\"tab\":{tab}}}");
        let body = Body::Trigger { trigger: "Main".into(), properties: &properties, context: context.clone() };
        let out = self.apply(user_id, ClientTimes::default(), &body);
        let Some(Reply::Decided(decision)) = out.reply else { panic!("no decision") };
        self.compare(&asking, &decision, &gates, offered.as_ref().map(|(id, _)| id));
        self.decided.push((decision.reason, decision.survey.as_ref().map(|survey| survey.survey_id.clone())));
        let (Some(made), Some((survey_id, open))) = (decision.survey.clone(), offered) else { return };
        let is_known = self.past(user_id).made.iter().any(|known| known.offer_id == made.offer_id);
        if is_known {
            return;
        }
        assert_eq!((&made.offer_id, made.expires_at), (&asking.offer_id, open.expires_at), "{asking:?}");
        let survey = self.survey(&survey_id).clone();
        let places = self.concerned(self.past(user_id), &survey).unwrap_or_default();
        let mut made = Made::of(&made.offer_id, &survey, context.session_id.as_deref(), self.now);
        made.by = open.by.map(|(_, offset)| offset);
        made.is_test = survey.status == Status::Test;
        made.places = if made.is_test { Vec::new() } else { places };
        self.keep(user_id, made);
    }

    fn keep(&mut self, user_id: &str, made: Made) {
        let past = &mut self.users.get_mut(user_id).expect("known").1;
        if let Some(experiment) = made.survey.experiment.clone().filter(|_| !made.is_test) {
            past.arms.entry(experiment.name).or_insert(experiment.arm);
        }
        past.made.push(made);
    }

    /// The machine's decision is the one that was worked out, gate by gate, with its time.
    fn compare(&self, asking: &Asking, decision: &Decision, gates: &Gates, offered: Option<&String>) {
        let says = || format!("{asking:?} {:#?}\n{decision:#?}", self.past(&asking.user_id));
        assert_eq!(decision.evaluations.len(), gates.len());
        for (found, (id, expected)) in decision.evaluations.iter().zip(gates) {
            assert_eq!(found.survey_id, *id, "{}", says());
            // Which of several values speaks that no time opens is said nowhere.
            let of_values = self.survey(id).match_by().is_some();
            let is_over = |gate: Gate| of_values && matches!(gate, Gate::Expired | Gate::Cancelled);
            let is_same = |one: Gate, other: Gate| one == other || (is_over(one) && is_over(other));
            let is_it = |shut: &Option<Shut>| match (&found.failure, shut) {
                (None, None) => true,
                (Some(stop), Some(shut)) => is_same(stop.gate, shut.gate) && shut.untils.contains(&stop.until),
                _ => false,
            };
            if is_it(expected) {
                continue;
            }
            // Whether a quota is full, or a cap reached, nobody asks where it does not decide:
            // another gate is shut behind it, another survey wins, or it is none but a shadow.
            let bounded = expected.as_ref().is_some_and(|shut| matches!(shut.gate, Gate::QuotaFull | Gate::CapReached));
            let survey = self.survey(id);
            let behind = [Bounds::Caps, Bounds::None].map(|bounds| self.opinion(asking, survey, bounds).err());
            let preempted = Shut { gate: Gate::Preempted, untils: vec![None] };
            let may_be = |shut: &Option<Shut>| match shut {
                None if survey.status == Status::Shadow => is_it(&None),
                None => offered.is_some() && is_it(&Some(preempted.clone())),
                shut => is_it(shut),
            };
            assert!(bounded && behind.iter().any(may_be), "{id} ought to be {expected:?}, not {found:?}\n{}", says());
        }
        assert_eq!(decision.survey.as_ref().map(|survey| &survey.survey_id), offered, "{}", says());
        let first = decision.evaluations.iter().find(|found| !found.shadow);
        let first = first.and_then(|found| found.failure.as_ref()).map(|stop| DecisionReason::Gate(stop.gate));
        let reason =
            if offered.is_some() { DecisionReason::Offered } else { first.unwrap_or(DecisionReason::NoSurvey) };
        assert_eq!(decision.reason, reason, "{}", says());
    }

    fn event(&mut self, user_id: &str, event: &EventStep<'_>) {
        let EventStep { name, at, properties, session } = event;
        let times = ClientTimes { occurred_at: Some(*at), ..ClientTimes::default() };
        let number = |property: &str| properties[property].as_i64();
        let text = properties.to_string();
        let before = self.users[user_id].0.clone();
        let session_id = session.map(Into::into);
        self.apply(user_id, times, &Body::Event { name: (*name).into(), properties: &text, session_id });
        let (offset, now) = (self.offset, self.now);
        let World { project, rules, users, .. } = self;
        let past = &mut users.get_mut(user_id).expect("known").1;
        let asked: Vec<&Value> = rules
            .iter()
            .filter(|(id, _)| id.is_empty() || project.surveys[*id].current.status.listens())
            .flat_map(|(_, rule)| leaves(rule))
            .filter(|leaf| leaf["event"] == **name)
            .collect();
        if !asked.is_empty() {
            let kind = number("kind").filter(|_| asked.iter().any(|leaf| leaf["where"].is_array()));
            let session = session.map(str::to_owned);
            past.counted.push(Counted { name: (*name).to_owned(), at: *at, session, kind });
        }
        for (id, entry) in &project.surveys {
            let survey = &entry.current;
            let Some(arming) = survey.activate.as_ref().filter(|_| survey.status.listens()) else { continue };
            let fits = |pattern: &Pattern| {
                pattern.event == *name && pattern.conditions.iter().all(|one| one.value == properties[&one.property])
            };
            let armed = (0..).zip(arming.patterns()).filter(|(_, pattern)| fits(pattern));
            let mut pattern_mask = armed.fold(0_u32, |all, (bit, _)| all | 1 << bit);
            if pattern_mask == 0 && survey.cancel_on.iter().any(fits) {
                pattern_mask |= CANCELS;
            }
            let value = arming.match_by.as_ref().map(|_| number("id"));
            if pattern_mask == 0 || value == Some(None) {
                continue;
            }
            let value = value.flatten();
            // What it would arm is over by now: it counts, but arms nothing.
            let expires = survey.expires_after.expect("armed");
            let is_late = at + if arming.waits() { arming.reach() } else { 0 } + expires <= now;
            // What it could end is over, too, where nothing stands under this name that it
            // could still end: another name of the user may have more.
            let is_over = at + arming.reach() + expires <= now;
            if is_over && !has_facts(&before, id, value) {
                continue;
            }
            let pattern_mask = pattern_mask | if is_late { LATE } else { 0 };
            let event_id = format!("ev{offset}");
            let event = Activated { at: *at, offset, event_id, event_name: (*name).into(), properties: None };
            let session = session.map(session_hash).filter(|_| arming.counts_sessions());
            let event = ActivationEvent { session, ..ActivationEvent::new(pattern_mask, event.into()) };
            past.facts.entry(id.clone()).or_default().push(Fact { value, event });
        }
    }

    /// Tells something of one of the newest offers.
    fn tell(&mut self, which: u8, step: &Step) {
        let all = self.users.iter().flat_map(|(user_id, (_, past))| past.made.iter().map(move |made| (user_id, made)));
        let mut newest: Vec<(String, Made)> = all.map(|(user_id, made)| (user_id.clone(), made.clone())).collect();
        newest.sort_by_key(|(_, made)| std::cmp::Reverse(made.offered_at));
        let Some((user_id, mut made)) = newest.into_iter().nth(usize::from(which)) else { return };
        let settings = &self.project.settings;
        let must_hold = self.survey(&made.survey.survey_id).limits.max_completed.is_some() || !made.places.is_empty();
        let lapsed = !made.is_link && !made.is_test && made.displayed_at.is_none() && self.held_until(&made).is_none();
        let gone = self.now >= made.offered_at + settings.offer_known || (must_hold && lapsed);
        let offer_id = made.offer_id.clone();
        let mut refused = gone;
        let mut is_news = false;
        let body = match step {
            Step::Dismissed { again_in, .. } => {
                let ask_again_in = again_in.map(|minutes| Millis::from(minutes) * MINUTE);
                refused |= ask_again_in.is_some_and(|span| made.survey.frequency.snooze.is_none_or(|most| span > most));
                Body::Dismissed { offer_id: offer_id.clone().into(), ask_again_in }
            }
            Step::Answer { completed, q2, .. } => {
                let answers = self.answers(*q2, &made.survey);
                let is_other = answers.iter().any(|(id, value)| made.answers.get(id) != Some(value));
                refused |= made.completed_at.is_some() && is_other;
                is_news = is_other || (*completed && made.completed_at.is_none());
                let before = made.clone();
                made.answers.extend(answers.clone());
                let completes = *completed && made.completed_at.is_none();
                refused |= completes && (made.path().1 || self.lacks_place(&before));
                Body::Answers(said(Target::Offer(offer_id.clone()), &answers, *completed))
            }
            _ => Body::Displayed { offer_id: offer_id.clone().into() },
        };
        let out = self.apply(&user_id, ClientTimes::default(), &body);
        assert_eq!(matches!(out.reply, Some(Reply::Refused(_))), refused, "{step:?} of {made:?}: {:?}", out.reply);
        if refused {
            return;
        }
        let now = self.now;
        if made.displayed_at.is_none() {
            made.displayed_at = Some(now);
            let session = made.session.clone().filter(|_| !made.is_test);
            self.users.get_mut(&user_id).expect("known").1.hear(session.as_deref(), now);
        }
        match step {
            Step::Dismissed { again_in, .. } if made.dismissed_at.is_none() => {
                made.is_closed = made.completed_at.is_some();
                made.dismissed_at = Some(now);
                made.again_at = again_in.map(|minutes| now + Millis::from(minutes) * MINUTE);
            }
            Step::Answer { completed, .. } if is_news => {
                made.answered_at = Some(now);
                let completes = *completed && made.completed_at.is_none();
                made.completed_at = made.completed_at.or(completes.then_some(now));
                if completes {
                    check_deliveries(&made, &out);
                }
            }
            _ => {}
        }
        let past = &mut self.users.get_mut(&user_id).expect("known").1;
        *past.made.iter_mut().find(|known| known.offer_id == offer_id).expect("just seen") = made;
    }

    fn answers(&self, q2: u8, survey: &Survey) -> BTreeMap<String, Value> {
        let first = ("q1".to_owned(), json!(self.now / MINUTE % 5 + 1));
        let second = ["a", "b"].get(usize::from(q2)).filter(|_| survey.questions.len() > 1);
        std::iter::once(first).chain(second.map(|value| ("q2".to_owned(), json!(value)))).collect()
    }

    /// Whether a completion would go beyond what is left, and holds nothing any more.
    fn lacks_place(&self, made: &Made) -> bool {
        let survey = self.survey(&made.survey.survey_id);
        if made.is_test || self.held_until(made).is_some() {
            return false;
        }
        let is_full = |place: &_| {
            let cap = self.cap(place);
            cap.count == CapEvent::Completed && self.places(place).len() >= cap.max as usize
        };
        survey.limits.max_completed.is_some_and(|limit| self.taken(&survey.survey_id) >= limit)
            || made.places.iter().any(is_full)
    }

    /// A response to a link.
    fn link_response(&mut self, user_id: &str, survey_id: &str, (completed, q2): (bool, u8)) {
        let survey = self.survey(survey_id).clone();
        if !survey.link {
            return;
        }
        let asking =
            Asking { user_id: user_id.to_owned(), context: Context::default(), tab: 0, offer_id: String::new() };
        let open = self.opinion_of_link(&asking, &survey);
        let places = self.concerned(self.past(user_id), &survey).unwrap_or_default();
        let response_id = format!("res{}", self.offset);
        let mut made = Made::of(&response_id, &survey, None, self.now);
        made.is_link = true;
        made.is_test = survey.status == Status::Test;
        made.places = if made.is_test { Vec::new() } else { places };
        made.answers = self.answers(q2, &survey);
        let refused = open.is_err() || (completed && made.path().1);
        let response_id = Some(response_id);
        let target = Target::Link { survey_id: survey_id.to_owned(), response_id, single_use: None };
        let out = self.apply(user_id, ClientTimes::default(), &Body::Answers(said(target, &made.answers, completed)));
        let found = match &out.reply {
            Some(Reply::Refused(Refusal::Closed(gate))) => Some(*gate),
            _ => None,
        };
        let gate = open.as_ref().err().map(|shut| shut.gate);
        // Whether a quota is full nobody asks where a cap is shut behind it.
        let is_behind = gate == Some(Gate::QuotaFull) && self.in_caps(self.past(user_id), &survey).is_err();
        let is_it = found == gate || (is_behind && found == Some(Gate::CapReached));
        assert!(is_it, "{survey_id} ought to be {gate:?}, not {found:?}: {:#?}", self.past(user_id));
        assert_eq!(matches!(out.reply, Some(Reply::Refused(_))), refused, "{made:?}: {:?}", out.reply);
        if refused {
            return;
        }
        (made.displayed_at, made.answered_at) = (Some(self.now), Some(self.now));
        made.completed_at = completed.then_some(self.now);
        if completed {
            check_deliveries(&made, &out);
        }
        self.keep(user_id, made);
    }

    fn erase(&mut self, user_id: &str) {
        self.apply(user_id, ClientTimes::default(), &Body::Erase);
        let keeps = self.project.settings.erase_keeps_cooldown;
        let past = &mut self.users.get_mut(user_id).expect("known").1;
        let theirs = std::mem::take(past);
        let starts = |made: &&Made| crate::opinion::starts_cooldown(made);
        let last =
            theirs.real().filter(starts).filter_map(|made| made.displayed_at).chain(theirs.kept_display_at).max();
        past.kept_display_at = last.filter(|_| keeps);
        self.erased.extend(theirs.made.into_iter().map(|made| Made { is_erased: true, ..made }));
    }

    fn attribute(&mut self, user_id: &str, name: &str, value: &Value) {
        let merge = vec![(name.to_owned(), Json::of(value))];
        self.apply(user_id, ClientTimes::default(), &Body::Attributes(merge));
        let now = self.now;
        let past = &mut self.users.get_mut(user_id).expect("known").1;
        let was_empty = past.attributes.is_empty();
        if value.is_null() {
            past.attributes.remove(name);
        } else {
            past.attributes.insert(name.to_owned(), value.clone());
        }
        if was_empty != past.attributes.is_empty() {
            past.attributes_since = was_empty.then_some(now);
        }
    }

    fn redefine(&mut self, id: &str, change: impl FnOnce(&mut Survey)) {
        let Some(entry) = self.project.surveys.get(id) else { return };
        let mut changed = (*entry.current).clone();
        change(&mut changed);
        self.version += 1;
        self.offset += 1;
        self.project.put_survey(self.version, changed, self.now, self.offset);
    }

    pub fn step(&mut self, (wait, step): &(u8, Step)) {
        self.now += match wait {
            ..200 => Millis::from(*wait) * MINUTE,
            200..240 => DAY / 3,
            240..250 => 3 * DAY,
            _ => 29 * DAY,
        };
        match step {
            Step::Event { name, ago, user, kind, id, session } => {
                // Events of two names at the very same moment have no order.
                self.now += 1;
                let user_id = self.name(*user);
                let mut properties = json!({"kind": kind});
                if *id > 0 {
                    properties["id"] = json!(id);
                }
                let (name, at) = (format!("e{name}"), self.now - Millis::from(*ago) * MINUTE);
                let session = session_of(*session);
                let event = EventStep { name: &name, at, properties, session: session.as_deref() };
                self.event(user_id, &event);
            }
            Step::Alias => self.link(),
            Step::Ask { user, session, app, tab } => {
                let user_id = self.name(*user);
                // Most are at home here.
                let at_home = *app > 0;
                let told = |value: &str| at_home.then(|| value.to_owned());
                let zone = match app {
                    1 => None,
                    2 => Some("Asia/Kolkata".to_owned()),
                    _ => Some("Europe/Berlin".to_owned()),
                };
                let context = Context {
                    platform: told("ios"),
                    locale: told("de-AT"),
                    app_version: told("2.1"),
                    session_id: session_of(*session),
                    timezone: zone,
                };
                self.ask(user_id, &context, i64::from(*tab > 0));
            }
            Step::Displayed { which } | Step::Dismissed { which, .. } | Step::Answer { which, .. } => {
                // At a moment of its own: with an event at the very same one it has no order.
                self.now += 1;
                self.tell(*which, step);
                self.now += 1;
            }
            Step::Link { user, survey, completed, q2 } => {
                let (user_id, id) = (self.name(*user), format!("s{survey}"));
                self.now += 1;
                if self.project.surveys.contains_key(&id) {
                    self.link_response(user_id, &id, (*completed, *q2));
                }
                self.now += 1;
            }
            Step::Attribute { user, name, value } => {
                let user_id = self.name(*user);
                let (name, value) = attribute(*name, *value, self.now);
                self.attribute(user_id, name, &value);
            }
            Step::Erase { user } => {
                // Who has two names is forgotten under both, which is not done here.
                let user_id = self.name(*user);
                if user_id == "bob" || self.linked_at.is_none() {
                    self.erase(user_id);
                }
            }
            Step::Status { survey, status } => {
                const ALL: [Status; 8] = [
                    Status::Active,
                    Status::Active,
                    Status::Active,
                    Status::Paused,
                    Status::Archived,
                    Status::Test,
                    Status::Shadow,
                    Status::Draft,
                ];
                self.redefine(&format!("s{survey}"), |changed| changed.status = ALL[usize::from(*status)]);
            }
            Step::Wave { survey } => self.redefine(&format!("s{survey}"), |changed| {
                if let Some(Per::Wave(wave)) = &mut changed.frequency.per {
                    *wave += 1;
                }
            }),
        }
    }
}

struct EventStep<'a> {
    name: &'a str,
    at: Millis,
    properties: Value,
    session: Option<&'a str>,
}

/// The session that a number stands for; the first is none.
fn session_of(session: u8) -> Option<String> {
    (session > 0).then(|| format!("s{session}"))
}

fn attribute(name: u8, value: u8, now: Millis) -> (&'static str, Value) {
    let pick = |all: [Value; 4]| all[usize::from(value % 4)].clone();
    let day = |days: Millis| json!(askwhen_domain::time::format_time(now + days * DAY));
    match name {
        0 => ("plan", pick([json!("pro"), json!("pro"), json!("free"), Value::Null])),
        1 => ("company_id", pick([json!("x"), json!("y"), json!(7), Value::Null])),
        _ => ("renews_at", pick([day(-1), day(1), day(5), Value::Null])),
    }
}

/// Whether anything stands under a name that an event could end.
fn has_facts(user: &User, survey_id: &str, value: Option<i64>) -> bool {
    match value {
        None => user.surveys.get(survey_id).is_some_and(|state| !state.facts.is_empty()),
        Some(value) => user.survey_extension(survey_id).is_some_and(|kept| {
            kept.matched.iter().any(|one| one.value == Json::of(&value) && !one.state.facts.is_empty())
        }),
    }
}

/// The rules within a rule that have none within them.
pub fn leaves(rule: &Value) -> Vec<&Value> {
    let inner: Vec<&Value> = ["all", "any"].iter().filter_map(|name| rule[*name].as_array()).flatten().collect();
    match (&rule["not"], inner.is_empty()) {
        (not, _) if not.is_object() => leaves(not),
        (_, false) => inner.into_iter().flat_map(leaves).collect(),
        (_, true) => vec![rule],
    }
}

fn said(target: Target, answers: &BTreeMap<String, Value>, completed: bool) -> Answers {
    let given = |(id, value): (&String, &Value)| GivenAnswer {
        question_id: id.clone(),
        value: Json::of(value),
        answered_at: None,
        duration_ms: None,
    };
    Answers { target, answers: answers.iter().map(given).collect(), completed, context: Context::default() }
}

/// The endpoint hears of completions whose first answer is low, and of no tests.
fn check_deliveries(made: &Made, out: &Outputs) {
    let told: BTreeSet<&str> = out
        .items
        .iter()
        .filter_map(|item| match item {
            Output::Delivery(delivery) => Some(&*delivery.endpoint_id),
            _ => None,
        })
        .collect();
    let is_low = made.answer("q1").and_then(Value::as_i64).is_some_and(|value| value <= 2);
    let wanted = made.survey.survey_id == "s0" && !made.is_test && is_low;
    assert_eq!(told, BTreeSet::from_iter(wanted.then_some("low")), "{made:?}");
}
