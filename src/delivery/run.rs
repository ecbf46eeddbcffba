//! The delivery's loop: fold what the topics say, start what is due, write down
//! how it went. One thread decides; the attempts themselves run on tokio.

mod attempts;
mod parts;
mod timer_queue;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::attempt::AttemptResult;
use super::endpoints::Endpoints;
use super::fold::{Due, Error, Fold, PendingDelivery};
use super::ordering::{Item, OrderingQueues};
use super::status::Status;
use super::time::MonotoneClock;
use super::transport::{self, Outbox, Transport};
use askwhen_domain::time::Millis;
use askwhen_log::{AppendedRange, GroupFence, Log, TopicPartition};
use askwhen_partition::Replies;
use askwhen_process::clock::Clock;
use askwhen_process::thread::{Notify, Service, StopToken, Thread, WaitGroup, wait_for_tokens};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use attempts::PendingAppend;
use parts::{Command, Part};

/// How long attempts under way may take to finish when the process stops: with
/// what the listeners take before it, less than half a minute.
const LAST_DRAIN: Duration = Duration::from_secs(15);

/// Turns between two looks at how much is remembered.
const LOOKED_AT_EVERY: u64 = 256;
/// What is known of a partition's part of a line takes about so much.
const LINE_BYTES: usize = 192;

/// Brings a partition's state here, and folds everything its topics hold.
pub type Open = Arc<dyn Fn(u32, Arc<Notify>, Arc<askwhen_partition::Status>) -> Result<Fold, Error> + Send + Sync>;

pub struct Setup {
    pub log: Log,
    pub clock: Clock,
    pub key: ClusterKey,
    pub open: Open,
    pub standing: GroupFence,
    pub max_in_flight: u32,
    /// Where operators wait for their tests.
    pub replies: Replies,
    pub status: Arc<Status>,
}

/// A running delivery; dropping it lets attempts under way finish.
pub struct Delivery {
    commands: mpsc::Sender<Command>,
    notify: Arc<Notify>,
    _loop: Service,
}

/// Both ends of a queue that this loop reads and others fill.
type Ends<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

/// A delivery under way, or whose records are being written.
struct InFlight {
    partition: u32,
    /// What it holds in memory, about.
    bytes: usize,
    /// Its end is being written down.
    ends: bool,
    /// Its user was erased meanwhile.
    is_cancelled: bool,
}

struct Loop {
    setup: Setup,
    time: MonotoneClock,
    parts: BTreeMap<u32, Part>,
    endpoints: Endpoints,
    ordering: OrderingQueues,
    /// When lines of the partitions' due indexes are to be looked at.
    timer_queue: BTreeSet<(Millis, u32, u64)>,
    /// Lines with more due than has room, and in which partitions.
    full: HashMap<u64, Vec<u32>>,
    /// Deliveries in the ordering queues, under way or closing.
    held: HashSet<String>,
    /// Those under way or closing.
    in_flight: HashMap<String, InFlight>,
    flying_bytes: usize,
    /// Has its turn, and waits for memory.
    stalled: Option<Item>,
    /// Due again while the records of the attempt before are being written.
    deferred: HashMap<String, (u32, Due)>,
    transport: transport::ReadyTransport,
    went: Ends<(Item, PendingDelivery, AttemptResult)>,
    acks: Ends<(u64, Result<AppendedRange, askwhen_log::Error>)>,
    commands: Ends<Command>,
    closing: HashMap<u64, PendingAppend>,
    /// Records that the log would not take for now.
    refused: Vec<PendingAppend>,
    refused_at: Option<Duration>,
    next_tag: u64,
    openings: u64,
    /// When a partition was last given to this process.
    taken_at: Option<Duration>,
    /// Still opening what was given up long ago; not taken up again beside it.
    strays: Vec<(u32, Thread)>,
    notify: Arc<Notify>,
}

impl Delivery {
    /// Starts with no partitions.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn start(setup: Setup, transport: Transport) -> Result<Delivery, Error> {
        let mut run = Loop::new(setup, transport)?;
        let (own, notify) = (run.commands.0.clone(), run.notify.clone());
        let running = Service::spawn("delivery", notify.clone(), move |turns| run.run(turns));
        let running = running.map_err(Error::Thread)?;
        Ok(Delivery { commands: own, notify, _loop: running })
    }

    pub fn take(&self, partition: u32) {
        self.tell(Command::Take(partition));
    }

    /// Gives partitions up and waits until they are.
    pub fn release(&self, partitions: &[u32], settle: bool) {
        wait_for_tokens(|done| {
            for partition in partitions {
                self.tell(Command::Release { partition: *partition, settle, done: done.clone() });
            }
        });
    }

    fn tell(&self, command: Command) {
        // The loop ends only when it is told to.
        self.commands.send(command).ok();
        self.notify.notify();
    }
}

/// The loop without its thread, for a simulation that turns it. Dropping it is
/// what a kill is.
pub struct SimulatedDelivery(Loop);

impl SimulatedDelivery {
    /// # Errors
    /// As [`Delivery::start`].
    pub fn new(setup: Setup, outbox: Outbox) -> Result<SimulatedDelivery, Error> {
        Loop::new(setup, Transport::Simulated(outbox)).map(SimulatedDelivery)
    }

    pub fn take(&mut self, partition: u32) {
        self.0.obey(Command::Take(partition));
    }

    /// Gives a partition up; what is returned ends when it is gone, which turns
    /// bring about.
    pub fn release(&mut self, partition: u32, settle: bool) -> mpsc::Receiver<()> {
        let (done, gone) = WaitGroup::new();
        self.0.obey(Command::Release { partition, settle, done });
        gone
    }

    /// One round; gives whether there is more to do at once.
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
        Ok(Loop {
            parts: BTreeMap::new(),
            endpoints: Endpoints::new(setup.key.clone()),
            ordering: OrderingQueues::new(setup.max_in_flight),
            timer_queue: BTreeSet::new(),
            full: HashMap::new(),
            held: HashSet::new(),
            in_flight: HashMap::new(),
            flying_bytes: 0,
            stalled: None,
            time,
            deferred: HashMap::new(),
            transport,
            went: mpsc::channel(),
            acks: mpsc::channel(),
            commands: mpsc::channel(),
            closing: HashMap::new(),
            refused: Vec::new(),
            refused_at: None,
            next_tag: 0,
            openings: 0,
            taken_at: None,
            strays: Vec::new(),
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
        if let Some(item) = self.stalled.take() {
            self.ordering.done(&item);
        }
        // Attempts under way may finish; what they say is written down.
        let deadline = Instant::now() + LAST_DRAIN;
        while (self.ordering.under_way() > 0 || !self.closing.is_empty() || !self.refused.is_empty())
            && Instant::now() < deadline
        {
            self.finish();
            self.tell_registrar(self.time.now());
            turns.wait(Duration::from_millis(20));
        }
        for partition in self.parts.keys() {
            self.status(*partition).unwanted.store(true, Ordering::Release);
            self.status(*partition).set(askwhen_partition::Phase::NotOwned);
        }
    }

    /// One round; gives whether there is more to do at once.
    fn turn(&mut self) -> bool {
        let mut worked = false;
        while let Ok(command) = self.commands.1.try_recv() {
            worked = true;
            self.obey(command);
        }
        worked |= self.finish();
        let mut behind = false;
        for partition in self.parts.keys().copied().collect::<Vec<_>>() {
            match self.turn_part(partition) {
                Ok(heard) => {
                    behind |= heard;
                    worked |= heard;
                }
                Err(Error::Log(error)) if error.class() == askwhen_log::Class::Retry => {
                    tracing::debug!(partition, %error, "the delivery's topics are out of reach");
                }
                Err(error) => self.fail(partition, &error),
            }
        }
        let now = self.time.now();
        worked |= self.load(now);
        worked |= self.dispatch();
        self.tell_registrar(now);
        self.publish(behind);
        worked
    }

    fn turn_part(&mut self, partition: u32) -> Result<bool, Error> {
        let now = self.time.now();
        let part = self.parts.get_mut(&partition).expect("just listed");
        if part.releasing.is_some() {
            return Ok(self.let_go(partition));
        }
        if part.retry_at.is_some_and(|at| self.setup.clock.monotonic() >= at) {
            self.parts.remove(&partition);
            self.open(partition);
            return Ok(true);
        }
        let Some(fold) = &mut part.fold else { return Ok(false) };
        let mut worked = false;
        let heard = fold.step(now)?;
        let rejects = std::mem::take(&mut fold.rejects);
        if let Some(heard) = heard {
            worked = true;
            self.hear(partition, heard)?;
        }
        for now in rejects {
            self.write(PendingAppend { item: None, now, then: None, tells: None });
        }
        if let Some(fold) = self.fold_mut(partition) {
            fold.prune(now)?;
        }
        Ok(worked)
    }

    fn status(&self, partition: u32) -> &Arc<askwhen_partition::Status> {
        &self.setup.status.partitions[partition as usize]
    }

    fn fold_mut(&mut self, partition: u32) -> Option<&mut Fold> {
        self.parts.get_mut(&partition)?.fold.as_deref_mut()
    }

    fn publish(&mut self, behind: bool) {
        let now = self.time.now();
        let (mut open, mut retrying) = (0, 0);
        let mut positions = Vec::new();
        for fold in self.parts.values().filter_map(|part| part.fold.as_ref()) {
            open += fold.open;
            retrying += fold.retrying;
            if self.setup.status.watched {
                positions.extend(fold.positions());
            }
        }
        let timer_queue = self.timer_queue.first().map(|(due, ..)| *due);
        let next_due = [timer_queue, self.ordering.next_wake()].into_iter().flatten().min();
        let status = &self.setup.status;
        let due_now = next_due.is_some_and(|due| due <= now);
        let writing = !self.closing.is_empty() || !self.refused.is_empty();
        let idle = !behind && !due_now && self.in_flight.is_empty() && !writing;
        status.set_next_due(next_due);
        status.idle.store(idle, Ordering::Release);
        if status.watched {
            *status.positions.lock().expect("no panic holds this lock") = positions;
        }
        status.turn.fetch_add(1, Ordering::AcqRel);
        let metrics = askwhen_process::metrics::get();
        metrics.delivery_waiting.with_label_values(&["retry"]).set(retrying as i64);
        metrics.delivery_waiting.with_label_values(&["first"]).set(open.saturating_sub(retrying) as i64);
        metrics.delivery_inflight.set(i64::from(self.ordering.under_way()));
        let memory_bytes = self.memory_bytes() as u64;
        status.memory_bytes.store(memory_bytes, Ordering::Release);
        metrics.memory_bytes.with_label_values(&["delivery"]).set(memory_bytes as i64);
        if status.turn.load(Ordering::Acquire).is_multiple_of(LOOKED_AT_EVERY) {
            let done: u64 = self.parts.values().filter_map(|part| part.fold.as_ref()).map(|fold| fold.done()).sum();
            metrics.delivery_done_rows.set(done as i64);
        }
        metrics.delivery_connections.set(self.transport.connections() as i64);
        if let Some((counts, held)) = self.endpoints.census(now) {
            for (state, count) in counts {
                metrics.delivery_endpoints.with_label_values(&[state]).set(count);
            }
            status.set_held(held);
        }
    }

    /// What waits in memory and what is under way, about.
    fn memory_bytes(&self) -> usize {
        let queue_ids: usize = self.parts.values().map(|part| part.queues.len() * LINE_BYTES).sum();
        self.ordering.queued_bytes() + self.flying_bytes + queue_ids
    }

    fn pause(&self) -> Duration {
        if self.parts.values().any(|part| part.releasing.is_some()) {
            return Duration::from_millis(5);
        }
        if !self.may_send() {
            return Duration::from_millis(100);
        }
        let now = self.time.now();
        let next = [self.setup.status.next_due(), self.endpoints.next_tell()].into_iter().flatten().min();
        let due = next.map_or(i64::MAX, |due| due.saturating_sub(now));
        Duration::from_millis(due.clamp(1, 100).unsigned_abs())
    }

    /// What an attempt does must be written down, and by the owner alone.
    fn may_send(&self) -> bool {
        self.setup.log.is_writable().is_ok() && self.setup.standing.is_fresh()
    }
}

/// The topic whose partitions the delivery owns.
pub const OWNED: Topic = Topic::Deliveries;

/// Whether a position is at least where its topic ended.
pub fn reached(positions: &[(TopicPartition, u64)], at: TopicPartition, end: u64) -> bool {
    positions.iter().any(|(of, next)| *of == at && *next >= end)
}

#[cfg(test)]
mod tests;
