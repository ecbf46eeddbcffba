//! What is sent when, and what is written down of it: `step(state, context, event)
//! -> effects`. It must never know a socket, a store, a log or a clock; whoever
//! turns it performs the effects and hands the answers of the reads back as events.
//!
//! A delivery's way: its partition is opened ([`Event::Opened`]), which says when each
//! endpoint's queue has something due. [`Event::Load`] asks for what is due
//! ([`Effect::ReadDue`]) and puts it into the ordering queues; [`Event::Dispatch`] gives
//! the next one its turn ([`Effect::ReadRow`], because only the row says whether it is
//! still to be sent), then [`Effect::Start`]. [`Event::Ended`] brings the result, which
//! is appended; once that is durable, what follows from it (a retry record or a dead
//! letter) is appended; once that is durable, the delivery is let go of. A partition
//! that is closed loses what waits; what is under way ends, and is written down unless
//! another owner does so.

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
use askwhen_partition::EngineReply;
use askwhen_process::fault;
use askwhen_wire::profile::Keys;
use askwhen_wire::record::Internal;
use askwhen_wire::seal::ClusterKey;
use timers::{DueRange, TimerQueue};
use tracked::TrackedDeliveries;

/// What deliveries that wait in memory take at most, but for a few of each queue; the
/// rest waits in the store.
const WAITING_BYTES: usize = 8 << 20;
/// Deliveries of one queue while there is room, when there is not, and when the few of
/// many queues have taken as much again.
const QUEUE_MOST: usize = 1_024;
const QUEUE_FEW: usize = 16;
const QUEUE_LEAST: usize = 1;

/// What holds around a step.
#[derive(Debug, Clone, Copy)]
pub struct StepContext {
    /// The time that deliveries wait by, which never goes back.
    pub now: Millis,
    /// The wall's time, which may; for what others have dated.
    pub by_wall: Millis,
    pub monotonic: Duration,
    /// This process's part of every endpoint's bounds.
    pub share: f64,
    /// What attempts under way may hold in memory together.
    pub memory_limit_bytes: usize,
}

/// What has happened.
pub enum Event {
    Opened {
        partition: u32,
        endpoints: Vec<EndpointUpdate>,
        /// Every queue that has something, and when its first is due.
        queues: Vec<(u64, Millis)>,
        /// What a crash has left out the next record of.
        missing: Vec<PendingDelivery>,
    },
    Closed {
        partition: u32,
    },
    /// This process owns no partition: others know better of endpoints from now on.
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
    /// There is time to look at what is due.
    Load,
    DueRead {
        range: DueRange,
        due: Vec<Due>,
        next: Option<Millis>,
    },
    /// Something may be sent now.
    Dispatch,
    /// A row, and the bytes that it takes in the store; `None` when it has ended, or its
    /// partition is not owned.
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
    /// What is known of endpoints may be reported.
    Report,
    /// The figures may be published.
    Census,
    /// Nothing more is started.
    Stopping,
}

/// What the store says of a delivery whose attempt is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredPhase {
    /// Another process owns it by now, or it is being opened again.
    NotOwned,
    /// It has ended by somebody else's hand.
    Ended,
    /// It is to be cancelled on record.
    Cancelled,
    /// It waits, or could not be read: then the partition's next step fails.
    Pending,
}

/// What is to be done.
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
    },
    /// A record for the registrar, under a key; answered as an append.
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
    /// Has its turn, and waits for memory.
    stalled: Option<Item>,
    /// Of the step that is being made.
    effects: Vec<Effect>,
}

impl Scheduler {
    /// `by` names this process to those who hear of its findings; at most `slots`
    /// attempts are under way.
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
            Event::Folded { partition, events } => self.fold(partition, events),
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

    /// Starts nothing more of a partition.
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

    /// New dues behind what is loaded are found by the next load.
    fn fold(&mut self, partition: u32, events: Vec<FoldEvent>) {
        for event in events {
            match event {
                FoldEvent::Due(due) => {
                    let (queue_id, due_at) = split(&due.key);
                    let is_loaded = self.timers.is_loaded(partition, &due.key);
                    if is_loaded && queue_room(&self.endpoints, &self.ordering, queue_id) > 0 {
                        self.enqueue(partition, due);
                    } else {
                        self.timers.put_back(partition, queue_id, due_at);
                    }
                }
                FoldEvent::Endpoint(update) => self.learn(update),
                // An attempt of this process is in flight until everything of it is
                // written. Another one's may stay without what follows from it.
                FoldEvent::FollowUpMissing { delivery_id } => {
                    if !self.tracked.is_in_flight(&delivery_id) {
                        self.effects.push(Effect::ReadMissing { partition, delivery_id });
                    }
                }
                FoldEvent::Cancelled { delivery_ids } => {
                    for delivery_id in delivery_ids {
                        // What is in flight says itself how it has ended.
                        if !self.tracked.cancel(&delivery_id) {
                            self.effects.push(Effect::ReadMissing { partition, delivery_id });
                        }
                    }
                }
            }
        }
    }

    /// Asks for some of what is due.
    fn load(&mut self, context: &StepContext) {
        let early = if fault::mutant("send_early") { HOUR } else { 0 };
        let room = |queue_id| queue_room(&self.endpoints, &self.ordering, queue_id);
        let range = self.timers.next(context.now.saturating_add(early), room);
        self.effects.extend(range.map(Effect::ReadDue));
    }

    /// Whether it is still to be sent is looked at when it is its turn.
    fn enqueue(&mut self, partition: u32, due: Due) {
        let delivery_id = due_id(&due.key);
        let Some(due) = self.tracked.insert(&delivery_id, partition, due) else { return };
        let (queue_id, due_at) = split(&due.key);
        let (first, ordering_key) = (due.first, due.ordering_key);
        self.ordering.push(Item { partition, delivery_id, due_at, first, queue_id, ordering_key });
    }

    /// A queue has given one away: what waits behind it is loaded.
    fn refill(&mut self, queue_id: u64) {
        if self.ordering.queued_of(queue_id) <= queue_most(&self.endpoints, &self.ordering, queue_id) / 2 {
            self.timers.refill(queue_id);
        }
    }

    fn write(&mut self, records: PendingAppend) {
        let (tag, write) = self.appends.write(records);
        self.effects.push(Effect::Append { tag, write });
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
            AppendProgress::ReportRefused(queue_id) => self.endpoints.tell_again(queue_id, context.now),
            AppendProgress::Done(None) | AppendProgress::Nothing => {}
        }
    }

    /// Writes the next record of a delivery, if a crash has left it out.
    fn write_missing(&mut self, context: &StepContext, partition: u32, row: &PendingDelivery) {
        if let Some(now) = records::missing(partition, row, context.now) {
            self.write(PendingAppend { item: None, now, then: None });
        }
    }

    /// What was found out about endpoints, for everyone.
    fn report(&mut self, context: &StepContext) {
        for (queue_id, key, internal) in self.endpoints.tell(context.now, context.by_wall) {
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
        if let Some((partition, due)) = released.again {
            self.enqueue(partition, due);
        }
    }

    /// Whether the one whose turn it is waits for memory.
    pub fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Whether records are on their way to the log.
    pub fn is_writing(&self) -> bool {
        !self.appends.is_empty()
    }

    /// Whether attempts are under way, or their records being written.
    pub fn has_flights(&self) -> bool {
        self.tracked.has_flights()
    }

    pub fn has_flights_of(&self, partition: u32) -> bool {
        self.tracked.has_flights_of(partition)
    }

    /// Deliveries whose turn has come and that are not let go of.
    pub fn under_way(&self) -> u32 {
        self.ordering.under_way()
    }

    /// When something is due, or an endpoint may be tried that has something waiting.
    pub fn next_due(&self) -> Option<Millis> {
        [self.timers.first(), self.ordering.next_wake()].into_iter().flatten().min()
    }

    /// When a step is to be made at the latest.
    pub fn wake_at(&self) -> Option<Millis> {
        [self.next_due(), self.endpoints.next_tell()].into_iter().flatten().min()
    }

    /// What waits in memory and what is in flight, about.
    pub fn memory_bytes(&self) -> usize {
        self.ordering.queued_bytes() + self.tracked.flights_bytes() + self.timers.memory_bytes()
    }
}

/// How many deliveries of a queue may wait in memory.
fn queue_most(endpoints: &Endpoints, ordering: &OrderingQueues, queue_id: u64) -> usize {
    match ordering.queued_bytes() {
        bytes if bytes < WAITING_BYTES && !endpoints.is_held(queue_id) => QUEUE_MOST,
        bytes if bytes < 2 * WAITING_BYTES => QUEUE_FEW,
        _ => QUEUE_LEAST,
    }
}

/// How many more may.
fn queue_room(endpoints: &Endpoints, ordering: &OrderingQueues, queue_id: u64) -> usize {
    queue_most(endpoints, ordering, queue_id).saturating_sub(ordering.queued_of(queue_id))
}

#[cfg(test)]
mod tests;
