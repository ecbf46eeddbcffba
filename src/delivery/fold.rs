//! Folds topics `deliveries`, `attempts`, `dead` and the retry topics of one partition
//! into a store of what waits. Changes and positions are written in one batch, so a
//! record counts once. They are written behind: most deliveries end within the time for
//! which changes stay in memory, and then the store sees nothing of them but their end.

mod endpoint_update;
mod erasure;
mod error;
mod index;
mod input;
mod poison;
mod read;
pub(super) mod row;
mod unwritten;

use crate::delivery::families;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use endpoint_update::{EndpointChange, EndpointUpdate};
pub use error::{Error, StateError, StateMismatch};
pub use index::{Due, before, due_id, queue_id, split};
pub use row::{DeliveryPhase, PendingDelivery};

use super::records::{self, Write};
use askwhen_domain::refs::UserKey;
use askwhen_domain::time::{DAY, MINUTE, Millis};
use askwhen_domain::webhook::message::Delivery;
use askwhen_log::{Fetch as _, Log, Reader, TopicPartition, Watermarks};
use askwhen_partition::attempts::Attempts;
use askwhen_process::thread::Notify;
use askwhen_store::{Batch, Store, keys};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{AttemptEnd, AttemptRecord, DeliveryRecord, RetryRecord, SOURCE_HEADER, Source};
use erasure::Erasures;
use index::{done_key, due_key};
use input::FoldInput;
use unwritten::Unwritten;

/// The topics that are folded, in the order of every round: an attempt is read before
/// the retry record or the dead letter that follows from it.
const TOPICS: [Topic; 6] =
    [Topic::Deliveries, Topic::Attempts, Topic::Retry1m, Topic::Retry1h, Topic::Retry1d, Topic::Dead];

const POSITIONS: &[u8] = b"positions";
/// Format of the store. A store of a later one is refused: reading it otherwise than it
/// was written could lose deliveries.
const FORMAT: u32 = 2;
/// Bytes of each topic that one round reads at most.
const ROUND_BYTES: usize = 256 << 10;
/// Entries of the due index that one read gives at most.
const MAX_ENTRIES_PER_READ: usize = 512;
/// How long the end of a delivery is remembered, so that a repeated record of it has no
/// effect.
const DONE_REMEMBERED: Millis = 30 * DAY;
/// Where more ends than this are remembered, each is for a shorter time.
const DONE_MANY: u64 = 5_000_000;
const DONE_REMEMBERED_OF_MANY: Millis = 7 * DAY;
const PRUNE_EVERY: Duration = Duration::from_secs(86_400);
/// The longest wait that a retry policy allows, and a minute for the attempt itself.
const LONGEST_WAIT: Millis = DAY + MINUTE;

/// How far a fold has read, as JSON in its store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Positions {
    /// Format of the store.
    #[serde(default)]
    pub format: u32,
    /// The incarnation of the log, in hex.
    pub incarnation: String,
    /// The next offset to be read, by the topic's name.
    pub next: BTreeMap<String, u64>,
    /// The largest time of any record so far, in milliseconds since the epoch.
    #[serde(default)]
    pub now: Millis,
    /// The partition; `None` where 0.1.0 wrote it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// By topic, the offsets that an operator skips and that are not reached yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skips: BTreeMap<String, BTreeSet<u64>>,
}

/// A change that a round has made, for the scheduler.
#[derive(Debug, Clone, PartialEq)]
pub enum FoldEvent {
    Due(Due),
    Endpoint(EndpointUpdate),
    /// Deliveries of erased users: their cancellations are to be recorded.
    Cancelled {
        delivery_ids: Vec<String>,
    },
    /// An attempt is on record, and the retry record or dead letter that follows from it
    /// is not: the process that made the attempt is about to write it, or has died.
    FollowUpMissing {
        delivery_id: String,
    },
}

pub struct Fold {
    pub partition: u32,
    store: Arc<Store>,
    reader: Reader,
    positions: Positions,
    unwritten: Unwritten,
    /// Which records are being taken in, for the case that the process dies of one.
    attempts: Attempts,
    /// The newest version of each stored update of an endpoint, removed endpoints included.
    versions: BTreeMap<Vec<u8>, u64>,
    /// Records for topic `rejects`, of records that could not be read.
    pub rejects: Vec<Write>,
    /// Deliveries that have not ended.
    pub open: u64,
    /// Those among them that have had an attempt.
    pub retrying: u64,
    pruned_at: Option<Instant>,
}

/// What one round reads.
#[derive(Default)]
struct Round {
    events: Vec<FoldEvent>,
    /// Ids of deliveries of which an attempt has been read.
    attempted_ids: BTreeSet<String>,
    /// In milliseconds since the epoch; `None` while a store catches up.
    now: Option<Millis>,
    /// One scan finds the deliveries of all of them.
    erasures: Erasures,
}

impl Fold {
    /// # Errors
    /// When the store belongs to another log, or is ahead of this one.
    pub fn open(partition: u32, log: &Log, store: Arc<Store>, notify: Arc<Notify>) -> Result<Fold, Error> {
        let incarnation = format!("{:032x}", log.incarnation());
        let mut positions = Fold::stored_positions(&store)?.unwrap_or_else(|| Positions {
            format: FORMAT,
            incarnation: incarnation.clone(),
            next: BTreeMap::new(),
            now: 0,
            partition: None,
            skips: BTreeMap::new(),
        });
        let found = positions.format;
        if found > FORMAT {
            return Err(StateMismatch::LaterFormat { found, known: FORMAT }.into());
        }
        if found < FORMAT {
            return Err(StateError::Format { found }.into());
        }
        if positions.incarnation != incarnation {
            return Err(StateMismatch::OtherLog.into());
        }
        // Positions of another partition are none of this one: deliveries would be lost.
        if let Some(found) = positions.partition.replace(partition).filter(|found| *found != partition) {
            return Err(StateError::OtherPartition { found }.into());
        }
        log.is_complete(partition)?;
        let all = TOPICS.map(|topic| TopicPartition { topic, partition });
        for (at, Watermarks { start, end }) in all.into_iter().zip(log.all_bounds(&all)?) {
            let next = positions.next.entry(at.topic.name().to_owned()).or_insert(start);
            if *next > end {
                return Err(StateMismatch::LostEnd { at, end, next: *next }.into());
            }
            // What was trimmed away is in a snapshot, or older than any delivery.
            *next = (*next).max(start);
        }
        let reader = log.reader("delivery", notify);
        let mut fold = Fold {
            partition,
            store,
            reader,
            positions,
            unwritten: Unwritten::default(),
            attempts: Attempts::default(),
            versions: BTreeMap::new(),
            rejects: Vec::new(),
            open: 0,
            retrying: 0,
            pruned_at: None,
        };
        fold.load()?;
        Ok(fold)
    }

    /// The largest time of any record of the topics.
    pub fn time(&self) -> Millis {
        self.positions.now
    }

    /// About how many ends of deliveries are remembered.
    pub fn done(&self) -> u64 {
        self.store.estimated_keys(families::DONE)
    }

    /// The next offset of topic `deliveries`.
    pub fn next(&self) -> u64 {
        self.position(Topic::Deliveries)
    }

    /// The topics that a fold reads.
    pub fn topics() -> [Topic; 6] {
        TOPICS
    }

    /// Where the fold stands in its topics.
    pub fn positions(&self) -> Vec<(TopicPartition, u64)> {
        TOPICS
            .iter()
            .map(|topic| (TopicPartition { topic: *topic, partition: self.partition }, self.position(*topic)))
            .collect()
    }

    /// Reads everything that the topics hold now, before anything is sent. The end of
    /// `deliveries` is asked last and that topic is read first: so the delivery of every
    /// attempt is known before the attempt is read.
    ///
    /// # Errors
    /// As [`Fold::step`], and what `progress` returns, which is called with the number of
    /// records that are left.
    pub fn catch_up(&mut self, log: &Log, mut progress: impl FnMut(u64) -> Result<(), Error>) -> Result<(), Error> {
        let others = TOPICS[1..].iter().map(|topic| TopicPartition { topic: *topic, partition: self.partition });
        let mut goals: Vec<(TopicPartition, u64)> = Vec::new();
        let others: Vec<TopicPartition> = others.collect();
        for (at, bounds) in others.iter().zip(log.all_bounds(&others)?) {
            goals.push((*at, bounds.end));
        }
        let deliveries = TopicPartition { topic: Topic::Deliveries, partition: self.partition };
        goals.insert(0, (deliveries, log.bounds(deliveries)?.end));
        self.look_ahead(log, deliveries, goals[0].1)?;
        for i in 0..goals.len() {
            let (at, end) = goals[i];
            loop {
                let next = self.position(at.topic);
                progress(goals[i..].iter().map(|(at, end)| end.saturating_sub(self.position(at.topic))).sum())?;
                if next >= end {
                    break;
                }
                let fetched = self.reader.read_or_wait(at, next, ROUND_BYTES)?;
                if fetched.records.is_empty() {
                    break;
                }
                let mut round = Round::default();
                self.take_all(at.topic, &fetched.records, &mut round)?;
                self.write()?;
            }
        }
        Ok(())
    }

    fn position(&self, topic: Topic) -> u64 {
        self.positions.next.get(topic.name()).copied().unwrap_or(0)
    }

    fn pass(&mut self, topic: Topic, next: u64) {
        match self.positions.next.get_mut(topic.name()) {
            Some(known) => *known = next,
            None => drop(self.positions.next.insert(topic.name().to_owned(), next)),
        }
    }

    fn load(&mut self) -> Result<(), Error> {
        for update in self.endpoints()? {
            let (key, version) = update.key();
            self.versions.insert(key, version);
        }
        self.count()
    }

    /// Reads on; returns the changes, or `None` when there was nothing to read. Topics are
    /// read without regard to each other's ends: this process has read a delivery before
    /// it attempts it. A retry that is due more than a day after `now` is due at once, as in
    /// [`Fold::pull_in`]: a replaced owner may write it late, under a clock that is ahead.
    ///
    /// # Errors
    /// When the log or the store cannot be read or written.
    pub fn step(&mut self, now: Millis) -> Result<Option<Vec<FoldEvent>>, Error> {
        let mut round = Round { now: Some(now), ..Round::default() };
        let mut read = 0;
        let mut fetched = Vec::new();
        for topic in TOPICS {
            let at = TopicPartition { topic, partition: self.partition };
            fetched.push((topic, self.reader.read(at, self.position(topic), ROUND_BYTES)?.records));
        }
        for (topic, records) in &fetched {
            read += self.take_all(*topic, records, &mut round)?;
        }
        for delivery_id in round.attempted_ids {
            if self.unwritten.row(&delivery_id).flatten().is_some_and(|row| row.phase != DeliveryPhase::Due) {
                round.events.push(FoldEvent::FollowUpMissing { delivery_id });
            }
        }
        if self.unwritten.is_due(now) {
            self.write()?;
        }
        Ok((read > 0).then_some(round.events))
    }

    /// Writes the changes that are in memory, with the positions behind them.
    ///
    /// # Errors
    /// When the store cannot be written: then the fold is to be opened again.
    pub fn write(&mut self) -> Result<(), Error> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let mut batch = self.unwritten.take();
        let positions = serde_json::to_vec(&self.positions).expect("positions serialise");
        batch.put(families::META, POSITIONS, positions);
        self.store.write(batch)?;
        askwhen_process::fault::point("folded");
        Ok(())
    }

    fn take_all(&mut self, topic: Topic, records: &[askwhen_log::Record], round: &mut Round) -> Result<usize, Error> {
        let records = self.begin_records(topic, records)?;
        self.take_each(topic, records, round).inspect_err(|_| self.attempts.forgive())?;
        self.end_records(topic, records)?;
        Ok(records.len())
    }

    fn take_each(&mut self, topic: Topic, records: &[askwhen_log::Record], round: &mut Round) -> Result<(), Error> {
        for record in records {
            self.unwritten.note(round.now);
            self.pass(topic, record.offset + 1);
            self.positions.now = self.positions.now.max(record.appended_at);
            let at = TopicPartition { topic, partition: self.partition };
            if self.is_skipped(at, record.offset) {
                self.rejects.push(records::skipped(at, record));
                continue;
            }
            askwhen_process::fault::point_of("folding", || format!("{at}@{}", record.offset));
            match FoldInput::decode(topic, record) {
                Ok(input) => self.take(input, record, round)?,
                Err(error) => self.rejects.push(records::unreadable(at, record, &error.to_string())),
            }
        }
        self.cancel_erased(round)
    }

    /// Cancels the deliveries that the round's erasures cover. One scan over all that waits
    /// is cheaper than an index over users, which every delivery would pay for.
    fn cancel_erased(&mut self, round: &mut Round) -> Result<(), Error> {
        let erasures = std::mem::take(&mut round.erasures);
        if erasures.is_empty() || askwhen_process::fault::mutant("erase_leaves_deliveries") {
            return Ok(());
        }
        let mut rows = BTreeMap::new();
        self.each_row(|mut row| {
            if erasures.cancels(&row) {
                // Many may wait, and a cancellation does not need the message.
                row.forget_message();
                rows.insert(row.delivery.delivery_id.clone(), row);
            }
        })?;
        round.events.push(FoldEvent::Cancelled { delivery_ids: rows.keys().cloned().collect() });
        for (_, mut row) in rows {
            self.unwritten.remove_due(due_key(&row));
            row.phase = DeliveryPhase::CancelMissing { reason: "user_erased".into() };
            self.unwritten.put(row, 0);
        }
        Ok(())
    }

    /// Takes one record in. Errors come from the store, never from the record.
    fn take(&mut self, input: FoldInput, record: &askwhen_log::Record, round: &mut Round) -> Result<(), Error> {
        match input {
            FoldInput::Deliveries(DeliveryRecord::Deliver(delivery)) => self.take_delivery(*delivery, record, round),
            FoldInput::Deliveries(DeliveryRecord::CancelUser { project, user_id }) => {
                let source = record.header(SOURCE_HEADER).and_then(|source| Source::parse(source));
                round.erasures.note(UserKey { project, user_id }, source);
                Ok(())
            }
            FoldInput::Deliveries(DeliveryRecord::Endpoint { project, endpoint_id, version, body }) => {
                self.take_update(
                    EndpointUpdate { project, endpoint_id, what: EndpointChange::Defined { version, body } },
                    round,
                );
                Ok(())
            }
            FoldInput::Deliveries(DeliveryRecord::Health { project, endpoint_id, seq, by, health }) => {
                self.take_update(
                    EndpointUpdate { project, endpoint_id, what: EndpointChange::Health { seq, by, health } },
                    round,
                );
                Ok(())
            }
            FoldInput::Deliveries(DeliveryRecord::Skip { topic, offset, .. }) => {
                self.note_skip(topic, offset);
                Ok(())
            }
            FoldInput::Attempt(attempt) => self.take_attempt(&attempt, round),
            FoldInput::Dead(dead) => {
                if let Some(row) = self.find(&dead.delivery.delivery_id)? {
                    self.end(&row);
                }
                Ok(())
            }
            FoldInput::Retry(retry) => self.take_retry(retry, record, round),
        }
    }

    /// Stores an update of an endpoint, unless a newer one is stored: a late record of a
    /// replaced owner stands behind newer ones.
    fn take_update(&mut self, update: EndpointUpdate, round: &mut Round) {
        let (key, version) = update.key();
        if self.versions.get(&key).is_some_and(|known| *known > version) {
            return;
        }
        self.versions.insert(key.clone(), version);
        self.unwritten.put_endpoint(key, serde_json::to_vec(&update).expect("it serialises"));
        round.events.push(FoldEvent::Endpoint(update));
    }

    fn take_delivery(
        &mut self,
        delivery: Delivery,
        record: &askwhen_log::Record,
        round: &mut Round,
    ) -> Result<(), Error> {
        if self.find(&delivery.delivery_id)?.is_some() || self.is_done(&delivery)? {
            return Ok(());
        }
        self.open += 1;
        // A creation time behind the append time comes from a clock that was ahead.
        let due_at = match delivery.not_before {
            Some(_) => delivery.due_at(),
            None => delivery.created_at.min(record.appended_at),
        };
        let source = record.header(SOURCE_HEADER).map(|s| String::from_utf8_lossy(s).into_owned()).unwrap_or_default();
        let place = record.offset;
        let row = PendingDelivery {
            delivery,
            attempt: 0,
            due_at,
            place,
            source,
            first_started_at: None,
            phase: DeliveryPhase::Due,
            uncounted: 0,
        };
        self.unwritten.begins(&row.delivery.delivery_id);
        self.put_due(row, record, round);
        Ok(())
    }

    fn take_attempt(&mut self, attempt: &AttemptRecord, round: &mut Round) -> Result<(), Error> {
        let Some(mut row) = self.find(&attempt.delivery_id)? else { return Ok(()) };
        let ended_at = attempt.started_at.saturating_add(attempt.duration_ms as i64);
        self.positions.now = self.positions.now.max(ended_at);
        // A missing retry record is no end: after a crash all attempts are read before the
        // retry records that stand between them.
        let is_ending = matches!(row.phase, DeliveryPhase::DeadMissing { .. } | DeliveryPhase::CancelMissing { .. });
        // A replaced owner has cancelled it without knowing of the later attempts.
        if attempt.ended == Some(AttemptEnd::Cancelled) && attempt.attempt.max(attempt.attempts_before) < row.attempt {
            return Ok(());
        }
        if attempt.ended.is_none() && (attempt.attempt <= row.attempt || is_ending) {
            return Ok(());
        }
        self.unwritten.remove_due(due_key(&row));
        round.attempted_ids.insert(attempt.delivery_id.clone());
        self.retrying += u64::from(row.attempt == 0 && attempt.ended.is_none());
        let had_retried = row.attempt > 0;
        row.attempt = row.attempt.max(attempt.attempt);
        row.uncounted = row.uncounted.max(attempt.uncounted);
        row.first_started_at = Some(attempt.first_started_at);
        match attempt.ended {
            Some(AttemptEnd::Dead) => {
                row.phase = DeliveryPhase::DeadMissing {
                    reason: attempt.reason.clone().unwrap_or_default(),
                    died_at: ended_at,
                };
                self.unwritten.put(row, 0);
            }
            Some(AttemptEnd::Delivered | AttemptEnd::Cancelled) => {
                row.attempt = u32::from(had_retried);
                self.end(&row);
            }
            None => {
                row.phase = DeliveryPhase::RetryMissing { next_due_at: attempt.next_due_at.unwrap_or(row.due_at) };
                self.unwritten.put(row, 0);
            }
        }
        Ok(())
    }

    /// Takes a retry record in: that with the most attempts counts.
    fn take_retry(&mut self, retry: RetryRecord, record: &askwhen_log::Record, round: &mut Round) -> Result<(), Error> {
        if self.is_done(&retry.delivery)? {
            return Ok(());
        }
        match self.find(&retry.delivery.delivery_id)? {
            Some(row)
                if matches!(row.phase, DeliveryPhase::DeadMissing { .. } | DeliveryPhase::CancelMissing { .. }) =>
            {
                return Ok(());
            }
            Some(row) => {
                let missing = matches!(row.phase, DeliveryPhase::RetryMissing { .. }) && retry.attempt == row.attempt;
                if !missing && retry.attempt <= row.attempt {
                    return Ok(());
                }
                self.unwritten.remove_due(due_key(&row));
            }
            None => {
                self.open += 1;
                self.unwritten.begins(&retry.delivery.delivery_id);
            }
        }
        let row = PendingDelivery {
            attempt: retry.attempt,
            due_at: round.now.filter(|now| waits_too_long(retry.due_at, *now)).unwrap_or(retry.due_at),
            place: 0,
            source: retry.source,
            first_started_at: Some(retry.first_started_at),
            phase: DeliveryPhase::Due,
            uncounted: retry.uncounted,
            delivery: *retry.delivery,
        };
        self.put_due(row, record, round);
        Ok(())
    }

    fn put_due(&mut self, row: PendingDelivery, record: &askwhen_log::Record, round: &mut Round) {
        let due = Due::new(&row);
        self.unwritten.put_due(&due);
        round.events.push(FoldEvent::Due(due));
        self.unwritten.put(row, record.len_bytes());
    }

    fn end(&mut self, row: &PendingDelivery) {
        self.open = self.open.saturating_sub(1);
        self.retrying = self.retrying.saturating_sub(u64::from(row.attempt > 0));
        self.unwritten.remove_due(due_key(row));
        self.unwritten.remove(&row.delivery.delivery_id);
        self.unwritten.put_done(done_key(&row.delivery));
    }

    fn is_done(&self, delivery: &Delivery) -> Result<bool, Error> {
        let key = done_key(delivery);
        Ok(self.unwritten.is_done(&key) || self.store.get(families::DONE, &key)?.is_some())
    }

    /// Makes deliveries due at `now` that are due later than any policy allows: a retry
    /// waits a day at most, a first attempt not at all unless the delivery says so. Such
    /// due dates come from a clock that was ahead. Returns how many there were.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn pull_in(&mut self, now: Millis) -> Result<usize, Error> {
        self.write()?;
        let mut late = Vec::new();
        self.store.each(families::DUE, |key, value| {
            let due = Due::decode(key, &value)?;
            if waits_too_long(split(&due.key).1, now) {
                late.push(due.key);
            }
            Ok::<_, Error>(())
        })?;
        let mut count = 0;
        for key in late {
            let row = self.find(&due_id(&key))?.filter(|row| row.attempt > 0 || row.delivery.not_before.is_none());
            let Some(row) = row else { continue };
            count += 1;
            let row = PendingDelivery { due_at: now, ..row };
            self.unwritten.remove_due(key);
            self.unwritten.put_due(&Due::new(&row));
            self.unwritten.put(row, 0);
            if count % MAX_ENTRIES_PER_READ == 0 {
                self.write()?;
            }
        }
        self.write()?;
        Ok(count)
    }

    /// Forgets old ends, at most once in a day of monotonic time: so a wall clock that
    /// jumps ahead and back cannot make it forget everything at once.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn prune(&mut self, now: Millis) -> Result<(), Error> {
        if self.pruned_at.is_some_and(|at| at.elapsed() < PRUNE_EVERY) {
            return Ok(());
        }
        self.pruned_at = Some(Instant::now());
        let remembered = if self.done() > DONE_MANY { DONE_REMEMBERED_OF_MANY } else { DONE_REMEMBERED };
        let day = (now - remembered).div_euclid(DAY);
        let mut batch = Batch::default();
        batch.delete_range(families::DONE, keys::timed(0, &[]), keys::timed(day, &[]));
        Ok(self.store.write(batch)?)
    }
}

/// Whether a due date is so far ahead that only a wrong clock can have written it.
fn waits_too_long(due_at: Millis, now: Millis) -> bool {
    due_at > now.saturating_add(LONGEST_WAIT)
}

#[cfg(test)]
mod tests;
