//! Everything the engine remembers of one user, and how it forgets.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::completed::CompletedAnswers;
use super::json::Json;
use super::record::Context;
use super::time::{DAY, FUTURE_SKEW, HOUR, Millis};

/// An offer can be displayed, dismissed and answered for so long.
pub const OFFER_KNOWN: Millis = DAY;
/// An expired window is remembered for so long, to be told from none at all.
pub const WINDOW_REMEMBERED: Millis = DAY;
/// An event id is remembered for at least so long.
pub const ID_REMEMBERED: Millis = 100 * HOUR;

/// Bounds of one user's state (design §4: one blob, at most 256 KiB).
pub const MAX_STATE_BYTES: usize = 256 << 10;
pub const MAX_ATTRIBUTES_BYTES: usize = 32 << 10;
pub const MAX_RESPONSE_BYTES: usize = 128 << 10;
pub const MAX_RECENT_IDS: usize = 256;
const MAX_SESSIONS: usize = 32;
pub(super) const MAX_SHOWN: usize = 32;

/// Places from here on are of an earlier journal.
pub const APART: u64 = 1 << 63;

/// A record is applied to a copy, so that it has no effect unless it has all of it.
/// A copy shares what it does not change: it costs the same whatever the user has
/// been through. Equal parts that are shared are known to be equal without a look.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct User {
    pub attributes: Arc<BTreeMap<String, Json>>,
    pub surveys: BTreeMap<Arc<str>, Arc<PerSurvey>>,
    /// Oldest first.
    pub offers: Vec<Arc<Offer>>,
    pub sessions: Vec<Session>,
    /// Last display of any survey, tests excepted.
    pub last_display_at: Option<Millis>,
    /// Event ids as 128-bit hashes, and when they were first seen; oldest first.
    pub recent: VecDeque<(u128, Millis)>,
    /// Whether ids younger than [`ID_REMEMBERED`] have left `recent` for the
    /// store's table of their own.
    pub overflowed: bool,
    /// Of each survey the latest completed response, tests excepted.
    pub completed: BTreeMap<Arc<str>, Arc<CompletedAnswers>>,
}

impl User {
    /// Places in the journal name activations. In another journal the same
    /// numbers come again: those from here are set apart, in their order.
    pub fn leave_journal(&mut self) {
        for survey in self.surveys.values_mut().map(Arc::make_mut) {
            survey.facts.iter_mut().for_each(|fact| Arc::make_mut(&mut fact.event).offset |= APART);
            survey.shown.iter_mut().for_each(|shown| shown.offset |= APART);
        }
        for activated in self.offers.iter_mut().filter_map(|offer| Arc::make_mut(offer).activation.as_mut()) {
            Arc::make_mut(activated).offset |= APART;
        }
    }
}

/// The history of one survey with one user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PerSurvey {
    /// The activation's fingerprint under which `facts` were collected.
    #[serde(rename = "mark")]
    pub fingerprint: u64,
    /// Events that take part, sorted by event time, then by place in the journal.
    pub facts: Vec<ActivationEvent>,
    /// Events whose window was displayed, and when.
    pub shown: Vec<WindowDisplay>,
    pub displays: u32,
    /// When it last was offered, displayed, answered, completed, dismissed;
    /// tests excepted.
    pub offered_at: Option<Millis>,
    pub last_display_at: Option<Millis>,
    pub answered_at: Option<Millis>,
    pub completed_at: Option<Millis>,
    pub dismissed_at: Option<Millis>,
}

/// An event that takes part in a survey's activation, with a bit for each pattern
/// that it fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivationEvent {
    #[serde(rename = "roles")]
    pub pattern_mask: u32,
    /// One for all surveys that it takes part in.
    pub event: Arc<Activated>,
}

/// One event that armed a survey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    pub at: Millis,
    pub offset: u64,
    pub event_id: String,
    pub event_name: String,
    /// Dropped once no window can need them any more.
    pub properties: Option<Json>,
}

/// A display of the window that the event at an offset has armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowDisplay {
    pub offset: u64,
    pub at: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub session_id: String,
    pub displays: u32,
}

/// A survey handed to the user, or a link survey being answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Also the group id and the response id.
    pub offer_id: String,
    pub survey_id: String,
    /// The questions are pinned: this version is the one being answered.
    pub version: u64,
    pub offered_at: Millis,
    pub expires_at: Millis,
    pub trigger: String,
    pub trigger_properties: Json,
    pub context: OfferContext,
    pub activation: Option<Arc<Activated>>,
    pub displayed_at: Option<Millis>,
    pub dismissed_at: Option<Millis>,
    pub test: bool,
    pub link: bool,
    /// It holds a grant of its survey's quota up to then. Holds are counted
    /// without a quota too: one may come while they last.
    pub held_until: Option<Millis>,
    pub response: Option<Response>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OfferContext {
    pub platform: Option<String>,
    pub locale: Option<String>,
    pub session_id: Option<String>,
}

impl From<&Context> for OfferContext {
    fn from(context: &Context) -> OfferContext {
        OfferContext {
            platform: context.platform.clone(),
            locale: context.locale.clone(),
            session_id: context.session_id.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    pub created_at: Millis,
    pub updated_at: Millis,
    pub completed: bool,
    /// By question id.
    pub answers: BTreeMap<String, Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub value: Json,
    pub answered_at: Millis,
    pub duration_ms: Option<u64>,
}

impl Offer {
    /// Whether the app has not yet said anything about it and still may.
    pub fn is_outstanding(&self, now: Millis, offer_ttl: Millis) -> bool {
        !self.link
            && self.displayed_at.is_none()
            && self.dismissed_at.is_none()
            && self.response.is_none()
            && now < self.offered_at.saturating_add(offer_ttl)
    }

    pub fn is_completed(&self) -> bool {
        self.response.as_ref().is_some_and(|response| response.completed)
    }

    /// Whether no display was reported in time: under a quota its grant may be another
    /// offer's now.
    pub fn has_lapsed(&self, now: Millis) -> bool {
        let untouched = self.displayed_at.is_none() && self.dismissed_at.is_none() && self.response.is_none();
        untouched && !self.link && !self.test && self.holds(now).is_none()
    }

    /// Until when it holds a grant; `None` when it holds none.
    pub fn holds(&self, now: Millis) -> Option<Millis> {
        self.held_until.filter(|until| now < *until)
    }

    /// Whether it speaks of a time after that.
    fn is_ahead_of(&self, latest: Millis) -> bool {
        let response = self.response.as_ref().map(|response| response.created_at.max(response.updated_at));
        [Some(self.offered_at), self.displayed_at, self.dismissed_at, response].iter().flatten().any(|at| *at > latest)
    }

    fn put_back(&mut self, now: Millis, latest: Millis) {
        let back = |time: &mut Millis| *time = latest.min(*time);
        if self.offered_at > latest {
            let span = self.expires_at.saturating_sub(self.offered_at);
            (self.offered_at, self.expires_at) = (now, now.saturating_add(span));
        }
        self.displayed_at.iter_mut().for_each(back);
        self.dismissed_at.iter_mut().for_each(back);
        if let Some(response) = &mut self.response {
            back(&mut response.created_at);
            back(&mut response.updated_at);
        }
    }

    /// A missing session equals no other, not even another missing one.
    pub fn in_session(&self, session_id: Option<&str>) -> bool {
        session_id.is_some() && self.context.session_id.as_deref() == session_id
    }
}

impl PerSurvey {
    /// Nothing yet, under an activation's fingerprint.
    pub fn of(fingerprint: u64) -> PerSurvey {
        PerSurvey { fingerprint, ..PerSurvey::default() }
    }

    fn times(&mut self) -> [&mut Option<Millis>; 5] {
        [
            &mut self.offered_at,
            &mut self.last_display_at,
            &mut self.answered_at,
            &mut self.completed_at,
            &mut self.dismissed_at,
        ]
    }

    /// Whether it speaks of a time after that.
    fn is_ahead_of(&self, latest: Millis) -> bool {
        let times = [self.offered_at, self.last_display_at, self.answered_at, self.completed_at, self.dismissed_at];
        times.iter().flatten().any(|time| *time > latest)
            || self.facts.last().is_some_and(|newest| newest.event.at > latest)
            || self.shown.iter().any(|shown| shown.at > latest)
    }

    fn put_back(&mut self, latest: Millis) {
        // Sorted by time: those that are put back stay behind the others.
        if self.facts.last().is_some_and(|newest| newest.event.at > latest) {
            for fact in self.facts.iter_mut().filter(|fact| fact.event.at > latest) {
                Arc::make_mut(&mut fact.event).at = latest;
            }
            self.facts.sort_by_key(ActivationEvent::order);
        }
        self.shown.iter_mut().for_each(|shown| shown.at = latest.min(shown.at));
        for time in self.times() {
            *time = time.map(|time| latest.min(time));
        }
    }
}

/// The order of events: by their times, then by the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventOrder {
    pub at: Millis,
    pub offset: u64,
}

impl ActivationEvent {
    pub fn order(&self) -> EventOrder {
        EventOrder { at: self.event.at, offset: self.event.offset }
    }

    pub(super) fn drop_properties(&mut self) {
        if self.event.properties.is_some() {
            Arc::make_mut(&mut self.event).properties = None;
        }
    }
}

impl User {
    /// Whether nothing is known of the user.
    pub fn is_empty(&self) -> bool {
        self.surveys.is_empty() && self.recent.is_empty() && *self == User::default()
    }

    /// What this user and a survey have had with each other, to be changed; nothing
    /// yet, at first.
    pub fn survey_mut(&mut self, survey_id: &str) -> &mut PerSurvey {
        self.survey_mut_or(survey_id, PerSurvey::default)
    }

    /// The same, or what is to stand there at first.
    pub fn survey_mut_or(&mut self, survey_id: &str, new: impl FnOnce() -> PerSurvey) -> &mut PerSurvey {
        if !self.surveys.contains_key(survey_id) {
            self.surveys.insert(survey_id.into(), Arc::new(new()));
        }
        Arc::make_mut(self.surveys.get_mut(survey_id).expect("just seen or put"))
    }

    /// An offer by its place, to be changed.
    pub fn offer_mut(&mut self, index: usize) -> &mut Offer {
        Arc::make_mut(&mut self.offers[index])
    }

    /// Whether this event id has been seen; `false` may still be in the
    /// store's table when the state has overflowed.
    pub fn has_seen(&self, hash: u128) -> bool {
        self.recent.iter().any(|(seen, _)| *seen == hash)
    }

    /// Remembers an event id. What no longer fits and is not yet old enough to
    /// forget is returned, to be kept in the store's table.
    pub fn remember(&mut self, hash: u128, now: Millis) -> Option<(u128, Millis)> {
        self.recent.push_back((hash, now));
        while self.recent.front().is_some_and(|(_, seen)| seen.saturating_add(ID_REMEMBERED) <= now) {
            self.recent.pop_front();
        }
        if self.recent.len() <= MAX_RECENT_IDS {
            return None;
        }
        self.overflowed = true;
        self.recent.pop_front()
    }

    pub fn session_displays(&self, session_id: Option<&str>) -> u32 {
        let Some(session_id) = session_id else { return 0 };
        self.sessions.iter().find(|s| s.session_id == session_id).map_or(0, |s| s.displays)
    }

    pub fn count_session(&mut self, session_id: Option<&str>) {
        let Some(session_id) = session_id else { return };
        let displays = match self.sessions.iter().position(|s| s.session_id == session_id) {
            Some(at) => self.sessions.remove(at).displays,
            None => 0,
        };
        self.sessions.push(Session { session_id: session_id.to_owned(), displays: displays.saturating_add(1) });
        if self.sessions.len() > MAX_SESSIONS {
            self.sessions.remove(0);
        }
    }

    /// Nothing has happened at a time that is yet to come, but where a clock was
    /// wrong and an operator has put the journal's time back: what was noted then
    /// has happened just now. Else it would bar the user until that time comes.
    fn put_back(&mut self, now: Millis) {
        let latest = now.saturating_add(FUTURE_SKEW);
        for offer in self.offers.iter_mut().filter(|offer| offer.is_ahead_of(latest)) {
            Arc::make_mut(offer).put_back(now, latest);
        }
        for survey in self.surveys.values_mut().filter(|survey| survey.is_ahead_of(latest)) {
            Arc::make_mut(survey).put_back(latest);
        }
        self.last_display_at = self.last_display_at.map(|time| latest.min(time));
        for completed in self.completed.values_mut().filter(|completed| completed.at > latest) {
            Arc::make_mut(completed).at = latest;
        }
        let ahead = self.recent.iter_mut().rev().take_while(|(_, seen)| *seen > latest);
        ahead.for_each(|(_, seen)| *seen = latest);
    }

    /// Lets go of what no rule can ask for any more. A survey's expiry is not
    /// known here, so its windows stay for the longest that there is.
    pub fn forget(&mut self, now: Millis) {
        self.put_back(now);
        self.offers.retain(|o| now < o.offered_at.saturating_add(OFFER_KNOWN));
        let keep = crate::limits::MAX_WITHIN + crate::limits::MAX_EXPIRES_AFTER + WINDOW_REMEMBERED;
        let is_old = |newest: &ActivationEvent| newest.event.at.saturating_add(keep) <= now;
        for survey in self.surveys.values_mut().filter(|survey| survey.facts.last().is_some_and(is_old)) {
            let survey = Arc::make_mut(survey);
            survey.facts.clear();
            survey.shown.clear();
        }
    }

    /// Keeps the answers of a completed response, unless a later one's are there.
    pub fn keep_answers(&mut self, survey_id: &str, answers: CompletedAnswers) {
        if self.completed.get(survey_id).is_none_or(|kept| kept.at <= answers.at) {
            self.completed.insert(survey_id.into(), Arc::new(answers));
        }
    }

    /// Keeps the state within its bound, always in the same order for the same
    /// state: offers that have ended go first, then the oldest properties, the
    /// oldest offers, the answers of the oldest responses, the oldest events.
    pub fn bound(&mut self) {
        while self.approximate_bytes() > MAX_STATE_BYTES {
            let ended = |o: &Arc<Offer>| o.dismissed_at.is_some() || o.is_completed();
            if let Some(victim) = self.offers.iter().position(ended) {
                self.offers.remove(victim);
                continue;
            }
            let facts = |s: &PerSurvey| {
                s.facts.iter().filter(|f| f.event.properties.is_some()).map(ActivationEvent::order).min()
            };
            let oldest = self.surveys.iter().filter_map(|(id, s)| Some((facts(s)?, id.clone()))).min();
            if let Some((place, id)) = oldest {
                let facts = &mut self.survey_mut(&id).facts;
                facts.iter_mut().filter(|fact| fact.order() == place).for_each(ActivationEvent::drop_properties);
                continue;
            }
            if self.offers.len() > 1 {
                self.offers.remove(0);
                continue;
            }
            let oldest = self.completed.iter().map(|(id, completed)| (completed.at, id.clone())).min();
            if let Some((_, id)) = oldest {
                self.completed.remove(&id);
                continue;
            }
            let oldest = self.surveys.iter().filter_map(|(id, s)| Some((s.facts.first()?.order(), id.clone()))).min();
            let Some((_, id)) = oldest else { break };
            self.survey_mut(&id).remove(0);
        }
    }

    pub fn approximate_bytes(&self) -> usize {
        let attributes: usize = self.attributes.iter().map(|(k, v)| k.len() + v.len_bytes() + 8).sum();
        let surveys: usize = self
            .surveys
            .iter()
            .map(|(id, s)| {
                id.len()
                    + 48
                    + s.shown.len() * 16
                    + s.facts.iter().map(|fact| activated_bytes(&fact.event) + 4).sum::<usize>()
            })
            .sum();
        let offers: usize = self.offers.iter().map(|offer| offer_bytes(offer)).sum();
        let sessions: usize = self.sessions.iter().map(|s| s.session_id.len() + 8).sum();
        let completed: usize = self.completed.iter().map(|(id, c)| id.len() + c.approximate_bytes()).sum();
        attributes + surveys + offers + sessions + completed + self.recent.len() * 24 + 32
    }
}

fn activated_bytes(activated: &Activated) -> usize {
    activated.event_id.len()
        + activated.event_name.len()
        + activated.properties.as_ref().map_or(0, Json::len_bytes)
        + 24
}

fn offer_bytes(offer: &Offer) -> usize {
    let response = offer
        .response
        .as_ref()
        .map_or(0, |r| r.answers.iter().map(|(id, a)| id.len() + a.value.len_bytes() + 24).sum::<usize>() + 24);
    offer.activation.as_ref().map_or(0, |event| activated_bytes(event))
        + offer.trigger_properties.len_bytes()
        + response
        + 256
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(at: Millis, offset: u64) -> ActivationEvent {
        let event = Activated {
            at,
            offset,
            event_id: format!("e{offset}"),
            event_name: "x".into(),
            properties: Some(Json::from_valid("\"".to_owned() + &"x".repeat(30_000) + "\"")),
        };
        ActivationEvent { pattern_mask: 1, event: event.into() }
    }

    #[test]
    fn state_stays_within_its_bound() {
        let mut user = User::default();
        for offset in 0..40 {
            user.survey_mut("s").facts.push(fact(offset as Millis, offset));
        }
        user.bound();
        assert!(user.approximate_bytes() <= MAX_STATE_BYTES);
        assert!(!user.surveys["s"].facts.is_empty(), "no more goes than must");
    }

    #[test]
    fn ids_overflow_into_the_store_until_they_are_old() {
        let mut user = User::default();
        let spilled = (0..300u128).filter_map(|id| user.remember(id, 0)).count();
        assert_eq!((spilled, user.recent.len(), user.overflowed), (44, 256, true));
        assert_eq!(user.remember(999, ID_REMEMBERED), None);
        assert_eq!(user.recent.len(), 1);
    }
}
