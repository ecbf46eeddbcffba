//! What one survey and one user have had with each other.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::json::Json;
use crate::time::Millis;

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
    /// A hash of its session, where sessions count. It is stored in the extension.
    #[serde(skip)]
    pub session: Option<u64>,
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

impl PerSurvey {
    /// Nothing yet, under an activation's fingerprint.
    pub fn of(fingerprint: u64) -> PerSurvey {
        PerSurvey { fingerprint, ..PerSurvey::default() }
    }

    /// What it takes in a state, about, beside its survey's id.
    pub(super) fn len_bytes(&self) -> usize {
        let facts: usize = self.facts.iter().map(|fact| fact.event.len_bytes() + 4).sum();
        48 + self.shown.len() * 16 + facts
    }

    /// The latest time that it speaks of.
    pub(super) fn latest(&self) -> Option<Millis> {
        let times = [self.offered_at, self.last_display_at, self.answered_at, self.completed_at, self.dismissed_at];
        let shown = self.shown.iter().map(|shown| shown.at);
        times.into_iter().flatten().chain(self.facts.last().map(|newest| newest.event.at)).chain(shown).max()
    }

    fn times_mut(&mut self) -> [&mut Option<Millis>; 5] {
        [
            &mut self.offered_at,
            &mut self.last_display_at,
            &mut self.answered_at,
            &mut self.completed_at,
            &mut self.dismissed_at,
        ]
    }

    /// Nothing of it has happened after `latest`.
    pub(super) fn put_back(&mut self, latest: Millis) {
        // Sorted by time: those that are put back stay behind the others.
        if self.facts.last().is_some_and(|newest| newest.event.at > latest) {
            for fact in self.facts.iter_mut().filter(|fact| fact.event.at > latest) {
                Arc::make_mut(&mut fact.event).at = latest;
            }
            self.facts.sort_by_key(ActivationEvent::order);
        }
        self.shown.iter_mut().for_each(|shown| shown.at = latest.min(shown.at));
        for time in self.times_mut() {
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
    pub fn new(pattern_mask: u32, event: Arc<Activated>) -> ActivationEvent {
        ActivationEvent { pattern_mask, event, session: None }
    }

    pub fn order(&self) -> EventOrder {
        EventOrder { at: self.event.at, offset: self.event.offset }
    }

    pub(crate) fn drop_properties(&mut self) {
        if self.event.properties.is_some() {
            Arc::make_mut(&mut self.event).properties = None;
        }
    }
}

impl Activated {
    /// What it takes in a state, about.
    pub(super) fn len_bytes(&self) -> usize {
        self.event_id.len() + self.event_name.len() + self.properties.as_ref().map_or(0, Json::len_bytes) + 24
    }
}
