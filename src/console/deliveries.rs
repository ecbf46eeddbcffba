//! Deliveries with their attempts.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::error::Error;
use super::order::{self, PlaceFilter, WriteBatch, term};
use super::{erased, unknown};
use crate::console::families;
use askwhen_domain::id::{self, RecordPosition};
use askwhen_domain::refs::UserRef;
use askwhen_domain::time::{self, Millis};
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::Delivery;
use askwhen_store::Store;
use askwhen_wire::listing::{DeliveryCause, DeliveryPlace, Filter, List};
use askwhen_wire::topics::{AttemptEnd, AttemptRecord, RetryRecord, SignedRequest, Source};

/// The status that is shown of a failed delivery which another replaces.
const RESENT: &str = "resent";
/// The filter member with the id of a [`DeliveryCause`].
const CAUSE: &str = "cause";
/// The most attempts that are shown of a delivery; a delivery has a few dozen.
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
    /// The position of its record in topic `deliveries`.
    place: Option<RecordPosition>,
    /// The position of the journal record that caused it.
    source: Option<RecordPosition>,
    /// The id of the failed delivery that it replaces.
    replaces: Option<String>,
    /// Whether another delivery replaces it.
    is_resent: bool,
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
    signed: Option<SignedRequest>,
}

/// Adds a delivery, before or after its attempts.
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
        // A retry record came first, which does not contain the position of the delivery's
        // record.
        if row.place.is_none() && place.is_some() {
            keep(&DeliveryRow { place, ..row.clone() }, batch)?;
        }
        return Ok(());
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
    keep(&row, batch)?;
    // A failed delivery names its replacement beforehand.
    if let Some(mut failed) = row.replaces.as_ref().map(|id| find(id, batch)).transpose()?.flatten() {
        failed.is_resent = true;
        keep(&failed, batch)?;
    }
    Ok(())
}

/// Prepares the row of the delivery that would replace one that has just failed, or learns
/// that it is already there. So it is known without a search which deliveries replace
/// others, and which were replaced.
///
/// # Errors
/// When the store cannot be read.
fn expect_successor(row: &mut DeliveryRow, batch: &mut WriteBatch<'_>) -> Result<(), Error> {
    let id = id::successor(&row.delivery_id);
    let known = find(&id, batch)?;
    row.is_resent = known.as_ref().is_some_and(|known| !known.is_blank());
    if known.as_ref().is_none_or(|known| known.replaces.is_none()) {
        let mut successor = known.unwrap_or_else(|| DeliveryRow::blank(&id, row.created_at));
        successor.replaces = Some(row.delivery_id.clone());
        keep(&successor, batch)?;
    }
    Ok(())
}

/// Removes what was prepared for the replacement of a row that is being removed, and returns
/// the row's index entries but that of its project.
///
/// # Errors
/// When the store cannot be read.
pub fn forget(bytes: &[u8], batch: &mut WriteBatch<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let row = read(bytes)?;
    if row.came_to_nothing() && !row.is_resent {
        batch.delete(order::row(List::Deliveries, &id::successor(&row.delivery_id)));
    }
    Ok(row.places())
}

/// The row of a delivery, or a blank one when only attempts of it were read.
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
    if row.came_to_nothing() {
        expect_successor(&mut row, batch)?;
    }
    keep(&row, batch)
}

/// Adds a retry record, which contains the whole delivery, in case that its own record is
/// not kept any more.
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

/// Removes receivers' responses about an erased user; that the delivery was sent, and when,
/// stays.
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

/// The part of a filter that index entries of deliveries can answer.
pub fn looked_for(filter: &Filter) -> PlaceFilter {
    let of = |member: &str, value: &Option<String>| value.as_ref().map(|value| term(member, value));
    let status = filter.status.as_deref();
    let http_status = filter.http_status.map(|status| status.to_string());
    let terms = [
        of("endpoint_id", &filter.endpoint_id),
        of("status", &filter.status),
        of("survey_id", &filter.survey_id),
        of("outcome", &filter.outcome),
        of("http_status", &http_status),
        of(CAUSE, &filter.cause),
        of("type", &filter.kind),
    ];
    let failures_only = filter.cause.is_some() || matches!(status, Some("dead" | "cancelled" | RESENT));
    PlaceFilter { terms: terms.into_iter().flatten().collect(), failures_only }
}

/// Failed deliveries grouped by cause, the most frequent first.
///
/// # Errors
/// When the store cannot be read.
pub fn causes(store: &Store, project: &str, since: Millis) -> Result<Vec<DeliveryCause>, Error> {
    // Terms are compared first, so that only one row of each cause is read.
    let mut by_terms: BTreeMap<Vec<u8>, DeliveryCause> = BTreeMap::new();
    order::each_failure(store, project, since, |entry| {
        if let Some(known) = by_terms.get_mut(entry.terms()) {
            (known.count, known.first_at) = (known.count + 1, known.first_at.min(entry.at));
            return Ok(());
        }
        let bytes = store.get(families::INDEX, &order::row(List::Deliveries, &entry.id()))?;
        if let Some(cause) = bytes.map(|bytes| read(&bytes)).transpose()?.and_then(|row| row.cause()) {
            by_terms.insert(entry.terms().to_vec(), cause);
        }
        Ok(())
    })?;
    let mut causes: BTreeMap<String, DeliveryCause> = BTreeMap::new();
    let resent = term("status", RESENT);
    for (terms, mut found) in by_terms {
        found.resent = if order::has_terms(&terms, &[resent]) { found.count } else { 0 };
        match causes.get_mut(&found.cause) {
            Some(known) => {
                known.count += found.count;
                known.resent += found.resent;
                known.first_at = known.first_at.min(found.first_at);
                if found.last_at > known.last_at {
                    (known.last_at, known.example) = (found.last_at, found.example);
                }
            }
            None => {
                causes.insert(found.cause.clone(), found);
            }
        }
    }
    let mut causes: Vec<DeliveryCause> = causes.into_values().collect();
    causes.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.cause.cmp(&b.cause)));
    Ok(causes)
}

/// Failed deliveries that a filter accepts and that were not resent, oldest first, each
/// with its endpoint. Those from behind `ends` are left out.
///
/// # Errors
/// When the store cannot be read.
pub fn resendable(
    store: &Store,
    project: &str,
    filter: &Filter,
    missed_only: bool,
    ends: &BTreeMap<u32, u64>,
) -> Result<Vec<(String, DeliveryPlace)>, Error> {
    let PlaceFilter { terms, .. } = looked_for(filter);
    let mut found = Vec::new();
    order::each_failure(store, project, filter.since.unwrap_or(0), |entry| {
        if !entry.has_terms(&terms) {
            return Ok(());
        }
        let bytes = store.get(families::INDEX, &order::row(List::Deliveries, &entry.id()))?;
        let Some(bytes) = bytes else { return Ok(()) };
        let row = read(&bytes)?;
        let is_before = row.source.is_some_and(|at| ends.get(&at.partition).is_none_or(|end| at.offset < *end));
        let is_wanted = if missed_only { row.is_missed_by(&row.endpoint_id) } else { row.came_to_nothing() };
        let is_test = row.kind == EventType::Test.name();
        if !is_wanted || is_test || !is_before || !row.fits(filter) || row.is_resent() {
            return Ok(());
        }
        if row.source.map_or(Ok(false), |source| erased::is_erased(store, row.user(), source))? {
            return Ok(());
        }
        found.extend(row.place().map(|place| (row.endpoint_id.clone(), place)));
        Ok(())
    })?;
    found.reverse();
    Ok(found)
}

fn find(id: &str, batch: &WriteBatch<'_>) -> Result<Option<DeliveryRow>, Error> {
    batch.get(&order::row(List::Deliveries, id))?.map(|bytes| read(&bytes)).transpose()
}

/// Writes a row and its index entries.
///
/// # Errors
/// When the store cannot be read.
pub fn keep(row: &DeliveryRow, batch: &mut WriteBatch<'_>) -> Result<(), Error> {
    if !row.is_blank() {
        let terms = row.terms();
        order::places(List::Deliveries, row.user(), row.created_at, &row.delivery_id)
            .into_iter()
            .for_each(|place| batch.place(place, &terms));
        let failures = order::place_in_failures(&row.project, row.created_at, &row.delivery_id);
        if row.cause().is_some() {
            batch.place(failures, &terms);
        } else if row.attempt_count > 1 {
            batch.remove_from_index(failures);
        }
        batch.moves(&row.project, List::Deliveries);
    }
    let bytes = postcard::to_stdvec(row).expect("a row serialises");
    batch.put(order::row(List::Deliveries, &row.delivery_id), bytes);
    Ok(())
}

/// Decodes a row.
///
/// # Errors
/// When it is invalid: the store is damaged.
pub fn read(bytes: &[u8]) -> Result<DeliveryRow, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Damaged(format!("the row of a delivery is unreadable: {e}")))
}

/// The JSON of a delivery.
pub fn shown(row: &DeliveryRow, whole: bool) -> Value {
    let mut value = json!({
        "delivery_id": row.delivery_id,
        "message_id": row.message_id,
        "endpoint_id": row.endpoint_id,
        "type": row.kind,
        "survey_id": row.survey_id,
        "user_id": row.user_id,
        "status": row.status(),
        "attempt_count": row.attempt_count,
        "next_attempt_at": row.next_attempt_at.map(time::format_time),
        "reason": row.reason,
        "created_at": time::format_time(row.created_at),
    });
    if row.is_resent() {
        value["resent_as"] = id::successor(&row.delivery_id).into();
    }
    if whole {
        if let Some(replaced) = &row.replaces {
            value["resend_of"] = replaced.as_str().into();
        }
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
            if let Some(signed) = &a.signed {
                attempt["headers"] = json!(signed.headers);
                attempt["body_sha256"] = signed.body_sha256.as_str().into();
            }
            attempt
        });
        value["attempts"] = attempts.collect();
    }
    value
}

impl DeliveryRow {
    /// The row of a delivery of which only attempts are known; `at` is the time of the
    /// first.
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
            replaces: None,
            is_resent: false,
        }
    }

    pub fn place(&self) -> Option<DeliveryPlace> {
        let RecordPosition { partition, offset } = self.place?;
        Some(DeliveryPlace { delivery_id: self.delivery_id.clone(), partition, offset })
    }

    /// Whether an endpoint has missed it, so that an operator may want it sent again.
    pub fn is_missed_by(&self, endpoint_id: &str) -> bool {
        let not_there = matches!(self.reason.as_deref(), Some("endpoint_disabled" | "endpoint_removed"));
        let missed = self.status == "dead" || (self.status == "cancelled" && not_there);
        missed && self.endpoint_id == endpoint_id && self.kind != EventType::Test.name()
    }

    /// Whether only its attempts were read so far.
    pub fn is_blank(&self) -> bool {
        self.kind.is_empty()
    }

    /// The creation time; for a blank row the time of the first known attempt.
    pub fn created_at(&self) -> Millis {
        self.created_at
    }

    /// Sets the time of a blank row that version 0.1.0 left out.
    pub fn date(&mut self, at: Millis) {
        self.created_at = at;
    }

    fn scrub_if_erased(&mut self, batch: &WriteBatch<'_>) -> Result<(), Error> {
        let Some(source) = self.source else { return Ok(()) };
        if erased::is_erased_in(batch, UserRef::new(&self.project, &self.user_id), source)? {
            self.scrub();
        }
        Ok(())
    }

    fn scrub(&mut self) {
        for attempt in &mut self.attempts {
            (attempt.error, attempt.response, attempt.signed) = (None, None, None);
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
                signed: attempt.signed,
            });
        }
    }

    fn user(&self) -> UserRef<'_> {
        UserRef::new(&self.project, &self.user_id)
    }

    /// The keys of all index entries but that of its project.
    fn places(&self) -> Vec<Vec<u8>> {
        let mut places = Vec::from(order::places(List::Deliveries, self.user(), self.created_at, &self.delivery_id));
        places.push(order::place_in_failures(&self.project, self.created_at, &self.delivery_id));
        places
    }

    /// The cause of its failure: from the last attempt, or why there was none.
    pub fn cause(&self) -> Option<DeliveryCause> {
        if self.status == "delivered" {
            return None;
        }
        let last = self.attempts.iter().max_by_key(|attempt| attempt.attempt);
        if last.is_none() && !self.came_to_nothing() {
            return None;
        }
        let outcome = last.map(|attempt| attempt.outcome.clone());
        let http_status = last.and_then(|attempt| attempt.http_status);
        let error = last.and_then(|attempt| attempt.error.clone());
        let error = error.or_else(|| self.reason.clone().filter(|_| last.is_none()));
        let named = format!("{}\0{outcome:?}\0{http_status:?}\0{error:?}", self.endpoint_id);
        Some(DeliveryCause {
            cause: format!("{:016x}", xxhash_rust::xxh3::xxh3_64(named.as_bytes())),
            endpoint_id: self.endpoint_id.clone(),
            outcome,
            http_status,
            error,
            count: 1,
            resent: 0,
            first_at: self.created_at,
            last_at: self.created_at,
            example: self.delivery_id.clone(),
        })
    }

    /// The values that filters compare.
    fn terms(&self) -> Vec<u32> {
        let last = self.attempts.iter().max_by_key(|attempt| attempt.attempt);
        let mut terms =
            vec![term("endpoint_id", &self.endpoint_id), term("status", self.status()), term("type", &self.kind)];
        terms.extend(self.survey_id.as_ref().map(|survey_id| term("survey_id", survey_id)));
        terms.extend(last.map(|attempt| term("outcome", &attempt.outcome)));
        terms.extend(
            last.and_then(|attempt| attempt.http_status).map(|status| term("http_status", &status.to_string())),
        );
        terms.extend(self.cause().map(|cause| term(CAUSE, &cause.cause)));
        terms
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

    /// Whether it has ended without success.
    pub fn came_to_nothing(&self) -> bool {
        matches!(self.status.as_str(), "dead" | "cancelled")
    }

    /// Whether it has failed, and another delivery replaces it.
    pub fn is_resent(&self) -> bool {
        self.is_resent && self.came_to_nothing()
    }

    fn status(&self) -> &str {
        if self.is_resent() { RESENT } else { &self.status }
    }

    pub fn fits(&self, filter: &Filter) -> bool {
        let last = self.attempts.iter().max_by_key(|attempt| attempt.attempt);
        let same = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|w| w == actual);
        same(&filter.endpoint_id, &self.endpoint_id)
            && same(&filter.status, self.status())
            && same(&filter.user_id, &self.user_id)
            && same(&filter.kind, &self.kind)
            && filter.outcome.as_ref().is_none_or(|w| last.is_some_and(|last| last.outcome == *w))
            && filter.http_status.is_none_or(|w| last.is_some_and(|last| last.http_status == Some(w)))
            && filter.cause.as_ref().is_none_or(|w| self.cause().is_some_and(|cause| cause.cause == *w))
            && filter.survey_id.as_ref().is_none_or(|w| self.survey_id.as_ref() == Some(w))
            && filter.takes_time(self.created_at)
    }
}
