//! What is remembered by a hash only: event ids that have left their user's state, requests
//! that were handled, and users who were erased. Each counts for a time, whether its row
//! has been removed by then or not, so the moment of removal decides nothing.

use crate::engine::families;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::changes::Changes;
use askwhen_domain::id;
use askwhen_domain::time::{DAY, HOUR, Millis};
use askwhen_domain::user::ID_REMEMBERED;
use askwhen_store::{Batch, Entry, Store, keys};

/// How long an event id counts, in milliseconds. Rows are stored in spans of this length,
/// so that an id is in one of two and a whole span is removed at once.
const ID_KEPT: Millis = 128 * HOUR;
const _: () = assert!(ID_KEPT >= ID_REMEMBERED);
/// How long an erasure counts, in milliseconds: messages older than that are not sent
/// again, so none from before an erasure is.
pub const ERASURE_KEPT: Millis = 100 * DAY;
/// Spans are small numbers: after them there are only rows without a span.
const SPANS_END: i64 = 1 << 32;
/// Rows checked while one checkpoint is written.
const SWEEP_ROWS: usize = 4_096;
/// Key of the time since when event ids are stored by span; before, they were stored by
/// hash only.
const BEGAN: &[u8] = &[0];

/// Keys differ in their length: 16 bytes are the hash of an erased user (or of an event id,
/// in rows of version 0.1.0); 24 bytes are a span and the hash of an event id. Values are
/// times.
pub struct RememberedIds {
    store: Arc<Store>,
    ids: HashMap<u128, Millis>,
    marks: HashMap<u128, Millis>,
    /// Rows that a checkpoint is writing.
    writing: Arc<(HashMap<u128, Millis>, HashMap<u128, Millis>)>,
    /// See [`BEGAN`].
    began_at: Option<Millis>,
    /// Whether the store has `began_at`.
    is_noted: bool,
    swept_span: i64,
    swept_day: i64,
    /// Where the sweep through rows without a span continues.
    cursor: Arc<Mutex<Option<Vec<u8>>>>,
}

fn span_of(time: Millis) -> i64 {
    time.max(0) / ID_KEPT
}

fn id_key(span: i64, hash: u128) -> Vec<u8> {
    keys::timed(span, &hash.to_be_bytes())
}

/// The hash of an erased user; an event id cannot be empty.
fn mark(project: &str, user_id: &str) -> u128 {
    id::event_hash(project, user_id, "")
}

fn time_in(bytes: Vec<u8>) -> Millis {
    bytes.try_into().map_or(0, Millis::from_be_bytes)
}

fn counts(since: Millis, now: Millis, kept: Millis) -> bool {
    now < since.saturating_add(kept)
}

impl RememberedIds {
    /// Loads the state from a store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(store: Arc<Store>) -> Result<RememberedIds, askwhen_store::Error> {
        let noted = store.get(families::DEDUPE, BEGAN)?.map(time_in);
        // A new table has no ids that were stored by hash only: none are looked for.
        let is_new = noted.is_none() && store.ascending(families::DEDUPE, &[], 1)?.is_empty();
        let began_at = if is_new { Some(Millis::MIN) } else { noted };
        Ok(RememberedIds {
            store,
            ids: HashMap::new(),
            marks: HashMap::new(),
            writing: Arc::default(),
            began_at,
            is_noted: noted.is_some(),
            swept_span: 0,
            swept_day: 0,
            cursor: Arc::default(),
        })
    }

    /// When an event id was first seen that has left its user's state, if it still counts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn seen_at(&self, hash: u128, now: Millis, kept: Millis) -> Result<Option<Millis>, askwhen_store::Error> {
        let kept = kept.max(ID_KEPT);
        let fresh = self.ids.get(&hash).or_else(|| self.writing.0.get(&hash)).copied();
        let mut seen_at = fresh;
        for span in (span_of(now.saturating_sub(kept))..=span_of(now)).rev() {
            if seen_at.is_none() {
                seen_at = self.store.get(families::DEDUPE, &id_key(span, hash))?.map(time_in);
            }
        }
        // After some time ids that were stored by hash only do not count any more.
        if seen_at.is_none() && self.began_at.is_none_or(|began_at| counts(began_at, now, ID_KEPT)) {
            seen_at = self.store.get(families::DEDUPE, &hash.to_be_bytes())?.map(time_in);
        }
        Ok(seen_at.filter(|seen_at| counts(*seen_at, now, kept)))
    }

    pub fn keep(&mut self, hash: u128, seen_at: Millis) {
        self.ids.insert(hash, seen_at);
    }

    /// Whether a request about a user or an endpoint is handled here for the first time; it
    /// is remembered.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn is_new(
        &mut self,
        project: &str,
        about: &str,
        request: &str,
        now: Millis,
    ) -> Result<bool, askwhen_store::Error> {
        // Event ids contain no control characters.
        let hash = id::event_hash(project, about, &format!("\0{request}"));
        if self.seen_at(hash, now, ID_KEPT)?.is_some() {
            return Ok(false);
        }
        self.keep(hash, now);
        Ok(true)
    }

    /// When a user was last erased.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn erased_at(&self, project: &str, user_id: &str, now: Millis) -> Result<Option<Millis>, askwhen_store::Error> {
        let hash = mark(project, user_id);
        let mut erased_at = self.marks.get(&hash).or_else(|| self.writing.1.get(&hash)).copied();
        if erased_at.is_none() {
            erased_at = self.store.get(families::DEDUPE, &hash.to_be_bytes())?.map(time_in);
        }
        Ok(erased_at.filter(|erased_at| counts(*erased_at, now, ERASURE_KEPT)))
    }

    pub fn erase(&mut self, project: &str, user_id: &str, now: Millis) {
        self.marks.insert(mark(project, user_id), now);
    }

    pub fn dirty_bytes(&self) -> usize {
        (self.ids.len() + self.marks.len()) * 48
    }

    /// `longest` is how long an event id may count in any project, in milliseconds.
    pub fn freeze(&mut self, now: Millis, longest: Millis) -> Changes {
        self.writing = Arc::new((std::mem::take(&mut self.ids), std::mem::take(&mut self.marks)));
        let writing = self.writing.clone();
        let oldest = span_of(now.saturating_sub(longest.max(ID_KEPT)));
        // An operator may have put the time back.
        self.swept_span = self.swept_span.min(oldest);
        self.swept_day = self.swept_day.min(now.div_euclid(DAY));
        let spans = (oldest > self.swept_span).then(|| std::mem::replace(&mut self.swept_span, oldest)..oldest);
        if now.div_euclid(DAY) > self.swept_day {
            self.swept_day = now.div_euclid(DAY);
            *self.cursor.lock().expect("no panic holds this lock") = Some(keys::timed(SPANS_END, &[]));
        }
        let (store, cursor) = (self.store.clone(), self.cursor.clone());
        let began_at = *self.began_at.get_or_insert(now);
        let begins = (!std::mem::replace(&mut self.is_noted, true)).then_some(began_at);
        Box::new(move |batch| {
            if let Some(began_at) = begins {
                batch.put(families::DEDUPE, BEGAN, began_at.to_be_bytes());
            }
            if let Some(spans) = spans {
                batch.delete_range(families::DEDUPE, id_key(spans.start, 0), id_key(spans.end, 0));
            }
            let mut cursor = cursor.lock().expect("no panic holds this lock");
            if let Some(from) = cursor.take() {
                // Rows that could not be read are tried again the next day.
                match store.ascending(families::DEDUPE, &from, SWEEP_ROWS) {
                    Ok(rows) => *cursor = sweep(&rows, now, batch),
                    Err(error) => tracing::warn!(%error, "old marks of erased users could not be removed"),
                }
            }
            let (ids, marks) = &*writing;
            for (hash, seen_at) in ids {
                batch.put(families::DEDUPE, id_key(span_of(*seen_at), *hash), seen_at.to_be_bytes());
            }
            for (hash, erased_at) in marks {
                batch.put(families::DEDUPE, hash.to_be_bytes(), erased_at.to_be_bytes());
            }
        })
    }

    pub fn persisted(&mut self) {
        self.writing = Arc::default();
    }
}

/// Removes rows without a span that do not count any more; returns where to continue. A row
/// that is too old for an event id may be an erasure.
fn sweep(rows: &[Entry], now: Millis, batch: &mut Batch) -> Option<Vec<u8>> {
    for (key, value) in rows.iter().filter(|(key, _)| key.len() == 16) {
        if !counts(time_in(value.clone()), now, ERASURE_KEPT) {
            batch.delete(families::DEDUPE, key.clone());
        }
    }
    let (last, _) = rows.last().filter(|_| rows.len() == SWEEP_ROWS)?;
    Some([last.as_slice(), &[0]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_store::Memory;

    const NOW: Millis = 1_800_000_000_000;

    fn fresh() -> (Arc<Store>, RememberedIds) {
        let store = Arc::new(Store::Memory(Memory::default()));
        (store.clone(), RememberedIds::open(store).expect("readable"))
    }

    fn checkpoint(store: &Store, remembered: &mut RememberedIds, now: Millis) {
        let mut batch = Batch::default();
        remembered.freeze(now, 0)(&mut batch);
        store.write(batch).expect("written");
        remembered.persisted();
    }

    fn rows(store: &Store) -> usize {
        store
            .ascending(families::DEDUPE, &[], usize::MAX)
            .expect("readable")
            .iter()
            .filter(|(key, _)| key.len() > 1)
            .count()
    }

    /// Whatever has been written and removed in between, the answer is the same.
    #[test]
    fn an_id_counts_for_its_time_and_not_longer_whenever_rows_are_removed() {
        for every in [HOUR, 50 * HOUR, 1_000 * HOUR] {
            let (store, mut remembered) = fresh();
            remembered.keep(7, NOW);
            let mut now = NOW;
            while now < NOW + 400 * HOUR {
                let counts = remembered.seen_at(7, now, 0).expect("readable").is_some();
                assert_eq!(counts, now < NOW + ID_KEPT, "{} h later", (now - NOW) / HOUR);
                if (now - NOW) % every == 0 {
                    checkpoint(&store, &mut remembered, now);
                }
                now += HOUR;
            }
        }
    }

    #[test]
    fn the_table_does_not_grow_for_ever() {
        let (store, mut remembered) = fresh();
        let mut most = 0;
        for day in 0..400_i64 {
            let now = NOW + day * DAY;
            for n in 0..20 {
                remembered.keep((day * 20 + n) as u128, now);
            }
            remembered.erase("p", &format!("u{day}"), now);
            checkpoint(&store, &mut remembered, now);
            most = most.max(rows(&store));
        }
        // Three spans of ids, and the marks of a hundred days.
        assert!(most <= 20 * 17 + 103, "{most} rows");
        assert!(rows(&store) > 100);
    }

    #[test]
    fn what_version_0_1_0_has_kept_counts_and_goes() {
        let (store, _) = fresh();
        let mut batch = Batch::default();
        for hash in 0..10_u128 {
            batch.put(families::DEDUPE, ((hash << 120) + (200 << 112)).to_be_bytes(), NOW.to_be_bytes());
        }
        batch.put(families::DEDUPE, mark("p", "u").to_be_bytes(), NOW.to_be_bytes());
        store.write(batch).expect("written");
        let mut remembered = RememberedIds::open(store.clone()).expect("readable");
        let old = (3_u128 << 120) + (200 << 112);
        for (after, id, erased) in [(1, true, true), (127, true, true), (129, false, true), (101 * 24, false, false)] {
            let now = NOW + after * HOUR;
            assert_eq!(remembered.seen_at(old, now, 0).expect("readable").is_some(), id, "{after} h");
            assert_eq!(remembered.erased_at("p", "u", now).expect("readable").is_some(), erased, "{after} h");
            checkpoint(&store, &mut remembered, now);
        }
        assert_eq!(rows(&store), 0);
    }

    #[test]
    fn a_request_is_done_once() {
        let (store, mut remembered) = fresh();
        assert!(remembered.is_new("p", "u", "erase/1", NOW).expect("readable"));
        assert!(!remembered.is_new("p", "u", "erase/1", NOW + HOUR).expect("readable"));
        assert!(remembered.is_new("p", "v", "erase/1", NOW).expect("readable"));
        checkpoint(&store, &mut remembered, NOW + HOUR);
        assert!(!remembered.is_new("p", "u", "erase/1", NOW + 2 * HOUR).expect("readable"));
    }
}
