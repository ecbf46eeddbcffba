//! Changes of a fold that its store does not have yet. What is read sees them; what begins
//! and ends among them never reaches the store.

use std::collections::{BTreeMap, BTreeSet};

use super::index::{Due, due_id};
use super::row::PendingDelivery;
use crate::delivery::families;
use askwhen_domain::time::{Millis, SECOND};
use askwhen_store::Batch;

/// How long changes stay in memory: as long as a start reads records again.
const LONGEST: Millis = SECOND;
/// How many bytes of records are kept in memory, of each partition.
const MAX_BYTES: usize = 256 << 10;
/// The least that a change counts.
const CHANGE_BYTES: usize = 256;

#[derive(Default)]
pub struct Unwritten {
    /// `None` for a delivery that has ended.
    rows: BTreeMap<String, Option<RowInMemory>>,
    /// `None` for an entry that is to be removed.
    due: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    done: BTreeSet<Vec<u8>>,
    endpoints: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Ids of deliveries of which the store has nothing.
    new_ids: BTreeSet<String>,
    len_bytes: usize,
    /// The time of the first change, in milliseconds since the epoch.
    since: Option<Millis>,
}

struct RowInMemory {
    row: PendingDelivery,
    len_bytes: usize,
}

impl Unwritten {
    /// Notes that something changes, now; `None` while a store catches up.
    pub fn note(&mut self, now: Option<Millis>) {
        self.since = self.since.or(now);
        self.len_bytes += CHANGE_BYTES;
    }

    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0 && self.rows.is_empty() && self.due.is_empty()
    }

    /// Whether it is time to write. A clock that goes back is no reason to wait longer.
    pub fn is_due(&self, now: Millis) -> bool {
        self.len_bytes >= MAX_BYTES || self.since.is_some_and(|since| (now - since).abs() >= LONGEST)
    }

    /// What is known of a delivery: its row, that it has ended (`Some(None)`), or nothing.
    pub fn row(&self, delivery_id: &str) -> Option<Option<&PendingDelivery>> {
        self.rows.get(delivery_id).map(|known| known.as_ref().map(|known| &known.row))
    }

    /// A row and about how many bytes it takes.
    pub fn sized(&self, delivery_id: &str) -> Option<Option<(&PendingDelivery, usize)>> {
        self.rows.get(delivery_id).map(|known| known.as_ref().map(|known| (&known.row, known.len_bytes)))
    }

    pub fn rows(&self) -> impl Iterator<Item = &PendingDelivery> {
        self.rows.values().flatten().map(|known| &known.row)
    }

    pub fn is_done(&self, key: &[u8]) -> bool {
        self.done.contains(key)
    }

    /// Notes that the store has nothing of a delivery.
    pub fn begins(&mut self, delivery_id: &str) {
        self.new_ids.insert(delivery_id.to_owned());
    }

    /// Keeps a row; `record_bytes` is the length of its record, or 0 where an earlier change
    /// has counted it.
    pub fn put(&mut self, row: PendingDelivery, record_bytes: usize) {
        let delivery_id = row.delivery.delivery_id.clone();
        let known_bytes = self.sized(&delivery_id).flatten().map_or(0, |(_, len_bytes)| len_bytes);
        self.len_bytes += record_bytes;
        let len_bytes = known_bytes.max(record_bytes);
        self.rows.insert(delivery_id, Some(RowInMemory { row, len_bytes }));
    }

    pub fn remove(&mut self, delivery_id: &str) {
        let known = match self.new_ids.remove(delivery_id) {
            true => self.rows.remove(delivery_id),
            false => self.rows.insert(delivery_id.to_owned(), None),
        };
        self.len_bytes -= known.flatten().map_or(0, |known| known.len_bytes).min(self.len_bytes);
    }

    pub fn put_due(&mut self, due: &Due) {
        self.due.insert(due.key.clone(), Some(due.value()));
    }

    pub fn remove_due(&mut self, key: Vec<u8>) {
        // An entry of which the store has nothing need not be removed there.
        let is_new = self.new_ids.contains(due_id(&key).as_str());
        match is_new {
            true => drop(self.due.remove(&key)),
            false => drop(self.due.insert(key, None)),
        }
    }

    pub fn put_done(&mut self, key: Vec<u8>) {
        self.done.insert(key);
    }

    pub fn put_endpoint(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.len_bytes += value.len();
        self.endpoints.insert(key, value);
    }

    /// All changes, for the store.
    pub fn take(&mut self) -> Batch {
        let changes = std::mem::take(self);
        let mut batch = Batch::default();
        for (id, known) in changes.rows {
            match known {
                Some(known) => batch.put(families::WAITING, id, known.row.encode()),
                None => batch.delete(families::WAITING, id),
            }
        }
        for (key, value) in changes.due {
            match value {
                Some(value) => batch.put(families::DUE, key, value),
                None => batch.delete(families::DUE, key),
            }
        }
        changes.done.into_iter().for_each(|key| batch.put(families::DONE, key, []));
        changes.endpoints.into_iter().for_each(|(key, value)| batch.put(families::ENDPOINTS, key, value));
        batch
    }
}
