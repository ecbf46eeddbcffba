//! The row of a delivery: what is known of it and of its attempts.

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::order::{self, term};
use askwhen_domain::id::RecordPosition;
use askwhen_domain::refs::UserRef;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::Delivery;
use askwhen_wire::listing::{DeliveryCause, DeliveryPlace, Filter, List};
use askwhen_wire::row;
use askwhen_wire::topics::{AttemptEnd, AttemptRecord, SignedRequest};

/// The status that is shown of a failed delivery which another replaces.
pub const RESENT: &str = "resent";
/// The filter member with the id of a [`DeliveryCause`].
pub const CAUSE: &str = "cause";
/// The most attempts that are shown of a delivery; a delivery has a few dozen.
const MAX_ATTEMPTS: usize = 200;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryRow {
    pub delivery_id: String,
    pub message_id: String,
    pub endpoint_id: String,
    pub project: String,
    pub kind: String,
    pub survey_id: Option<String>,
    pub user_id: String,
    /// The creation time; of a blank row the time of the first known attempt.
    pub created_at: Millis,
    pub status: String,
    pub attempt_count: u32,
    pub next_attempt_at: Option<Millis>,
    pub reason: Option<String>,
    pub attempts: Vec<AttemptRow>,
    /// The position of its record in topic `deliveries`.
    pub place: Option<RecordPosition>,
    /// The position of the journal record that caused it.
    pub source: Option<RecordPosition>,
    /// The id of the failed delivery that it replaces.
    pub replaces: Option<String>,
    /// Whether another delivery replaces it.
    pub is_resent: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttemptRow {
    pub attempt: u32,
    pub started_at: Millis,
    pub duration_ms: u64,
    pub http_status: Option<u16>,
    pub outcome: String,
    pub error: Option<String>,
    pub response: Option<String>,
    pub signed: Option<SignedRequest>,
}

/// About how many bytes a row takes with one attempt.
const ROW_BYTES: usize = 512;

pub fn encode(delivery: &DeliveryRow) -> Vec<u8> {
    row::encode(delivery, ROW_BYTES)
}

/// Decodes a row.
///
/// # Errors
/// When it is invalid: the store is damaged.
pub fn read(bytes: &[u8]) -> Result<DeliveryRow, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Damaged(format!("the row of a delivery is unreadable: {e}")))
}

impl DeliveryRow {
    /// The row of a delivery of which only attempts are known; `at` is the time of the
    /// first.
    pub fn blank(delivery_id: &str, at: Millis) -> DeliveryRow {
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

    pub fn scrub(&mut self) {
        for attempt in &mut self.attempts {
            (attempt.error, attempt.response, attempt.signed) = (None, None, None);
        }
    }

    pub fn learn(&mut self, delivery: Delivery) {
        self.message_id = delivery.message_id;
        self.endpoint_id = delivery.endpoint_id;
        self.project = delivery.project;
        self.kind = delivery.message.kind.name().to_owned();
        self.survey_id = delivery.survey_id;
        self.user_id = delivery.user_id;
        self.created_at = delivery.created_at;
    }

    pub fn attempted(&mut self, attempt: AttemptRecord) {
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

    pub fn user(&self) -> UserRef<'_> {
        UserRef::new(&self.project, &self.user_id)
    }

    /// The keys of all index entries but that of its project.
    pub fn places(&self) -> Vec<Vec<u8>> {
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
    pub fn terms(&self) -> Vec<u32> {
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

    pub fn status(&self) -> &str {
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
