//! An offer of a survey, and the response to it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::survey::Activated;
use crate::json::Json;
use crate::record::Context;
use crate::survey::path::AnswerValues;
use crate::time::Millis;

/// A survey that was offered to the user, or a link survey that is being answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The id of the offer, of its group and of its response.
    pub offer_id: String,
    pub survey_id: String,
    /// The version of the survey that was offered; its questions are the ones that are
    /// answered.
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
    /// Until when it holds a grant of its survey's quota. It is kept also without a quota,
    /// because one may be added meanwhile.
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

impl Response {
    /// The values of the answers, for the survey's path.
    pub fn values(&self) -> AnswerValues {
        self.answers.iter().map(|(id, answer)| (id.clone(), answer.value.value())).collect()
    }
}

impl Offer {
    /// Whether the app has neither reported anything about the offer nor missed the time
    /// for it.
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

    /// Whether no display was reported in time, so that under a quota another offer may
    /// have its grant.
    pub fn has_lapsed(&self, now: Millis) -> bool {
        let untouched = self.displayed_at.is_none() && self.dismissed_at.is_none() && self.response.is_none();
        untouched && !self.link && !self.test && self.holds(now).is_none()
    }

    /// Until when it holds a grant; `None` when it holds none.
    pub fn holds(&self, now: Millis) -> Option<Millis> {
        self.held_until.filter(|until| now < *until)
    }

    /// The latest time in it.
    pub(super) fn latest(&self) -> Millis {
        let response = self.response.as_ref().map(|response| response.created_at.max(response.updated_at));
        [self.displayed_at, self.dismissed_at, response].into_iter().flatten().fold(self.offered_at, Millis::max)
    }

    /// About how many bytes it takes in a stored state.
    pub(super) fn len_bytes(&self) -> usize {
        let answer = |(id, answer): (&String, &Answer)| id.len() + answer.value.len_bytes() + 24;
        let response = self.response.as_ref().map_or(0, |r| r.answers.iter().map(answer).sum::<usize>() + 24);
        let activation = self.activation.as_ref().map_or(0, |event| event.len_bytes());
        activation + self.trigger_properties.len_bytes() + response + 256
    }

    /// Moves all times after `latest` back to it, or the whole offer when it was made after
    /// `latest`.
    pub(super) fn put_back(&mut self, now: Millis, latest: Millis) {
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

    /// Whether it was made in this session. A missing session differs from every other one.
    pub fn in_session(&self, session_id: Option<&str>) -> bool {
        session_id.is_some() && self.context.session_id.as_deref() == session_id
    }
}
