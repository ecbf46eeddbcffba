//! A store in memory, for tests and for what is rebuilt at every start.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

use super::{Batch, Change, Entry, Family};

type Entries = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

#[derive(Debug, Default)]
pub struct Memory {
    entries: Mutex<Entries>,
}

impl Memory {
    pub fn get(&self, family: Family, key: &[u8]) -> Option<Vec<u8>> {
        self.entries.lock().expect("no panic holds this lock").get(&(family, key.to_vec())).cloned()
    }

    pub fn write(&self, batch: Batch) {
        let mut entries = self.entries.lock().expect("no panic holds this lock");
        for change in batch.changes {
            match change {
                Change::Put(family, key, value) => {
                    entries.insert((family, key), value);
                }
                Change::Delete(family, key) => {
                    entries.remove(&(family, key));
                }
                Change::DeleteRange(family, from, to) => {
                    entries.retain(|(f, key), _| *f != family || *key < from || *key >= to);
                }
            }
        }
    }

    pub fn scan(&self, family: Family, from: &[u8], limit: usize, up: bool) -> Vec<Entry> {
        let entries = self.entries.lock().expect("no panic holds this lock");
        let key = (family, from.to_vec());
        let own =
            |((f, key), value): (&(Family, Vec<u8>), &Vec<u8>)| (*f == family).then(|| (key.clone(), value.clone()));
        if up {
            entries.range(key..).map_while(own).take(limit).collect()
        } else {
            entries.range((Bound::Unbounded, Bound::Included(key))).rev().map_while(own).take(limit).collect()
        }
    }

    pub fn size_bytes(&self) -> u64 {
        let entries = self.entries.lock().expect("no panic holds this lock");
        entries.iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum()
    }
}
