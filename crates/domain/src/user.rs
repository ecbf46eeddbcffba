//! The state of one user: what it contains, what is forgotten when, and its bound in bytes.

pub mod completed;
mod decoded;
pub mod distinct;
mod extension;
mod identity;
mod merge;
mod name;
mod offer;
mod part;
mod recent;
mod survey;
mod surveys;

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::json::Json;
use crate::time::{DAY, FUTURE_SKEW, HOUR, Millis};
use crate::user::completed::CompletedAnswers;

pub use extension::{
    Extension, MAX_EVENTS, MAX_MATCHED, MAX_TIMES, MatchedWindows, RememberedEvent, Snooze, SurveyExtension, WaveUse,
    keep_time,
};
pub use identity::{Alias, Identity, MAX_ALIASES};
pub use offer::{Answer, Offer, OfferContext, Response};
pub use part::Part;
pub use recent::{RecentIds, SeenId};
pub use survey::{Activated, ActivationEvent, EventOrder, PerSurvey, WindowDisplay};
pub use surveys::Surveys;

/// How long an offer can be displayed, dismissed and answered when the settings do not say
/// otherwise, in milliseconds.
pub const OFFER_KNOWN: Millis = DAY;
/// How long a window that is over is remembered, to be reported as `expired` and not as
/// never armed, in milliseconds.
pub const WINDOW_REMEMBERED: Millis = DAY;
/// How long an event id is remembered at least, however short windows are, in milliseconds.
pub const ID_REMEMBERED: Millis = 100 * HOUR;

/// Bounds of one user's state, in bytes: it is one value of the store.
pub const MAX_STATE_BYTES: usize = 256 << 10;
pub const MAX_ATTRIBUTES_BYTES: usize = 32 << 10;
pub const MAX_RESPONSE_BYTES: usize = 128 << 10;
pub const MAX_RECENT_IDS: usize = 256;
const MAX_SESSIONS: usize = 32;
/// Used links that are remembered; beyond it those that expire first are dropped.
const MAX_USED_LINKS: usize = 256;
/// How long windows are kept, in milliseconds: the longest that any survey may need them,
/// because the survey's own `expires_after` is not known here.
const FACTS_KNOWN: Millis = crate::limits::MAX_WITHIN + crate::limits::MAX_EXPIRES_AFTER + WINDOW_REMEMBERED;
/// About how many bytes an empty user takes in a stored state.
const EMPTY_BYTES: usize = 32;
pub(super) const MAX_SHOWN: usize = 32;

/// Offsets with this bit are of an earlier journal.
pub const APART: u64 = 1 << 63;
/// Offsets with this bit were given to events that came from the journal of an alias.
pub const MERGED: u64 = 1 << 62;

/// The state of one user. A record is applied to a copy, so that it takes effect as a whole
/// or not at all. A copy shares all parts that the record does not change, so its cost does
/// not grow with the user's history; shared parts are compared by their address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct User {
    pub attributes: Part<BTreeMap<String, Json>>,
    pub surveys: Surveys,
    /// Oldest first.
    pub offers: Vec<Arc<Offer>>,
    pub sessions: Part<Vec<Session>>,
    /// The last display of any survey, except surveys in status `test`.
    pub last_display_at: Option<Millis>,
    /// Event ids as 128-bit hashes, and when they were first seen; oldest first.
    pub recent: RecentIds,
    /// Whether event ids younger than [`ID_REMEMBERED`] were moved from `recent` to the
    /// store's table.
    pub overflowed: bool,
    /// By survey id, the latest completed response, except to surveys in status `test`.
    pub completed: Part<BTreeMap<Arc<str>, CompletedAnswers>>,
    /// By id of a single-use link with which a response was completed, when the link
    /// expires.
    pub used_links: Part<BTreeMap<String, Millis>>,
    /// What is kept only because a survey needs it; `None` when that is nothing.
    pub extension: Option<Arc<Extension>>,
    /// Aliases of the user, and the age of the attributes; `None` when there are neither.
    pub identity: Option<Arc<Identity>>,
    #[serde(skip)]
    summary: UserSummary,
}

/// Figures about a whole user that are kept up to date, so that the cost of a record
/// depends on what it changes. They follow from the other fields: they are neither stored
/// nor compared.
#[derive(Debug, Clone, Copy)]
struct UserSummary {
    bytes: usize,
    /// At least as late as every time in the state.
    latest: Millis,
    /// At most as late as the first time at which an event of a window is forgotten.
    forget_at: Millis,
    /// At most as early as every offer in the state.
    oldest_offer: Millis,
}

impl Default for UserSummary {
    fn default() -> UserSummary {
        UserSummary { bytes: EMPTY_BYTES, latest: Millis::MIN, forget_at: Millis::MAX, oldest_offer: Millis::MAX }
    }
}

impl PartialEq for UserSummary {
    fn eq(&self, _: &UserSummary) -> bool {
        true
    }
}

impl Eq for UserSummary {}

impl User {
    /// Marks the offsets in this state as those of an earlier journal: offsets identify
    /// activations, and a new journal counts them from 0 again. Their order is kept.
    pub fn leave_journal(&mut self) {
        self.each_offset(&mut |offset| *offset |= APART);
    }

    /// Calls `change` with every journal offset in the state.
    fn each_offset(&mut self, change: &mut dyn FnMut(&mut u64)) {
        let mut of_survey = |survey: &mut PerSurvey| {
            survey.facts.iter_mut().for_each(|fact| change(&mut Arc::make_mut(&mut fact.event).offset));
            survey.shown.iter_mut().for_each(|shown| change(&mut shown.offset));
        };
        self.surveys.iter_mut().map(Arc::make_mut).for_each(&mut of_survey);
        if let Some(extension) = self.extension.as_mut().map(Arc::make_mut) {
            extension.matched_mut().for_each(&mut of_survey);
            extension.offsets_mut().into_iter().for_each(&mut *change);
        }
        for activated in self.offers.iter_mut().filter_map(|offer| Arc::make_mut(offer).activation.as_mut()) {
            change(&mut Arc::make_mut(activated).offset);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub session_id: String,
    pub displays: u32,
}

impl User {
    /// Whether nothing is known of the user.
    pub fn is_empty(&self) -> bool {
        self.surveys.is_empty() && self.recent.is_empty() && *self == User::default()
    }

    /// Whether nothing is known of the user but the time of the last display, which an
    /// erasure may keep.
    pub fn is_erased(&self) -> bool {
        let is_bare = self.surveys.is_empty() && self.recent.is_empty();
        is_bare && User { last_display_at: None, overflowed: false, ..self.clone() } == User::default()
    }

    /// The user's state with a survey, to be changed; an empty one at first.
    pub fn survey_mut(&mut self, survey_id: &str) -> &mut PerSurvey {
        self.survey_mut_or(survey_id, PerSurvey::default)
    }

    /// The same; `new` makes the state that is there at first.
    pub fn survey_mut_or(&mut self, survey_id: &str, new: impl FnOnce() -> PerSurvey) -> &mut PerSurvey {
        self.surveys.get_mut_or(survey_id, new)
    }

    /// The attributes as one JSON object.
    pub fn attributes_value(&self) -> serde_json::Value {
        serde_json::Value::Object(self.attributes.iter().map(|(name, value)| (name.clone(), value.value())).collect())
    }

    /// What is kept only because a survey needs it, to be changed.
    pub fn extension_mut(&mut self) -> &mut Extension {
        Arc::make_mut(self.extension.get_or_insert_default())
    }

    /// What a survey has asked to be kept, if there is any of it.
    pub fn survey_extension(&self, survey_id: &str) -> Option<&SurveyExtension> {
        self.extension.as_ref()?.surveys.get(survey_id).map(|survey| &**survey)
    }

    /// The offer at an index, to be changed.
    pub fn offer_mut(&mut self, index: usize) -> &mut Offer {
        Arc::make_mut(&mut self.offers[index])
    }

    /// Whether this event id has been seen. When the state has overflowed, an id that is
    /// not here may still be in the store's table.
    pub fn has_seen(&self, hash: u128) -> bool {
        self.recent.has(hash)
    }

    /// Remembers an event id for `remembered` milliseconds. Returns the id that no longer
    /// fits and is too young to be forgotten, for the store's table.
    pub fn remember(&mut self, hash: u128, now: Millis, remembered: Millis) -> Option<(u128, Millis)> {
        self.recent.push((hash, now));
        while self.recent.oldest().is_some_and(|(_, seen)| seen.saturating_add(remembered) <= now) {
            self.recent.pop();
        }
        if self.recent.len() <= MAX_RECENT_IDS {
            return None;
        }
        self.overflowed = true;
        self.recent.pop()
    }

    /// Notes a sign of life of a session at a time. A session that was idle for longer than
    /// `lifetime` milliseconds begins again without displays.
    pub fn hear_session(&mut self, session_id: Option<&str>, at: Millis, lifetime: Millis) {
        let Some(session_id) = session_id else { return };
        let known = self.sessions.iter().position(|session| session.session_id == session_id);
        let Some(known) = known else { return };
        let last = self.extension.as_ref().and_then(|extension| extension.sessions.get(session_id).copied());
        if last.is_some_and(|last| at.saturating_sub(last) > lifetime) {
            self.sessions.make_mut().remove(known);
            self.extension_mut().sessions.remove(session_id);
        } else {
            self.extension_mut().sessions.insert(session_id.to_owned(), last.map_or(at, |last| last.max(at)));
        }
    }

    pub fn session_displays(&self, session_id: Option<&str>) -> u32 {
        let Some(session_id) = session_id else { return 0 };
        self.sessions.iter().find(|s| s.session_id == session_id).map_or(0, |s| s.displays)
    }

    /// Counts a display in its session: where sessions end, it may be the first of a new one
    /// under the same id.
    pub fn count_session(&mut self, session_id: Option<&str>, at: Millis, lifetime: Option<Millis>) {
        let Some(session_id) = session_id else { return };
        if let Some(lifetime) = lifetime {
            let last = self.extension.as_ref().and_then(|extension| extension.sessions.get(session_id).copied());
            if last.is_some_and(|last| last.saturating_sub(at) > lifetime) {
                // It was in an earlier session under the same id.
                return;
            }
            self.hear_session(Some(session_id), at, lifetime);
            self.extension_mut().sessions.entry(session_id.to_owned()).or_insert(at);
        }
        let sessions = self.sessions.make_mut();
        let displays = match sessions.iter().position(|s| s.session_id == session_id) {
            Some(at) => sessions.remove(at).displays,
            None => 0,
        };
        sessions.push(Session { session_id: session_id.to_owned(), displays: displays.saturating_add(1) });
        if sessions.len() > MAX_SESSIONS {
            let gone = sessions.remove(0).session_id;
            if self.extension.as_ref().is_some_and(|extension| extension.sessions.contains_key(&gone)) {
                self.extension_mut().sessions.remove(&gone);
            }
        }
    }

    /// Moves times that lie in the future back to now. Only a wrong clock can have made
    /// them, before an operator put the journal's time back; left alone they would block
    /// the user until they have come.
    fn put_back(&mut self, now: Millis) {
        let latest = now.saturating_add(FUTURE_SKEW);
        for offer in self.offers.iter_mut().filter(|offer| offer.latest() > latest) {
            Arc::make_mut(offer).put_back(now, latest);
        }
        for survey in self.surveys.iter_mut().filter(|survey| survey.latest().is_some_and(|at| at > latest)) {
            Arc::make_mut(survey).put_back(latest);
        }
        self.last_display_at = self.last_display_at.map(|time| latest.min(time));
        if self.completed.values().any(|completed| completed.at > latest) {
            let completed = self.completed.make_mut().values_mut();
            completed.for_each(|completed| completed.at = latest.min(completed.at));
        }
        self.recent.put_back(latest);
        if self.identity.as_ref().and_then(|identity| identity.attributes_since).is_some_and(|at| at > latest) {
            self.identity_mut().attributes_since = Some(latest);
        }
        if self.extension.as_ref().and_then(|extension| extension.latest()).is_some_and(|at| at > latest) {
            self.extension_mut().put_back(latest);
        }
    }

    /// The state at a time, without what no rule can need any more.
    pub(super) fn as_of(&self, now: Millis, offer_known: Millis) -> Cow<'_, User> {
        let is_ahead = self.summary.latest > now.saturating_add(FUTURE_SKEW);
        let forgets = now >= self.summary.forget_at.min(self.summary.oldest_offer.saturating_add(offer_known));
        if !is_ahead && !forgets {
            return Cow::Borrowed(self);
        }
        let mut user = self.clone();
        if is_ahead {
            user.put_back(now);
        }
        if forgets {
            user.forget(now, offer_known);
        }
        Cow::Owned(user.summarized())
    }

    /// Erases the state; returns the event ids, which are to be remembered.
    pub(super) fn erase(&mut self) -> RecentIds {
        let summary = self.summary;
        let erased = std::mem::replace(self, User { summary, ..User::default() });
        erased.recent
    }

    fn forget(&mut self, now: Millis, offer_known: Millis) {
        self.offers.retain(|o| now < o.offered_at.saturating_add(offer_known));
        let is_old = |newest: &ActivationEvent| newest.event.at.saturating_add(FACTS_KNOWN) <= now;
        for survey in self.surveys.iter_mut().filter(|survey| survey.facts.last().is_some_and(is_old)) {
            let survey = Arc::make_mut(survey);
            survey.facts.clear();
            survey.shown.clear();
        }
        if self.extension.as_ref().and_then(|extension| extension.forget_at(FACTS_KNOWN)).is_some_and(|at| at <= now) {
            self.extension_mut().forget(FACTS_KNOWN, now);
        }
    }

    /// Drops the places of offers that are forgotten; they had lapsed before.
    fn drop_unused_caps(&mut self) {
        let is_known = |id: &String| self.offers.iter().any(|offer| offer.offer_id == *id);
        if self.extension.as_ref().is_none_or(|extension| extension.caps.keys().all(is_known)) {
            return;
        }
        let known: Vec<String> = self.offers.iter().map(|offer| offer.offer_id.clone()).collect();
        self.extension_mut().caps.retain(|id, _| known.contains(id));
    }

    /// Remembers that a single-use link was used, until it has expired.
    pub fn use_link(&mut self, link_id: &str, expires_at: Millis, now: Millis) {
        let links = self.used_links.make_mut();
        links.retain(|_, expires_at| now <= expires_at.saturating_add(DAY));
        links.insert(link_id.to_owned(), expires_at);
        if links.len() > MAX_USED_LINKS {
            let first = links.iter().map(|(id, expires_at)| (*expires_at, id.clone())).min();
            first.and_then(|(_, id)| links.remove(&id));
        }
    }

    /// Keeps the answers of a completed response, unless those of a later one are kept.
    pub fn keep_answers(&mut self, survey_id: &str, answers: CompletedAnswers) {
        if self.completed.get(survey_id).is_none_or(|kept| kept.at <= answers.at) {
            self.completed.make_mut().insert(survey_id.into(), answers);
        }
    }

    /// Forgets answers that are older than the `retention` of their survey.
    pub(super) fn forget_answers(&mut self, retentions: &BTreeMap<String, Millis>, now: Millis) {
        let is_old = |survey_id: &str, completed: &CompletedAnswers| {
            retentions.get(survey_id).is_some_and(|span| completed.at.saturating_add(*span) <= now)
        };
        if !retentions.is_empty() && self.completed.iter().any(|(id, completed)| is_old(id, completed)) {
            self.completed.make_mut().retain(|id, completed| !is_old(id, completed));
        }
    }

    /// Shrinks the state to its bound, always in the same order: offers that have ended,
    /// the oldest properties of events, the oldest offers, remembered events, the answers
    /// of the oldest responses, the oldest activation events.
    fn bound(&mut self) {
        while self.count_bytes() > MAX_STATE_BYTES {
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
            if self.extension.is_some() && self.extension_mut().shed() {
                continue;
            }
            let oldest = self.completed.iter().map(|(id, completed)| (completed.at, id.clone())).min();
            if let Some((_, id)) = oldest {
                self.completed.make_mut().remove(&id);
                continue;
            }
            let oldest = self.surveys.iter().filter_map(|(id, s)| Some((s.facts.first()?.order(), id.clone()))).min();
            let Some((_, id)) = oldest else { break };
            self.survey_mut(&id).remove(0);
        }
    }

    /// About how many bytes the state takes when stored, as of the last summary.
    pub fn approximate_bytes(&self) -> usize {
        self.summary.bytes
    }

    fn count_bytes(&self) -> usize {
        let surveys: usize = self.surveys.iter().map(|(id, survey)| id.len() + survey.len_bytes()).sum();
        let offers: usize = self.offers.iter().map(|offer| offer.len_bytes()).sum();
        attributes_bytes(self)
            + surveys
            + offers
            + sessions_bytes(self)
            + completed_bytes(self)
            + used_links_bytes(self)
            + recent_bytes(self)
            + extension_bytes(self)
            + identity_bytes(self)
            + EMPTY_BYTES
    }

    /// Restores what the stored form keeps apart: the sessions of events are in the
    /// extension there.
    #[must_use]
    pub fn restored(mut self) -> User {
        let extension = self.extension.clone();
        for (survey_id, kept) in extension.iter().flat_map(|extension| &extension.surveys) {
            let put_back = |fact: &mut ActivationEvent| {
                let known = kept.sessions.iter().find(|(offset, _)| *offset == fact.event.offset);
                fact.session = known.map(|(_, session)| *session);
            };
            if kept.sessions.is_empty() {
                continue;
            }
            if self.surveys.get(survey_id).is_some() {
                self.survey_mut(survey_id).facts.iter_mut().for_each(put_back);
            }
            let matched = &mut self.extension_mut().survey_mut(survey_id).matched;
            matched.iter_mut().flat_map(|one| &mut one.state.facts).for_each(put_back);
        }
        self.summarized()
    }

    /// Computes the summary from the whole state, for a state of unknown origin.
    #[must_use]
    pub fn summarized(mut self) -> User {
        self.summary = UserSummary::default();
        self.summarize(&User::default());
        self
    }

    /// Completes a change that was made to a copy of `before`.
    pub(super) fn settle(&mut self, before: &User) {
        self.drop_empty();
        self.summarize(before);
        debug_assert_eq!(self.summary.bytes, self.count_bytes(), "what a change has added or taken away");
        self.keep_bound();
    }

    /// Completes a change of the whole state.
    pub(super) fn settle_whole(&mut self) {
        self.drop_empty();
        *self = std::mem::take(self).summarized();
        self.keep_bound();
    }

    fn drop_empty(&mut self) {
        self.drop_unused_caps();
        self.extension = self.extension.take().filter(|extension| !extension.is_empty());
        self.identity = self.identity.take().filter(|identity| !identity.is_empty());
    }

    fn keep_bound(&mut self) {
        if self.summary.bytes > MAX_STATE_BYTES {
            self.bound();
            *self = std::mem::take(self).summarized();
        }
    }

    /// Updates the summary with the parts that are not shared with `before`, from which
    /// this user was copied.
    fn summarize(&mut self, before: &User) {
        let mut summary = self.summary;
        let added = |bytes: usize, was: usize, is: usize| (bytes + is).saturating_sub(was);
        if !self.attributes.is_shared_with(&before.attributes) {
            summary.bytes = added(summary.bytes, attributes_bytes(before), attributes_bytes(self));
        }
        if !self.sessions.is_shared_with(&before.sessions) {
            summary.bytes = added(summary.bytes, sessions_bytes(before), sessions_bytes(self));
        }
        if !self.completed.is_shared_with(&before.completed) {
            summary.bytes = added(summary.bytes, completed_bytes(before), completed_bytes(self));
            let latest = self.completed.values().map(|completed| completed.at).max();
            summary.latest = summary.latest.max(latest.unwrap_or(Millis::MIN));
        }
        if !self.used_links.is_shared_with(&before.used_links) {
            summary.bytes = added(summary.bytes, used_links_bytes(before), used_links_bytes(self));
        }
        let same = match (&self.extension, &before.extension) {
            (Some(is), Some(was)) => Arc::ptr_eq(is, was),
            (is, was) => is.is_none() && was.is_none(),
        };
        if !same {
            summary.bytes = added(summary.bytes, extension_bytes(before), extension_bytes(self));
            let forget_at = self.extension.as_ref().and_then(|extension| extension.forget_at(FACTS_KNOWN));
            summary.forget_at = summary.forget_at.min(forget_at.unwrap_or(Millis::MAX));
            let latest = self.extension.as_ref().and_then(|extension| extension.latest());
            summary.latest = summary.latest.max(latest.unwrap_or(Millis::MIN));
        }
        summary.bytes = added(summary.bytes, identity_bytes(before), identity_bytes(self));
        summary.bytes = added(summary.bytes, recent_bytes(before), recent_bytes(self));
        let newest_id = self.recent.newest().map(|(_, seen)| seen);
        let attributes_since = self.identity.as_ref().and_then(|identity| identity.attributes_since);
        for at in [self.last_display_at, newest_id, attributes_since].into_iter().flatten() {
            summary.latest = summary.latest.max(at);
        }
        for (id, was, is) in self.surveys.changes(&before.surveys) {
            let bytes = |survey: Option<&PerSurvey>| survey.map_or(0, |survey| id.len() + survey.len_bytes());
            summary.bytes = added(summary.bytes, bytes(was), bytes(is));
            let Some(is) = is else { continue };
            summary.latest = summary.latest.max(is.latest().unwrap_or(Millis::MIN));
            let forget_at = is.facts.last().map(|newest| newest.event.at.saturating_add(FACTS_KNOWN));
            summary.forget_at = summary.forget_at.min(forget_at.unwrap_or(Millis::MAX));
        }
        let (mut old, mut new) = (before.offers.iter().peekable(), self.offers.iter().peekable());
        loop {
            match (old.peek(), new.peek()) {
                (Some(was), Some(is)) if Arc::ptr_eq(was, is) => {
                    old.next();
                    new.next();
                }
                // Offers can be removed anywhere and are added at the end.
                (Some(was), is) if is.is_none_or(|is| is.offer_id != was.offer_id) => {
                    summary.bytes = added(summary.bytes, was.len_bytes(), 0);
                    old.next();
                }
                (was, Some(is)) => {
                    summary.bytes = added(summary.bytes, was.map_or(0, |was| was.len_bytes()), is.len_bytes());
                    summary.latest = summary.latest.max(is.latest());
                    summary.oldest_offer = summary.oldest_offer.min(is.offered_at);
                    old.next();
                    new.next();
                }
                (_, None) => break,
            }
        }
        self.summary = summary;
    }
}

fn attributes_bytes(user: &User) -> usize {
    user.attributes.iter().map(|(name, value)| name.len() + value.len_bytes() + 8).sum()
}

fn sessions_bytes(user: &User) -> usize {
    user.sessions.iter().map(|session| session.session_id.len() + 8).sum()
}

fn completed_bytes(user: &User) -> usize {
    user.completed.iter().map(|(id, completed)| id.len() + completed.approximate_bytes()).sum()
}

fn used_links_bytes(user: &User) -> usize {
    user.used_links.keys().map(|id| id.len() + 16).sum()
}

fn extension_bytes(user: &User) -> usize {
    user.extension.as_ref().map_or(0, |extension| extension.len_bytes())
}

fn identity_bytes(user: &User) -> usize {
    user.identity.as_ref().map_or(0, |identity| identity.len_bytes())
}

fn recent_bytes(user: &User) -> usize {
    user.recent.len() * 24
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
        ActivationEvent::new(1, event.into())
    }

    #[test]
    fn state_stays_within_its_bound() {
        let mut user = User::default();
        for offset in 0..40 {
            user.survey_mut("s").facts.push(fact(offset as Millis, offset));
        }
        user.bound();
        assert!(user.count_bytes() <= MAX_STATE_BYTES);
        assert!(!user.surveys["s"].facts.is_empty(), "no more goes than must");
    }

    #[test]
    fn ids_overflow_into_the_store_until_they_are_old() {
        let mut user = User::default();
        let spilled = (0..300u128).filter_map(|id| user.remember(id, 0, ID_REMEMBERED)).count();
        assert_eq!((spilled, user.recent.len(), user.overflowed), (44, 256, true));
        assert_eq!(user.remember(999, ID_REMEMBERED, ID_REMEMBERED), None);
        assert_eq!(user.recent.len(), 1);
    }
}
