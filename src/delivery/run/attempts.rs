//! Attempts: started when it is their turn, judged when they are over, written
//! down before anything follows from them.

use std::time::Duration;

use super::{InFlight, Loop};
use crate::delivery::attempt::AttemptResult;
use crate::delivery::endpoints::OpenedEndpoint;
use crate::delivery::fold::{DeliveryPhase, PendingDelivery, queue_id};
use crate::delivery::hold::HoldReason;
use crate::delivery::ordering::Item;
use crate::delivery::records::{self, NextAttempt, Write};
use askwhen_domain::endpoint::DisabledReason;
use askwhen_domain::health::HealthSignal;
use askwhen_domain::message::Delivery;
use askwhen_domain::retry::{self, End, Failed};
use askwhen_domain::time::{MINUTE, Millis};
use askwhen_log::{Ack, TopicPartition};
use askwhen_partition::{EngineReply, Signer};
use askwhen_process::fault;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{AttemptEnd, AttemptRecord, Outcome};

/// Pause before a record that the log would not take is written again.
const REWRITE_PAUSE: Duration = Duration::from_millis(250);
/// Nobody waits for a test any longer.
const TEST_LIFE: Millis = MINUTE;
/// What an attempt holds beside its message: buffers of its connection, and of
/// the answer what is read.
const ATTEMPT_BYTES: usize = 48 << 10;
/// A message is there as it was read, as its body, and on its way out.
const BODY_COPIES: usize = 3;
/// The longest pause of an endpoint that says 429 and not for how long.
const UNTOLD_PAUSE: Millis = MINUTE;

/// An attempt that is over and whose records are being written. Without an
/// item it is a record that a crash had swallowed, or one for the registrar.
pub(super) struct PendingAppend {
    pub item: Option<Item>,
    /// What is being written; written again should the log refuse it.
    pub now: Write,
    /// Written when that is durable.
    pub then: Option<Write>,
    /// The endpoint's line of a record for the registrar: should the log refuse it,
    /// what there is to tell then is told.
    pub tells: Option<u64>,
}

/// The row of the delivery's own endpoint: tests wait in another line.
fn home(delivery: &Delivery) -> u64 {
    queue_id(&delivery.project, &delivery.endpoint_id, false)
}

impl Loop {
    pub(super) fn dispatch(&mut self) -> bool {
        let mut worked = false;
        // An endpoint's bounds are for all processes together.
        let share = self.parts.len() as f64 / f64::from(self.setup.log.partitions());
        while self.may_send() && !self.is_opening() {
            let now = self.time.now();
            let endpoints = &mut self.endpoints;
            let ready = |queue_id, under_way| endpoints.ready(queue_id, under_way, share, now);
            let turn = self.stalled.take().or_else(|| self.ordering.next(now, ready));
            let Some(item) = turn else { return worked };
            let found = self.fold(item.partition).map_or(Ok(None), |fold| fold.find_sized(&item.delivery_id));
            match found {
                // It may have been attempted by whoever owned it before.
                Ok(Some((row, stored_bytes)))
                    if row.phase == DeliveryPhase::Due && (row.due_at <= now || fault::mutant("send_early")) =>
                {
                    let bytes = ATTEMPT_BYTES + BODY_COPIES * stored_bytes;
                    if self.flying_bytes > 0 && self.flying_bytes + bytes > self.setup.status.memory_limit() {
                        // One that is under way makes room.
                        self.stalled = Some(item);
                        return worked;
                    }
                    let flight = InFlight { partition: item.partition, bytes, ends: false, is_cancelled: false };
                    self.in_flight.insert(item.delivery_id.clone(), flight);
                    self.flying_bytes += bytes;
                    self.refill(item.queue_id);
                    self.start(item, row);
                }
                Ok(Some((row, _))) if row.phase == DeliveryPhase::Due => {
                    self.refill(item.queue_id);
                    self.release(&item);
                    self.put_back(item.partition, item.queue_id, row.due_at);
                }
                Ok(_) => {
                    self.refill(item.queue_id);
                    self.release(&item);
                }
                Err(error) => {
                    self.release(&item);
                    self.fail(item.partition, &error);
                }
            }
            worked = true;
        }
        worked
    }

    fn start(&mut self, item: Item, row: PendingDelivery) {
        let (now, by_wall) = (self.time.now(), self.time.now_by_wall());
        let queue_id = home(&row.delivery);
        let test = row.delivery.test_for.is_some();
        let refused = match self.endpoints.defined(queue_id).cloned() {
            None if self.endpoints.is_unreadable(queue_id) => Err(HoldReason::DefinitionUnreadable),
            None => Ok("endpoint_removed"),
            Some(defined) if !test && !defined.endpoint.is_enabled() => Ok("endpoint_disabled"),
            // Others have dated it, by the wall.
            Some(_) if test && by_wall.saturating_sub(row.delivery.created_at) > TEST_LIFE => Ok("expired"),
            Some(defined) => match defined.keys(now) {
                Ok(keys) => {
                    // Held back on purpose is not late.
                    let due_at = item.due_at.max(self.endpoints.resumed_at(queue_id));
                    let lag = (if row.attempt == 0 { by_wall } else { now } - due_at).max(0) as f64 / 1_000.0;
                    askwhen_process::metrics::get().delivery_due_lag_seconds.observe(lag);
                    let ended = (self.went.0.clone(), self.notify.clone());
                    return self.transport.start((item, row), (defined, keys), ended);
                }
                Err(reason) => Err(reason),
            },
        };
        let reason = match refused {
            Ok(reason) => reason,
            // A test tells its operator; anything else waits until that is mended.
            Err(reason) if test => reason.name(),
            Err(_) => {
                self.release(&item);
                return self.put_back(item.partition, item.queue_id, row.due_at);
            }
        };
        let now = records::cancelled(item.partition, &row, reason, now);
        self.answer_test(&row, (None, Outcome::NotSent), Some(reason));
        self.ends(&item);
        self.write(PendingAppend { item: Some(item), now, then: None, tells: None });
    }

    /// Its end is being written down: whatever comes to it now comes too late.
    fn ends(&mut self, item: &Item) {
        if let Some(flight) = self.in_flight.get_mut(&item.delivery_id) {
            flight.ends = true;
        }
    }

    fn answer_test(&self, row: &PendingDelivery, (http_status, outcome): (Option<u16>, Outcome), error: Option<&str>) {
        let Some(reply_to) = &row.delivery.test_for else { return };
        let delivery_id = row.delivery.delivery_id.clone();
        let (outcome, error) = (outcome.name().to_owned(), error.map(str::to_owned));
        let answer = EngineReply::Attempted { delivery_id, http_status, outcome, error };
        self.setup.replies.answer(reply_to.as_bytes(), answer);
    }

    /// Takes what attempts and appends have to say.
    pub(super) fn finish(&mut self) -> bool {
        let mut worked = false;
        while let Ok((item, row, went)) = self.went.1.try_recv() {
            worked = true;
            fault::point("sent");
            if self.fold(item.partition).is_some() || went.outcome == Outcome::Delivered {
                self.judge(item, &row, went);
            } else {
                // Another process owns it by now, or it is being opened again:
                // the attempt counts as one that a crash has swallowed. A success
                // is final, whoever tells of it.
                self.release(&item);
            }
        }
        let again = self.refused_at.is_some_and(|at| self.setup.clock.monotonic() >= at + REWRITE_PAUSE);
        if again && self.setup.log.is_writable().is_ok() {
            self.refused_at = None;
            for closing in std::mem::take(&mut self.refused) {
                self.write(closing);
            }
        }
        while let Ok((tag, outcome)) = self.acks.1.try_recv() {
            worked = true;
            let Some(mut closing) = self.closing.remove(&tag) else { continue };
            if let (Err(_), Some(queue_id)) = (&outcome, closing.tells) {
                self.endpoints.tell_again(queue_id, self.time.now());
                continue;
            }
            match (outcome, closing.then.take()) {
                (Err(error), then) => {
                    tracing::warn!(%error, "the outcome of an attempt cannot be written down yet");
                    closing.then = then;
                    self.refused.push(closing);
                    self.refused_at = Some(self.setup.clock.monotonic());
                }
                (Ok(_), Some(next)) => {
                    fault::point("attempt_recorded");
                    self.write(PendingAppend { now: next, ..closing });
                }
                (Ok(_), None) => {
                    if let Some(item) = &closing.item {
                        fault::point("next_hop_recorded");
                        self.release(item);
                    }
                }
            }
        }
        worked
    }

    /// Whether it was cancelled while the attempt was under way; `None` when it has
    /// ended by somebody else's hand.
    fn is_cancelled(&self, item: &Item) -> Option<bool> {
        match self.fold(item.partition).map(|fold| fold.find(&item.delivery_id)) {
            Some(Ok(None)) => None,
            Some(Ok(Some(row))) => Some(matches!(row.phase, DeliveryPhase::CancelMissing { .. })),
            // To be met again in the next turn.
            Some(Err(_)) | None => Some(false),
        }
    }

    fn judge(&mut self, item: Item, row: &PendingDelivery, went: AttemptResult) {
        let attempt = row.attempt + 1;
        let test = row.delivery.test_for.is_some();
        // What fails on this side is on record, and the policy does not count it.
        let own_fault = went.own_fault.filter(|_| !test);
        let uncounted = row.uncounted + u32::from(own_fault.is_some());
        let first_started_at = match row.first_started_at {
            Some(first) if row.attempt > row.uncounted => first,
            _ => went.started_at,
        };
        let metrics = askwhen_process::metrics::get();
        metrics.delivery_attempts.with_label_values(&[went.outcome.name()]).inc();
        metrics.delivery_attempt_seconds.observe(went.duration_ms as f64 / 1_000.0);
        self.answer_test(row, (went.http_status, went.outcome), went.error.as_deref());
        let queue_id = home(&row.delivery);
        let defined = self.endpoints.defined(queue_id).cloned();
        let next = match own_fault {
            Some(reason) => Ok(self.endpoints.pause(queue_id, reason, went.ended_at)),
            None => self.next(row, &went, first_started_at, defined.as_deref()),
        };
        if went.own_fault.is_none() {
            self.endpoints.resume(queue_id);
            self.ordering.look_again(queue_id);
        }
        self.tell_health(row, &went, defined.as_deref(), next.ok());
        let mut record = AttemptRecord {
            attempt,
            uncounted,
            started_at: went.started_at,
            duration_ms: went.duration_ms,
            http_status: went.http_status,
            outcome: went.outcome,
            error: went.error,
            response: went.response,
            first_started_at,
            ..records::about(&row.delivery)
        };
        // What the receiver said of somebody who was erased is not kept.
        if self.in_flight.get(&item.delivery_id).is_some_and(|flight| flight.is_cancelled) {
            (record.error, record.response) = (None, None);
        }
        if went.outcome == Outcome::Delivered {
            let latency = (self.time.now_by_wall() - row.delivery.due_at()).max(0) as f64 / 1_000.0;
            metrics.delivery_latency_seconds.observe(latency);
            record.ended = Some(AttemptEnd::Delivered);
            return self.close(item, &record, row, None);
        }
        let ended = match self.is_cancelled(&item) {
            None => return self.release(&item),
            Some(true) => Some("user_erased"),
            // Nobody waits for it to be tried again, or counts it as lost.
            Some(false) => test.then_some("test_failed"),
        };
        if let Some(reason) = ended {
            record.ended = Some(AttemptEnd::Cancelled);
            record.reason = Some(reason.into());
            return self.close(item, &record, row, None);
        }
        let then = match next {
            Ok(due_at) => {
                record.next_due_at = Some(due_at);
                let wait = due_at - went.ended_at;
                let next = NextAttempt { attempt, uncounted, due_at, first_started_at, wait };
                records::retry(item.partition, row, next)
            }
            Err(reason) => {
                metrics.delivery_dead.with_label_values(&[reason]).inc();
                self.endpoints.died(queue_id, reason, went.ended_at);
                record.ended = Some(AttemptEnd::Dead);
                record.reason = Some(reason.to_owned());
                records::dead(item.partition, row, attempt, reason, went.ended_at)
            }
        };
        self.close(item, &record, row, Some(then));
    }

    /// When a failed delivery is tried again, or why not.
    fn next(
        &self,
        row: &PendingDelivery,
        went: &AttemptResult,
        first_started_at: Millis,
        defined: Option<&OpenedEndpoint>,
    ) -> Result<Millis, &'static str> {
        let queue_id = home(&row.delivery);
        let Some(defined) = defined else {
            // Nothing is sent before its definition can be read again.
            let held = self.endpoints.is_unreadable(queue_id);
            return if held { Ok(went.ended_at.saturating_add(MINUTE)) } else { Err("endpoint_removed") };
        };
        let attempt = (row.attempt + 1).saturating_sub(row.uncounted);
        let policy = &defined.endpoint.retry;
        if policy.breaker && went.http_status == Some(410) {
            return Err("terminal_status");
        }
        let due_at = match attempt {
            1 => went.started_at,
            // What was due while the endpoint was open counts as due when it was
            // tried again.
            _ => row.due_at.max(self.endpoints.resumed_at(queue_id).min(went.started_at)),
        };
        let failed = Failed {
            delivery_id: &row.delivery.delivery_id,
            attempt,
            first_started_at,
            due_at,
            ended_at: went.ended_at,
            status: went.http_status,
            // With a breaker the whole endpoint is held that long, and this with it:
            // should the hold end sooner, so does the wait.
            retry_after: went.retry_after.filter(|_| !policy.breaker),
        };
        retry::next(policy, failed).map_err(|end| match end {
            End::AttemptsExhausted => "attempts_exhausted",
            End::MaxAge => "max_age",
            End::TerminalStatus => "terminal_status",
        })
    }

    /// What an attempt says about its endpoint.
    fn tell_health(
        &mut self,
        row: &PendingDelivery,
        went: &AttemptResult,
        defined: Option<&OpenedEndpoint>,
        next_due_at: Option<Millis>,
    ) {
        let (queue_id, Some(defined)) = (home(&row.delivery), defined) else { return };
        let policy = &defined.endpoint.retry;
        // A test says what it finds to whoever asked; a version that is gone says
        // nothing about the one in force.
        if row.delivery.test_for.is_some() || went.version != defined.version {
            return;
        }
        if policy.breaker && (went.disable || went.http_status == Some(410)) {
            return self.endpoints.end(queue_id, went.ended_at, DisabledReason::Gone);
        }
        let seen = match went.outcome {
            Outcome::Delivered => HealthSignal::Success,
            // Not the receiver's fault.
            Outcome::ProxyFailed | Outcome::NotSent => return,
            _ => {
                let wish = policy.retry_after_max.and_then(|most| Some(went.retry_after?.min(most)));
                let hold_until = match (wish, went.http_status, next_due_at) {
                    (Some(wish), ..) => Some(went.ended_at.saturating_add(wish)),
                    (None, Some(429), Some(due)) if policy.retry_after_max.is_some() => {
                        Some(due.min(went.ended_at.saturating_add(UNTOLD_PAUSE)))
                    }
                    _ => None,
                };
                HealthSignal::Failure { hold_until }
            }
        };
        self.endpoints.see(queue_id, went.ended_at, seen);
        self.ordering.look_again(queue_id);
    }

    /// First the attempt's record; when it is durable, what comes of it.
    fn close(&mut self, item: Item, record: &AttemptRecord, row: &PendingDelivery, then: Option<Write>) {
        let now = records::attempt(item.partition, row, record);
        if record.ended.is_some() {
            self.ends(&item);
        }
        let (now, then) = match then {
            Some(then) if fault::mutant("record_after_next_hop") => (then, Some(now)),
            then => (now, then),
        };
        self.write(PendingAppend { item: Some(item), now, then, tells: None });
    }

    pub(super) fn write(&mut self, closing: PendingAppend) {
        self.next_tag += 1;
        let (to, new) = closing.now.clone();
        self.closing.insert(self.next_tag, closing);
        let ack = Ack::Tagged { tag: self.next_tag, queue: self.acks.0.clone(), notify: self.notify.clone() };
        self.setup.log.append(to, vec![new], ack);
    }

    /// What was found out about endpoints, for everyone.
    pub(super) fn tell_registrar(&mut self, now: Millis) {
        // Whoever owns nothing, or may own nothing any more, knows nothing.
        if self.parts.is_empty() {
            self.endpoints.forget();
        }
        if !self.setup.standing.is_fresh() {
            return;
        }
        let signer = Signer::new(&self.setup.log, &self.setup.key);
        for (queue_id, key, internal) in self.endpoints.tell(now, self.time.now_by_wall()) {
            let registrar = TopicPartition { topic: Topic::Events, partition: 0 };
            let now = (registrar, signer.internal(registrar.partition, &key, &internal));
            self.write(PendingAppend { item: None, now, then: None, tells: Some(queue_id) });
        }
    }

    pub(super) fn release(&mut self, item: &Item) {
        self.held.remove(&item.delivery_id);
        let flight = self.in_flight.remove(&item.delivery_id);
        self.flying_bytes -= flight.as_ref().map_or(0, |flight| flight.bytes);
        self.ordering.done(item);
        if flight.is_some_and(|flight| flight.is_cancelled && !flight.ends)
            && let Err(error) = self.write_missing_of(item.partition, &item.delivery_id)
        {
            self.fail(item.partition, &error);
        }
        if let Some((partition, due)) = self.deferred.remove(&item.delivery_id) {
            self.enqueue(partition, due);
        }
    }
}
