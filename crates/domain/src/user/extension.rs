//! What is remembered of a user because a survey asks for it. Most users have none
//! of it, and then it takes nothing.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::survey::{ActivationEvent, PerSurvey};
use crate::json::Json;
use crate::quota::cap::PinnedCap;
use crate::time::Millis;
use crate::user::distinct::Occurrence;

/// Displays, answers, completions and dismissals of one survey that are remembered
/// by their times, the newest among them.
pub const MAX_TIMES: usize = 32;
/// Events of one name that are remembered.
pub const MAX_EVENTS: usize = 64;
/// Names of events that are remembered: surveys that are archived leave some behind.
const MAX_EVENT_NAMES: usize = 32;
/// Values of one survey's `match` that have a window.
pub const MAX_MATCHED: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extension {
    /// By survey.
    pub surveys: BTreeMap<Arc<str>, Arc<SurveyExtension>>,
    /// By name; in the order of their times.
    pub events: BTreeMap<Arc<str>, Arc<Vec<RememberedEvent>>>,
    /// The arm of each experiment that has been offered to the user.
    pub arms: BTreeMap<String, String>,
    /// When each session that has displays was last heard of, where sessions end.
    pub sessions: BTreeMap<String, Millis>,
    /// The places that offers have taken of counters of caps, by offer.
    pub caps: BTreeMap<String, Vec<PinnedCap>>,
}

/// What one survey and one user have had with each other, beyond [`PerSurvey`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SurveyExtension {
    /// Displays, answers, completions and dismissals before the latest of each, in the
    /// order of their times.
    pub displays: Vec<Millis>,
    pub answers: Vec<Millis>,
    pub completions: Vec<Millis>,
    pub dismissals: Vec<Millis>,
    /// When the cycle began in which displays lie that are remembered no more.
    pub cycle_began_at: Option<Millis>,
    /// What the newest wave has used up; the first has no need of it.
    pub wave: Option<WaveUse>,
    pub snooze: Option<Snooze>,
    /// A dismissal of a response that was complete: it refuses nothing.
    pub closed_at: Option<Millis>,
    /// Sessions of events that count by session, by the events' places.
    pub sessions: Vec<(u64, u64)>,
    /// Windows by the value that they belong to; the one with the newest event is last.
    pub matched: Vec<MatchedWindows>,
}

/// The windows of one value.
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
    /// Those properties that a rule has asked for, by their paths.
    pub properties: Option<Json>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveUse {
    pub wave: u32,
    pub displays: u32,
    pub answered_at: Option<Millis>,
    pub completed_at: Option<Millis>,
}

/// The user has asked to be asked again.
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

    /// Puts an event where it belongs in time; the oldest goes when there are too many.
    /// Whether the event of this name at a place in the journal is remembered.
    pub(super) fn knows(&self, name: &str, offset: u64) -> bool {
        self.events.get(name).is_some_and(|all| all.iter().any(|event| event.offset == offset))
    }

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

    /// Lets go of something: properties of windows, else the older half of the events of
    /// the name that takes the most.
    pub(super) fn shed(&mut self) -> bool {
        let weight = |all: &Arc<Vec<RememberedEvent>>| all.iter().map(RememberedEvent::len_bytes).sum::<usize>();
        let holds = |one: &MatchedWindows| one.state.facts.iter().any(|fact| fact.event.properties.is_some());
        let held = self.surveys.iter().find(|(_, survey)| survey.matched.iter().any(holds));
        if let Some(id) = held.map(|(id, _)| id.clone()) {
            // The value that is oldest loses its properties first.
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

    /// The latest time that it speaks of.
    pub(super) fn latest(&self) -> Option<Millis> {
        let surveys = self.surveys.values().filter_map(|survey| survey.latest());
        let events = self.events.values().filter_map(|all| all.last().map(|event| event.at));
        surveys.chain(events).chain(self.sessions.values().copied()).max()
    }

    /// Nothing of it has happened after `latest`.
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

    /// Every place in the journal that it names.
    pub(super) fn offsets_mut(&mut self) -> Vec<&mut u64> {
        let mut all: Vec<&mut u64> = Vec::new();
        for survey in self.surveys.values_mut().map(Arc::make_mut) {
            all.extend(survey.sessions.iter_mut().map(|(offset, _)| offset));
        }
        all.extend(self.events.values_mut().flat_map(Arc::make_mut).map(|event| &mut event.offset));
        all
    }

    /// Nothing of its windows is to be forgotten before.
    pub(super) fn forget_at(&self, known: Millis) -> Option<Millis> {
        let windows = self.surveys.values().flat_map(|survey| &survey.matched);
        windows.map(|one| one.state.facts.last().map_or(Millis::MIN, |fact| fact.event.at.saturating_add(known))).min()
    }

    /// Forgets windows whose newest event is as old.
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
    /// What a value of the property has armed, to be changed; nothing yet, at first.
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

    /// Puts the value with the newest event last, and keeps the newest values.
    pub fn order_matched(&mut self) {
        self.matched.retain(|one| !one.state.facts.is_empty());
        self.matched.sort_by_key(|one| one.state.facts.last().map(ActivationEvent::order));
        let too_many = self.matched.len().saturating_sub(MAX_MATCHED);
        self.matched.drain(..too_many);
    }

    /// The sessions of events that are still there.
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

/// Keeps a time that is not the latest any more, in order; the oldest goes when there
/// are too many, and is given back.
pub fn keep_time(times: &mut Vec<Millis>, at: Millis) -> Option<Millis> {
    let place = times.partition_point(|other| *other <= at);
    times.insert(place, at);
    // The latest stands elsewhere.
    (times.len() >= MAX_TIMES).then(|| times.remove(0))
}
