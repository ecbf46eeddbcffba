//! The cap counters of a partition: a cache over the store, bounded in bytes. Changed
//! counters stay in memory until a checkpoint has written them. Which counters are in memory
//! decides nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::changes::Changes;
use super::families;
use super::gauge::Gauge;
use super::users::CacheLimit;
use askwhen_domain::quota::cap::{
    CapAllocator, CapAnswer, CapAsk, CapChange, CapCounter, CapKey, CapMessage, CapRank, CapRefusal, CapRule, CapSignal,
};
use askwhen_domain::time::Millis;
use askwhen_store::{Batch, Error, Store};

const COUNTER: &[u8] = b"cap/";
const REFUSAL: &[u8] = b"full/";
/// The fraction of the limit that counters may take; users have the rest.
const SHARE: usize = 4;
/// An eviction frees this fraction of the counters' share, so that evictions stay rare.
const SWEPT_SHARE: usize = 8;
/// How many rows one scan of the store reads.
const ROWS_AT_A_TIME: usize = 512;

pub struct CapCounters {
    store: Arc<Store>,
    caps: CapAllocator,
    /// Counters of the checkpoint that is being written: the store may have older values.
    writing: BTreeSet<CapKey>,
    limit: CacheLimit,
    gauge: Gauge,
}

fn damaged(error: serde_json::Error) -> Error {
    Error::damaged("quotas", error)
}

fn decoded(value: &[u8]) -> Result<CapCounter, Error> {
    serde_json::from_slice(value).map_err(damaged)
}

/// The key and the value under which a counter is stored.
pub fn row(key: CapKey, counter: &CapCounter) -> (Vec<u8>, Vec<u8>) {
    (stored_key(key), serde_json::to_vec(counter).expect("a counter serialises"))
}

fn stored_key(key: CapKey) -> Vec<u8> {
    [COUNTER, &key.to_bytes()].concat()
}

/// The counter of a stored key; `None` for keys of other rows.
pub fn counter_of(stored_key: &[u8]) -> Option<CapKey> {
    stored_key.strip_prefix(COUNTER).and_then(CapKey::from_bytes)
}

/// Passes every counter of a store to `each`.
///
/// # Errors
/// When the store cannot be read, and what `each` says.
pub fn each<E: From<Error>>(store: &Store, mut each: impl FnMut(CapKey, CapCounter) -> Result<(), E>) -> Result<(), E> {
    rows(store, COUNTER, |key, value| each(key, decoded(value)?))
}

/// Passes counters whose stored keys begin with `prefix` to `each`, encoded.
fn rows<E: From<Error>>(
    store: &Store,
    prefix: &[u8],
    mut each: impl FnMut(CapKey, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut from = prefix.to_vec();
    loop {
        let entries = store.ascending(families::QUOTAS, &from, ROWS_AT_A_TIME)?;
        for (stored_key, value) in &entries {
            if !stored_key.starts_with(prefix) {
                return Ok(());
            }
            if let Some(key) = counter_of(stored_key) {
                each(key, value)?;
            }
        }
        let Some((last, _)) = entries.last() else { return Ok(()) };
        from = [last.as_slice(), &[0]].concat();
    }
}

impl CapCounters {
    /// Counters of a store whose rows are still to be loaded.
    pub fn new(store: Arc<Store>, partition: u32, partitions: u32, limit: CacheLimit) -> CapCounters {
        let gauge = Gauge::of(&askwhen_process::metrics::get().memory_counters);
        let caps = CapAllocator::new(partition, partitions);
        CapCounters { store, caps, writing: BTreeSet::new(), limit, gauge }
    }

    /// Loads a row of the store; rows of other tables are ignored.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(&mut self, stored_key: &[u8], value: &[u8]) -> Result<(), Error> {
        if let Some(key) = counter_of(stored_key) {
            self.caps.add_known(key);
        } else if let Some(key) = stored_key.strip_prefix(REFUSAL).and_then(CapKey::from_bytes) {
            self.caps.restore_refusal(key, serde_json::from_slice(value).map_err(damaged)?);
        }
        Ok(())
    }

    /// Applies messages. Returns those for other partitions, and answers for requests of this
    /// one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn receive(&mut self, messages: Vec<CapMessage>, now: Millis) -> Result<Vec<CapMessage>, Error> {
        messages.iter().try_for_each(|message| self.load_counter(message, now))?;
        let sent = self.caps.receive(messages, now);
        self.report();
        Ok(sent)
    }

    /// Loads the counter that a message is for into memory.
    fn load_counter(&mut self, message: &CapMessage, now: Millis) -> Result<(), Error> {
        let CapMessage { key, to, ref signal, .. } = *message;
        let rule = match signal {
            CapSignal::Ask { rule, .. } => Some(*rule),
            CapSignal::Settle { .. } | CapSignal::Time { .. } => None,
            // These are for the partitions that use counters.
            CapSignal::Answer { .. } | CapSignal::Check => return Ok(()),
        };
        if to != self.caps.partition() || self.caps.has(key) {
            return Ok(());
        }
        match (self.stored(key)?, rule) {
            (Some(counter), _) => self.caps.load(key, counter),
            (None, Some(rule)) => self.begin(key, rule, now)?,
            (None, None) => {}
        }
        Ok(())
    }

    fn begin(&mut self, key: CapKey, rule: CapRule, now: Millis) -> Result<(), Error> {
        let mut elsewhere: Vec<CapRank> = Vec::new();
        if self.caps.is_full(key.cap) {
            let of_cap = [COUNTER, &key.cap.to_be_bytes()].concat();
            rows(&self.store, &of_cap, |key, value| {
                if !self.caps.has(key) && !self.is_unwritten(key) {
                    elsewhere.extend(CapAllocator::rank(key, &decoded(value)?, now));
                }
                Ok::<_, Error>(())
            })?;
        }
        self.caps.begin(key, rule, now, elsewhere);
        Ok(())
    }

    /// The stored value of a counter that is not in memory.
    fn stored(&self, key: CapKey) -> Result<Option<CapCounter>, Error> {
        // It was dropped, and the store still has it.
        if self.is_unwritten(key) {
            return Ok(None);
        }
        let value = self.store.get(families::QUOTAS, &stored_key(key))?;
        value.map(|value| decoded(&value)).transpose()
    }

    fn is_unwritten(&self, key: CapKey) -> bool {
        self.caps.is_dirty(key) || self.writing.contains(&key)
    }

    /// What a counter would answer now, for callers that must not change it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn look(&self, ask: CapAsk, at: Millis) -> Result<CapAnswer, Error> {
        if self.caps.has(ask.key) {
            return Ok(self.caps.look(ask, at));
        }
        let stored = self.stored(ask.key)?;
        Ok(stored.map_or(CapAnswer::Granted, |counter| counter.look(ask.rule, at)))
    }

    pub fn refusal(&self, ask: CapAsk, now: Millis) -> Option<CapRefusal> {
        self.caps.refusal(ask.key, ask.rule, now)
    }

    pub fn forget_refusals(&mut self, cap: u64) {
        self.caps.forget_refusals(cap);
        self.report();
    }

    pub fn remember(&mut self, key: CapKey, answer: CapAnswer, now: Millis) {
        self.caps.remember(key, answer, now);
        self.report();
    }

    pub fn ask(&self, ask: CapAsk, request: u64, looks: bool, at: Millis) -> CapMessage {
        self.caps.ask(ask, request, looks, at)
    }

    pub fn settle(&self, change: CapChange) -> CapMessage {
        self.caps.settle(change)
    }

    pub fn give_back(&self, key: CapKey, request: u64) -> CapMessage {
        self.caps.give_back(key, request)
    }

    pub fn memory_bytes(&self) -> usize {
        self.caps.memory_bytes()
    }

    pub fn dirty_bytes(&self) -> usize {
        self.caps.dirty_bytes()
    }

    fn report(&mut self) {
        self.gauge.set(self.caps.memory_bytes());
    }

    pub fn freeze(&mut self) -> Changes {
        let (counters, refusals) = (self.caps.take_dirty(), self.caps.take_dirty_refusals());
        self.writing = counters.iter().map(|(key, _)| *key).collect();
        Box::new(move |batch: &mut Batch| {
            for (key, counter) in counters {
                match counter.map(|counter| row(key, &counter)) {
                    Some((stored_key, value)) => batch.put(families::QUOTAS, stored_key, value),
                    None => batch.delete(families::QUOTAS, stored_key(key)),
                }
            }
            for (key, refusal) in refusals {
                let stored_key = [REFUSAL, &key.to_bytes()].concat();
                match refusal.and_then(|refusal| serde_json::to_vec(&refusal).ok()) {
                    Some(value) => batch.put(families::QUOTAS, stored_key, value),
                    None => batch.delete(families::QUOTAS, stored_key),
                }
            }
        })
    }

    /// Notes that the frozen changes are written, and evicts counters beyond the limit.
    pub fn persisted(&mut self) {
        self.writing.clear();
        let most = self.limit.bytes() / SHARE;
        if self.caps.memory_bytes() > most {
            self.caps.evict(most - most / SWEPT_SHARE);
        }
        self.report();
    }
}

#[cfg(test)]
mod tests;
