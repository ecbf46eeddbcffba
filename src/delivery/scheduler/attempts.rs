//! An attempt from its turn to its records: its row is read again, it is started, and its
//! result leads to records.

use super::appends::PendingAppend;
use super::verdict::{self, EndpointFacts, HealthFinding};
use super::{Effect, Scheduler, StepContext, StoredPhase};
use crate::delivery::attempt::AttemptResult;
use crate::delivery::endpoints::OpenedEndpoint;
use crate::delivery::fold::{DeliveryPhase, PendingDelivery, queue_id};
use crate::delivery::hold::HoldReason;
use crate::delivery::notice::Notice;
use crate::delivery::ordering::Item;
use crate::delivery::records::{self, NextAttempt, Write};
use askwhen_domain::time::{MINUTE, Millis};
use askwhen_domain::webhook::message::Delivery;
use askwhen_partition::EngineReply;
use askwhen_process::fault;
use askwhen_wire::profile::Keys;
use askwhen_wire::topics::{AttemptEnd, AttemptRecord, Outcome};
use std::sync::Arc;

/// How long an operator waits for a test.
const TEST_LIFE: Millis = MINUTE;
/// Bytes that an attempt takes beside its message: buffers of its connection, and what is
/// read of the response.
const ATTEMPT_BYTES: usize = 48 << 10;
/// How often a message is in memory during an attempt: as the row, as the body, and in the
/// buffers of the connection.
const BODY_COPIES: usize = 3;

/// Why a delivery whose turn it is is not sent.
enum Unsent {
    /// It is cancelled for this reason.
    Cancel(&'static str),
    /// It waits until a fault of this process is mended.
    Hold(HoldReason),
}

/// How often a delivery was attempted, this attempt included.
#[derive(Clone, Copy)]
struct AttemptCount {
    attempt: u32,
    /// Those among them that failed by a fault of this process.
    uncounted: u32,
    first_started_at: Millis,
}

/// The queue of a delivery's endpoint, also for a test, which waits in another one.
fn home(delivery: &Delivery) -> u64 {
    queue_id(&delivery.project, &delivery.endpoint_id, false)
}

impl Scheduler {
    /// Takes the delivery whose turn it is, and reads its row.
    pub(super) fn dispatch(&mut self, context: &StepContext) {
        let endpoints = &mut self.endpoints;
        let ready = |queue_id, under_way| endpoints.ready(queue_id, under_way, context.share, context.now);
        let turn = self.stalled.take().or_else(|| self.ordering.next(context.now, ready));
        self.effects.extend(turn.map(Effect::ReadRow));
    }

    /// Starts an attempt, if the row says that the delivery is still due: a former owner of
    /// the partition may have attempted it.
    pub(super) fn row_read(&mut self, context: &StepContext, item: Item, found: Option<(PendingDelivery, usize)>) {
        match found.filter(|(row, _)| row.phase == DeliveryPhase::Due) {
            Some((row, stored_bytes)) if row.due_at <= context.now || fault::mutant("send_early") => {
                let bytes = ATTEMPT_BYTES + BODY_COPIES * stored_bytes;
                if !self.tracked.has_room(bytes, context.memory_limit_bytes) {
                    // An attempt in flight makes room when it ends.
                    self.stalled = Some(item);
                    return;
                }
                self.tracked.start(&item, bytes);
                self.refill(item.queue_id);
                self.start(context, item, row);
            }
            found => {
                self.refill(item.queue_id);
                self.release(&item);
                if let Some((row, _)) = found {
                    self.timers.put_back(item.partition, item.queue_id, row.due_at);
                }
            }
        }
    }

    fn start(&mut self, context: &StepContext, item: Item, row: PendingDelivery) {
        let is_test = row.delivery.test_for.is_some();
        let reason = match self.sendable(context, &row) {
            Ok((defined, keys)) => {
                // A delivery that an open breaker held back is not late.
                let due_at = item.due_at.max(self.endpoints.resumed_at(home(&row.delivery)));
                let lag_ms = if row.attempt == 0 { context.by_wall } else { context.now } - due_at;
                self.effects.push(Effect::Publish(Notice::Started { lag_ms }));
                return self.effects.push(Effect::Start { item, row: Box::new(row), defined, keys });
            }
            Err(Unsent::Cancel(reason)) => reason,
            // The operator of a test is told; other deliveries wait until it is mended.
            Err(Unsent::Hold(reason)) if is_test => reason.name(),
            Err(Unsent::Hold(_)) => {
                self.release(&item);
                return self.timers.put_back(item.partition, item.queue_id, row.due_at);
            }
        };
        let now = records::cancelled(item.partition, &row, reason, context.now);
        self.reply(&row, None, Outcome::NotSent, Some(reason));
        self.tracked.end(&item.delivery_id);
        self.write(PendingAppend { item: Some(item), now, then: None });
    }

    /// The endpoint and the keys for a delivery, unless it must not be sent now.
    fn sendable(&self, context: &StepContext, row: &PendingDelivery) -> Result<(Arc<OpenedEndpoint>, Keys), Unsent> {
        let queue_id = home(&row.delivery);
        let is_test = row.delivery.test_for.is_some();
        let Some(defined) = self.endpoints.defined(queue_id).cloned() else {
            let is_held = self.endpoints.is_unreadable(queue_id);
            let held = Unsent::Hold(HoldReason::DefinitionUnreadable);
            return Err(if is_held { held } else { Unsent::Cancel("endpoint_removed") });
        };
        if !is_test && !defined.endpoint.is_enabled() {
            return Err(Unsent::Cancel("endpoint_disabled"));
        }
        // Another process has dated the test by its wall clock.
        if is_test && context.by_wall.saturating_sub(row.delivery.created_at) > TEST_LIFE {
            return Err(Unsent::Cancel("expired"));
        }
        let keys = defined.keys(context.now).map_err(Unsent::Hold)?;
        Ok((defined, keys))
    }

    /// Gives the result of a test to the operator who waits for it.
    fn reply(&mut self, row: &PendingDelivery, http_status: Option<u16>, outcome: Outcome, error: Option<&str>) {
        let Some(to) = row.delivery.test_for.clone() else { return };
        let delivery_id = row.delivery.delivery_id.clone();
        let (outcome, error) = (outcome.name().to_owned(), error.map(str::to_owned));
        let reply = EngineReply::Attempted { delivery_id, http_status, outcome, error };
        self.effects.push(Effect::Reply { to, reply });
    }

    /// Records an attempt that is over. When its partition is not owned any more, it is not
    /// recorded, as after a crash; but a success is final, whoever records it.
    pub(super) fn ended(
        &mut self,
        context: &StepContext,
        item: Item,
        row: &PendingDelivery,
        result: AttemptResult,
        stored: StoredPhase,
    ) {
        if stored == StoredPhase::NotOwned && result.outcome != Outcome::Delivered {
            return self.release(&item);
        }
        let is_test = row.delivery.test_for.is_some();
        // An attempt that failed by a fault of this process is recorded and not counted.
        let own_fault = result.own_fault.filter(|_| !is_test);
        let first_started_at = match row.first_started_at {
            Some(first) if row.attempt > row.uncounted => first,
            _ => result.started_at,
        };
        let uncounted = row.uncounted + u32::from(own_fault.is_some());
        let count = AttemptCount { attempt: row.attempt + 1, uncounted, first_started_at };
        let (outcome, duration_ms) = (result.outcome, result.duration_ms);
        self.effects.push(Effect::Publish(Notice::Attempted { outcome, duration_ms }));
        self.reply(row, result.http_status, result.outcome, result.error.as_deref());
        let next = self.due_again(row, &result, own_fault, first_started_at);
        if outcome == Outcome::Delivered {
            let latency_ms = context.by_wall - row.delivery.due_at();
            self.effects.push(Effect::Publish(Notice::Delivered { latency_ms }));
        }
        let cancelled = match stored {
            _ if outcome == Outcome::Delivered => None,
            StoredPhase::Ended => return self.release(&item),
            StoredPhase::Cancelled => Some("user_erased"),
            // A failed test is neither tried again nor a dead letter.
            StoredPhase::NotOwned | StoredPhase::Pending => is_test.then_some("test_failed"),
        };
        let ended_at = result.ended_at;
        let mut record = self.record(&item, row, result, count);
        if outcome == Outcome::Delivered {
            record.ended = Some(AttemptEnd::Delivered);
            return self.record_attempt(item, &record, row, None);
        }
        if let Some(reason) = cancelled {
            record.ended = Some(AttemptEnd::Cancelled);
            record.reason = Some(reason.into());
            return self.record_attempt(item, &record, row, None);
        }
        let then = match next {
            Ok(due_at) => {
                record.next_due_at = Some(due_at);
                let AttemptCount { attempt, uncounted, first_started_at } = count;
                let next = NextAttempt { attempt, uncounted, due_at, first_started_at, wait: due_at - ended_at };
                records::retry(item.partition, row, next)
            }
            Err(reason) => {
                self.effects.push(Effect::Publish(Notice::Dead { reason }));
                self.endpoints.died(home(&row.delivery), reason, ended_at);
                record.ended = Some(AttemptEnd::Dead);
                record.reason = Some(reason.to_owned());
                records::dead(item.partition, row, count.attempt, reason, ended_at)
            }
        };
        self.record_attempt(item, &record, row, Some(then));
    }

    /// When a delivery is tried again, or why not. The health of its endpoint takes the
    /// result in.
    fn due_again(
        &mut self,
        row: &PendingDelivery,
        result: &AttemptResult,
        own_fault: Option<HoldReason>,
        first_started_at: Millis,
    ) -> Result<Millis, &'static str> {
        let queue_id = home(&row.delivery);
        let defined = self.endpoints.defined(queue_id).cloned();
        let facts = EndpointFacts {
            defined: defined.as_deref(),
            is_unreadable: self.endpoints.is_unreadable(queue_id),
            resumed_at: self.endpoints.resumed_at(queue_id),
        };
        let next = match own_fault {
            Some(reason) => Ok(self.endpoints.pause(queue_id, reason, result.ended_at)),
            None => verdict::next(row, result, first_started_at, &facts),
        };
        if result.own_fault.is_none() {
            self.endpoints.resume(queue_id);
            self.ordering.look_again(queue_id);
        }
        match defined.and_then(|defined| verdict::health(row, result, &defined, next.ok())) {
            Some(HealthFinding::End(reason)) => self.endpoints.end(queue_id, result.ended_at, reason),
            Some(HealthFinding::Signal(signal)) => {
                self.endpoints.record(queue_id, result.ended_at, signal, result.outcome, result.http_status);
                self.ordering.look_again(queue_id);
            }
            None => {}
        }
        next
    }

    fn record(&self, item: &Item, row: &PendingDelivery, result: AttemptResult, count: AttemptCount) -> AttemptRecord {
        // The response of a receiver may repeat data of a user who was erased.
        let is_erased = self.tracked.is_cancelled(&item.delivery_id);
        AttemptRecord {
            attempt: count.attempt,
            uncounted: count.uncounted,
            started_at: result.started_at,
            duration_ms: result.duration_ms,
            http_status: result.http_status,
            outcome: result.outcome,
            error: result.error.filter(|_| !is_erased),
            response: result.response.filter(|_| !is_erased),
            signed: result.signed.filter(|_| !is_erased),
            first_started_at: count.first_started_at,
            ..records::unfinished_attempt(&row.delivery)
        }
    }

    /// Appends the record of an attempt and, once that is durable, the one that follows.
    fn record_attempt(&mut self, item: Item, record: &AttemptRecord, row: &PendingDelivery, then: Option<Write>) {
        let now = records::attempt(item.partition, row, record);
        if record.ended.is_some() {
            self.tracked.end(&item.delivery_id);
        }
        let (now, then) = match then {
            Some(then) if fault::mutant("record_after_next_hop") => (then, Some(now)),
            then => (now, then),
        };
        self.write(PendingAppend { item: Some(item), now, then });
    }
}
