//! The part of a user's state that is kept only because a survey or a rule needs it. Most
//! users have none.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::survey::{ActivationEvent, PerSurvey};
use crate::json::Json;
use crate::quota::cap::PinnedCap;
use crate::time::Millis;
use crate::user::distinct::Occurrence;

/// The most times of displays, answers, completions and dismissals each that are kept for a
/// survey; the newest ones stay.
pub const MAX_TIMES: usize = 32;
/// The most events of one name that are remembered.
pub const MAX_EVENTS: usize = 64;
/// The most names of events that are remembered; surveys that were archived may have left
/// some.
const MAX_EVENT_NAMES: usize = 32;
/// The most values of a survey's `match` property that have windows.
pub const MAX_MATCHED: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extension {
    /// By survey id.
    pub surveys: BTreeMap<Arc<str>, Arc<SurveyExtension>>,
    /// By event name, in the order of event time.
    pub events: BTreeMap<Arc<str>, Arc<Vec<RememberedEvent>>>,
    /// By experiment, the arm that was offered to the user.
    pub arms: BTreeMap<String, String>,
    /// By session id, when a session with displays was last active; only where the settings
    /// end sessions.
    pub sessions: BTreeMap<String, Millis>,
    /// By offer id, the places of counters that it has taken.
    pub caps: BTreeMap<String, Vec<PinnedCap>>,
}

/// What is kept of one survey, beyond [`PerSurvey`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SurveyExtension {
    /// Times of displays, answers, completions and dismissals before the latest of each, in
    /// order.
    pub displays: Vec<Millis>,
    pub answers: Vec<Millis>,
    pub completions: Vec<Millis>,
    pub dismissals: Vec<Millis>,
    /// When the cycle began to which displays belong that are forgotten.
    pub cycle_began_at: Option<Millis>,
    /// What was used up in the newest wave; the first wave does not need it.
    pub wave: Option<WaveUse>,
    pub snooze: Option<Snooze>,
    /// When a completed response was closed; that is no refusal of the survey.
    pub closed_at: Option<Millis>,
    /// The sessions of events, for activations that count sessions: journal offset and
    /// session hash.
    pub sessions: Vec<(u64, u64)>,
    /// Windows by `match` value; the one with the newest event is last.
    pub matched: Vec<MatchedWindows>,
}

/// The windows of one `match` value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchedWindows {
    pub value: Json,
    pub state: PerSurvey,
}

/// An event that a rule may count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedEvent {
    pub at: Millis,
    pub offset: u64,
    pub session: Option<u64>,
    /// The properties that rules look at, by their paths.
    pub properties: Option<Json>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveUse {
    pub wave: u32,
    pub displays: u32,
    pub answered_at: Option<Millis>,
    pub completed_at: Option<Millis>,
}

/// The user wants to be asked again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snooze {
    pub at: Millis,
    pub until: Millis,
}

impl RememberedEvent {
    pub fn occurrence(&self) -> Occurrence {
        Occurrence { at: self.at, session: self.session }
    }

    fn len_bytes(&self) -> usize {
        self.properties.as_ref().map_or(0, Json::len_bytes) + 24
    }
}

impl Extension {
    pub fn is_empty(&self) -> bool {
        *self == Extension::default()
    }

    pub fn survey_mut(&mut self, survey_id: &str) -> &mut SurveyExtension {
        if !self.surveys.contains_key(survey_id) {
            self.surveys.insert(survey_id.into(), Arc::default());
        }
        Arc::make_mut(self.surveys.get_mut(survey_id).expect("just put there"))
    }

    /// Whether the event of this name at a journal offset is remembered.
    pub(super) fn knows(&self, name: &str, offset: u64) -> bool {
        self.events.get(name).is_some_and(|all| all.iter().any(|event| event.offset == offset))
    }

    /// Inserts an event in the order of event time; drops the oldest when there are too many.
    pub fn remember(&mut self, name: &str, event: RememberedEvent) {
        if !self.events.contains_key(name) {
            if self.events.len() >= MAX_EVENT_NAMES {
                let newest = |all: &Arc<Vec<RememberedEvent>>| all.last().map(|event| event.at);
                let oldest = self.events.iter().map(|(name, all)| (newest(all), name.clone())).min();
                oldest.map(|(_, name)| self.events.remove(&name));
            }
            self.events.insert(name.into(), Arc::default());
        }
        let all = Arc::make_mut(self.events.get_mut(name).expect("just put there"));
        let place = all.partition_point(|other| (other.at, other.offset) < (event.at, event.offset));
        all.insert(place, event);
        if all.len() > MAX_EVENTS {
            all.remove(0);
        }
    }

    /// Drops something to make room: properties of windows, else the older half of the
    /// events of the name that takes the most bytes.
    pub(super) fn shed(&mut self) -> bool {
        let weight = |all: &Arc<Vec<RememberedEvent>>| all.iter().map(RememberedEvent::len_bytes).sum::<usize>();
        let holds = |one: &MatchedWindows| one.state.facts.iter().any(|fact| fact.event.properties.is_some());
        let held = self.surveys.iter().find(|(_, survey)| survey.matched.iter().any(holds));
        if let Some(id) = held.map(|(id, _)| id.clone()) {
            // The value with the oldest event loses its properties first.
            let oldest = self.survey_mut(&id).matched.iter_mut().find(|one| holds(one));
            oldest.into_iter().flat_map(|one| &mut one.state.facts).for_each(ActivationEvent::drop_properties);
            return true;
        }
        let Some((_, name)) = self.events.iter().map(|(name, all)| (weight(all), name.clone())).max() else {
            return false;
        };
        let all = Arc::make_mut(self.events.get_mut(&name).expect("just seen"));
        all.drain(..all.len().div_ceil(2));
        if all.is_empty() {
            self.events.remove(&name);
        }
        true
    }

    pub(super) fn len_bytes(&self) -> usize {
        let surveys = self.surveys.iter().map(|(id, survey)| id.len() + survey.len_bytes());
        let events = self.events.iter().map(|(name, all)| {
            let bytes: usize = all.iter().map(RememberedEvent::len_bytes).sum();
            name.len() + bytes
        });
        let arms = self.arms.iter().map(|(name, arm)| name.len() + arm.len() + 8);
        let sessions = self.sessions.keys().map(|id| id.len() + 8);
        let caps = self.caps.iter().map(|(id, pins)| id.len() + pins.len() * 72);
        surveys.chain(events).chain(arms).chain(sessions).chain(caps).sum::<usize>() + 16
    }

    /// The latest time in it.
    pub(super) fn latest(&self) -> Option<Millis> {
        let surveys = self.surveys.values().filter_map(|survey| survey.latest());
        let events = self.events.values().filter_map(|all| all.last().map(|event| event.at));
        surveys.chain(events).chain(self.sessions.values().copied()).max()
    }

    /// Moves all times after `latest` back to it.
    pub(super) fn put_back(&mut self, latest: Millis) {
        for survey in self.surveys.values_mut() {
            Arc::make_mut(survey).put_back(latest);
        }
        for all in self.events.values_mut().map(Arc::make_mut) {
            all.iter_mut().for_each(|event| event.at = latest.min(event.at));
            all.sort_by_key(|event| (event.at, event.offset));
        }
        self.sessions.values_mut().for_each(|at| *at = latest.min(*at));
    }

    /// Every journal offset in it, to be changed.
    pub(super) fn offsets_mut(&mut self) -> Vec<&mut u64> {
        let mut all: Vec<&mut u64> = Vec::new();
        for survey in self.surveys.values_mut().map(Arc::make_mut) {
            all.extend(survey.sessions.iter_mut().map(|(offset, _)| offset));
        }
        all.extend(self.events.values_mut().flat_map(Arc::make_mut).map(|event| &mut event.offset));
        all
    }

    /// At most as late as the first time at which one of its windows is forgotten.
    pub(super) fn forget_at(&self, known: Millis) -> Option<Millis> {
        let windows = self.surveys.values().flat_map(|survey| &survey.matched);
        windows.map(|one| one.state.facts.last().map_or(Millis::MIN, |fact| fact.event.at.saturating_add(known))).min()
    }

    /// Forgets windows whose newest event is older than `known` milliseconds.
    pub(super) fn forget(&mut self, known: Millis, now: Millis) {
        let is_kept =
            |one: &MatchedWindows| one.state.facts.last().is_some_and(|fact| now < fact.event.at.saturating_add(known));
        for survey in self.surveys.values_mut().filter(|survey| !survey.matched.iter().all(is_kept)) {
            Arc::make_mut(survey).matched.retain(is_kept);
        }
    }

    pub(super) fn matched_mut(&mut self) -> impl Iterator<Item = &mut PerSurvey> {
        self.surveys.values_mut().flat_map(|survey| Arc::make_mut(survey).matched.iter_mut().map(|one| &mut one.state))
    }
}

impl SurveyExtension {
    /// The windows of a `match` value, to be changed; empty ones at first.
    pub fn matched_mut(&mut self, value: &Json, fingerprint: u64) -> &mut PerSurvey {
        if self.matched.iter().any(|one| one.state.fingerprint != fingerprint) {
            self.matched.clear();
        }
        let at = self.matched.iter().position(|one| one.value == *value).unwrap_or_else(|| {
            self.matched.push(MatchedWindows { value: value.clone(), state: PerSurvey::of(fingerprint) });
            self.matched.len() - 1
        });
        &mut self.matched[at].state
    }

    /// Moves the value with the newest event to the end, and drops the oldest values beyond
    /// the bound.
    pub fn order_matched(&mut self) {
        self.matched.retain(|one| !one.state.facts.is_empty());
        self.matched.sort_by_key(|one| one.state.facts.last().map(ActivationEvent::order));
        let too_many = self.matched.len().saturating_sub(MAX_MATCHED);
        self.matched.drain(..too_many);
    }

    /// Notes the session of an event, and drops those of events that are gone.
    pub fn keep_session(&mut self, offset: u64, session: u64, facts: &[u64]) {
        self.sessions.push((offset, session));
        self.sessions.retain(|(offset, _)| facts.contains(offset));
    }

    fn times(&self) -> [&Vec<Millis>; 4] {
        [&self.displays, &self.answers, &self.completions, &self.dismissals]
    }

    fn len_bytes(&self) -> usize {
        let times: usize = self.times().iter().map(|times| times.len() * 8).sum();
        let matched: usize = self.matched.iter().map(|one| one.value.len_bytes() + one.state.len_bytes()).sum();
        48 + times + self.sessions.len() * 16 + matched
    }

    fn latest(&self) -> Option<Millis> {
        let times = self.times().into_iter().filter_map(|times| times.last().copied());
        let matched = self.matched.iter().filter_map(|one| one.state.latest());
        let wave = self.wave.iter().flat_map(|wave| [wave.answered_at, wave.completed_at]).flatten();
        let single = [self.cycle_began_at, self.snooze.map(|snooze| snooze.at), self.closed_at];
        times.chain(matched).chain(wave).chain(single.into_iter().flatten()).max()
    }

    fn put_back(&mut self, latest: Millis) {
        let back = |time: &mut Millis| *time = latest.min(*time);
        for times in [&mut self.displays, &mut self.answers, &mut self.completions, &mut self.dismissals] {
            times.iter_mut().for_each(back);
        }
        self.cycle_began_at.iter_mut().for_each(back);
        self.closed_at.iter_mut().for_each(back);
        if let Some(wave) = &mut self.wave {
            wave.answered_at.iter_mut().for_each(back);
            wave.completed_at.iter_mut().for_each(back);
        }
        if let Some(snooze) = &mut self.snooze
            && snooze.at > latest
        {
            let span = snooze.until.saturating_sub(snooze.at);
            *snooze = Snooze { at: latest, until: latest.saturating_add(span) };
        }
        self.matched.iter_mut().for_each(|one| one.state.put_back(latest));
    }
}

/// Inserts a time that is not the latest any more; returns the oldest when there are too
/// many.
pub fn keep_time(times: &mut Vec<Millis>, at: Millis) -> Option<Millis> {
    let place = times.partition_point(|other| *other <= at);
    times.insert(place, at);
    // The latest time is not in this list.
    (times.len() >= MAX_TIMES).then(|| times.remove(0))
}
