//! The places of counters that a waiting request needs. It asks for one after the other, in
//! the order of keys, so that no two requests wait for each other, and returns all of them
//! when one is refused. A request that only looks takes no place.

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
    looks: bool,
}

impl CapRequests {
    pub fn new(wanted: Vec<CapAsk>, looks: bool) -> CapRequests {
        CapRequests { wanted, looks, ..CapRequests::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.asked.is_empty() && self.answers.is_empty()
    }

    pub fn answers(&self) -> &CapAnswers {
        &self.answers
    }

    pub fn looks(&self) -> bool {
        self.looks
    }

    /// Whether a counter has not answered, and none has refused.
    pub fn is_open(&self) -> bool {
        let answer = |ask: &CapAsk| self.answers.get(&ask.key);
        let is_refused = |ask: &CapAsk| matches!(answer(ask), Some(CapAnswer::Refused(_)));
        self.wanted.iter().any(|ask| answer(ask).is_none()) && !self.wanted.iter().any(is_refused)
    }

    /// The counters to be asked now.
    pub fn next(&mut self) -> Vec<CapAsk> {
        if !self.is_open() || (!self.looks && !self.asked.is_empty()) {
            return Vec::new();
        }
        let unasked = |ask: &&CapAsk| !self.answers.contains_key(&ask.key) && !self.asked.contains(&ask.key);
        let most = if self.looks { usize::MAX } else { 1 };
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
        if was_asked {
            self.answers.insert(key, answer);
        }
        was_asked
    }

    /// Replaces the places that are needed; returns those that are not needed any more.
    pub fn want(&mut self, wanted: Vec<CapAsk>) -> Vec<CapKey> {
        let left = self.left(&[]);
        self.wanted = wanted;
        if !self.looks {
            self.asked.clear();
            self.answers.retain(|_, answer| *answer != CapAnswer::Granted);
        }
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
