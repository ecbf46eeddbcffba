//! Reads the outputs of the engine and the delivery into the lists, from the positions in
//! the store on. A topic that differs from what the store was made from is read again from
//! its beginning; records that are known count once.

use crate::console::families;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::error::{Error, ReadOutcome};
use super::order::{self, WriteBatch};
use super::round::{Round, RoundChanges};
use super::shared::Shared;
use super::stats::{self, OfferFact};
use super::{deliveries, erased, kept, look_through, unknown};
use askwhen_domain::id::RecordPosition;
use askwhen_domain::refs::{SurveyRef, UserRef};
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_log::{Fetch as _, Log, Reader, Record, TopicPartition, Watermarks};
use askwhen_partition::attempts::{Attempts, MAX_DEATHS, place};
use askwhen_process::clock::Clock;
use askwhen_process::thread::{LogThrottle, Notify, StopToken};
use askwhen_store::{Batch, Store};
use askwhen_wire::listing::List;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{DeliveryRecord, DisplayRecord};

/// In this order in every round: erasures are known before the records that they remove.
const TOPICS: [Topic; 8] = [
    Topic::Deliveries,
    Topic::Attempts,
    Topic::Retry1m,
    Topic::Retry1h,
    Topic::Retry1d,
    Topic::Decisions,
    Topic::Responses,
    Topic::Displays,
];
const POSITIONS: &[u8] = b"positions";
/// Key of the checksums of the records just before the positions.
const LAST_KEY: &[u8] = b"last";
/// Key of the incarnation of the log from which the store was made.
const INCARNATION_KEY: &[u8] = b"incarnation";
const FORMAT_KEY: &[u8] = b"format";
const FORMAT: &[u8] = &[6];
/// Key that says that facts are noted once.
const FACTS_KEY: &[u8] = b"facts_once";
const ROUND_BYTES: usize = 1 << 20;
const PRUNE_EVERY: Duration = Duration::from_secs(10);
const PRUNE_ERASED_EVERY: Duration = Duration::from_secs(3_600);
/// The most rows of each kind that are removed at a time.
const PRUNED_AT_A_TIME: usize = 50_000;
/// The longest time for checking rows of version 0.1.0, at a time.
const LOOK_THROUGH: Duration = Duration::from_millis(100);
/// How many journal offsets outputs may be out of order after a crash.
const OUT_OF_ORDER: u64 = 10_000;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long rows are kept, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct RowRetention {
    pub deliveries: Millis,
    pub decisions: Millis,
    pub responses: Millis,
}

/// The only writer of the projection.
pub(super) struct Follower {
    log: Log,
    reader: Reader,
    shared: Arc<Shared>,
    /// How long rows are kept; `None` for ever.
    keep: Option<(Clock, RowRetention)>,
    /// The next offset of each partition; empty until the store was read.
    positions: BTreeMap<TopicPartition, u64>,
    last: BTreeMap<TopicPartition, u32>,
    /// Partitions whose last record has not been compared with the topic yet.
    unchecked: BTreeSet<TopicPartition>,
    /// The offsets at which lists that are being rebuilt are complete.
    goals: BTreeMap<TopicPartition, u64>,
    /// The partitions in whose journals users were erased, as the store has it.
    erasures: BTreeSet<u32>,
    /// The store of the positions.
    followed: Weak<Store>,
    /// Whether the last round has left many records that were there, or lists that are being
    /// made again have come on by many.
    is_behind: bool,
    throttle: LogThrottle,
    /// Which records are being taken in, for the case that the process dies of one.
    attempts: Attempts,
    pruned: Instant,
    pruned_erased: Option<Instant>,
}

/// The projection without a thread, for whoever turns it round by round.
pub struct Projection(Follower);

impl Projection {
    pub fn new(log: Log, store: Arc<Store>, notify: Arc<Notify>) -> Projection {
        let shared = Arc::new(Shared::of(store, notify.clone()));
        Projection(Follower::new(log, notify, shared, None))
    }

    /// One round over all topics and partitions; returns whether anything was read.
    ///
    /// # Errors
    /// When the log or the store cannot be read; the next round begins at the stored
    /// positions.
    pub fn step(&mut self) -> Result<bool, Error> {
        let bytes = self.0.turn().inspect_err(|error| self.0.report_error(error))?;
        Ok(bytes > 0)
    }
}

impl Follower {
    pub fn new(log: Log, notify: Arc<Notify>, shared: Arc<Shared>, keep: Option<(Clock, RowRetention)>) -> Follower {
        let reader = log.reader("console", notify);
        Follower {
            log,
            reader,
            shared,
            keep,
            positions: BTreeMap::new(),
            last: BTreeMap::new(),
            unchecked: BTreeSet::new(),
            goals: BTreeMap::new(),
            erasures: BTreeSet::new(),
            followed: Weak::new(),
            is_behind: false,
            throttle: LogThrottle::default(),
            attempts: Attempts::default(),
            pruned: Instant::now(),
            pruned_erased: None,
        }
    }

    /// Notes from now on in this file what is being taken in, and learns from it what earlier
    /// processes died of.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn note_attempts(&mut self, path: &Path) -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        self.attempts = Attempts::open(path)?;
        Ok(())
    }

    pub fn run(&mut self, turns: &StopToken) {
        let shared = self.shared.clone();
        let _following = shared.pace.follow();
        let mut last_began = Instant::now();
        while turns.go_on() {
            let (began, asked) = (Instant::now(), shared.pace.begin());
            let since_last = began.duration_since(std::mem::replace(&mut last_began, began));
            let turned = self.turn();
            if turned.is_ok() && !self.is_behind {
                shared.pace.end(asked);
            }
            match turned {
                Ok(0) => turns.wait(Duration::from_millis(500)),
                Ok(_) if self.is_behind => {}
                Ok(bytes) => {
                    if !self.goals.is_empty() {
                        // Whoever is told that they are being made again waits for it.
                        shared.pace.look();
                    }
                    shared.pace.pause(began, since_last, bytes, || turns.go_on());
                }
                Err(error) => {
                    self.report_error(&error);
                    turns.wait(RETRY_PAUSE);
                }
            }
        }
    }

    /// Reads until the lists are complete, but no longer than `longest`.
    pub fn catch_up(&mut self, longest: Duration) {
        let deadline = Instant::now() + longest;
        while Instant::now() < deadline {
            match self.turn() {
                Ok(_) if self.goals.is_empty() => return,
                // On Kafka records arrive a moment after they were requested.
                Ok(1..) => {}
                Ok(0) => std::thread::sleep(Duration::from_millis(10)),
                // The thread will try again.
                Err(error) => return self.report_error(&error),
            }
        }
    }

    fn report_error(&mut self, error: &Error) {
        if let Error::Damaged(why) = error {
            self.shared.set_damaged(why);
        } else if self.throttle.is_new(&error.to_string()) {
            tracing::error!(%error, "the console's projection pauses");
        }
        self.positions.clear();
    }

    /// One round over all topics and partitions; returns how many bytes were read.
    fn turn(&mut self) -> Result<usize, Error> {
        let mut store = self.shared.opened()?;
        if store.is_closed() {
            // It cannot be written but still be read: readers keep it until the log says
            // that there is space again.
            self.log.is_writable()?;
            drop(store);
            self.shared.close();
            store = self.shared.opened()?;
        }
        let own = Arc::downgrade(&store);
        if !self.followed.ptr_eq(&own) {
            // The store was replaced: a reader may have found the earlier one damaged.
            self.positions.clear();
            self.followed = own;
        }
        if self.positions.is_empty() {
            self.begin(&store)?;
        }
        if self.pruned.elapsed() >= PRUNE_EVERY
            && let Some((clock, keep)) = &self.keep
        {
            let (now, keep) = (clock.cautious(), *keep);
            self.pruned = Instant::now();
            self.prune(&store, now, keep)?;
        }
        self.follow(&store)
    }

    /// Finds the positions: those in the store, if the topics agree.
    fn begin(&mut self, store: &Store) -> Result<(), Error> {
        let incarnation = format!("{:032x}", self.log.incarnation());
        let known = store.get(families::META, INCARNATION_KEY)?;
        let is_of_another = known.is_some_and(|known| known != incarnation.as_bytes());
        let format = store.get(families::META, FORMAT_KEY)?;
        if is_of_another || format.as_deref() != Some(FORMAT) {
            if is_of_another {
                tracing::warn!("the console's lists are of another log: they are made anew");
            }
            make_anew(store, &incarnation)?;
        }
        forget_known_facts(store)?;
        let positions: Option<BTreeMap<String, u64>> = stored(store, POSITIONS)?;
        let last: BTreeMap<String, u32> = stored(store, LAST_KEY)?.unwrap_or_default();
        let is_new = positions.is_none();
        let positions = positions.unwrap_or_default();
        let partitions = 0..self.log.partitions();
        let all: Vec<TopicPartition> =
            partitions.flat_map(|partition| TOPICS.map(|topic| TopicPartition { topic, partition })).collect();
        let bounds = self.log.all_bounds(&all)?;
        self.last.clear();
        self.unchecked.clear();
        self.goals.clear();
        for (at, bounds) in all.into_iter().zip(bounds) {
            let next = positions.get(&at.to_string()).copied().unwrap_or(0);
            let crc = last.get(&at.to_string()).copied().filter(|_| next > bounds.start);
            let next = if next > bounds.end { self.read_again(at, next, bounds) } else { next };
            if let Some(crc) = crc.filter(|_| next > bounds.start) {
                self.last.insert(at, crc);
                self.unchecked.insert(at);
            }
            if is_new && bounds.start < bounds.end {
                self.goals.insert(at, bounds.end);
            }
            self.positions.insert(at, next.max(bounds.start));
        }
        self.erasures = erased::partitions(store, self.log.partitions())?;
        self.publish();
        Ok(())
    }

    /// Reads a topic again that lost its end or was replaced, because rows would be missing
    /// at the stored position.
    fn read_again(&mut self, at: TopicPartition, position: u64, bounds: Watermarks) -> u64 {
        let Watermarks { start, end } = bounds;
        tracing::error!(%at, position, end, "a topic is not what the lists were made from: it is read once more");
        self.last.remove(&at);
        self.unchecked.remove(&at);
        self.goals.insert(at, end);
        start
    }

    fn follow(&mut self, store: &Store) -> Result<usize, Error> {
        let mut round = Round::with_erasures(store, self.erasures.clone());
        let mut read = 0;
        self.is_behind = false;
        for partition in 0..self.log.partitions() {
            let mut parts = Vec::new();
            for topic in TOPICS {
                let at = TopicPartition { topic, partition };
                let records = self.fetch(at)?;
                let bytes: usize = records.iter().map(Record::len_bytes).sum();
                parts.push((at, records));
                // Many are still to come. It cannot be asked whether a partition was read to its
                // end: on Kafka that is known a while later, and then there is more.
                let is_cut = bytes >= ROUND_BYTES / 2;
                self.is_behind |= is_cut;
                if topic == Topic::Deliveries && is_cut {
                    // Attempts must come after the deliveries that they belong to.
                    break;
                }
            }
            for (at, records) in parts {
                let records = self.begin_records(at, &records)?;
                for record in records {
                    read += record.len_bytes();
                    self.positions.insert(at, record.offset + 1);
                    self.last.insert(at, record.crc);
                    let outcome = self.take(at, record, store, &mut round);
                    if outcome.inspect_err(|_| self.attempts.forgive())? == ReadOutcome::Unreadable {
                        self.say_unreadable(at, record.offset);
                    }
                }
                if let Some(last) = records.last() {
                    self.attempts.end(noted(at, last.offset + 1)).map_err(Error::Unnoted)?;
                }
            }
        }
        if read > 0 {
            let RoundChanges { mut batch, moved, erasures } = round.into_changes();
            let named = |(at, value): (&TopicPartition, &u64)| (at.to_string(), *value);
            let positions: BTreeMap<String, u64> = self.positions.iter().map(named).collect();
            let last: BTreeMap<String, u32> = self.last.iter().map(|(at, crc)| (at.to_string(), *crc)).collect();
            batch.put(families::META, POSITIONS, serde_json::to_vec(&positions).expect("positions serialise"));
            batch.put(families::META, LAST_KEY, serde_json::to_vec(&last).expect("checksums serialise"));
            let incarnation = format!("{:032x}", self.log.incarnation());
            batch.put(families::META, INCARNATION_KEY, incarnation);
            store.write(batch)?;
            self.erasures = erasures;
            self.shared.note_moved(moved);
        }
        self.is_behind |= !self.goals.is_empty() && read >= ROUND_BYTES / 4;
        let positions = &self.positions;
        self.goals.retain(|at, goal| positions.get(at).is_some_and(|next| *next < *goal));
        self.publish();
        Ok(read)
    }

    /// Notes that records are being taken in, and returns those: fewer where one of them has
    /// killed the process.
    fn begin_records<'a>(&self, at: TopicPartition, records: &'a [Record]) -> Result<&'a [Record], Error> {
        let Some(first) = records.first() else { return Ok(records) };
        let limit = self.attempts.limit(noted(at, first.offset));
        let records = &records[..records.partition_point(|record| noted(at, record.offset) < limit)];
        let to = records.last().map_or(first.offset, |record| record.offset + 1);
        self.attempts.begin(noted(at, first.offset), noted(at, to)).map_err(Error::Unnoted)?;
        Ok(records)
    }

    /// Takes a record in, unless the process has died of it too often: the lists are a view,
    /// and whole without it rather than not at all.
    fn take(
        &self,
        at: TopicPartition,
        record: &Record,
        store: &Store,
        round: &mut Round<'_>,
    ) -> Result<ReadOutcome, Error> {
        if self.attempts.poison() == Some(noted(at, record.offset)) {
            let (offset, deaths) = (record.offset, MAX_DEATHS);
            tracing::error!(%at, offset, deaths, "the lists leave out a record of which the process has died too often");
            return Ok(ReadOutcome::Unreadable);
        }
        askwhen_process::fault::point_of("listing", || format!("{at}@{}", record.offset));
        take(at, record, store, round)
    }

    /// The next records of a partition. The first time it is read from one record before
    /// the position, which must be the record that was read last.
    fn fetch(&mut self, at: TopicPartition) -> Result<Vec<Record>, Error> {
        let next = self.positions[&at];
        if self.unchecked.contains(&at) {
            let mut records = self.reader.read(at, next - 1, ROUND_BYTES)?.records;
            let Some(first) = records.first() else { return Ok(records) };
            if first.offset == next - 1 && self.last.get(&at) == Some(&first.crc) {
                self.unchecked.remove(&at);
                records.remove(0);
                return Ok(records);
            }
            let bounds = self.log.bounds(at)?;
            let start = self.read_again(at, next, bounds);
            self.positions.insert(at, start);
            return Ok(Vec::new());
        }
        let chunk = self.reader.read(at, next, ROUND_BYTES)?;
        if chunk.at_end && chunk.records.is_empty() {
            // The rest up to the goal are offsets without records.
            self.goals.remove(&at);
        }
        Ok(chunk.records)
    }

    fn publish(&self) {
        let left =
            |(at, goal): (&TopicPartition, &u64)| goal.saturating_sub(self.positions.get(at).copied().unwrap_or(0));
        self.shared.set_left(self.goals.iter().map(left).sum());
    }

    fn say_unreadable(&mut self, at: TopicPartition, offset: u64) {
        askwhen_process::metrics::get().console_unreadable.with_label_values(&[at.topic.name()]).inc();
        if self.throttle.is_new(&at.to_string()) {
            tracing::error!(%at, offset, "the lists leave out a record that cannot be read");
        }
    }

    /// Removes old rows by the same clock by which topics are trimmed: a test clock makes
    /// nothing old.
    fn prune(&mut self, store: &Store, now: Millis, keep: RowRetention) -> Result<(), Error> {
        order::prune(store, List::Deliveries, now - keep.deliveries, PRUNED_AT_A_TIME, deliveries::forget)?;
        for (list, kept_for) in [(List::Decisions, keep.decisions), (List::Responses, keep.responses)] {
            let forget = |bytes: &[u8], batch: &mut WriteBatch<'_>| kept::forget(list, bytes, batch);
            order::prune(store, list, now - kept_for, PRUNED_AT_A_TIME, forget)?;
        }
        let retentions = self.shared.retentions.lock().expect("no panic holds this lock").clone();
        for ((project, survey_id), kept_for) in &retentions {
            kept::prune_survey(store, SurveyRef::new(project, survey_id), now - kept_for + 1, PRUNED_AT_A_TIME)?;
        }
        // Minutes are kept as long as answers, and single facts as long as decisions,
        // because a time span that begins or ends within a minute needs both.
        let minutes_before = now - keep.responses.max(stats::KEPT);
        let facts_before = now - keep.responses.min(keep.decisions);
        stats::prune(store, minutes_before, facts_before, PRUNED_AT_A_TIME)?;
        let rows = &askwhen_process::metrics::get().console_rows;
        rows.with_label_values(&["unknown_deliveries"]).set(unknown::prune(store, now - keep.deliveries)? as i64);
        let began = Instant::now();
        while began.elapsed() < LOOK_THROUGH && look_through::look_through(store, now)? {}
        if self.pruned_erased.is_none_or(|at| at.elapsed() >= PRUNE_ERASED_EVERY) {
            self.pruned_erased = Some(Instant::now());
            let oldest = self.oldest_sources()?;
            let left = erased::prune_erased(store, |partition| oldest.get(&partition).copied().unwrap_or(0))?;
            rows.with_label_values(&["erasures"]).set(left as i64);
        }
        Ok(())
    }

    /// By partition, the offset of the oldest journal record behind a row that is still
    /// listed, or behind a delivery that may be sent again.
    fn oldest_sources(&self) -> Result<BTreeMap<u32, u64>, Error> {
        let mut oldest = BTreeMap::new();
        for partition in 0..self.log.partitions() {
            let mut least = u64::MAX;
            for topic in [Topic::Deliveries, Topic::Decisions, Topic::Responses] {
                let at = TopicPartition { topic, partition };
                let bounds = self.log.bounds(at)?;
                if bounds.start == bounds.end {
                    continue;
                }
                let first = self.log.read(at, bounds.start, ROUND_BYTES)?;
                let source = first.iter().find_map(kept::source);
                least = least.min(source.map_or(0, |source| source.offset.saturating_sub(OUT_OF_ORDER)));
            }
            // Without any outputs, everything to come is newer than all erasures.
            oldest.insert(partition, if least == u64::MAX { 0 } else { least });
        }
        Ok(oldest)
    }
}

/// A record's place in the notes.
fn noted(at: TopicPartition, offset: u64) -> u64 {
    let topic = TOPICS.iter().position(|topic| *topic == at.topic).expect("a topic that is followed") as u32;
    // Beyond 8,192 partitions some share a number, and with it what is known of one offset.
    place((at.partition * TOPICS.len() as u32 + topic) as u16, offset)
}

fn stored<T: DeserializeOwned>(store: &Store, key: &[u8]) -> Result<Option<T>, Error> {
    let damaged = |e: serde_json::Error| Error::Damaged(format!("the positions of the lists are unreadable: {e}"));
    store.get(families::META, key)?.map(|bytes| serde_json::from_slice(&bytes).map_err(damaged)).transpose()
}

/// Removes, once, what earlier versions noted of facts a second time.
fn forget_known_facts(store: &Store) -> Result<(), Error> {
    if store.get(families::META, FACTS_KEY)?.is_some() {
        return Ok(());
    }
    let mut batch = Batch::default();
    let first = store.ascending(families::INDEX, &[order::KNOWN_FACTS], 1)?;
    if first.first().is_some_and(|(key, _)| key.first() == Some(&order::KNOWN_FACTS)) {
        batch.delete_range(families::INDEX, [order::KNOWN_FACTS], [order::KNOWN_FACTS + 1]);
    }
    batch.put(families::META, FACTS_KEY, []);
    Ok(store.write(batch)?)
}

/// Empties a projection of another format or log; its contents are in the topics.
fn make_anew(store: &Store, incarnation: &str) -> Result<(), Error> {
    let mut batch = Batch::default();
    for family in [families::ENTRIES, families::INDEX, families::META] {
        batch.delete_range(family, [0], [0xff; 64]);
    }
    batch.put(families::META, FORMAT_KEY, FORMAT);
    batch.put(families::META, INCARNATION_KEY, incarnation);
    Ok(store.write(batch)?)
}

fn take(at: TopicPartition, record: &Record, store: &Store, round: &mut Round<'_>) -> Result<ReadOutcome, Error> {
    let (value, topic) = (record.value.as_deref().unwrap_or_default(), at.topic);
    let source = kept::source(record);
    match topic {
        Topic::Deliveries => match serde_json::from_slice(value) {
            Ok(DeliveryRecord::Deliver(delivery)) => {
                let place = Some(RecordPosition { partition: at.partition, offset: record.offset });
                deliveries::apply_delivery(*delivery, place, source, round)?;
            }
            Ok(DeliveryRecord::CancelUser { project, user_id }) => match source {
                Some(source) => kept::apply_erasure(UserRef::new(&project, &user_id), source, store, round)?,
                None => return Ok(ReadOutcome::Unreadable),
            },
            Ok(DeliveryRecord::Endpoint { .. } | DeliveryRecord::Health { .. } | DeliveryRecord::Skip { .. }) => {}
            Err(_) => return Ok(ReadOutcome::Unreadable),
        },
        Topic::Attempts => match serde_json::from_slice(value) {
            Ok(attempt) => deliveries::apply_attempt(attempt, round)?,
            Err(_) => return Ok(ReadOutcome::Unreadable),
        },
        Topic::Decisions | Topic::Responses => match source {
            Some(source) if topic == Topic::Decisions => return kept::apply_decision(value, source, round),
            Some(source) => return kept::apply_response(value, source, round),
            None => return Ok(ReadOutcome::Unreadable),
        },
        Topic::Displays => {
            let Ok(seen) = serde_json::from_slice::<DisplayRecord>(value) else { return Ok(ReadOutcome::Unreadable) };
            let name = if seen.kind == EventType::Dismissed { "dismissed" } else { "displayed" };
            let fact = OfferFact { at: seen.occurred_at, name, id: &seen.offer_id };
            stats::count_fact(&mut round.batch, SurveyRef::new(&seen.project, &seen.survey_id), fact)?;
        }
        _ => match serde_json::from_slice(value) {
            Ok(retry) => deliveries::apply_retry(retry, round)?,
            Err(_) => return Ok(ReadOutcome::Unreadable),
        },
    }
    Ok(ReadOutcome::Read)
}
