//! The state of one user with one survey.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::decoded::{shared, shared_name};
use super::name;
use crate::json::Json;
use crate::time::Millis;

/// The activation events, windows and history of one user with one survey.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PerSurvey {
    /// The fingerprint of the activation under which `facts` were collected.
    #[serde(rename = "mark")]
    pub fingerprint: u64,
    /// The activation events, in the order of event time, then of journal offset.
    pub facts: Vec<ActivationEvent>,
    /// Displays of windows.
    pub shown: Vec<WindowDisplay>,
    pub displays: u32,
    /// Times of the last offer, display, answer, completion and dismissal, except in status
    /// `test`.
    pub offered_at: Option<Millis>,
    pub last_display_at: Option<Millis>,
    pub answered_at: Option<Millis>,
    pub completed_at: Option<Millis>,
    pub dismissed_at: Option<Millis>,
}

/// An event that takes part in a survey's activation, with a bit for each pattern that it
/// fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivationEvent {
    #[serde(rename = "roles")]
    pub pattern_mask: u32,
    /// Shared by all surveys in which it takes part.
    #[serde(deserialize_with = "shared")]
    pub event: Arc<Activated>,
    /// A hash of its session's id, for activations that count sessions; stored in the
    /// extension.
    #[serde(skip)]
    pub session: Option<u64>,
}

/// An event that may arm surveys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    pub at: Millis,
    pub offset: u64,
    pub event_id: String,
    #[serde(deserialize_with = "shared_name")]
    pub event_name: Arc<str>,
    /// `None` once no window needs them any more.
    pub properties: Option<Json>,
}

/// A display of the window that the event at a journal offset armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowDisplay {
    pub offset: u64,
    pub at: Millis,
}

impl PerSurvey {
    /// A state with no events yet, under an activation's fingerprint.
    pub fn of(fingerprint: u64) -> PerSurvey {
        PerSurvey { fingerprint, ..PerSurvey::default() }
    }

    /// About how many bytes it takes in a stored state, without the survey's id.
    pub(super) fn len_bytes(&self) -> usize {
        let facts: usize = self.facts.iter().map(|fact| fact.event.len_bytes() + 4).sum();
        48 + self.shown.len() * 16 + facts
    }

    /// The latest time in it.
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

    /// Moves all times after `latest` back to it.
    pub(super) fn put_back(&mut self, latest: Millis) {
        // The events are sorted: those that are moved back stay behind the others.
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

/// The order of activation events: by event time, then by journal offset.
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
    /// The name of an event as users keep it: shared by all that have it.
    pub fn name(event_name: &str) -> Arc<str> {
        name::shared(event_name)
    }

    /// About how many bytes it takes in a stored state.
    pub(super) fn len_bytes(&self) -> usize {
        self.event_id.len() + self.event_name.len() + self.properties.as_ref().map_or(0, Json::len_bytes) + 24
    }
}
