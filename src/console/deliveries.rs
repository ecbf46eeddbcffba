//! Deliveries with their attempts.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::order::{self, Round};
use crate::domain::endpoint::EventType;
use crate::domain::message::Delivery;
use crate::domain::time::{self, Millis};
use crate::wire::listing::{Filter, List, Place};
use crate::wire::output::{AttemptRecord, Ended, RetryRecord};

/// Attempts shown of one delivery; a delivery has at most a few dozen.
const MAX_ATTEMPTS: usize = 200;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
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
    /// Partition and offset in topic `deliveries`.
    place: Option<(u32, u64)>,
    /// And of the journal record behind it.
    source: Option<(u32, u64)>,
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
pub fn delivered(
    delivery: Delivery,
    (place, source): ((u32, u64), Option<(u32, u64)>),
    round: &mut Round<'_>,
) -> Result<(), String> {
    let id = delivery.delivery_id.clone();
    let known = find(&id, round)?;
    if known.as_ref().is_some_and(|row| !row.is_blank()) {
        return Ok(());
    }
    let whose = (delivery.project.as_str(), delivery.user_id.as_str());
    for place in order::places(List::Deliveries, whose, delivery.created_at, &id) {
        round.place(place, &id);
    }
    let mut row = known.unwrap_or_else(|| Row { next_attempt_at: Some(delivery.due_at()), ..Row::blank(&id) });
    row.learn(delivery);
    (row.place, row.source) = (Some(place), source);
    keep(&row, round)
}

/// # Errors
/// When the store cannot be read.
pub fn attempted(attempt: AttemptRecord, round: &mut Round<'_>) -> Result<(), String> {
    let id = attempt.delivery_id.clone();
    let mut row = find(&id, round)?.unwrap_or_else(|| Row::blank(&id));
    row.attempted(attempt);
    keep(&row, round)
}

/// # Errors
/// When the store cannot be read.
pub fn waits(retry: &RetryRecord, round: &mut Round<'_>) -> Result<(), String> {
    let id = &retry.delivery.delivery_id;
    let mut row = find(id, round)?.unwrap_or_else(|| Row::blank(id));
    if row.status == "waiting" && retry.attempt >= row.attempt_count {
        row.next_attempt_at = Some(retry.due_at);
    }
    keep(&row, round)
}

fn find(id: &str, round: &Round<'_>) -> Result<Option<Row>, String> {
    round.get(&order::row(List::Deliveries, id))?.map(|bytes| read(&bytes)).transpose()
}

fn keep(row: &Row, round: &mut Round<'_>) -> Result<(), String> {
    let bytes = postcard::to_stdvec(row).map_err(|e| e.to_string())?;
    round.put(order::row(List::Deliveries, &row.delivery_id), bytes);
    Ok(())
}

/// # Errors
/// When it is none.
pub fn read(bytes: &[u8]) -> Result<Row, String> {
    postcard::from_bytes(bytes).map_err(|e| e.to_string())
}

pub fn shown(row: &Row, whole: bool) -> Value {
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
            place: None,
            source: None,
        }
    }

    pub fn place(&self) -> Option<Place> {
        let (partition, offset) = self.place?;
        Some(Place { delivery_id: self.delivery_id.clone(), partition, offset })
    }

    /// Whether an endpoint never took it, and an operator may want it sent again.
    pub fn is_missed_by(&self, endpoint_id: &str) -> bool {
        let not_there = matches!(self.reason.as_deref(), Some("endpoint_disabled" | "endpoint_removed"));
        let missed = self.status == "dead" || (self.status == "cancelled" && not_there);
        missed && self.endpoint_id == endpoint_id && self.kind != EventType::Test.name()
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

    fn attempted(&mut self, attempt: AttemptRecord) {
        let cancelled = attempt.ended == Some(Ended::Cancelled);
        let known = self.attempts.iter().any(|a| a.attempt == attempt.attempt);
        if self.status == "delivered" || (known && !cancelled) {
            return;
        }
        self.attempt_count = self.attempt_count.max(attempt.attempt);
        self.next_attempt_at = attempt.next_due_at;
        self.reason = attempt.reason;
        self.status = match attempt.ended {
            Some(Ended::Delivered) => "delivered",
            Some(Ended::Dead) => "dead",
            Some(Ended::Cancelled) => "cancelled",
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

    pub fn source(&self) -> Option<(u32, u64)> {
        self.source
    }

    pub fn user_id(&self) -> &str {
        &self.user_id
    }

    pub fn is_of(&self, project: &str) -> bool {
        self.project == project
    }

    pub fn fits(&self, filter: &Filter) -> bool {
        let same = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|w| w == actual);
        same(&filter.endpoint_id, &self.endpoint_id)
            && same(&filter.status, &self.status)
            && same(&filter.user_id, &self.user_id)
            && filter.survey_id.as_ref().is_none_or(|w| self.survey_id.as_ref() == Some(w))
            && filter.takes_time(self.created_at)
    }
}
