//! Decides what is sent when, and what is recorded of it: `step(state, context, event)
//! -> effects`. It must never know a socket, a store, a log or a clock; the loop performs
//! the effects and gives the results of reads back as events.
//!
//! A delivery's way: its partition is opened ([`Event::Opened`]), which says when each
//! endpoint's queue has something due. [`Event::Load`] reads what is due
//! ([`Effect::ReadDue`]) into the ordering queues; [`Event::Dispatch`] takes the delivery
//! whose turn it is ([`Effect::ReadRow`], because only the row says whether it is still to
//! be sent), then [`Effect::Start`]. [`Event::Ended`] brings the result, which is
//! appended; once that is durable, the retry record or dead letter that follows from it is
//! appended; once that is durable, the delivery is released. When a partition is closed,
//! its waiting deliveries are dropped; those in flight end and are recorded, unless another
//! owner has done so.

mod appends;
mod attempts;
mod timers;
mod tracked;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::AttemptResult;
use super::endpoints::{Endpoints, OpenedEndpoint};
use super::fold::{Due, EndpointUpdate, FoldEvent, PendingDelivery, due_id, split};
use super::hold::HeldEndpoint;
use super::notice::Notice;
use super::ordering::{Item, OrderingQueues};
use super::records::{self, Write};
use appends::{AppendProgress, AppendQueue, PendingAppend};
use askwhen_domain::time::{HOUR, Millis};
use askwhen_log::Urgency;
use askwhen_partition::EngineReply;
use askwhen_process::fault;
use askwhen_wire::profile::Keys;
use askwhen_wire::record::Internal;
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use timers::{DueRange, TimerQueue};
use tracked::TrackedDeliveries;

/// Bytes that waiting deliveries take in memory, before each queue keeps only a few
/// there; the others wait in the store.
const WAITING_BYTES: usize = 8 << 20;
/// How many deliveries of one queue are in memory while there is room.
const QUEUE_MOST: usize = 1_024;
/// How many when [`WAITING_BYTES`] are used up.
const QUEUE_FEW: usize = 16;
/// How many when twice as much is used up, because there are many queues.
const QUEUE_LEAST: usize = 1;

/// Time and limits at a step.
#[derive(Debug, Clone, Copy)]
pub struct StepContext {
    /// The time by which deliveries wait, in milliseconds since the epoch. It never goes
    /// back.
    pub now: Millis,
    /// The wall clock's time, which may go back. Records of others are compared with it.
    pub by_wall: Millis,
    pub monotonic: Duration,
    /// This process's share of every endpoint's concurrency and rate, from 0 to 1.
    pub share: f64,
    /// Bytes that attempts in flight may hold in memory together.
    pub memory_limit_bytes: usize,
}

/// What has happened.
pub enum Event {
    Opened {
        partition: u32,
        endpoints: Vec<EndpointUpdate>,
        /// Every queue that is not empty, and when its first delivery is due.
        queues: Vec<(u64, Millis)>,
        /// Deliveries whose next record was not written because of a crash.
        missing: Vec<PendingDelivery>,
    },
    Closed {
        partition: u32,
    },
    /// This process owns no partition: from now on only others see how endpoints do.
    NothingOwned,
    /// Records of a partition's topics were folded.
    Folded {
        partition: u32,
        events: Vec<FoldEvent>,
    },
    /// A record of a topic could not be read; this is the reject.
    Unreadable {
        reject: Write,
    },
    /// What is due may be read.
    Load,
    DueRead {
        range: DueRange,
        due: Vec<Due>,
        next: Option<Millis>,
    },
    /// An attempt may start.
    Dispatch,
    /// A row and its size in the store, in bytes; `None` when the delivery has ended, or
    /// its partition is not owned.
    RowRead {
        item: Item,
        found: Option<(PendingDelivery, usize)>,
    },
    RowUnread {
        item: Item,
    },
    /// A row that [`Effect::ReadMissing`] asked for.
    MissingRead {
        partition: u32,
        row: PendingDelivery,
    },
    Ended {
        item: Item,
        row: PendingDelivery,
        result: AttemptResult,
        stored: StoredPhase,
    },
    Acknowledged {
        tag: u64,
        outcome: Result<(), askwhen_log::Error>,
    },
    /// The log takes records.
    LogWritable,
    /// The health of endpoints may be reported.
    Report,
    /// The counts of endpoints may be published.
    Census,
    /// The process stops: no more attempts start.
    Stopping,
}

/// Where a delivery whose attempt is over stands in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredPhase {
    /// Another process owns its partition, or the partition is being opened again.
    NotOwned,
    /// Another process has ended it.
    Ended,
    /// Its cancellation is to be recorded.
    Cancelled,
    /// It waits. Also when it could not be read: then the partition's next step fails.
    Pending,
}

/// What the loop is to do.
pub enum Effect {
    /// Answered with [`Event::DueRead`].
    ReadDue(DueRange),
    /// Answered with [`Event::RowRead`] or [`Event::RowUnread`].
    ReadRow(Item),
    /// Answered with [`Event::MissingRead`], if the row is there.
    ReadMissing {
        partition: u32,
        delivery_id: String,
    },
    /// Answered with [`Event::Ended`].
    Start {
        item: Item,
        row: Box<PendingDelivery>,
        defined: Arc<OpenedEndpoint>,
        keys: Keys,
    },
    /// Answered with [`Event::Acknowledged`].
    Append {
        tag: u64,
        write: Write,
        urgency: Urgency,
    },
    /// A record for the registrar's journal; answered as [`Effect::Append`].
    Report {
        tag: u64,
        key: String,
        internal: Internal,
    },
    Reply {
        to: String,
        reply: EngineReply,
    },
    Publish(Notice),
    /// Endpoints by state, and those that are held.
    Census {
        states: HashMap<&'static str, i64>,
        held: Vec<HeldEndpoint>,
    },
}

pub struct Scheduler {
    endpoints: Endpoints,
    ordering: OrderingQueues,
    timers: TimerQueue,
    tracked: TrackedDeliveries,
    appends: AppendQueue,
    /// The delivery whose turn it is, while it waits for memory.
    stalled: Option<Item>,
    /// The effects of the current step.
    effects: Vec<Effect>,
}

impl Scheduler {
    /// `by` names this process in its reports; at most `slots` attempts are in flight.
    pub fn new(key: ClusterKey, by: String, slots: u32) -> Scheduler {
        Scheduler {
            endpoints: Endpoints::new(key, by),
            ordering: OrderingQueues::new(slots),
            timers: TimerQueue::default(),
            tracked: TrackedDeliveries::default(),
            appends: AppendQueue::default(),
            stalled: None,
            effects: Vec::new(),
        }
    }

    pub fn step(&mut self, context: &StepContext, event: Event) -> Vec<Effect> {
        match event {
            Event::Opened { partition, endpoints, queues, missing } => {
                endpoints.into_iter().for_each(|update| self.learn(update));
                self.timers.open(partition, queues);
                missing.iter().for_each(|row| self.write_missing(context, partition, row));
            }
            Event::Closed { partition } => self.close(partition),
            Event::NothingOwned => self.endpoints.forget(),
            Event::Folded { partition, events } => self.fold(context, partition, events),
            Event::Unreadable { reject } => self.write(PendingAppend { item: None, now: reject, then: None }),
            Event::Load => self.load(context),
            Event::DueRead { range, due, next } => {
                self.timers.read(&range, due.last().map(|due| due.key.as_slice()), next);
                due.into_iter().for_each(|due| self.enqueue(range.partition, due));
            }
            Event::Dispatch => self.dispatch(context),
            Event::RowRead { item, found } => self.row_read(context, item, found),
            Event::RowUnread { item } => self.release(&item),
            Event::MissingRead { partition, row } => self.write_missing(context, partition, &row),
            Event::Ended { item, row, result, stored } => self.ended(context, item, &row, result, stored),
            Event::Acknowledged { tag, outcome } => self.acknowledged(context, tag, outcome),
            Event::LogWritable => {
                self.appends.take_refused(context.monotonic).into_iter().for_each(|records| self.write(records));
            }
            Event::Report => self.report(context),
            Event::Census => {
                let census = self.endpoints.census(context.now);
                self.effects.extend(census.map(|(states, held)| Effect::Census { states, held }));
            }
            Event::Stopping => {
                if let Some(item) = self.stalled.take() {
                    self.ordering.done(&item);
                }
            }
        }
        self.effects.extend(self.endpoints.take_notices().into_iter().map(Effect::Publish));
        std::mem::take(&mut self.effects)
    }

    fn learn(&mut self, update: EndpointUpdate) {
        for queue_id in self.endpoints.take(update) {
            self.ordering.look_again(queue_id);
        }
    }

    /// Drops the waiting deliveries of a partition.
    fn close(&mut self, partition: u32) {
        self.ordering.forget(partition);
        if let Some(item) = self.stalled.take_if(|item| item.partition == partition) {
            self.ordering.done(&item);
        }
        self.timers.close(partition);
        let mut waiting = self.ordering.queued_ids();
        waiting.extend(self.stalled.as_ref().map(|item| item.delivery_id.clone()));
        self.tracked.close(partition, &waiting);
    }

    /// Takes changes of a fold in. A delivery that is not due yet, or stands behind others
    /// that are not in memory, is left to a read.
    fn fold(&mut self, context: &StepContext, partition: u32, events: Vec<FoldEvent>) {
        for event in events {
            match event {
                FoldEvent::Due(due) => {
                    let (queue_id, due_at) = split(&due.key);
                    let has_room = queue_room(&self.endpoints, &self.ordering, queue_id) > 0;
                    if has_room && self.timers.load(partition, &due.key, context.now) {
                        self.enqueue(partition, due);
                    } else {
                        self.timers.put_back(partition, queue_id, due_at);
                    }
                }
                FoldEvent::Endpoint(update) => self.learn(update),
                // An attempt of this process stays in flight until all its records are
                // durable. Another process may have died before it wrote the second one.
                FoldEvent::FollowUpMissing { delivery_id } => {
                    if !self.tracked.is_in_flight(&delivery_id) {
                        self.effects.push(Effect::ReadMissing { partition, delivery_id });
                    }
                }
                FoldEvent::Cancelled { delivery_ids } => {
                    for delivery_id in delivery_ids {
                        // An attempt in flight records the cancellation when it ends.
                        if !self.tracked.cancel(&delivery_id) {
                            self.effects.push(Effect::ReadMissing { partition, delivery_id });
                        }
                    }
                }
            }
        }
    }

    /// Reads the next range that is due.
    fn load(&mut self, context: &StepContext) {
        let early = if fault::mutant("send_early") { HOUR } else { 0 };
        let room = |queue_id| queue_room(&self.endpoints, &self.ordering, queue_id);
        let range = self.timers.next(context.now.saturating_add(early), room);
        self.effects.extend(range.map(Effect::ReadDue));
    }

    /// Puts a delivery into its ordering queue. Whether it is still to be sent is read from
    /// its row when it is its turn.
    fn enqueue(&mut self, partition: u32, due: Due) {
        let delivery_id = due_id(&due.key);
        let Some(due) = self.tracked.insert(&delivery_id, partition, due) else { return };
        let (queue_id, due_at) = split(&due.key);
        let (first, ordering_key) = (due.first, due.ordering_key);
        self.ordering.push(Item { partition, delivery_id, due_at, first, queue_id, ordering_key });
    }

    /// Lets more of a queue be read when half of its room is free.
    fn refill(&mut self, queue_id: u64) {
        if self.ordering.queued_of(queue_id) <= queue_most(&self.endpoints, &self.ordering, queue_id) / 2 {
            self.timers.refill(queue_id);
        }
    }

    fn write(&mut self, records: PendingAppend) {
        let urgency = self.urgency(&records);
        let (tag, write) = self.appends.write(records);
        self.effects.push(Effect::Append { tag, write, urgency });
    }

    /// An attempt after which nothing follows holds nothing but its place among the attempts
    /// in flight until it is on record. While no delivery wants that place, its record may
    /// wait for another one, and be synced with it.
    fn urgency(&self, records: &PendingAppend) -> Urgency {
        let is_last = records.then.is_none() && records.now.0.topic == Topic::Attempts;
        match &records.item {
            Some(_) if is_last && self.ordering.queued_bytes() == 0 => Urgency::Lingers,
            _ => Urgency::Now,
        }
    }

    fn acknowledged(&mut self, context: &StepContext, tag: u64, outcome: Result<(), askwhen_log::Error>) {
        match self.appends.acknowledged(tag, outcome.is_ok(), context.monotonic) {
            AppendProgress::Next(records) => {
                fault::point("attempt_recorded");
                self.write(records);
            }
            AppendProgress::Done(Some(item)) => {
                fault::point("next_hop_recorded");
                self.release(&item);
            }
            AppendProgress::Refused => {
                self.effects.extend(outcome.err().map(|error| Effect::Publish(Notice::NotWritten(error))));
            }
            AppendProgress::ReportRefused(queue_id) => self.endpoints.report_again(queue_id, context.now),
            AppendProgress::Done(None) | AppendProgress::Nothing => {}
        }
    }

    /// Writes the next record of a delivery, if it is not on record.
    fn write_missing(&mut self, context: &StepContext, partition: u32, row: &PendingDelivery) {
        if let Some(now) = records::missing(partition, row, context.now) {
            self.write(PendingAppend { item: None, now, then: None });
        }
    }

    /// Reports the health of endpoints to the registrar.
    fn report(&mut self, context: &StepContext) {
        for (queue_id, key, internal) in self.endpoints.reports(context.now, context.by_wall) {
            let tag = self.appends.report(queue_id);
            self.effects.push(Effect::Report { tag, key, internal });
        }
    }

    fn release(&mut self, item: &Item) {
        let released = self.tracked.release(&item.delivery_id);
        self.ordering.done(item);
        if released.is_cancelled {
            let (partition, delivery_id) = (item.partition, item.delivery_id.clone());
            self.effects.push(Effect::ReadMissing { partition, delivery_id });
        }
        if let Some((partition, due)) = released.due_again {
            self.enqueue(partition, due);
        }
    }

    /// Whether the delivery whose turn it is waits for memory.
    pub fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Whether records are on their way to the log.
    pub fn is_writing(&self) -> bool {
        !self.appends.is_empty()
    }

    /// Whether attempts are in flight, their records included.
    pub fn has_flights(&self) -> bool {
        self.tracked.has_flights()
    }

    pub fn has_flights_of(&self, partition: u32) -> bool {
        self.tracked.has_flights_of(partition)
    }

    /// How many deliveries are between their turn and their release.
    pub fn under_way(&self) -> u32 {
        self.ordering.under_way()
    }

    /// When something is due, or an endpoint with waiting deliveries may be tried again.
    pub fn next_due(&self) -> Option<Millis> {
        [self.timers.first(), self.ordering.next_wake()].into_iter().flatten().min()
    }

    /// When the next step is to be made at the latest.
    pub fn wake_at(&self) -> Option<Millis> {
        [self.next_due(), self.endpoints.next_report()].into_iter().flatten().min()
    }

    /// About how many bytes waiting deliveries and attempts in flight take in memory.
    pub fn memory_bytes(&self) -> usize {
        self.ordering.queued_bytes() + self.tracked.flights_bytes() + self.timers.memory_bytes()
    }
}

/// How many deliveries of a queue may be in memory.
fn queue_most(endpoints: &Endpoints, ordering: &OrderingQueues, queue_id: u64) -> usize {
    match ordering.queued_bytes() {
        bytes if bytes < WAITING_BYTES && !endpoints.is_held(queue_id) => QUEUE_MOST,
        bytes if bytes < 2 * WAITING_BYTES => QUEUE_FEW,
        _ => QUEUE_LEAST,
    }
}

/// How many more deliveries of a queue may come into memory.
fn queue_room(endpoints: &Endpoints, ordering: &OrderingQueues, queue_id: u64) -> usize {
    queue_most(endpoints, ordering, queue_id).saturating_sub(ordering.queued_of(queue_id))
}

#[cfg(test)]
mod tests;
