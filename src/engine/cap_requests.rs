//! The places of counters that a waiting request needs. It asks for one after the other, in
//! the order of keys, so that no two requests wait for each other, and returns all of them
//! when one is refused: then it only looks at the counters that are left, because the one
//! that frees a place last says when. A request that only looks takes no place.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use askwhen_domain::eligibility::apply::CapAnswers;
use askwhen_domain::quota::cap::{CapAnswer, CapAsk, CapKey};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CapRequests {
    /// In the order of asking.
    wanted: Vec<CapAsk>,
    /// Counters that were asked and have not answered.
    asked: BTreeSet<CapKey>,
    answers: BTreeMap<CapKey, CapAnswer>,
    /// Counters that had a place, of which none was taken because another one refused.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    seen: BTreeSet<CapKey>,
    looks: bool,
}

impl CapRequests {
    /// `answers` are refusals that are known already.
    pub fn new(wanted: Vec<CapAsk>, answers: CapAnswers, looks: bool) -> CapRequests {
        CapRequests { wanted, answers, looks, ..CapRequests::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.asked.is_empty() && self.answers.is_empty()
    }

    pub fn answers(&self) -> &CapAnswers {
        &self.answers
    }

    /// Whether it takes no places, or none any more.
    pub fn looks(&self) -> bool {
        let is_refused = |ask: &CapAsk| matches!(self.answers.get(&ask.key), Some(CapAnswer::Refused(_)));
        self.looks || self.wanted.iter().any(is_refused)
    }

    fn is_answered(&self, key: CapKey) -> bool {
        self.answers.contains_key(&key) || self.seen.contains(&key)
    }

    /// Whether a counter has not answered.
    pub fn is_open(&self) -> bool {
        self.wanted.iter().any(|ask| !self.is_answered(ask.key))
    }

    /// The counters to be asked now.
    pub fn next(&mut self) -> Vec<CapAsk> {
        let looks = self.looks();
        if !self.is_open() || (!looks && !self.asked.is_empty()) {
            return Vec::new();
        }
        let unasked = |ask: &&CapAsk| !self.is_answered(ask.key) && !self.asked.contains(&ask.key);
        let most = if looks { usize::MAX } else { 1 };
        let next: Vec<CapAsk> = self.wanted.iter().filter(unasked).take(most).copied().collect();
        self.asked.extend(next.iter().map(|ask| ask.key));
        next
    }

    /// Requests for places that are unanswered.
    pub fn awaited(&self) -> impl Iterator<Item = CapAsk> {
        self.wanted.iter().filter(|ask| self.asked.contains(&ask.key)).copied()
    }

    /// Takes an answer, if the request was waiting for it.
    pub fn take(&mut self, key: CapKey, answer: CapAnswer) -> bool {
        let was_asked = self.asked.remove(&key);
        if was_asked && answer == CapAnswer::Granted && !self.looks && self.looks() {
            self.seen.insert(key);
        } else if was_asked {
            self.answers.insert(key, answer);
        }
        was_asked
    }

    /// After a refusal: returns the places that it has, which it does not need any more.
    pub fn release(&mut self) -> Vec<CapKey> {
        if self.looks || !self.looks() {
            return Vec::new();
        }
        let granted = self.answers.iter().filter(|(_, answer)| **answer == CapAnswer::Granted);
        let granted: Vec<CapKey> = granted.map(|(key, _)| *key).collect();
        self.answers.retain(|_, answer| *answer != CapAnswer::Granted);
        self.seen.extend(&granted);
        granted
    }

    /// Replaces the places that are needed, with refusals that are known already; returns
    /// those that are not needed any more.
    pub fn want(&mut self, wanted: Vec<CapAsk>, known: CapAnswers) -> Vec<CapKey> {
        let left = self.left(&[]);
        self.wanted = wanted;
        self.seen.clear();
        if !self.looks {
            self.asked.clear();
            self.answers.retain(|_, answer| *answer != CapAnswer::Granted);
        }
        self.answers.extend(known);
        left
    }

    /// The places that it has or has asked for and has not used.
    pub fn left(&self, used: &[CapKey]) -> Vec<CapKey> {
        if self.looks {
            return Vec::new();
        }
        let has = self.answers.iter().filter(|(_, answer)| **answer == CapAnswer::Granted).map(|(key, _)| *key);
        has.chain(self.asked.iter().copied()).filter(|key| !used.contains(key)).collect()
    }
}
