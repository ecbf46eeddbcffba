//! One partition's deliveries as its topics tell them: a fold of `deliveries`,
//! the retry topics, `attempts` and `dead` into a store. Changes and positions
//! are written in one batch, so a record counts once.

mod erasure;
mod index;
mod told;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use index::{Due, before, due_id, line, split};
pub use told::{Told, What};

use super::records::{self, Write};
use crate::domain::message::Delivery;
use crate::domain::time::{DAY, Millis};
use crate::log::{self, At, Bounds, Log, Reader};
use crate::store::{self, Batch, Family, Store, keys};
use crate::thread::Bell;
use crate::wire::output::{AttemptRecord, DeadRecord, DeliveryRecord, Ended, RetryRecord, SOURCE_HEADER, Source};
use crate::wire::topic::Topic;
use index::{done_key, due_key};

/// What is folded, in this order in every round: what an attempt did is known
/// before what comes of it.
const TOPICS: [Topic; 6] =
    [Topic::Deliveries, Topic::Attempts, Topic::Retry1m, Topic::Retry1h, Topic::Retry1d, Topic::Dead];

const POSITIONS: &[u8] = b"positions";
/// Of the store; another one is refused, never reinterpreted.
const FORMAT: u32 = 2;
const ROUND_BYTES: usize = 256 << 10;
/// Entries of the due index read at a time, at most.
const EACH_AT_A_TIME: usize = 512;
/// How long the end of a delivery is remembered, to know a copy of it.
const DONE_REMEMBERED: Millis = 30 * DAY;

/// Where a delivery stands that has not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub delivery: Delivery,
    /// Attempts done.
    pub attempt: u32,
    pub due_at: Millis,
    /// Where it stands in `deliveries`: what is due at the same time goes in
    /// that order. Zero once it is a retry.
    pub place: u64,
    /// Header `source` of its record: the journal record behind it.
    pub source: String,
    /// Start of the first attempt, once there was one.
    pub first_started_at: Option<Millis>,
    pub phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// In the due index.
    Due,
    /// The attempt is on record; its retry record is not yet.
    RetryOwed { next_due_at: Millis },
    /// The end is on record; the record in `dead` is not yet.
    DeadOwed { reason: String, died_at: Millis },
    /// It is not to be sent any more; the record of that is not yet written.
    CancelOwed { reason: String },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Positions {
    /// Of everything in the store.
    #[serde(default)]
    pub format: u32,
    /// Hex of the log's.
    pub incarnation: String,
    /// Next offset by the topic's name.
    pub next: BTreeMap<String, u64>,
}

/// What a round has brought.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Due(Due),
    Endpoint(Told),
    /// Deliveries that are to be cancelled on record.
    Cancelled {
        delivery_ids: Vec<String>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The store is to be set aside and made again.
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Trying again would not help: a person has to look.
    pub fn is_final(&self) -> bool {
        match self {
            Error::Refused(_) => true,
            Error::Log(error) => matches!(error, log::Error::Damaged { .. } | log::Error::Refused(_)),
            Error::Store(_) | Error::Damaged(_) | Error::Failed(_) => false,
        }
    }
}

pub struct Fold {
    pub partition: u32,
    store: Arc<Store>,
    reader: Reader,
    positions: Positions,
    /// The newest of what is kept of each endpoint, also of those that are gone.
    versions: BTreeMap<Vec<u8>, u64>,
    /// What could not be read, to be told in topic `rejects`.
    pub rejects: Vec<Write>,
    pub open: u64,
    pub retrying: u64,
    pruned_day: i64,
}

/// What one round is about to write: later records of it see earlier ones.
#[derive(Default)]
struct Round {
    rows: BTreeMap<String, Option<Row>>,
    done: BTreeMap<Vec<u8>, ()>,
    batch: Batch,
    heard: Vec<Heard>,
}

impl Fold {
    /// # Errors
    /// When the store belongs to another log, or is ahead of this one.
    pub fn open(partition: u32, log: &Log, store: Arc<Store>, bell: Arc<Bell>) -> Result<Fold, Error> {
        let incarnation = format!("{:032x}", log.incarnation());
        let mut positions = Fold::stored_positions(&store)?.unwrap_or_else(|| Positions {
            format: FORMAT,
            incarnation: incarnation.clone(),
            next: BTreeMap::new(),
        });
        if positions.format != FORMAT {
            let found = positions.format;
            return Err(Error::Refused(format!(
                "the delivery's state is of format {found}; this version reads {FORMAT}"
            )));
        }
        if positions.incarnation != incarnation {
            return Err(Error::Refused("the delivery's state belongs to another log".into()));
        }
        let all = TOPICS.map(|topic| At { topic, partition });
        for (at, Bounds { start, end }) in all.into_iter().zip(log.all_bounds(&all)?) {
            let next = positions.next.entry(at.topic.name().to_owned()).or_insert(start);
            if *next > end {
                return Err(Error::Refused(format!(
                    "{at} ends at {end} and the delivery's state is at {next}: the log has lost its end"
                )));
            }
            // What was trimmed away is in a snapshot, or older than any delivery.
            *next = (*next).max(start);
        }
        let reader = log.reader("delivery", bell);
        let mut fold = Fold {
            partition,
            store,
            reader,
            positions,
            versions: BTreeMap::new(),
            rejects: Vec::new(),
            open: 0,
            retrying: 0,
            pruned_day: 0,
        };
        fold.load()?;
        Ok(fold)
    }

    /// The next offset of topic `deliveries`.
    pub fn next(&self) -> u64 {
        self.position(Topic::Deliveries)
    }

    /// What is folded.
    pub fn topics() -> [Topic; 6] {
        TOPICS
    }

    /// Where the fold stands in its topics.
    pub fn positions(&self) -> Vec<(At, u64)> {
        TOPICS.iter().map(|topic| (At { topic: *topic, partition: self.partition }, self.position(*topic))).collect()
    }

    /// Where a stored fold stands.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stored_positions(store: &Store) -> Result<Option<Positions>, Error> {
        let stored = store.get(Family::Meta, POSITIONS)?;
        let unreadable = |e: serde_json::Error| Error::Refused(format!("the delivery's positions are unreadable: {e}"));
        stored.map(|bytes| serde_json::from_slice(&bytes).map_err(unreadable)).transpose()
    }

    /// Reads everything that the topics hold now, before anything is sent.
    /// First the deliveries, taken to their end after the others' ends are
    /// known: so whatever an attempt speaks of is known before the attempt.
    ///
    /// # Errors
    /// As [`Fold::step`], and what `told` says of the records that are left.
    pub fn catch_up(&mut self, log: &Log, mut told: impl FnMut(u64) -> Result<(), Error>) -> Result<(), Error> {
        let others = TOPICS[1..].iter().map(|topic| At { topic: *topic, partition: self.partition });
        let mut goals: Vec<(At, u64)> = Vec::new();
        let others: Vec<At> = others.collect();
        for (at, bounds) in others.iter().zip(log.all_bounds(&others)?) {
            goals.push((*at, bounds.end));
        }
        let deliveries = At { topic: Topic::Deliveries, partition: self.partition };
        goals.insert(0, (deliveries, log.bounds(deliveries)?.end));
        for i in 0..goals.len() {
            let (at, end) = goals[i];
            loop {
                let next = self.position(at.topic);
                told(goals[i..].iter().map(|(at, end)| end.saturating_sub(self.position(at.topic))).sum())?;
                if next >= end {
                    break;
                }
                let chunk = self.reader.read_or_wait(at, next, ROUND_BYTES)?;
                if chunk.records.is_empty() {
                    break;
                }
                let mut round = Round::default();
                self.take_all(at.topic, &chunk.records, &mut round)?;
                self.write(round)?;
            }
        }
        Ok(())
    }

    fn position(&self, topic: Topic) -> u64 {
        self.positions.next.get(topic.name()).copied().unwrap_or(0)
    }

    fn load(&mut self) -> Result<(), Error> {
        for told in self.endpoints()? {
            let (key, version) = told.key();
            self.versions.insert(key, version);
        }
        let (mut open, mut retrying) = (0, 0);
        self.each_row(|row| {
            open += 1;
            retrying += u64::from(row.attempt > 0);
        })?;
        (self.open, self.retrying) = (open, retrying);
        Ok(())
    }

    /// Reads on; gives what became due or changed, or `None` when nothing has
    /// come. What attempts did is taken with what they speak of, which this
    /// very process has taken before it began them.
    ///
    /// # Errors
    /// When the log or the store cannot be read or written.
    pub fn step(&mut self) -> Result<Option<Vec<Heard>>, Error> {
        let mut round = Round::default();
        let mut read = 0;
        let mut chunks = Vec::new();
        for topic in TOPICS {
            let at = At { topic, partition: self.partition };
            chunks.push((topic, self.reader.read(at, self.position(topic), ROUND_BYTES)?.records));
        }
        for (topic, records) in &chunks {
            read += self.take_all(*topic, records, &mut round)?;
        }
        if read == 0 {
            return Ok(None);
        }
        Ok(Some(self.write(round)?))
    }

    fn write(&mut self, mut round: Round) -> Result<Vec<Heard>, Error> {
        for (id, row) in round.rows {
            match row {
                Some(row) => round.batch.put(Family::Waiting, id, postcard::to_stdvec(&row).expect("a row serialises")),
                None => round.batch.delete(Family::Waiting, id),
            }
        }
        for (key, ()) in round.done {
            round.batch.put(Family::Done, key, []);
        }
        let positions = serde_json::to_vec(&self.positions).expect("positions serialise");
        round.batch.put(Family::Meta, POSITIONS, positions);
        // Should this fail, the caller opens the fold again.
        self.store.write(round.batch)?;
        crate::fault::point("folded");
        Ok(round.heard)
    }

    fn take_all(&mut self, topic: Topic, records: &[log::Record], round: &mut Round) -> Result<usize, Error> {
        for record in records {
            self.positions.next.insert(topic.name().to_owned(), record.offset + 1);
            match self.take(topic, record, round) {
                Err(Error::Refused(detail)) => {
                    self.rejects.push(records::reject(At { topic, partition: self.partition }, record, &detail));
                }
                taken => taken?,
            }
        }
        Ok(records.len())
    }

    fn take(&mut self, topic: Topic, record: &log::Record, round: &mut Round) -> Result<(), Error> {
        let value = record.value.as_deref().unwrap_or_default();
        let unreadable = |e: serde_json::Error| Error::Refused(e.to_string());
        match topic {
            Topic::Deliveries => match serde_json::from_slice(value).map_err(unreadable)? {
                DeliveryRecord::Deliver(delivery) => self.deliver(*delivery, record, round),
                DeliveryRecord::CancelUser { project, user_id } => {
                    let erased = record.header(SOURCE_HEADER).and_then(|source| Source::parse(source));
                    self.cancel_user((&project, &user_id), erased, round)
                }
                DeliveryRecord::Endpoint { project, endpoint_id, version, body } => {
                    self.told(Told { project, endpoint_id, what: What::Defined { version, body } }, round);
                    Ok(())
                }
                DeliveryRecord::Health { project, endpoint_id, seq, by, health } => {
                    self.told(Told { project, endpoint_id, what: What::Fares { seq, by, health } }, round);
                    Ok(())
                }
            },
            Topic::Attempts => self.attempted(&serde_json::from_slice(value).map_err(unreadable)?, round),
            Topic::Dead => {
                let dead: DeadRecord = serde_json::from_slice(value).map_err(unreadable)?;
                if let Some(row) = self.row(&dead.delivery.delivery_id, round)? {
                    self.end(&row, round);
                }
                Ok(())
            }
            _ => self.waits(serde_json::from_slice(value).map_err(unreadable)?, round),
        }
    }

    /// Takes what is told of an endpoint, unless something newer is known: a late
    /// record of an owner that has been replaced stands after newer ones.
    fn told(&mut self, told: Told, round: &mut Round) {
        let (key, version) = told.key();
        if self.versions.get(&key).is_some_and(|known| *known > version) {
            return;
        }
        self.versions.insert(key.clone(), version);
        round.batch.put(Family::Endpoints, key, serde_json::to_vec(&told).expect("it serialises"));
        round.heard.push(Heard::Endpoint(told));
    }

    /// Everything that is known of endpoints.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn endpoints(&self) -> Result<Vec<Told>, Error> {
        let mut all = Vec::new();
        self.store.each(Family::Endpoints, |_, value| {
            let unreadable = |e: serde_json::Error| Error::Refused(format!("an endpoint is unreadable: {e}"));
            all.push(serde_json::from_slice(&value).map_err(unreadable)?);
            Ok::<_, Error>(())
        })?;
        Ok(all)
    }

    fn deliver(&mut self, delivery: Delivery, record: &log::Record, round: &mut Round) -> Result<(), Error> {
        let known = self.row(&delivery.delivery_id, round)?.is_some() || self.is_done(&delivery, round)?;
        if known {
            return Ok(());
        }
        self.open += 1;
        let due_at = delivery.due_at();
        let source = record.header(SOURCE_HEADER).map(|s| String::from_utf8_lossy(s).into_owned()).unwrap_or_default();
        let place = record.offset;
        let row = Row { delivery, attempt: 0, due_at, place, source, first_started_at: None, phase: Phase::Due };
        self.put_due(row, round);
        Ok(())
    }

    fn attempted(&mut self, attempt: &AttemptRecord, round: &mut Round) -> Result<(), Error> {
        let Some(mut row) = self.row(&attempt.delivery_id, round)? else { return Ok(()) };
        let already_over = !matches!(row.phase, Phase::Due);
        // Of an owner that had been replaced: it knew less.
        if attempt.ended == Some(Ended::Cancelled) && attempt.attempt.max(attempt.attempts_before) < row.attempt {
            return Ok(());
        }
        if attempt.ended.is_none() && (attempt.attempt <= row.attempt || already_over) {
            return Ok(());
        }
        round.batch.delete(Family::Due, due_key(&row));
        self.retrying += u64::from(row.attempt == 0 && attempt.ended.is_none());
        let had_retried = row.attempt > 0;
        row.attempt = row.attempt.max(attempt.attempt);
        row.first_started_at = Some(attempt.first_started_at);
        match attempt.ended {
            Some(Ended::Dead) => {
                row.phase = Phase::DeadOwed {
                    reason: attempt.reason.clone().unwrap_or_default(),
                    died_at: attempt.started_at.saturating_add(attempt.duration_ms as i64),
                };
                round.rows.insert(attempt.delivery_id.clone(), Some(row));
            }
            Some(Ended::Delivered | Ended::Cancelled) => {
                row.attempt = u32::from(had_retried);
                self.end(&row, round);
            }
            None => {
                row.phase = Phase::RetryOwed { next_due_at: attempt.next_due_at.unwrap_or(row.due_at) };
                round.rows.insert(attempt.delivery_id.clone(), Some(row));
            }
        }
        Ok(())
    }

    /// A retry record: the highest count of attempts.
    fn waits(&mut self, retry: RetryRecord, round: &mut Round) -> Result<(), Error> {
        if self.is_done(&retry.delivery, round)? {
            return Ok(());
        }
        match self.row(&retry.delivery.delivery_id, round)? {
            Some(row) if matches!(row.phase, Phase::DeadOwed { .. } | Phase::CancelOwed { .. }) => return Ok(()),
            Some(row) => {
                let owed = matches!(row.phase, Phase::RetryOwed { .. }) && retry.attempt == row.attempt;
                if !owed && retry.attempt <= row.attempt {
                    return Ok(());
                }
                round.batch.delete(Family::Due, due_key(&row));
            }
            None => self.open += 1,
        }
        let row = Row {
            attempt: retry.attempt,
            due_at: retry.due_at,
            place: 0,
            source: retry.source,
            first_started_at: Some(retry.first_started_at),
            phase: Phase::Due,
            delivery: *retry.delivery,
        };
        self.put_due(row, round);
        Ok(())
    }

    fn put_due(&mut self, row: Row, round: &mut Round) {
        let due = Due::new(&row);
        round.batch.put(Family::Due, due.key.clone(), due.value());
        round.heard.push(Heard::Due(due));
        round.rows.insert(row.delivery.delivery_id.clone(), Some(row));
    }

    fn end(&mut self, row: &Row, round: &mut Round) {
        self.open = self.open.saturating_sub(1);
        self.retrying = self.retrying.saturating_sub(u64::from(row.attempt > 0));
        round.batch.delete(Family::Due, due_key(row));
        round.rows.insert(row.delivery.delivery_id.clone(), None);
        round.done.insert(done_key(&row.delivery), ());
    }

    fn row(&self, delivery_id: &str, round: &Round) -> Result<Option<Row>, Error> {
        match round.rows.get(delivery_id) {
            Some(row) => Ok(row.clone()),
            None => self.find(delivery_id),
        }
    }

    fn is_done(&self, delivery: &Delivery, round: &Round) -> Result<bool, Error> {
        let key = done_key(delivery);
        Ok(round.done.contains_key(&key) || self.store.get(Family::Done, &key)?.is_some())
    }

    /// # Errors
    /// When the store cannot be read.
    pub fn find(&self, delivery_id: &str) -> Result<Option<Row>, Error> {
        let bytes = self.store.get(Family::Waiting, delivery_id.as_bytes())?;
        bytes.map(|b| decode(&b)).transpose()
    }

    /// Every line of the due index, with the time that its first is due.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn lines(&self) -> Result<Vec<(u64, Millis)>, Error> {
        let mut lines = Vec::new();
        let mut from = Vec::new();
        while let Some((key, _)) = self.store.ascending(Family::Due, &from, 1)?.first() {
            let (line, due_at) = split(key);
            lines.push((line, due_at));
            let Some(next) = line.checked_add(1) else { break };
            from = next.to_be_bytes().to_vec();
        }
        Ok(lines)
    }

    /// What of a line of the due index lies behind `after` and is due by `until`;
    /// and when the next one behind that is due.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn due(
        &self,
        line: u64,
        after: &[u8],
        until: Millis,
        limit: usize,
    ) -> Result<(Vec<Due>, Option<Millis>), Error> {
        let mut from = if after.is_empty() { line.to_be_bytes().to_vec() } else { [after, &[0]].concat() };
        let mut found = Vec::new();
        // Most lines hold little that is due, and another line is behind it.
        let mut at_a_time = 8;
        loop {
            let entries = self.store.ascending(Family::Due, &from, at_a_time)?;
            let last = entries.len() < at_a_time;
            for (key, value) in entries {
                let (of, at) = split(&key);
                if of != line {
                    return Ok((found, None));
                }
                if at > until || found.len() == limit {
                    return Ok((found, Some(at)));
                }
                from = [key.as_slice(), &[0]].concat();
                found.push(Due::of(key, &value));
            }
            if last {
                return Ok((found, None));
            }
            at_a_time = (at_a_time * 4).min(EACH_AT_A_TIME);
        }
    }

    /// Rows whose next record a crash has swallowed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn owed(&self) -> Result<Vec<Row>, Error> {
        let mut owed = Vec::new();
        self.each_row(|row| {
            if row.phase != Phase::Due {
                owed.push(row);
            }
        })?;
        Ok(owed)
    }

    /// Hands every delivery that has not ended to `each`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn each_row(&self, mut each: impl FnMut(Row)) -> Result<(), Error> {
        self.store.each(Family::Waiting, |_, value| {
            each(decode(&value)?);
            Ok(())
        })
    }

    /// Forgets ends that are old; cheap, at most once a day.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn prune(&mut self, now: Millis) -> Result<(), Error> {
        let day = (now - DONE_REMEMBERED).div_euclid(DAY);
        if day > self.pruned_day {
            let mut batch = Batch::default();
            batch.delete_range(Family::Done, keys::timed(0, &[]), keys::timed(day, &[]));
            self.store.write(batch)?;
            self.pruned_day = day;
        }
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Result<Row, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Refused(format!("a waiting delivery is unreadable: {e}")))
}

#[cfg(test)]
mod tests;
