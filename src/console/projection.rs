//! Follows what the engine and the delivery put out, and keeps the lists.

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::order::{self, Round};
use super::stats::{self, Fact};
use super::{deliveries, kept};
use crate::clock::Clock;
use crate::domain::endpoint::EventType;
use crate::domain::id;
use crate::domain::message::Seen;
use crate::domain::time::Millis;
use crate::log::{At, Log, Reader, Record};
use crate::store::{self, Batch, Family, Store};
use crate::thread::{Bell, News, Service};
use crate::wire::listing::{Filter, List, Page, Place};
use crate::wire::output::DeliveryRecord;
use crate::wire::topic::Topic;

/// In this order in every round: what an erasure takes away is known before
/// what came of the records before it.
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
const FORMAT_KEY: &[u8] = b"format";
const FORMAT: &[u8] = &[2];
const ROUND_BYTES: usize = 1 << 20;
const PRUNE_EVERY: Duration = Duration::from_secs(10);
/// How long requests may take that read a store which is to be closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
/// Rows of each kind taken away at a time.
const PRUNED_AT_A_TIME: usize = 50_000;

/// How long rows are kept, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    pub deliveries: Millis,
    pub decisions: Millis,
    pub responses: Millis,
}

/// Opens the projection's store; with `true` the one that is there is damaged, and
/// is set aside first.
pub type OpenStore = Box<dyn Fn(bool) -> Result<Arc<Store>, String> + Send>;

/// The store in use; `None` while a damaged one is made anew.
type Slot = Arc<RwLock<Option<Arc<Store>>>>;

pub struct Console {
    store: Slot,
    following: Mutex<Option<Service>>,
}

impl Console {
    /// Starts to follow the topics.
    ///
    /// # Errors
    /// When the store cannot be opened or the thread cannot be started.
    pub fn start(log: Log, open: OpenStore, clock: Clock, keep: Keep) -> Result<Console, String> {
        let store: Slot = Arc::new(RwLock::new(Some(open(false)?)));
        let (bell, slot) = (Arc::new(Bell::default()), store.clone());
        let own_bell = bell.clone();
        let mut projection: Option<Projection> = None;
        let following = Service::spawn("console", bell, move |turns| {
            let mut news = News::default();
            let mut pruned = Instant::now();
            while turns.go_on() {
                let in_use = slot.read().expect("no panic holds this lock").clone();
                let Some(own_store) = in_use.filter(|store| !store.is_damaged()) else {
                    // Whoever opens it anew waits until nobody has it.
                    projection = None;
                    if let Err(detail) = make_again(&slot, &open) {
                        if news.is_new(&detail) {
                            tracing::error!(detail, "the console's projection cannot be made again");
                        }
                        turns.wait(Duration::from_secs(1));
                    }
                    continue;
                };
                if pruned.elapsed() >= PRUNE_EVERY {
                    pruned = Instant::now();
                    // As the topics are trimmed: a test clock that is ahead ages nothing.
                    if let Err(detail) = prune(&own_store, clock.wall(), keep)
                        && news.is_new(&detail)
                    {
                        tracing::error!(detail, "old rows of the console's lists cannot be removed");
                    }
                }
                let new = || Projection::new(log.clone(), own_store.clone(), own_bell.clone());
                match projection.get_or_insert_with(new).step() {
                    Ok(true) => {}
                    Ok(false) => turns.wait(Duration::from_millis(500)),
                    Err(detail) => {
                        if news.is_new(&detail) {
                            tracing::error!(detail, "the console's projection pauses");
                        }
                        turns.wait(Duration::from_secs(1));
                    }
                }
            }
        });
        let following = following.map_err(|e| e.to_string())?;
        Ok(Console { store, following: Mutex::new(Some(following)) })
    }

    /// Lists over a store that a [`Projection`] beside it keeps, without a thread.
    pub fn over(store: Arc<Store>) -> Console {
        Console { store: Arc::new(RwLock::new(Some(store))), following: Mutex::new(None) }
    }

    fn store(&self) -> Result<Arc<Store>, String> {
        let store = self.store.read().expect("no panic holds this lock").clone();
        store.ok_or_else(|| "the lists were damaged and are being made again from the topics".into())
    }

    pub fn stop(&self) {
        drop(self.following.lock().expect("no panic holds this lock").take());
    }

    /// Newest first.
    ///
    /// # Errors
    /// A cursor that is none, or a store that cannot be read.
    pub fn list(
        &self,
        list: List,
        project: &str,
        filter: &Filter,
        (cursor, limit): (Option<&str>, usize),
    ) -> Result<Page, String> {
        let store = self.store()?;
        order::page(&store, (list, project, filter), (cursor, limit), |bytes| {
            let body = match list {
                List::Deliveries => {
                    let row = deliveries::read(&bytes)?;
                    return Ok(row.fits(filter).then(|| deliveries::shown(&row, false)));
                }
                List::Decisions | List::Responses => kept::read(&bytes)?.value(),
            };
            let fits = match list {
                List::Decisions => kept::fits_decision(&body, filter),
                _ => kept::fits_response(&body, filter),
            };
            Ok(fits.then_some(body))
        })
    }

    /// One delivery with all its attempts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn delivery(&self, project: &str, delivery_id: &str) -> Result<Option<Value>, String> {
        let bytes = self.store()?.get(Family::Index, &order::row(List::Deliveries, delivery_id))?;
        let row = bytes.map(|bytes| deliveries::read(&bytes)).transpose()?;
        Ok(row.filter(|row| row.is_of(project)).map(|row| deliveries::shown(&row, true)))
    }

    /// Where a delivery's record stands in topic `deliveries`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn place(&self, project: &str, delivery_id: &str) -> Result<Option<Place>, String> {
        let bytes = self.store()?.get(Family::Index, &order::row(List::Deliveries, delivery_id))?;
        let row = bytes.map(|bytes| deliveries::read(&bytes)).transpose()?;
        Ok(row.filter(|row| row.is_of(project)).and_then(|row| row.place()))
    }

    /// What an endpoint has missed, oldest first, and what nobody has sent again.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recoverable(
        &self,
        (project, endpoint_id): (&str, &str),
        span: (Millis, Millis),
        limit: usize,
    ) -> Result<Vec<Place>, String> {
        let store = self.store()?;
        let mut places = std::collections::VecDeque::new();
        order::between(&store, (List::Deliveries, project), span, |bytes| {
            let row = deliveries::read(&bytes)?;
            let Some(place) = row.place().filter(|_| row.is_missed_by(endpoint_id)) else { return Ok(()) };
            let whose = (project, row.user_id());
            if row.source().map_or(Ok(false), |source| kept::is_erased(&store, whose, source))? {
                return Ok(());
            }
            let successor = order::row(List::Deliveries, &id::successor(&place.delivery_id));
            if store.get(Family::Index, &successor)?.is_none() {
                places.push_front(place);
                // Newest first is how they are met: the oldest stay.
                places.truncate(limit);
            }
            Ok(())
        })?;
        Ok(places.into())
    }

    /// Whether a user was erased after a record of the journal.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn is_erased(&self, whose: (&str, &str), source: (u32, u64)) -> Result<bool, String> {
        let store = self.store()?;
        kept::is_erased(&store, whose, source)
    }

    /// How a survey fared from `since`, up to and without `until`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stats(&self, of: (&str, &str), since: Option<Millis>, until: Option<Millis>) -> Result<Value, String> {
        let store = self.store()?;
        stats::of(&store, of, since, until)
    }
}

/// A damaged store is set aside, and the lists begin anew.
fn make_again(slot: &Slot, open: &OpenStore) -> Result<(), String> {
    let mut in_use = slot.write().expect("no panic holds this lock");
    let deadline = Instant::now() + CLOSED_WITHIN;
    // A request may still be reading.
    while in_use.as_ref().is_some_and(|store| Arc::strong_count(store) > 1) {
        if Instant::now() > deadline {
            return Err("a list is still being read".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let was_damaged = in_use.take().is_some();
    *in_use = Some(open(was_damaged)?);
    Ok(())
}

fn prune(store: &Store, now: Millis, keep: Keep) -> Result<(), String> {
    let user_of = |bytes: &[u8]| kept::read(bytes).ok().map(|kept| kept.user_id().to_owned());
    order::prune(store, List::Deliveries, now - keep.deliveries, PRUNED_AT_A_TIME, |bytes| {
        deliveries::read(bytes).ok().map(|row| row.user_id().to_owned())
    })?;
    order::prune(store, List::Decisions, now - keep.decisions, PRUNED_AT_A_TIME, user_of)?;
    order::prune(store, List::Responses, now - keep.responses, PRUNED_AT_A_TIME, user_of)?;
    stats::prune(store, now, now - keep.responses.min(keep.decisions), PRUNED_AT_A_TIME)
}

/// What follows the topics, a round at a time.
pub struct Projection {
    log: Log,
    reader: Reader,
    store: Arc<Store>,
    /// `None` until they have been read from the store.
    positions: Option<Positions>,
}

impl Projection {
    pub fn new(log: Log, store: Arc<Store>, bell: Arc<Bell>) -> Projection {
        let reader = log.reader("console", bell);
        Projection { log, reader, store, positions: None }
    }

    /// One round over all topics and partitions; gives whether anything was read.
    ///
    /// # Errors
    /// When the log or the store cannot be read; the next round begins at the
    /// stored positions.
    pub fn step(&mut self) -> Result<bool, String> {
        follow(&self.log, &mut self.reader, &self.store, &mut self.positions)
    }
}

/// One round over all topics and partitions; gives whether anything was read.
fn follow(log: &Log, reader: &mut Reader, store: &Store, known: &mut Option<Positions>) -> Result<bool, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut positions = match known.take() {
        Some(positions) => positions,
        None => {
            make_anew(store).map_err(|e| text(&e))?;
            let stored = store.get(Family::Meta, POSITIONS).map_err(|e| text(&e))?;
            let stored: Positions =
                stored.map_or_else(BTreeMap::new, |bytes| serde_json::from_slice(&bytes).unwrap_or_default());
            from_where_the_log_begins(log, stored).map_err(|e| text(&e))?
        }
    };
    let mut round = Round::new(store);
    let mut read = false;
    for partition in 0..log.partitions() {
        let mut fetch = |topic: Topic, positions: &BTreeMap<String, u64>| {
            let at = At { topic, partition };
            let next = positions.get(&at.to_string()).copied().unwrap_or(0);
            reader.read(at, next, ROUND_BYTES).map_err(|e| text(&e))
        };
        // In any order: what an attempt says is kept until its delivery comes.
        let mut parts = Vec::new();
        for topic in TOPICS {
            parts.push((topic, fetch(topic, &positions)?.records));
        }
        for (topic, records) in parts {
            for record in records {
                read = true;
                positions.insert(At { topic, partition }.to_string(), record.offset + 1);
                take(At { topic, partition }, &record, store, &mut round)?;
            }
        }
    }
    if !read {
        *known = Some(positions);
        return Ok(false);
    }
    let mut batch = round.into_batch();
    batch.put(Family::Meta, POSITIONS, serde_json::to_vec(&positions).map_err(|e| text(&e))?);
    store.write(batch).map_err(|e| text(&e))?;
    *known = Some(positions);
    Ok(true)
}

/// A projection of another format is thrown away: everything in it is in the topics.
fn make_anew(store: &Store) -> Result<(), store::Error> {
    if store.get(Family::Meta, FORMAT_KEY)?.is_some_and(|format| format == FORMAT) {
        return Ok(());
    }
    let mut batch = Batch::default();
    for family in [Family::Entries, Family::Index, Family::Meta] {
        batch.delete_range(family, [0], [0xff; 64]);
    }
    batch.put(Family::Meta, FORMAT_KEY, FORMAT);
    store.write(batch)
}

fn from_where_the_log_begins(log: &Log, mut positions: Positions) -> Result<Positions, crate::log::Error> {
    let all: Vec<At> = TOPICS
        .iter()
        .flat_map(|topic| (0..log.partitions()).map(|partition| At { topic: *topic, partition }))
        .collect();
    for (at, bounds) in all.iter().zip(log.all_bounds(&all)?) {
        let next = positions.entry(at.to_string()).or_default();
        *next = (*next).max(bounds.start);
    }
    Ok(positions)
}

/// Next offset by topic and partition.
type Positions = BTreeMap<String, u64>;

/// What cannot be read is the delivery's to report; a list just leaves it out.
fn take(at: At, record: &Record, store: &Store, round: &mut Round<'_>) -> Result<(), String> {
    let (value, topic) = (record.value.as_deref().unwrap_or_default(), at.topic);
    match topic {
        Topic::Deliveries => match serde_json::from_slice(value) {
            Ok(DeliveryRecord::Deliver(delivery)) => {
                deliveries::delivered(*delivery, ((at.partition, record.offset), kept::source(record)), round)
            }
            Ok(DeliveryRecord::CancelUser { project, user_id }) => match kept::source(record) {
                Some(source) => kept::erased((&project, &user_id), source, store, round),
                None => Ok(()),
            },
            Ok(DeliveryRecord::Endpoint { .. } | DeliveryRecord::Health { .. }) | Err(_) => Ok(()),
        },
        Topic::Attempts => {
            serde_json::from_slice(value).map_or(Ok(()), |attempt| deliveries::attempted(attempt, round))
        }
        Topic::Decisions | Topic::Responses => match kept::source(record) {
            Some(source) if topic == Topic::Decisions => kept::decided(value, source, round),
            Some(source) => kept::responded(value, source, round),
            None => Ok(()),
        },
        Topic::Displays => {
            let Ok(seen) = serde_json::from_slice::<Seen>(value) else { return Ok(()) };
            let name = if seen.kind == EventType::Dismissed { "dismissed" } else { "displayed" };
            let fact = Fact { at: seen.occurred_at, name, id: &seen.offer_id };
            stats::happened(round, (&seen.project, &seen.survey_id), fact)
        }
        _ => serde_json::from_slice(value).map_or(Ok(()), |retry| deliveries::waits(&retry, round)),
    }
}
