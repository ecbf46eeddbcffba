//! What a waiting request wants of counters of caps. A request that decides takes its
//! places one after the other, in the order of the keys, so that no two wait for each
//! other, and gives all of them back when one is refused. One that only looks takes none.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use askwhen_domain::eligibility::apply::CapAnswers;
use askwhen_domain::quota::cap::{CapAnswer, CapAsk, CapKey};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CapRequests {
    /// In the order in which they are taken.
    wanted: Vec<CapAsk>,
    /// Those that were asked and have not answered.
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

    /// Whether it has to wait for an answer: a refusal is looked at as it comes.
    pub fn is_open(&self) -> bool {
        let answer = |ask: &CapAsk| self.answers.get(&ask.key);
        let is_refused = |ask: &CapAsk| matches!(answer(ask), Some(CapAnswer::Refused(_)));
        self.wanted.iter().any(|ask| answer(ask).is_none()) && !self.wanted.iter().any(is_refused)
    }

    /// The counters that are to be asked now.
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

    /// What was asked and has not answered.
    pub fn awaited(&self) -> impl Iterator<Item = CapAsk> {
        self.wanted.iter().filter(|ask| self.asked.contains(&ask.key)).copied()
    }

    /// Takes an answer, if it was asked for.
    pub fn take(&mut self, key: CapKey, answer: CapAnswer) -> bool {
        let was_asked = self.asked.remove(&key);
        if was_asked {
            self.answers.insert(key, answer);
        }
        was_asked
    }

    /// Wants others from now on; gives those that are to be given back.
    pub fn want(&mut self, wanted: Vec<CapAsk>) -> Vec<CapKey> {
        let left = self.left(&[]);
        self.wanted = wanted;
        if !self.looks {
            self.asked.clear();
            self.answers.retain(|_, answer| *answer != CapAnswer::Granted);
        }
        left
    }

    /// What it has or has asked for, but for what it has used.
    pub fn left(&self, used: &[CapKey]) -> Vec<CapKey> {
        if self.looks {
            return Vec::new();
        }
        let has = self.answers.iter().filter(|(_, answer)| **answer == CapAnswer::Granted).map(|(key, _)| *key);
        has.chain(self.asked.iter().copied()).filter(|key| !used.contains(key)).collect()
    }
}
