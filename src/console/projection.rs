//! Deliveries with their attempts, by id and newest first per project.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::domain::message::Delivery;
use crate::domain::time::{self, Millis};
use crate::log::{At, Log, Reader};
use crate::store::{Batch, Family, Store, keys};
use crate::thread::{Bell, News, Service};
use crate::wire::output::{AttemptRecord, DeliveryRecord, Ended, RetryRecord};
use crate::wire::topic::Topic;

const TOPICS: [Topic; 5] = [Topic::Deliveries, Topic::Attempts, Topic::Retry1m, Topic::Retry1h, Topic::Retry1d];
const POSITIONS: &[u8] = b"positions";
const ROUND_BYTES: usize = 1 << 20;
/// Attempts shown of one delivery; a delivery has at most a few dozen.
const MAX_ATTEMPTS: usize = 200;
/// Rows looked at for one page of a narrow filter.
const MAX_SCANNED: usize = 20_000;

/// What a list is narrowed to; `None` takes everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    pub endpoint_id: Option<String>,
    pub status: Option<String>,
    pub survey_id: Option<String>,
    pub user_id: Option<String>,
    pub since: Option<Millis>,
    pub until: Option<Millis>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    delivery_id: String,
    message_id: String,
    endpoint_id: String,
    project: String,
    kind: String,
    survey_id: Option<String>,
    user_id: String,
    created_at: Millis,
    status: String,
    attempt_count: u32,
    next_attempt_at: Option<Millis>,
    reason: Option<String>,
    attempts: Vec<AttemptRow>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct AttemptRow {
    attempt: u32,
    started_at: Millis,
    duration_ms: u64,
    http_status: Option<u16>,
    outcome: String,
    error: Option<String>,
    response: Option<String>,
}

pub struct Console {
    store: Arc<Store>,
    following: Mutex<Option<Service>>,
}

impl Console {
    /// Starts to follow the topics.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(log: Log, store: Arc<Store>) -> std::io::Result<Console> {
        let (bell, own_store) = (Arc::new(Bell::default()), store.clone());
        let mut reader = log.reader("console", bell.clone());
        let following = Service::spawn("console", bell, move |turns| {
            let mut positions = None;
            let mut news = News::default();
            while turns.go_on() {
                match follow(&log, &mut reader, &own_store, &mut positions) {
                    Ok(true) => {}
                    Ok(false) => turns.wait(Duration::from_millis(500)),
                    Err(detail) => {
                        if news.is_new(&detail) {
                            tracing::error!(detail, "the console's projection pauses");
                        }
                        positions = None;
                        turns.wait(Duration::from_secs(1));
                    }
                }
            }
        })?;
        Ok(Console { store, following: Mutex::new(Some(following)) })
    }

    pub fn stop(&self) {
        drop(self.following.lock().expect("no panic holds this lock").take());
    }

    /// Newest first.
    ///
    /// # Errors
    /// A cursor that is none, or a store that cannot be read.
    pub fn deliveries(
        &self,
        project: &str,
        filter: &DeliveryFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Value>, Option<String>), String> {
        let newest = keys::named(project, &"\u{10ffff}".repeat(2));
        let mut from = match cursor {
            None => newest,
            Some(cursor) => {
                let place = hex::decode(cursor).map_err(|_| "cursor".to_owned())?;
                [keys::named(project, ""), place].concat()
            }
        };
        let prefix = keys::named(project, "");
        let mut rows = Vec::new();
        let mut scanned = 0;
        loop {
            let entries = self.store.descending(Family::Entries, &from, 256).map_err(|e| e.to_string())?;
            let Some((last, _)) = entries.last().cloned() else { return Ok((rows, None)) };
            for (key, id) in entries {
                if !key.starts_with(&prefix) {
                    return Ok((rows, None));
                }
                scanned += 1;
                if rows.len() == limit || scanned > MAX_SCANNED {
                    return Ok((rows, Some(hex::encode(&key[prefix.len()..]))));
                }
                let Some(row) = load(&self.store, &id)? else { continue };
                if filter.takes(&row) {
                    rows.push(shown(&row, false));
                }
            }
            let Some(before) = previous(&last) else { return Ok((rows, None)) };
            from = before;
        }
    }

    /// One delivery with all its attempts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn delivery(&self, project: &str, delivery_id: &str) -> Result<Option<Value>, String> {
        let row = load(&self.store, delivery_id.as_bytes())?;
        Ok(row.filter(|row| row.project == project).map(|row| shown(&row, true)))
    }
}

/// The largest key below this one that can exist here: keys end in an id, so
/// cutting the last byte down is below it and above everything smaller.
fn previous(key: &[u8]) -> Option<Vec<u8>> {
    let mut key = key.to_vec();
    let last = key.last_mut()?;
    if *last == 0 {
        key.pop();
        return Some(key);
    }
    *last -= 1;
    key.push(0xff);
    Some(key)
}

impl DeliveryFilter {
    fn takes(&self, row: &Row) -> bool {
        let same = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|w| w == actual);
        same(&self.endpoint_id, &row.endpoint_id)
            && same(&self.status, &row.status)
            && same(&self.user_id, &row.user_id)
            && self.survey_id.as_ref().is_none_or(|w| row.survey_id.as_ref() == Some(w))
            && self.since.is_none_or(|since| row.created_at >= since)
            && self.until.is_none_or(|until| row.created_at < until)
    }
}

fn load(store: &Store, delivery_id: &[u8]) -> Result<Option<Row>, String> {
    let bytes = store.get(Family::Index, delivery_id).map_err(|e| e.to_string())?;
    bytes.map(|b| postcard::from_bytes(&b).map_err(|e| e.to_string())).transpose()
}

fn shown(row: &Row, whole: bool) -> Value {
    let mut value = json!({
        "delivery_id": row.delivery_id,
        "message_id": row.message_id,
        "endpoint_id": row.endpoint_id,
        "type": row.kind,
        "survey_id": row.survey_id,
        "user_id": row.user_id,
        "status": row.status,
        "attempt_count": row.attempt_count,
        "next_attempt_at": row.next_attempt_at.map(time::format_time),
        "reason": row.reason,
        "created_at": time::format_time(row.created_at),
    });
    if whole {
        let attempts = row.attempts.iter().map(|a| {
            let mut attempt = json!({
                "attempt": a.attempt,
                "started_at": time::format_time(a.started_at),
                "duration_ms": a.duration_ms,
                "http_status": a.http_status,
                "outcome": a.outcome,
            });
            if let Some(error) = &a.error {
                attempt["error"] = error.as_str().into();
            }
            if let Some(response) = &a.response {
                attempt["response"] = response.as_str().into();
            }
            attempt
        });
        value["attempts"] = attempts.collect();
    }
    value
}

/// One round over all topics and partitions; gives whether anything was read.
fn follow(log: &Log, reader: &mut Reader, store: &Store, known: &mut Option<Positions>) -> Result<bool, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut positions = match known.take() {
        Some(positions) => positions,
        None => {
            let stored = store.get(Family::Meta, POSITIONS).map_err(|e| text(&e))?;
            let stored: Positions =
                stored.map_or_else(BTreeMap::new, |bytes| serde_json::from_slice(&bytes).unwrap_or_default());
            from_where_the_log_begins(log, stored).map_err(|e| text(&e))?
        }
    };
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut batch = Batch::default();
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
                let value = record.value.as_deref().unwrap_or_default();
                take(topic, value, (store, &mut rows, &mut batch))?;
            }
        }
    }
    if !read {
        *known = Some(positions);
        return Ok(false);
    }
    for (id, row) in rows {
        batch.put(Family::Index, id, postcard::to_stdvec(&row).map_err(|e| text(&e))?);
    }
    batch.put(Family::Meta, POSITIONS, serde_json::to_vec(&positions).map_err(|e| text(&e))?);
    store.write(batch).map_err(|e| text(&e))?;
    *known = Some(positions);
    Ok(true)
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
type Into<'a> = (&'a Store, &'a mut BTreeMap<String, Row>, &'a mut Batch);

/// What cannot be read is the delivery's to report; a list just leaves it out.
fn take(topic: Topic, value: &[u8], (store, rows, batch): Into<'_>) -> Result<(), String> {
    match topic {
        Topic::Deliveries => {
            let Ok(DeliveryRecord::Deliver(delivery)) = serde_json::from_slice(value) else { return Ok(()) };
            let known = row_of(&delivery.delivery_id, store, rows)?;
            if known.as_ref().is_some_and(|row| !row.is_blank()) {
                return Ok(());
            }
            let order = keys::timed(delivery.created_at, delivery.delivery_id.as_bytes());
            let key = [keys::named(&delivery.project, ""), order].concat();
            batch.put(Family::Entries, key, delivery.delivery_id.as_bytes());
            match known {
                Some(row) => row.learn(*delivery),
                None => {
                    let mut row = Row::blank(&delivery.delivery_id);
                    row.next_attempt_at = Some(delivery.created_at);
                    row.learn(*delivery);
                    rows.insert(row.delivery_id.clone(), row);
                }
            }
        }
        Topic::Attempts => {
            let Ok(attempt) = serde_json::from_slice::<AttemptRecord>(value) else { return Ok(()) };
            attempted(row_or_blank(&attempt.delivery_id, store, rows)?, attempt);
        }
        _ => {
            let Ok(retry) = serde_json::from_slice::<RetryRecord>(value) else { return Ok(()) };
            let row = row_or_blank(&retry.delivery.delivery_id, store, rows)?;
            if row.status == "waiting" && retry.attempt >= row.attempt_count {
                row.next_attempt_at = Some(retry.due_at);
            }
        }
    }
    Ok(())
}

fn row_of<'a>(id: &str, store: &Store, rows: &'a mut BTreeMap<String, Row>) -> Result<Option<&'a mut Row>, String> {
    if !rows.contains_key(id)
        && let Some(row) = load(store, id.as_bytes())?
    {
        rows.insert(id.to_owned(), row);
    }
    Ok(rows.get_mut(id))
}

fn row_or_blank<'a>(id: &str, store: &Store, rows: &'a mut BTreeMap<String, Row>) -> Result<&'a mut Row, String> {
    if row_of(id, store, rows)?.is_none() {
        rows.insert(id.to_owned(), Row::blank(id));
    }
    Ok(rows.get_mut(id).expect("just looked up or inserted"))
}

impl Row {
    /// Of a delivery that is only spoken of so far.
    fn blank(delivery_id: &str) -> Row {
        Row {
            delivery_id: delivery_id.to_owned(),
            message_id: String::new(),
            endpoint_id: String::new(),
            project: String::new(),
            kind: String::new(),
            survey_id: None,
            user_id: String::new(),
            created_at: 0,
            status: "pending".into(),
            attempt_count: 0,
            next_attempt_at: None,
            reason: None,
            attempts: Vec::new(),
        }
    }

    fn is_blank(&self) -> bool {
        self.kind.is_empty()
    }

    fn learn(&mut self, delivery: Delivery) {
        self.message_id = delivery.message_id;
        self.endpoint_id = delivery.endpoint_id;
        self.project = delivery.project;
        self.kind = delivery.message.kind.name().to_owned();
        self.survey_id = delivery.survey_id;
        self.user_id = delivery.user_id;
        self.created_at = delivery.created_at;
    }
}

fn attempted(row: &mut Row, attempt: AttemptRecord) {
    let cancelled = attempt.ended == Some(Ended::Cancelled);
    let known = row.attempts.iter().any(|a| a.attempt == attempt.attempt);
    if row.status == "delivered" || (known && !cancelled) {
        return;
    }
    row.attempt_count = row.attempt_count.max(attempt.attempt);
    row.next_attempt_at = attempt.next_due_at;
    row.reason = attempt.reason;
    row.status = match attempt.ended {
        Some(Ended::Delivered) => "delivered",
        Some(Ended::Dead) => "dead",
        Some(Ended::Cancelled) => "cancelled",
        None => "waiting",
    }
    .into();
    if attempt.attempt > 0 && !known && row.attempts.len() < MAX_ATTEMPTS {
        row.attempts.push(AttemptRow {
            attempt: attempt.attempt,
            started_at: attempt.started_at,
            duration_ms: attempt.duration_ms,
            http_status: attempt.http_status,
            outcome: attempt.outcome.name().to_owned(),
            error: attempt.error,
            response: attempt.response,
        });
    }
}
