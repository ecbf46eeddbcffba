//! The counters that a partition keeps, and the refusals that it has received. A counter
//! that is not in memory must be loaded before a message reaches it; which counters are in
//! memory decides nothing.

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

/// About how many bytes a refusal takes in memory, with its key.
const REFUSAL_BYTES: usize = 112;

/// The order in which values of a full cap are dropped: whether the counter still has an
/// effect, when it was last used, and its key.
pub type CapRank = (bool, Millis, CapKey);

/// The counters and refusals of one partition.
#[derive(Debug, Default)]
pub struct CapAllocator {
    partition: u32,
    partitions: u32,
    /// The counters in memory.
    counters: BTreeMap<CapKey, CapCounter>,
    /// By cap, how many of its values this partition counts, in memory or not.
    sizes: BTreeMap<u64, usize>,
    refusals: BTreeMap<CapKey, CapRefusal>,
    /// Counters that have changed since [`CapAllocator::take_dirty`].
    dirty: BTreeSet<CapKey>,
    dirty_refusals: BTreeSet<CapKey>,
    /// The bytes of all counters in memory, and of those that changed.
    bytes: usize,
    dirty_bytes: usize,
}

impl CapAllocator {
    pub fn new(partition: u32, partitions: u32) -> CapAllocator {
        CapAllocator { partition, partitions, ..CapAllocator::default() }
    }

    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Notes a value whose counter is not in memory.
    pub fn add_known(&mut self, key: CapKey) {
        *self.sizes.entry(key.cap).or_default() += 1;
    }

    /// Loads the counter of a known value into memory.
    pub fn load(&mut self, key: CapKey, counter: CapCounter) {
        self.bytes += counter.len_bytes();
        if self.dirty.contains(&key) {
            self.dirty_bytes += counter.len_bytes();
        }
        self.counters.insert(key, counter);
    }

    /// Whether a counter is in memory.
    pub fn has(&self, key: CapKey) -> bool {
        self.counters.contains_key(&key)
    }

    /// Whether a counter was changed or dropped since [`CapAllocator::take_dirty`].
    pub fn is_dirty(&self, key: CapKey) -> bool {
        self.dirty.contains(&key)
    }

    /// Whether others must be dropped before another value of a cap is counted.
    pub fn is_full(&self, cap: u64) -> bool {
        let bound = MAX_VALUES.div_ceil(self.partitions.max(1) as usize);
        self.sizes.get(&cap).is_some_and(|size| *size >= bound)
    }

    /// The rank of a value among those that may be dropped; `None` while places are open.
    pub fn rank(key: CapKey, counter: &CapCounter, now: Millis) -> Option<CapRank> {
        (!counter.is_open()).then(|| (!counter.is_over(now), counter.used_at(), key))
    }

    /// Adds the counter of a new value. If the cap is full, others are dropped: those in
    /// memory, and those that `elsewhere` ranks.
    pub fn begin(&mut self, key: CapKey, rule: CapRule, now: Millis, elsewhere: Vec<CapRank>) {
        if self.is_full(key.cap) {
            self.make_room(key.cap, now, elsewhere);
        }
        self.add_known(key);
        self.load(key, CapCounter::new(rule, now));
    }

    /// Evicts unchanged counters, those used least recently first, until the rest takes at
    /// most `most_bytes`.
    pub fn evict(&mut self, most_bytes: usize) {
        if self.bytes <= most_bytes {
            return;
        }
        let clean = self.counters.iter().filter(|(key, _)| !self.dirty.contains(key));
        let mut oldest: Vec<(Millis, CapKey)> = clean.map(|(key, counter)| (counter.used_at(), *key)).collect();
        oldest.sort_unstable();
        for (_, key) in oldest {
            if self.bytes <= most_bytes {
                break;
            }
            self.bytes -= self.counters.remove(&key).map_or(0, |counter| counter.len_bytes());
        }
    }

    /// About how many bytes counters and refusals take in memory.
    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.refusals.len() * REFUSAL_BYTES
    }

    pub fn restore_refusal(&mut self, key: CapKey, refusal: CapRefusal) {
        self.refusals.insert(key, refusal);
    }

    /// Counters that have changed, each with its new value; `None` for a dropped one.
    pub fn take_dirty(&mut self) -> Vec<(CapKey, Option<CapCounter>)> {
        self.dirty_bytes = 0;
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|key| (key, self.counters.get(&key).cloned())).collect()
    }

    /// Refusals that have changed, each with its new value; `None` for a dropped one.
    pub fn take_dirty_refusals(&mut self) -> Vec<(CapKey, Option<CapRefusal>)> {
        let dirty = std::mem::take(&mut self.dirty_refusals);
        dirty.into_iter().map(|key| (key, self.refusals.get(&key).copied())).collect()
    }

    pub fn dirty_bytes(&self) -> usize {
        self.dirty_bytes + self.dirty_refusals.len() * REFUSAL_BYTES
    }

    /// The refusal of a counter that stays full until a time, however offers end.
    pub fn refusal(&self, key: CapKey, rule: CapRule, now: Millis) -> Option<CapRefusal> {
        let refusal = self.refusals.get(&key)?;
        let ends = [refusal.until, refusal.count_until].into_iter().flatten();
        let holds = refusal.max == rule.max && ends.min().is_none_or(|end| now < end);
        holds.then_some(*refusal)
    }

    /// Forgets the refusals of a cap whose definition has changed: with another `max` more
    /// may have been counted meanwhile.
    pub fn forget_refusals(&mut self, cap: u64) {
        let of_cap = CapKey { cap, value: 0 }..=CapKey { cap, value: u128::MAX };
        let keys: Vec<CapKey> = self.refusals.range(of_cap).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.forget_refusal(key));
    }

    fn forget_refusal(&mut self, key: CapKey) {
        self.refusals.remove(&key);
        self.dirty_refusals.insert(key);
    }

    /// Remembers an answer that holds for later requests, too.
    pub fn remember(&mut self, key: CapKey, answer: CapAnswer, now: Millis) {
        let refusal = match answer {
            CapAnswer::Refused(refusal) if refusal.is_final => refusal,
            // What was remembered is out of date.
            _ if self.refusals.contains_key(&key) => return self.forget_refusal(key),
            _ => return,
        };
        if self.refusals.len() >= MAX_REFUSALS && !self.refusals.contains_key(&key) {
            let over: Vec<CapKey> = self
                .refusals
                .iter()
                .filter(|(_, refusal)| refusal.until.is_some_and(|until| until <= now))
                .map(|(key, _)| *key)
                .collect();
            let first = self.refusals.keys().next().copied().filter(|_| over.is_empty());
            over.into_iter().chain(first).for_each(|key| self.forget_refusal(key));
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
        if let (CapSignal::Ask { rule, .. }, false) = (signal, self.has(key)) {
            self.begin(key, *rule, now, Vec::new());
        }
        // A counter that was dropped has nothing to change.
        let Some(counter) = self.counters.get_mut(&key) else { return Vec::new() };
        let before = counter.len_bytes();
        let signals = counter.receive(from, signal, now);
        let (after, is_over) = (counter.len_bytes(), counter.is_over(now));
        self.note_dirty(key, before, after);
        if is_over {
            self.forget(key);
        }
        signals
    }

    /// Notes that a counter has changed, with its bytes before and after.
    fn note_dirty(&mut self, key: CapKey, before: usize, after: usize) {
        let is_first = self.dirty.insert(key);
        self.bytes = self.bytes - before + after;
        self.dirty_bytes = self.dirty_bytes - if is_first { 0 } else { before } + after;
    }

    fn forget(&mut self, key: CapKey) {
        let before = self.counters.remove(&key).map_or(0, |counter| counter.len_bytes());
        self.note_dirty(key, before, 0);
        let size = self.sizes.entry(key.cap).or_default();
        *size = size.saturating_sub(1);
        if *size == 0 {
            self.sizes.remove(&key.cap);
        }
    }

    /// Makes room for another value of a cap: counters without any effect are dropped
    /// first, then those used least recently.
    fn make_room(&mut self, cap: u64, now: Millis, elsewhere: Vec<CapRank>) {
        let of_cap = CapKey { cap, value: 0 }..=CapKey { cap, value: u128::MAX };
        let here = self.counters.range(of_cap).filter_map(|(key, counter)| CapAllocator::rank(*key, counter, now));
        let mut ranked = elsewhere;
        ranked.extend(here);
        ranked.sort_unstable();
        let bound = MAX_VALUES.div_ceil(self.partitions.max(1) as usize);
        let least = (bound * FORGOTTEN_PERCENT / 100).max(1);
        let over = ranked.iter().take_while(|(counts, ..)| !counts).count();
        ranked.iter().take(least.max(over)).for_each(|(.., key)| self.forget(*key));
    }

    /// What a counter in memory would answer now, for callers that must not change it.
    pub fn look(&self, ask: CapAsk, at: Millis) -> CapAnswer {
        self.counters.get(&ask.key).map_or(CapAnswer::Granted, |counter| counter.look(ask.rule, at))
    }
}
