//! A store in memory, for tests and for state that is rebuilt at every start.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::batch::{Batch, Change, Entry, Error, Family};

type Entries = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

/// The previous values of the keys that a batch changed, to undo it.
type Undo = Vec<((Family, Vec<u8>), Option<Vec<u8>>)>;

#[derive(Debug, Default)]
pub struct Memory {
    entries: Mutex<Entries>,
    /// The newest batches, where a simulation may lose them.
    undo: Option<Mutex<VecDeque<Undo>>>,
    /// Whether writes fail as on a full disk.
    full: AtomicBool,
}

/// The most batches that a simulated power cut loses.
const UNSYNCED_BATCHES: usize = 16;

impl Memory {
    /// A store that can lose its newest batches, like one on disk whose write-ahead log is
    /// not synced. It loses no batch without those after it.
    pub fn forgetful() -> Memory {
        Memory { undo: Some(Mutex::default()), ..Memory::default() }
    }

    /// Simulates a power cut: up to `batches` of the newest batches are lost.
    pub fn lose(&self, batches: usize) {
        let Some(undo) = &self.undo else { return };
        let mut undo = undo.lock().expect("no panic holds this lock");
        let mut entries = self.entries.lock().expect("no panic holds this lock");
        for _ in 0..batches {
            for (key, before) in undo.pop_back().into_iter().flatten().rev() {
                match before {
                    Some(value) => drop(entries.insert(key, value)),
                    None => drop(entries.remove(&key)),
                }
            }
        }
    }

    /// A copy of everything, as a snapshot would be.
    pub fn copy(&self) -> Memory {
        let entries = self.entries.lock().expect("no panic holds this lock").clone();
        Memory { entries: Mutex::new(entries), undo: self.undo.as_ref().map(|_| Mutex::default()), ..Memory::default() }
    }

    pub fn get(&self, family: Family, key: &[u8]) -> Option<Vec<u8>> {
        self.entries.lock().expect("no panic holds this lock").get(&(family, key.to_vec())).cloned()
    }

    /// Makes writes fail, or succeed again.
    pub fn set_full(&self, is_full: bool) {
        self.full.store(is_full, Ordering::Release);
    }

    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Writes a batch.
    ///
    /// # Errors
    /// When it is full.
    pub fn try_write(&self, batch: Batch) -> Result<(), Error> {
        if self.is_full() {
            return Err(Error::io("memory", std::io::Error::from_raw_os_error(28)));
        }
        self.write(batch);
        Ok(())
    }

    pub fn write(&self, batch: Batch) {
        let mut entries = self.entries.lock().expect("no panic holds this lock");
        let mut replaced = Undo::new();
        for change in batch.changes {
            match change {
                Change::Put(family, key, value) => {
                    let key = (family, key);
                    let before = entries.insert(key.clone(), value);
                    replaced.push((key, before));
                }
                Change::Delete(family, key) => {
                    let key = (family, key);
                    let before = entries.remove(&key);
                    replaced.push((key, before));
                }
                // The range is empty.
                Change::DeleteRange(_, from, to) if from >= to => {}
                Change::DeleteRange(family, from, to) => {
                    let range = (Bound::Included((family, from)), Bound::Excluded((family, to)));
                    let keys: Vec<_> = entries.range(range).map(|(key, _)| key.clone()).collect();
                    replaced.extend(keys.into_iter().map(|key| {
                        let before = entries.remove(&key);
                        (key, before)
                    }));
                }
            }
        }
        drop(entries);
        if let Some(undo) = &self.undo {
            let mut undo = undo.lock().expect("no panic holds this lock");
            undo.push_back(replaced);
            if undo.len() > UNSYNCED_BATCHES {
                undo.pop_front();
            }
        }
    }

    pub fn keys(&self, family: Family) -> u64 {
        let entries = self.entries.lock().expect("no panic holds this lock");
        entries.keys().filter(|(of, _)| *of == family).count() as u64
    }

    /// See [`Store::ascending`](crate::Store::ascending).
    pub fn ascending(&self, family: Family, from: &[u8], limit: usize) -> Vec<Entry> {
        let entries = self.entries.lock().expect("no panic holds this lock");
        let own =
            |((f, key), value): (&(Family, Vec<u8>), &Vec<u8>)| (*f == family).then(|| (key.clone(), value.clone()));
        entries.range((family, from.to_vec())..).map_while(own).take(limit).collect()
    }

    /// See [`Store::ascend`](crate::Store::ascend). `each` may read the store.
    pub fn ascend(&self, family: Family, from: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut above = Bound::Included((family, from.to_vec()));
        loop {
            let next = {
                let entries = self.entries.lock().expect("no panic holds this lock");
                let next = entries.range((above, Bound::Unbounded)).next();
                next.map(|(key, value)| (key.clone(), value.clone()))
            };
            match next {
                Some((key, value)) if key.0 == family && each(&key.1, &value) => above = Bound::Excluded(key),
                _ => return,
            }
        }
    }

    /// See [`Store::descend`](crate::Store::descend). `each` may read the store.
    pub fn descend(&self, family: Family, from: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut below = Bound::Included((family, from.to_vec()));
        loop {
            let next = {
                let entries = self.entries.lock().expect("no panic holds this lock");
                let next = entries.range((Bound::Unbounded, below)).next_back();
                next.map(|(key, value)| (key.clone(), value.clone()))
            };
            match next {
                Some((key, value)) if key.0 == family && each(&key.1, &value) => below = Bound::Excluded(key),
                _ => return,
            }
        }
    }

    pub fn size_bytes(&self) -> u64 {
        let entries = self.entries.lock().expect("no panic holds this lock");
        entries.iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum()
    }
}
