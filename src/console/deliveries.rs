//! Deliveries with their attempts.

use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::delivery_row::{CAUSE, DeliveryRow, RESENT, read};
use super::error::Error;
use super::order::{self, PlaceFilter, WriteBatch, term};
use super::round::Round;
use super::{erased, unknown};
use crate::console::families;
use askwhen_domain::id::{self, RecordPosition};
use askwhen_domain::time::{self, Millis};
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::Delivery;
use askwhen_store::Store;
use askwhen_wire::listing::{DeliveryCause, DeliveryPlace, Filter, List};
use askwhen_wire::topics::{AttemptRecord, RetryRecord, Source};

/// Adds a delivery, before or after its attempts.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_delivery(
    delivery: Delivery,
    place: Option<RecordPosition>,
    source: Option<RecordPosition>,
    round: &mut Round<'_>,
) -> Result<(), Error> {
    let id = delivery.delivery_id.clone();
    // A retry record that came first does not contain the position of the delivery's record.
    if round.delivery(&id)?.is_some_and(|row| !row.is_blank() && (row.place.is_some() || place.is_none())) {
        return Ok(());
    }
    let due_at = delivery.due_at();
    let mut row = match round.take_delivery(&id)? {
        Some(row) if !row.is_blank() => {
            round.put_delivery(DeliveryRow { place, ..row });
            return Ok(());
        }
        Some(row) => {
            unknown::forget(row.created_at, &id, &mut round.batch);
            row
        }
        None => DeliveryRow { next_attempt_at: Some(due_at), ..DeliveryRow::blank(&id, due_at) },
    };
    row.learn(delivery);
    (row.place, row.source) = (place, source);
    scrub_if_erased(&mut row, round)?;
    if row.came_to_nothing() {
        expect_successor(&mut row, round)?;
    }
    let replaces = row.replaces.clone();
    round.put_delivery(row);
    // A failed delivery names its replacement beforehand.
    if let Some(mut failed) = replaces.map(|id| round.take_delivery(&id)).transpose()?.flatten() {
        failed.is_resent = true;
        round.put_delivery(failed);
    }
    Ok(())
}

/// Prepares the row of the delivery that would replace one that has just failed, or learns
/// that it is already there. So it is known without a search which deliveries replace
/// others, and which were replaced.
///
/// # Errors
/// When the store cannot be read.
fn expect_successor(row: &mut DeliveryRow, round: &mut Round<'_>) -> Result<(), Error> {
    let id = id::successor(&row.delivery_id);
    let known = round.delivery(&id)?;
    row.is_resent = known.is_some_and(|known| !known.is_blank());
    if known.is_none_or(|known| known.replaces.is_none()) {
        let known = round.take_delivery(&id)?;
        let mut successor = known.unwrap_or_else(|| DeliveryRow::blank(&id, row.created_at));
        successor.replaces = Some(row.delivery_id.clone());
        round.put_delivery(successor);
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
fn known_or_blank(id: &str, at: Millis, round: &mut Round<'_>) -> Result<DeliveryRow, Error> {
    if let Some(row) = round.take_delivery(id)? {
        return Ok(row);
    }
    unknown::remember(at, id, &mut round.batch);
    Ok(DeliveryRow::blank(id, at))
}

fn scrub_if_erased(row: &mut DeliveryRow, round: &Round<'_>) -> Result<(), Error> {
    let Some(source) = row.source else { return Ok(()) };
    if erased::is_erased_in(&round.batch, row.user(), source)? {
        row.scrub();
    }
    Ok(())
}

/// # Errors
/// When the store cannot be read.
pub fn apply_attempt(attempt: AttemptRecord, round: &mut Round<'_>) -> Result<(), Error> {
    let mut row = known_or_blank(&attempt.delivery_id, attempt.started_at, round)?;
    row.attempted(attempt);
    scrub_if_erased(&mut row, round)?;
    // As long as its own record is missing, its time is not known.
    if row.came_to_nothing() && !row.is_blank() {
        expect_successor(&mut row, round)?;
    }
    round.put_delivery(row);
    Ok(())
}

/// Adds a retry record, which contains the whole delivery, in case that its own record is
/// not kept any more.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_retry(retry: RetryRecord, round: &mut Round<'_>) -> Result<(), Error> {
    let id = retry.delivery.delivery_id.clone();
    if round.delivery(&id)?.is_none_or(DeliveryRow::is_blank) {
        let source = Source::parse(retry.source.as_bytes()).map(|source| source.position());
        apply_delivery(*retry.delivery, None, source, round)?;
    }
    let Some(mut row) = round.take_delivery(&id)? else { return Ok(()) };
    if row.status == "waiting" && retry.attempt >= row.attempt_count {
        row.next_attempt_at = Some(retry.due_at);
    }
    round.put_delivery(row);
    Ok(())
}

/// Removes receivers' responses about an erased user; that the delivery was sent, and when,
/// stays.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_erasure(id: &str, at: RecordPosition, round: &mut Round<'_>) -> Result<(), Error> {
    if round.delivery(id)?.is_none_or(|row| row.source.is_some_and(|source| source >= at)) {
        return Ok(());
    }
    if let Some(mut row) = round.take_delivery(id)? {
        row.scrub();
        round.put_delivery(row);
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
