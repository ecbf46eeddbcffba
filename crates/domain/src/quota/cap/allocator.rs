//! The counters that a partition keeps, and the refusals that it has received.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::counter::CapCounter;
use super::definition::{CapKey, CapRule};
use super::message::{CapAnswer, CapAsk, CapChange, CapMessage, CapOutcome, CapPlace, CapRefusal, CapSignal};
use crate::time::Millis;

/// The most values of one cap that are counted, over all partitions.
const MAX_VALUES: usize = 1_000_000;
/// When there are too many values, this percentage of them is dropped at once.
const FORGOTTEN_PERCENT: usize = 1;
/// The most refusals that a partition remembers. Of a dropped one the counter is asked
/// again.
const MAX_REFUSALS: usize = 10_000;

/// The counters and refusals of one partition.
#[derive(Debug, Default)]
pub struct CapAllocator {
    partition: u32,
    partitions: u32,
    counters: BTreeMap<CapKey, CapCounter>,
    /// By cap, how many of its values are counted here.
    sizes: BTreeMap<u64, usize>,
    refusals: BTreeMap<CapKey, CapRefusal>,
    /// Counters that have changed since [`CapAllocator::take_dirty`].
    dirty: BTreeSet<CapKey>,
    dirty_refusals: BTreeSet<CapKey>,
}

impl CapAllocator {
    pub fn new(partition: u32, partitions: u32) -> CapAllocator {
        CapAllocator { partition, partitions, ..CapAllocator::default() }
    }

    pub fn restore(&mut self, key: CapKey, counter: CapCounter) {
        if self.counters.insert(key, counter).is_none() {
            *self.sizes.entry(key.cap).or_default() += 1;
        }
    }

    /// The same, for a counter that the store does not have yet.
    pub fn install(&mut self, key: CapKey, counter: CapCounter) {
        self.restore(key, counter);
        self.dirty.insert(key);
    }

    pub fn restore_refusal(&mut self, key: CapKey, refusal: CapRefusal) {
        self.refusals.insert(key, refusal);
    }

    pub fn counters(&self) -> impl Iterator<Item = (CapKey, &CapCounter)> {
        self.counters.iter().map(|(key, counter)| (*key, counter))
    }

    /// Counts the place of an offer whose user moved to a partition.
    pub fn hold(&mut self, key: CapKey, rule: CapRule, until: Millis, partition: u32) {
        if !self.counters.contains_key(&key) {
            self.restore(key, CapCounter::new(rule, until));
        }
        if let Some(counter) = self.counters.get_mut(&key) {
            counter.hold(until, partition);
            self.dirty.insert(key);
        }
    }

    /// Counters that have changed, each with its new value; `None` for a dropped one.
    pub fn take_dirty(&mut self) -> Vec<(CapKey, Option<CapCounter>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|key| (key, self.counters.get(&key).cloned())).collect()
    }

    /// Refusals that have changed, each with its new value; `None` for a dropped one.
    pub fn take_dirty_refusals(&mut self) -> Vec<(CapKey, Option<CapRefusal>)> {
        let dirty = std::mem::take(&mut self.dirty_refusals);
        dirty.into_iter().map(|key| (key, self.refusals.get(&key).copied())).collect()
    }

    pub fn dirty_bytes(&self) -> usize {
        let counters = self.dirty.iter().filter_map(|key| self.counters.get(key)).map(CapCounter::len_bytes);
        counters.sum::<usize>() + self.dirty_refusals.len() * 64
    }

    /// The refusal of a counter that stays full until a time, however offers end.
    pub fn refusal(&self, key: CapKey, rule: CapRule, now: Millis) -> Option<CapRefusal> {
        let refusal = self.refusals.get(&key)?;
        let holds = refusal.max == rule.max && refusal.until.is_none_or(|until| now < until);
        holds.then_some(*refusal)
    }

    /// Remembers an answer that holds for later requests, too.
    pub fn remember(&mut self, key: CapKey, answer: CapAnswer, now: Millis) {
        let CapAnswer::Refused(refusal) = answer else { return };
        if !refusal.is_final {
            return;
        }
        if self.refusals.len() >= MAX_REFUSALS && !self.refusals.contains_key(&key) {
            let over: Vec<CapKey> = self
                .refusals
                .iter()
                .filter(|(_, refusal)| refusal.until.is_some_and(|until| until <= now))
                .map(|(key, _)| *key)
                .collect();
            let first = self.refusals.keys().next().copied().filter(|_| over.is_empty());
            for key in over.into_iter().chain(first) {
                self.refusals.remove(&key);
                self.dirty_refusals.insert(key);
            }
        }
        self.refusals.insert(key, refusal);
        self.dirty_refusals.insert(key);
    }

    /// The message with which a request asks for a place; with `looks` it takes none.
    pub fn ask(&self, ask: CapAsk, request: u64, looks: bool, at: Millis) -> CapMessage {
        let signal = CapSignal::Ask { request, rule: ask.rule, at, looks };
        self.to_home(ask.key, signal)
    }

    /// The message that reports to a counter what became of a place.
    pub fn settle(&self, change: CapChange) -> CapMessage {
        let CapChange { key, place, outcome } = change;
        self.to_home(key, CapSignal::Settle { place, outcome })
    }

    /// The message with which a request gives up its place, or its wish for one.
    pub fn give_back(&self, key: CapKey, request: u64) -> CapMessage {
        self.settle(CapChange { key, place: CapPlace::Request(request), outcome: CapOutcome::Free })
    }

    fn to_home(&self, key: CapKey, signal: CapSignal) -> CapMessage {
        CapMessage { key, from: self.partition, to: key.home(self.partitions), signal }
    }

    /// Applies messages; returns those for other partitions, and answers to requests of
    /// this one.
    pub fn receive(&mut self, messages: Vec<CapMessage>, now: Millis) -> Vec<CapMessage> {
        let mut out = Vec::new();
        let mut queue = VecDeque::from(messages);
        while let Some(message) = queue.pop_front() {
            let CapMessage { key, from, to, ref signal } = message;
            if to != self.partition || matches!(signal, CapSignal::Answer { .. }) {
                out.push(message);
                continue;
            }
            let answers = match signal {
                CapSignal::Check => vec![(from, CapSignal::Time { at: now })],
                _ => self.count(key, from, signal, now),
            };
            let sent = |(to, signal)| CapMessage { key, from: self.partition, to, signal };
            queue.extend(answers.into_iter().map(sent));
        }
        out
    }

    fn count(&mut self, key: CapKey, from: u32, signal: &CapSignal, now: Millis) -> Vec<(u32, CapSignal)> {
        if let (CapSignal::Ask { rule, .. }, false) = (signal, self.counters.contains_key(&key)) {
            self.make_room(key.cap, now);
            self.restore(key, CapCounter::new(*rule, now));
        }
        // A counter that was dropped has nothing to change.
        let Some(counter) = self.counters.get_mut(&key) else { return Vec::new() };
        let signals = counter.receive(from, signal, now);
        let is_over = counter.is_over(now);
        self.dirty.insert(key);
        if is_over {
            self.forget(key);
        }
        signals
    }

    fn forget(&mut self, key: CapKey) {
        if self.counters.remove(&key).is_some() {
            self.dirty.insert(key);
            let size = self.sizes.entry(key.cap).or_default();
            *size = size.saturating_sub(1);
            if *size == 0 {
                self.sizes.remove(&key.cap);
            }
        }
    }

    /// Makes room for another value of a cap: counters without any effect are dropped
    /// first, then those used least recently.
    fn make_room(&mut self, cap: u64, now: Millis) {
        let bound = MAX_VALUES.div_ceil(self.partitions.max(1) as usize);
        if self.sizes.get(&cap).is_none_or(|size| *size < bound) {
            return;
        }
        let of_cap = CapKey { cap, value: 0 }..=CapKey { cap, value: u128::MAX };
        let idle = self.counters.range(of_cap).filter(|(_, counter)| !counter.is_open());
        let rank = |(key, counter): (&CapKey, &CapCounter)| (!counter.is_over(now), counter.used_at(), *key);
        let mut ranked: Vec<(bool, Millis, CapKey)> = idle.map(rank).collect();
        ranked.sort_unstable();
        let least = (bound * FORGOTTEN_PERCENT / 100).max(1);
        let over = ranked.iter().take_while(|(counts, ..)| !counts).count();
        ranked.iter().take(least.max(over)).for_each(|(.., key)| self.forget(*key));
    }

    /// What a counter would answer now, for callers that must not change it.
    pub fn look(&self, ask: CapAsk, at: Millis) -> CapAnswer {
        self.counters.get(&ask.key).map_or(CapAnswer::Granted, |counter| counter.look(ask.rule, at))
    }
}
