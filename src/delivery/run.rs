//! The delivery's loop: it folds the topics, gives the events and the time to the
//! scheduler, and performs its effects: reads, attempts, appends, replies, figures.
//! It is one thread; the attempts themselves run on tokio.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::fold::{DeliveryPhase, Error, Fold, PendingDelivery};
use super::scheduler::{Effect, Event, Scheduler, StepContext, StoredPhase};
use super::status::Status;
use super::time::MonotoneClock;
use super::transport::{self, AttemptStart, EndedAttempt, Outbox, Transport};
use askwhen_log::{AckQueue, Append, GroupFence, Log, NewRecord, TopicPartition, Urgency};
use askwhen_partition::assignment::{self, AssignmentOptions, Assignments, Openings, Patience};
use askwhen_partition::{PartitionError, Replies, Signer, WaitReason};
use askwhen_process::clock::Clock;
use askwhen_process::fault;
use askwhen_process::thread::{Notify, Service, StopToken, WaitGroup, wait_for_tokens};
use askwhen_wire::error::Class;
use askwhen_wire::record::Internal;
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::Outcome;

/// How long attempts in flight may take to finish when the process stops: together
/// with the time that listeners take before, less than half a minute.
const LAST_DRAIN: Duration = Duration::from_secs(15);

/// Turns between two counts of the ends that are remembered.
const COUNT_DONE_EVERY: u64 = 256;
/// How many ranges of the due indexes one turn reads at most.
const MAX_READS_PER_TURN: usize = 512;
/// How long partitions wait with sending for others that are being opened.
const MAX_OPENING_WAIT: Duration = Duration::from_secs(5);
/// How often the group is told how far a partition is, at most.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// Opens a partition: restores its store, and folds everything that its topics hold.
pub type OpenFold = assignment::Opener<Fold, Error>;

pub struct Setup {
    pub log: Log,
    pub clock: Clock,
    pub key: ClusterKey,
    pub open: OpenFold,
    pub fence: GroupFence,
    pub max_in_flight: u32,
    /// Takes the results of tests, for which operators wait.
    pub replies: Replies,
    pub status: Arc<Status>,
}

/// A running delivery. When it is dropped, attempts in flight are finished first.
pub struct Delivery {
    commands: mpsc::Sender<Command>,
    notify: Arc<Notify>,
    _loop: Service,
}

enum Command {
    Take(u32),
    /// With `settle` attempts in flight are waited for; without it another process may
    /// own the partition already.
    Release {
        partition: u32,
        settle: bool,
        done: WaitGroup,
    },
}

/// Both ends of a queue that this loop reads and others fill.
struct Channel<T> {
    sender: mpsc::Sender<T>,
    receiver: mpsc::Receiver<T>,
}

impl<T> Channel<T> {
    fn new() -> Channel<T> {
        let (sender, receiver) = mpsc::channel();
        Channel { sender, receiver }
    }
}

struct Loop {
    setup: Setup,
    time: MonotoneClock,
    assignments: Assignments<Fold, Error>,
    scheduler: Scheduler,
    transport: transport::ReadyTransport,
    ended: Channel<EndedAttempt>,
    acks: AckQueue,
    commands: Channel<Command>,
    /// When a partition was last assigned to this process, on the monotonic clock.
    taken_at: Option<Duration>,
    /// By partition: the position that the group was told last, and when.
    committed: BTreeMap<u32, (u64, Duration)>,
    notify: Arc<Notify>,
}

impl Delivery {
    /// Starts the loop with no partitions.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn start(setup: Setup, transport: Transport) -> Result<Delivery, Error> {
        let mut run = Loop::new(setup, transport)?;
        let (own, notify) = (run.commands.sender.clone(), run.notify.clone());
        let running = Service::spawn("delivery", notify.clone(), move |turns| run.run(turns));
        let running = running.map_err(Error::Thread)?;
        Ok(Delivery { commands: own, notify, _loop: running })
    }

    pub fn take(&self, partition: u32) {
        self.send(Command::Take(partition));
    }

    /// Gives partitions up and waits until they are.
    pub fn release(&self, partitions: &[u32], settle: bool) {
        wait_for_tokens(|done| {
            for partition in partitions {
                self.send(Command::Release { partition: *partition, settle, done: done.clone() });
            }
        });
    }

    fn send(&self, command: Command) {
        // The loop, which holds the receiver, lives until this is dropped.
        self.commands.send(command).ok();
        self.notify.notify();
    }
}

/// The loop without its thread, for a simulation that turns it. Dropping it kills it.
pub struct SimulatedDelivery(Loop);

impl SimulatedDelivery {
    /// # Errors
    /// As [`Delivery::start`].
    pub fn new(setup: Setup, outbox: Outbox) -> Result<SimulatedDelivery, Error> {
        Loop::new(setup, Transport::Simulated(outbox)).map(SimulatedDelivery)
    }

    pub fn take(&mut self, partition: u32) {
        self.0.command(Command::Take(partition));
        self.0.begin_opened();
    }

    /// Gives a partition up. Turns have to go on until the returned receiver is
    /// disconnected: then it is gone.
    pub fn release(&mut self, partition: u32, settle: bool) -> mpsc::Receiver<()> {
        let (done, gone) = WaitGroup::new();
        self.0.command(Command::Release { partition, settle, done });
        gone
    }

    /// One round; returns whether there is more to do at once.
    pub fn turn(&mut self) -> bool {
        self.0.turn()
    }

    /// Deliveries of a partition that have not ended.
    ///
    /// # Errors
    /// When its store cannot be read.
    pub fn waiting(&self, partition: u32) -> Result<Vec<PendingDelivery>, Error> {
        let mut rows = Vec::new();
        if let Some(fold) = self.0.fold(partition) {
            fold.each_row(|row| rows.push(row))?;
        }
        Ok(rows)
    }
}

impl Loop {
    /// A loop with no partitions.
    fn new(setup: Setup, transport: Transport) -> Result<Loop, Error> {
        let notify = setup.status.notify.clone();
        let time = MonotoneClock::new(setup.clock.clone());
        let transport = transport::ReadyTransport::new(transport, &time)?;
        let by = uuid::Uuid::new_v4().simple().to_string();
        let openings = if transport.is_stepped() { Openings::Inline } else { Openings::Threads("open-d") };
        let options = AssignmentOptions { role: "delivery", openings, opening_grace: Duration::ZERO };
        let statuses = setup.status.partitions.clone();
        Ok(Loop {
            assignments: Assignments::new(setup.open.clone(), options, statuses, notify.clone()),
            scheduler: Scheduler::new(setup.key.clone(), by, setup.max_in_flight),
            time,
            transport,
            ended: Channel::new(),
            acks: AckQueue::new(notify.clone()),
            commands: Channel::new(),
            taken_at: None,
            committed: BTreeMap::new(),
            notify,
            setup,
        })
    }

    fn run(&mut self, turns: &StopToken) {
        while turns.go_on() {
            let worked = self.turn();
            if !worked {
                turns.wait(self.pause());
            }
        }
        self.step(Event::Stopping);
        // Attempts in flight may finish, and their records are written.
        let deadline = Instant::now() + LAST_DRAIN;
        while (self.scheduler.under_way() > 0 || self.scheduler.is_writing()) && Instant::now() < deadline {
            self.finish();
            self.report();
            turns.wait(Duration::from_millis(20));
        }
        for partition in self.assignments.partitions() {
            if let Some(fold) = self.assignments.get_mut(partition) {
                write_last(fold);
            }
        }
        self.assignments.disown();
    }

    /// One round; returns whether there is more to do at once.
    fn turn(&mut self) -> bool {
        let mut worked = false;
        while let Ok(command) = self.commands.receiver.try_recv() {
            worked = true;
            self.command(command);
        }
        worked |= self.begin_opened();
        worked |= self.finish();
        let mut behind = false;
        for partition in self.assignments.partitions() {
            match self.turn_partition(partition) {
                Ok(has_read) => {
                    behind |= has_read;
                    worked |= has_read;
                }
                Err(Error::Log(error)) if error.class() == askwhen_log::Class::Retry => {
                    tracing::debug!(partition, %error, "the delivery's topics are out of reach");
                }
                Err(error) => self.fail(partition, &error),
            }
        }
        worked |= self.load();
        worked |= self.dispatch();
        self.report();
        self.publish(behind);
        worked
    }

    /// Gives an event to the scheduler and performs its effects; returns whether there were
    /// any.
    fn step(&mut self, event: Event) -> bool {
        let effects = self.scheduler.step(&self.context(), event);
        let any = !effects.is_empty();
        for effect in effects {
            self.perform(effect);
        }
        any
    }

    fn context(&self) -> StepContext {
        StepContext {
            now: self.time.now(),
            by_wall: self.time.now_by_wall(),
            monotonic: self.setup.clock.monotonic(),
            // An endpoint's bounds are for all processes together.
            share: self.assignments.len() as f64 / f64::from(self.setup.log.partitions()),
            memory_limit_bytes: self.setup.status.memory_limit(),
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ReadDue(range) => {
                let Some(fold) = self.assignments.get_mut(range.partition) else { return };
                match fold.due(range.queue_id, &range.after, range.until, range.limit) {
                    Ok((due, next)) => _ = self.step(Event::DueRead { range, due, next }),
                    Err(error) => self.fail(range.partition, &error),
                }
            }
            Effect::ReadRow(item) => {
                let fold = self.fold(item.partition);
                match fold.map_or(Ok(None), |fold| fold.find_sized(&item.delivery_id)) {
                    Ok(found) => _ = self.step(Event::RowRead { item, found }),
                    Err(error) => {
                        let partition = item.partition;
                        self.step(Event::RowUnread { item });
                        self.fail(partition, &error);
                    }
                }
            }
            Effect::ReadMissing { partition, delivery_id } => {
                match self.fold(partition).map_or(Ok(None), |fold| fold.find(&delivery_id)) {
                    Ok(Some(row)) => _ = self.step(Event::MissingRead { partition, row }),
                    Ok(None) => {}
                    Err(error) => self.fail(partition, &error),
                }
            }
            Effect::Start { item, row, defined, keys } => {
                let attempt = AttemptStart { item, row: *row, defined, keys };
                self.transport.start(attempt, self.ended.sender.clone(), self.notify.clone());
            }
            Effect::Append { tag, write: (to, record), urgency } => self.append(tag, to, record, urgency),
            Effect::Report { tag, key, internal } => self.append_report(tag, &key, &internal),
            Effect::Reply { to, reply } => self.setup.replies.answer(to.as_bytes(), reply),
            Effect::Publish(notice) => notice.publish(),
            Effect::Census { states, held } => {
                let metrics = askwhen_process::metrics::get();
                for (state, count) in states {
                    metrics.delivery_endpoints.with_label_values(&[state]).set(count);
                }
                self.setup.status.set_held(held);
            }
        }
    }

    fn append(&self, tag: u64, at: TopicPartition, record: NewRecord, urgency: Urgency) {
        let append = Append { at, records: vec![record], ack: self.acks.tagged(tag), urgency };
        self.setup.log.append_all(vec![append]);
    }

    fn append_report(&self, tag: u64, key: &str, internal: &Internal) {
        let registrar = TopicPartition { topic: Topic::Events, partition: 0 };
        let signer = Signer::new(&self.setup.log, &self.setup.key);
        self.append(tag, registrar, signer.internal(registrar.partition, key, internal), Urgency::Now);
    }

    /// Takes the results of attempts and appends; returns whether there were any.
    fn finish(&mut self) -> bool {
        let mut worked = false;
        while let Ok(ended) = self.ended.receiver.try_recv() {
            let (item, row, result) = *ended;
            worked = true;
            fault::point("sent");
            let stored = self.stored(item.partition, &item.delivery_id, result.outcome);
            self.step(Event::Ended { item, row, result, stored });
        }
        if self.setup.log.takes_outputs().is_ok() {
            self.step(Event::LogWritable);
        }
        while let Some((tag, outcome)) = self.acks.try_next() {
            worked = true;
            self.step(Event::Acknowledged { tag, outcome: outcome.map(|_| ()) });
        }
        worked
    }

    /// Where a delivery whose attempt is over stands in the store. A success ends it
    /// wherever it stands, so the store is not asked.
    fn stored(&self, partition: u32, delivery_id: &str, outcome: Outcome) -> StoredPhase {
        let Some(fold) = self.fold(partition) else { return StoredPhase::NotOwned };
        if outcome == Outcome::Delivered {
            return StoredPhase::Pending;
        }
        match fold.find(delivery_id) {
            Ok(None) => StoredPhase::Ended,
            Ok(Some(row)) if matches!(row.phase, DeliveryPhase::CancelMissing { .. }) => StoredPhase::Cancelled,
            Ok(Some(_)) | Err(_) => StoredPhase::Pending,
        }
    }

    /// Reads what is due; returns whether there was anything.
    fn load(&mut self) -> bool {
        (0..MAX_READS_PER_TURN).take_while(|_| self.step(Event::Load)).count() > 0
    }

    /// Starts attempts, whose turn it is; returns whether there were any.
    fn dispatch(&mut self) -> bool {
        let mut worked = false;
        while self.may_send() && !self.is_opening() {
            if !self.step(Event::Dispatch) || self.scheduler.is_stalled() {
                break;
            }
            worked = true;
        }
        worked
    }

    /// Reports the health of endpoints to the registrar.
    fn report(&mut self) {
        // A process without partitions makes no attempts, so it knows nothing of endpoints.
        if self.assignments.is_empty() {
            self.step(Event::NothingOwned);
        }
        if self.setup.fence.is_fresh() {
            self.step(Event::Report);
        }
    }

    /// One round of a partition; returns whether anything of its topics was read.
    fn turn_partition(&mut self, partition: u32) -> Result<bool, Error> {
        let now = self.time.now();
        if self.assignments.is_leaving(partition) {
            return Ok(self.let_go(partition));
        }
        if self.assignments.reopen(partition, self.setup.clock.monotonic()) {
            return Ok(true);
        }
        let Some(fold) = self.assignments.get_mut(partition) else { return Ok(false) };
        let mut worked = false;
        let events = fold.step(now)?;
        let rejects = std::mem::take(&mut fold.rejects);
        if let Some(events) = events {
            worked = true;
            self.step(Event::Folded { partition, events });
        }
        for reject in rejects {
            self.step(Event::Unreadable { reject });
        }
        if let Some(fold) = self.assignments.get_mut(partition) {
            fold.prune(now)?;
        }
        self.write_on_request(partition)?;
        self.commit(partition);
        Ok(worked)
    }

    /// Writes what a partition has in memory if a checkpoint is requested.
    fn write_on_request(&mut self, partition: u32) -> Result<(), Error> {
        let status = self.assignments.status(partition).clone();
        if !status.checkpoints.any() {
            return Ok(());
        }
        let request = status.checkpoints.last();
        if let Some(fold) = self.assignments.get_mut(partition) {
            fold.write()?;
            status.checkpoints.meet(request);
        }
        Ok(())
    }

    /// Tells the group how far a partition is, now and then.
    fn commit(&mut self, partition: u32) {
        let Some(next) = self.fold(partition).map(Fold::next) else { return };
        let now = self.setup.clock.monotonic();
        let committed = self.committed.get(&partition);
        if committed.is_some_and(|(known, at)| *known == next || now < *at + COMMIT_EVERY) {
            return;
        }
        self.committed.insert(partition, (next, now));
        self.setup.fence.commit(partition, next);
    }

    fn fold(&self, partition: u32) -> Option<&Fold> {
        self.assignments.get(partition)
    }

    fn command(&mut self, command: Command) {
        let now = self.setup.clock.monotonic();
        match command {
            Command::Take(partition) => {
                if !self.assignments.is_owned(partition) {
                    self.taken_at = Some(now);
                }
                self.assignments.take(partition, now);
            }
            Command::Release { partition, settle, done } => {
                self.assignments.release(partition, settle, Some(done), now);
                self.step(Event::Closed { partition });
            }
        }
    }

    /// Begins with the partitions that have been opened; returns whether there were any.
    fn begin_opened(&mut self) -> bool {
        let mut worked = false;
        while let Some((partition, outcome)) = self.assignments.next_opened() {
            worked = true;
            if let Err(error) = outcome.and_then(|fold| self.begin(partition, fold)) {
                self.fail(partition, &error);
            }
        }
        worked
    }

    fn begin(&mut self, partition: u32, mut fold: Fold) -> Result<(), Error> {
        // The group knows the position from the first moment, so its lag can be asked for.
        self.committed.insert(partition, (fold.next(), self.setup.clock.monotonic()));
        self.setup.fence.commit(partition, fold.next());
        // Under a test clock due dates may be far ahead and right.
        if !self.setup.status.watched {
            self.time.advance_to(fold.time());
            let early = fold.pull_in(self.time.now())?;
            if early > 0 {
                tracing::warn!(partition, early, "retries were put off by a clock that was ahead: they are due now");
            }
        }
        let (endpoints, queues) = (fold.endpoints()?, fold.queue_ids()?);
        let missing = if fault::mutant("leave_owed_unwritten") { Vec::new() } else { fold.missing()? };
        self.step(Event::Opened { partition, endpoints, queues, missing });
        self.assignments.install(partition, fold);
        Ok(())
    }

    /// Opens a partition again after an error, because its memory may differ from its
    /// store, unless an operator has to look first.
    fn fail(&mut self, partition: u32, error: &Error) {
        self.step(Event::Closed { partition });
        self.assignments.fail(partition, error, self.setup.clock.monotonic());
    }

    /// Whether partitions that were just assigned are being opened: one of them may hold
    /// the health of an endpoint that another is about to call.
    fn is_opening(&self) -> bool {
        let lately = self.taken_at.is_some_and(|at| self.setup.clock.monotonic() < at + MAX_OPENING_WAIT);
        lately && self.assignments.any_opening()
    }

    /// Gives a partition back as soon as the records of its attempts are durable.
    fn let_go(&mut self, partition: u32) -> bool {
        let has_flights = self.scheduler.has_flights_of(partition);
        let is_settled = |fold: Option<&mut Fold>, patience: Patience| {
            let is_settled = !has_flights || !patience.settle || patience.is_late;
            if is_settled && patience.settle {
                fold.map(write_last);
            }
            is_settled
        };
        self.assignments.let_go(partition, self.setup.clock.monotonic(), is_settled)
    }

    fn publish(&mut self, behind: bool) {
        let now = self.time.now();
        let (mut open, mut retrying) = (0, 0);
        let mut positions = Vec::new();
        for fold in self.assignments.open() {
            open += fold.open;
            retrying += fold.retrying;
            if self.setup.status.watched {
                positions.extend(fold.positions());
            }
        }
        let next_due = self.scheduler.next_due();
        let status = &self.setup.status;
        let due_now = next_due.is_some_and(|due| due <= now);
        let busy = self.scheduler.has_flights() || self.scheduler.is_writing();
        let idle = !behind && !due_now && !busy;
        status.set_next_due(next_due);
        status.idle.store(idle, Ordering::Release);
        if status.watched {
            *status.positions.lock().expect("no panic holds this lock") = positions;
        }
        status.turn.fetch_add(1, Ordering::AcqRel);
        let metrics = askwhen_process::metrics::get();
        metrics.delivery_waiting.with_label_values(&["retry"]).set(retrying as i64);
        metrics.delivery_waiting.with_label_values(&["first"]).set(open.saturating_sub(retrying) as i64);
        metrics.delivery_inflight.set(i64::from(self.scheduler.under_way()));
        let memory_bytes = self.scheduler.memory_bytes() as u64;
        status.memory_bytes.store(memory_bytes, Ordering::Release);
        metrics.memory_bytes.with_label_values(&["delivery"]).set(memory_bytes as i64);
        if status.turn.load(Ordering::Acquire).is_multiple_of(COUNT_DONE_EVERY) {
            let done: u64 = self.assignments.open().map(Fold::done).sum();
            metrics.delivery_done_rows.set(done as i64);
        }
        metrics.delivery_connections.set(self.transport.connections() as i64);
        self.step(Event::Census);
    }

    fn pause(&self) -> Duration {
        if self.assignments.any_leaving() {
            return Duration::from_millis(5);
        }
        if !self.may_send() {
            return Duration::from_millis(100);
        }
        let now = self.time.now();
        let due = self.scheduler.wake_at().map_or(i64::MAX, |due| due.saturating_sub(now));
        Duration::from_millis(due.clamp(1, 100).unsigned_abs())
    }

    /// Whether attempts may start: the log must take their records, and the group must
    /// still count this process in.
    fn may_send(&self) -> bool {
        self.setup.log.takes_outputs().is_ok() && self.setup.fence.is_fresh()
    }
}

/// Writes what a fold has in memory before it is given up, so that its next owner has less
/// to read.
fn write_last(fold: &mut Fold) {
    if let Err(error) = fold.write() {
        tracing::warn!(partition = fold.partition, %error, "the last changes are read again at the next start");
    }
}

impl PartitionError for Error {
    fn class(&self) -> Class {
        Error::class(self)
    }

    /// The delivery waits for no clock.
    fn waits_on(&self) -> Option<WaitReason> {
        match self {
            Error::Partition(stop) => stop.waits_on(),
            _ => None,
        }
    }

    fn no_thread(error: std::io::Error) -> Error {
        Error::Thread(error)
    }
}

/// The topic whose partitions the delivery owns.
pub const OWNED: Topic = Topic::Deliveries;

/// Whether a partition of a topic has been read up to `end`.
pub fn reached(positions: &[(TopicPartition, u64)], at: TopicPartition, end: u64) -> bool {
    positions.iter().any(|(of, next)| *of == at && *next >= end)
}

#[cfg(test)]
mod tests;
