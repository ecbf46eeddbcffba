//! Deliveries with their attempts.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::Error;
use super::order::{self, WriteBatch};
use super::{kept, unknown};
use askwhen_domain::endpoint::EventType;
use askwhen_domain::id::RecordPosition;
use askwhen_domain::message::Delivery;
use askwhen_domain::refs::UserRef;
use askwhen_domain::time::{self, Millis};
use askwhen_wire::listing::{DeliveryPlace, Filter, List};
use askwhen_wire::topics::{AttemptEnd, AttemptRecord, RetryRecord, Source};

/// Attempts shown of one delivery; a delivery has at most a few dozen.
const MAX_ATTEMPTS: usize = 200;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryRow {
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
    /// Its record in topic `deliveries`.
    place: Option<RecordPosition>,
    /// The journal record behind it.
    source: Option<RecordPosition>,
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

/// Takes a delivery; in any order with what its attempts say.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_delivery(
    delivery: Delivery,
    place: Option<RecordPosition>,
    source: Option<RecordPosition>,
    batch: &mut WriteBatch<'_>,
) -> Result<(), Error> {
    let id = delivery.delivery_id.clone();
    let known = find(&id, batch)?;
    if let Some(row) = known.as_ref().filter(|row| !row.is_blank()) {
        // A retry record came first, which does not say where the delivery's own stands.
        if row.place.is_none() && place.is_some() {
            keep(&DeliveryRow { place, ..row.clone() }, batch)?;
        }
        return Ok(());
    }
    let user = UserRef::new(&delivery.project, &delivery.user_id);
    for place in order::places(List::Deliveries, user, delivery.created_at, &id) {
        batch.place(place, &id);
    }
    let due_at = delivery.due_at();
    let mut row = match known {
        Some(row) => {
            unknown::forget(row.created_at, &id, batch);
            row
        }
        None => DeliveryRow { next_attempt_at: Some(due_at), ..DeliveryRow::blank(&id, due_at) },
    };
    row.learn(delivery);
    (row.place, row.source) = (place, source);
    row.scrub_if_erased(batch)?;
    keep(&row, batch)
}

/// What is known of a delivery so far, also if only its attempts have been read.
fn known_or_blank(id: &str, at: Millis, batch: &mut WriteBatch<'_>) -> Result<DeliveryRow, Error> {
    if let Some(row) = find(id, batch)? {
        return Ok(row);
    }
    unknown::remember(at, id, batch);
    Ok(DeliveryRow::blank(id, at))
}

/// # Errors
/// When the store cannot be read.
pub fn apply_attempt(attempt: AttemptRecord, batch: &mut WriteBatch<'_>) -> Result<(), Error> {
    let id = attempt.delivery_id.clone();
    let mut row = known_or_blank(&id, attempt.started_at, batch)?;
    row.attempted(attempt);
    row.scrub_if_erased(batch)?;
    keep(&row, batch)
}

/// Takes a retry record; it tells the whole delivery, should its own record not
/// be kept any more.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_retry(retry: RetryRecord, batch: &mut WriteBatch<'_>) -> Result<(), Error> {
    let id = retry.delivery.delivery_id.clone();
    if find(&id, batch)?.is_none_or(|row| row.is_blank()) {
        let source = Source::parse(retry.source.as_bytes()).map(|source| source.position());
        apply_delivery(*retry.delivery, None, source, batch)?;
    }
    let Some(mut row) = find(&id, batch)? else { return Ok(()) };
    if row.status == "waiting" && retry.attempt >= row.attempt_count {
        row.next_attempt_at = Some(retry.due_at);
    }
    keep(&row, batch)
}

/// Takes away what receivers have said about a user who is erased; that and how
/// they were told stays on record.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_erasure(id: &str, at: RecordPosition, batch: &mut WriteBatch<'_>) -> Result<(), Error> {
    let Some(mut row) = find(id, batch)? else { return Ok(()) };
    if row.source.is_none_or(|source| source < at) {
        row.scrub();
        keep(&row, batch)?;
    }
    Ok(())
}

fn find(id: &str, batch: &WriteBatch<'_>) -> Result<Option<DeliveryRow>, Error> {
    batch.get(&order::row(List::Deliveries, id))?.map(|bytes| read(&bytes)).transpose()
}

pub fn keep(row: &DeliveryRow, batch: &mut WriteBatch<'_>) -> Result<(), Error> {
    let bytes = postcard::to_stdvec(row).expect("a row serialises");
    batch.put(order::row(List::Deliveries, &row.delivery_id), bytes);
    Ok(())
}

/// # Errors
/// When it is none: the store is damaged.
pub fn read(bytes: &[u8]) -> Result<DeliveryRow, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Damaged(format!("the row of a delivery is unreadable: {e}")))
}

/// `resent_as`: the delivery that a recovery has sent in its place.
pub fn shown(row: &DeliveryRow, resent_as: Option<String>, whole: bool) -> Value {
    let mut value = json!({
        "delivery_id": row.delivery_id,
        "message_id": row.message_id,
        "endpoint_id": row.endpoint_id,
        "type": row.kind,
        "survey_id": row.survey_id,
        "user_id": row.user_id,
        "status": row.status(resent_as.is_some()),
        "attempt_count": row.attempt_count,
        "next_attempt_at": row.next_attempt_at.map(time::format_time),
        "reason": row.reason,
        "created_at": time::format_time(row.created_at),
    });
    if let Some(resent_as) = resent_as {
        value["resent_as"] = resent_as.into();
    }
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

impl DeliveryRow {
    /// The row of a delivery of which only attempts are known so far; the first of them
    /// was at this time.
    fn blank(delivery_id: &str, at: Millis) -> DeliveryRow {
        DeliveryRow {
            delivery_id: delivery_id.to_owned(),
            message_id: String::new(),
            endpoint_id: String::new(),
            project: String::new(),
            kind: String::new(),
            survey_id: None,
            user_id: String::new(),
            created_at: at,
            status: "pending".into(),
            attempt_count: 0,
            next_attempt_at: None,
            reason: None,
            attempts: Vec::new(),
            place: None,
            source: None,
        }
    }

    pub fn place(&self) -> Option<DeliveryPlace> {
        let RecordPosition { partition, offset } = self.place?;
        Some(DeliveryPlace { delivery_id: self.delivery_id.clone(), partition, offset })
    }

    /// Whether an endpoint never took it, and an operator may want it sent again.
    pub fn is_missed_by(&self, endpoint_id: &str) -> bool {
        let not_there = matches!(self.reason.as_deref(), Some("endpoint_disabled" | "endpoint_removed"));
        let missed = self.status == "dead" || (self.status == "cancelled" && not_there);
        missed && self.endpoint_id == endpoint_id && self.kind != EventType::Test.name()
    }

    /// Whether only its attempts have been read so far.
    pub fn is_blank(&self) -> bool {
        self.kind.is_empty()
    }

    /// When it was created; of a blank one, when its first known attempt was.
    pub fn created_at(&self) -> Millis {
        self.created_at
    }

    /// Version 0.1.0 did not note the time of a blank one.
    pub fn date(&mut self, at: Millis) {
        self.created_at = at;
    }

    fn scrub_if_erased(&mut self, batch: &WriteBatch<'_>) -> Result<(), Error> {
        let Some(source) = self.source else { return Ok(()) };
        if kept::is_erased_in(batch, UserRef::new(&self.project, &self.user_id), source)? {
            self.scrub();
        }
        Ok(())
    }

    fn scrub(&mut self) {
        for attempt in &mut self.attempts {
            (attempt.error, attempt.response) = (None, None);
        }
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

    fn attempted(&mut self, attempt: AttemptRecord) {
        let cancelled = attempt.ended == Some(AttemptEnd::Cancelled);
        let known = self.attempts.iter().any(|a| a.attempt == attempt.attempt);
        if self.status == "delivered" || (known && !cancelled) {
            return;
        }
        self.attempt_count = self.attempt_count.max(attempt.attempt);
        self.next_attempt_at = attempt.next_due_at;
        self.reason = attempt.reason;
        self.status = match attempt.ended {
            Some(AttemptEnd::Delivered) => "delivered",
            Some(AttemptEnd::Dead) => "dead",
            Some(AttemptEnd::Cancelled) => "cancelled",
            None => "waiting",
        }
        .into();
        if attempt.attempt > 0 && !known && self.attempts.len() < MAX_ATTEMPTS {
            self.attempts.push(AttemptRow {
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

    pub fn source(&self) -> Option<RecordPosition> {
        self.source
    }

    pub fn user_id(&self) -> &str {
        &self.user_id
    }

    pub fn is_of(&self, project: &str) -> bool {
        self.project == project
    }

    pub fn delivery_id(&self) -> &str {
        &self.delivery_id
    }

    /// Whether it ended, and not with its receiver.
    pub fn came_to_nothing(&self) -> bool {
        matches!(self.status.as_str(), "dead" | "cancelled")
    }

    fn status(&self, is_resent: bool) -> &str {
        if is_resent { "resent" } else { &self.status }
    }

    pub fn fits(&self, filter: &Filter, is_resent: bool) -> bool {
        let same = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|w| w == actual);
        same(&filter.endpoint_id, &self.endpoint_id)
            && same(&filter.status, self.status(is_resent))
            && same(&filter.user_id, &self.user_id)
            && filter.survey_id.as_ref().is_none_or(|w| self.survey_id.as_ref() == Some(w))
            && filter.takes_time(self.created_at)
    }
}
