//! The delivery's loop: fold what the topics say, start what is due, write down
//! how it went. One thread decides; the attempts themselves run on tokio.

mod parts;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Status;
use super::attempt::{Sender, Went};
use super::fold::{Error, Fold, Heard, Phase, Row, due_id};
use super::lanes::{Item, Lanes};
use super::records::{self, Write};
use crate::actor;
use crate::clock::Clock;
use crate::domain::endpoint::{Endpoint, SealedSecret};
use crate::domain::message::Delivery as Message;
use crate::domain::retry::{self, End, Failed};
use crate::domain::time::Millis;
use crate::log::{self, Ack, At, Class, Log, Placed, Standing};
use crate::store::keys;
use crate::thread::{Bell, Service, Thread, Turns, wait_for_tokens};
use crate::wire::output::{AttemptRecord, Ended, Outcome};
use crate::wire::profile::Keys;
use crate::wire::seal::ClusterKey;
use crate::wire::topic::Topic;
use parts::{Command, Part};

/// Ids held in memory at most; the rest waits in the store.
const MAX_QUEUED: usize = 20_000;
const LOAD: usize = 1_000;
/// Pause before a record that the log would not take is written again.
const REWRITE_PAUSE: Duration = Duration::from_millis(250);
/// How long attempts under way may take to finish when the process stops.
const LAST_DRAIN: Duration = Duration::from_secs(20);

/// Brings a partition's state here, and folds everything its topics hold.
pub type Open = Arc<dyn Fn(u32, Arc<Bell>, Arc<actor::Status>) -> Result<Fold, Error> + Send + Sync>;

pub struct Setup {
    pub log: Log,
    pub clock: Clock,
    pub key: ClusterKey,
    pub open: Open,
    pub standing: Standing,
    pub allow_targets: Vec<IpNet>,
    pub max_in_flight: u32,
    pub runtime: tokio::runtime::Handle,
    pub status: Arc<Status>,
}

/// A running delivery; dropping it lets attempts under way finish.
pub struct Delivery {
    commands: mpsc::Sender<Command>,
    bell: Arc<Bell>,
    _loop: Service,
}

/// Both ends of a queue that this loop reads and others fill.
type Ends<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

/// An attempt that is over and whose records are being written. Without an
/// item it is a record that a crash had swallowed.
struct Closing {
    item: Option<Item>,
    /// What is being written; written again should the log refuse it.
    now: Write,
    /// Written when that is durable.
    then: Option<Write>,
}

struct Loop {
    setup: Setup,
    parts: BTreeMap<u32, Part>,
    lanes: Lanes,
    /// Deliveries in the lanes, under way or closing.
    held: HashSet<String>,
    /// Those under way or closing, by the partition.
    flying: HashMap<String, u32>,
    /// Due again while the records of the attempt before are being written.
    deferred: HashMap<String, (u32, Vec<u8>)>,
    sender: Sender,
    went: Ends<(Item, Row, Went)>,
    acks: Ends<(u64, Result<Placed, log::Error>)>,
    commands: Ends<Command>,
    closing: HashMap<u64, Closing>,
    /// Records that the log would not take for now.
    refused: Vec<Closing>,
    refused_at: Option<Instant>,
    next_tag: u64,
    openings: u64,
    /// Still opening what was given up long ago; not taken up again beside it.
    strays: Vec<(u32, Thread)>,
    bell: Arc<Bell>,
}

impl Delivery {
    /// Starts with no partitions.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn start(setup: Setup) -> Result<Delivery, Error> {
        let bell = setup.status.bell.clone();
        let sender = Sender::new(setup.allow_targets.clone(), setup.clock.clone());
        let sender = sender.map_err(|e| Error::Refused(format!("the HTTP client cannot be set up: {e}")))?;
        let commands = mpsc::channel();
        let own = commands.0.clone();
        let mut run = Loop {
            parts: BTreeMap::new(),
            lanes: Lanes::new(setup.max_in_flight),
            held: HashSet::new(),
            flying: HashMap::new(),
            deferred: HashMap::new(),
            sender,
            went: mpsc::channel(),
            acks: mpsc::channel(),
            commands,
            closing: HashMap::new(),
            refused: Vec::new(),
            refused_at: None,
            next_tag: 0,
            openings: 0,
            strays: Vec::new(),
            bell: bell.clone(),
            setup,
        };
        let running = Service::spawn("delivery", bell.clone(), move |turns| run.run(turns));
        let running = running.map_err(|e| Error::Failed(e.to_string()))?;
        Ok(Delivery { commands: own, bell, _loop: running })
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
        self.bell.ring();
    }
}

impl Loop {
    fn run(&mut self, turns: &Turns) {
        while turns.go_on() {
            let worked = self.turn();
            if !worked {
                turns.wait(self.pause());
            }
        }
        // Attempts under way may finish; what they say is written down.
        let deadline = Instant::now() + LAST_DRAIN;
        while (self.lanes.under_way() > 0 || !self.closing.is_empty() || !self.refused.is_empty())
            && Instant::now() < deadline
        {
            self.finish();
            turns.wait(Duration::from_millis(20));
        }
        for partition in self.parts.keys() {
            self.status(*partition).unwanted.store(true, Ordering::Release);
            self.status(*partition).set(actor::Phase::Elsewhere);
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
                Err(Error::Log(error)) if error.class() == Class::Retry => {
                    tracing::debug!(partition, %error, "the delivery's topics are out of reach");
                }
                Err(error) => self.fail(partition, &error),
            }
        }
        worked |= self.dispatch();
        self.publish(behind);
        worked
    }

    fn turn_part(&mut self, partition: u32) -> Result<bool, Error> {
        let now = self.setup.clock.now();
        let part = self.parts.get_mut(&partition).expect("just listed");
        if part.releasing.is_some() {
            return Ok(self.let_go(partition));
        }
        if part.retry_at.is_some_and(|at| Instant::now() >= at) {
            self.parts.remove(&partition);
            self.open(partition);
            return Ok(true);
        }
        let Some(fold) = &mut part.fold else { return Ok(false) };
        let mut worked = false;
        let heard = fold.step()?;
        let rejects = std::mem::take(&mut fold.rejects);
        if let Some(heard) = heard {
            worked = true;
            part.due = None;
            self.hear(partition, heard)?;
        }
        for now in rejects {
            self.write(Closing { item: None, now, then: None });
        }
        worked |= self.load(partition, now)?;
        if let Some(fold) = self.fold_mut(partition) {
            fold.prune(now)?;
        }
        Ok(worked)
    }

    fn status(&self, partition: u32) -> &Arc<actor::Status> {
        &self.setup.status.partitions[partition as usize]
    }

    fn fold(&self, partition: u32) -> Option<&Fold> {
        self.parts.get(&partition)?.fold.as_deref()
    }

    fn fold_mut(&mut self, partition: u32) -> Option<&mut Fold> {
        self.parts.get_mut(&partition)?.fold.as_deref_mut()
    }

    fn publish(&mut self, behind: bool) {
        let now = self.setup.clock.now();
        let mut next_due: Option<Millis> = None;
        let (mut open, mut retrying) = (0, 0);
        let mut positions = Vec::new();
        for partition in self.parts.keys().copied().collect::<Vec<_>>() {
            // A store that cannot be read is met again in the next turn.
            next_due = [next_due, self.next_due(partition).ok().flatten()].into_iter().flatten().min();
            if let Some(fold) = self.fold(partition) {
                open += fold.open;
                retrying += fold.retrying;
                if self.setup.status.watched {
                    positions.extend(fold.positions());
                }
            }
        }
        let status = &self.setup.status;
        let due_now = next_due.is_some_and(|due| due <= now);
        let writing = !self.closing.is_empty() || !self.refused.is_empty();
        let idle = !behind && !due_now && self.held.is_empty() && !writing;
        status.set_next_due(next_due);
        status.idle.store(idle, Ordering::Release);
        if status.watched {
            *status.positions.lock().expect("no panic holds this lock") = positions;
        }
        status.turn.fetch_add(1, Ordering::AcqRel);
        let metrics = crate::metrics::get();
        metrics.delivery_waiting.with_label_values(&["retry"]).set(retrying as i64);
        metrics.delivery_waiting.with_label_values(&["first"]).set(open.saturating_sub(retrying) as i64);
        metrics.delivery_inflight.set(i64::from(self.lanes.under_way()));
    }

    fn pause(&self) -> Duration {
        if self.parts.values().any(|part| part.releasing.is_some()) {
            return Duration::from_millis(5);
        }
        if self.lanes.queued() >= MAX_QUEUED || !self.may_send() {
            return Duration::from_millis(100);
        }
        let now = self.setup.clock.now();
        let due = self.setup.status.next_due().map_or(i64::MAX, |due| due - now);
        Duration::from_millis(due.clamp(1, 100).unsigned_abs())
    }

    /// New dues behind what is loaded are found by the next load.
    fn hear(&mut self, partition: u32, heard: Vec<Heard>) -> Result<(), Error> {
        let mut endpoints_changed = false;
        for one in heard {
            match one {
                Heard::Due { key } if key <= self.parts[&partition].loaded => self.enqueue(partition, &key)?,
                Heard::Due { .. } => {}
                Heard::Endpoint => endpoints_changed = true,
                Heard::Cancelled { delivery_ids } => {
                    let Some(fold) = self.fold(partition) else { continue };
                    let rows: Vec<Row> =
                        delivery_ids.iter().filter_map(|id| fold.find(id).transpose()).collect::<Result<_, _>>()?;
                    rows.into_iter().for_each(|row| self.write_one_owed(partition, &row));
                }
            }
        }
        if endpoints_changed && let Some(fold) = self.fold(partition) {
            let count =
                |enabled: bool| fold.endpoints.values().flatten().filter(|e| e.enabled == enabled).count() as i64;
            let metrics = crate::metrics::get();
            metrics.delivery_endpoints.with_label_values(&["healthy"]).set(count(true));
            metrics.delivery_endpoints.with_label_values(&["disabled"]).set(count(false));
        }
        Ok(())
    }

    /// From memory while nothing has changed: the store is asked once per change.
    fn next_due(&mut self, partition: u32) -> Result<Option<Millis>, Error> {
        let Some(part) = self.parts.get_mut(&partition) else { return Ok(None) };
        let (Some(fold), true) = (&part.fold, part.releasing.is_none()) else { return Ok(None) };
        if let Some(known) = part.due {
            return Ok(known);
        }
        let due = fold.next_due(&part.loaded)?;
        part.due = Some(due);
        Ok(due)
    }

    fn load(&mut self, partition: u32, now: Millis) -> Result<bool, Error> {
        if self.lanes.queued() >= MAX_QUEUED || self.next_due(partition)?.is_none_or(|due| due > now) {
            return Ok(false);
        }
        let part = self.parts.get_mut(&partition).expect("it has something due");
        part.due = None;
        let fold = part.fold.as_ref().expect("it has something due");
        let due = fold.due(&part.loaded, now, LOAD)?;
        let Some(last) = due.last().cloned() else { return Ok(false) };
        part.loaded = last;
        for key in due {
            self.enqueue(partition, &key)?;
        }
        Ok(true)
    }

    fn enqueue(&mut self, partition: u32, due_key: &[u8]) -> Result<(), Error> {
        let delivery_id = due_id(due_key);
        let Some(fold) = self.fold(partition) else { return Ok(()) };
        let Some(row) = fold.find(&delivery_id)? else { return Ok(()) };
        if row.phase != Phase::Due {
            return Ok(());
        }
        if !self.held.insert(delivery_id.clone()) {
            self.deferred.insert(delivery_id, (partition, due_key.to_vec()));
            return Ok(());
        }
        let endpoint = format!("{}\0{}", row.delivery.project, row.delivery.endpoint_id);
        let lane = xxhash_rust::xxh3::xxh3_64(format!("{endpoint}\0{}", row.delivery.user_id).as_bytes());
        let first = row.attempt == 0;
        self.lanes.push(Item { partition, delivery_id, due_at: row.due_at, first, endpoint, lane });
        Ok(())
    }

    /// What an attempt does must be written down, and by the owner alone.
    fn may_send(&self) -> bool {
        self.setup.log.is_writable().is_ok() && self.setup.standing.is_fresh()
    }

    fn dispatch(&mut self) -> bool {
        let mut worked = false;
        if !self.may_send() {
            return false;
        }
        // An endpoint's bound is for all processes together.
        let (owned, all) = (self.parts.len() as u32, self.setup.log.partitions());
        loop {
            let endpoints = self.parts.values().find_map(|part| part.fold.as_ref()).map(|fold| &fold.endpoints);
            let concurrency = |key: &str| {
                let found = endpoints.and_then(|all| all.get(key.as_bytes())).cloned().flatten();
                let most = found.map_or(10, |endpoint| endpoint.concurrency);
                (most * owned).div_ceil(all).max(1)
            };
            let Some(item) = self.lanes.next(concurrency) else { return worked };
            worked = true;
            let found = self.fold(item.partition).map_or(Ok(None), |fold| fold.find(&item.delivery_id));
            match found {
                // It may have been attempted, or moved, by whoever owned it before.
                Ok(Some(row)) if row.phase == Phase::Due && row.due_at <= self.setup.clock.now() => {
                    self.flying.insert(item.delivery_id.clone(), item.partition);
                    self.start(item, row);
                }
                Ok(_) => self.release(&item),
                Err(error) => {
                    self.release(&item);
                    self.fail(item.partition, &error);
                }
            }
        }
    }

    fn endpoint(&self, item: &Item, delivery: &Message) -> Option<Arc<Endpoint>> {
        let key = keys::named(&delivery.project, &delivery.endpoint_id);
        self.fold(item.partition)?.endpoints.get(&key).cloned().flatten()
    }

    fn start(&mut self, item: Item, row: Row) {
        let now = self.setup.clock.now();
        let refused = match self.endpoint(&item, &row.delivery) {
            None => "endpoint_removed",
            Some(endpoint) if !endpoint.enabled => "endpoint_disabled",
            Some(endpoint) => match self.keys(&row.delivery, &endpoint, now) {
                Ok(keys) => {
                    let lag = (now - item.due_at).max(0) as f64 / 1_000.0;
                    crate::metrics::get().delivery_due_lag_seconds.observe(lag);
                    let (sender, went, bell) = (self.sender.clone(), self.went.0.clone(), self.bell.clone());
                    self.setup.runtime.spawn(async move {
                        let outcome = sender.send(&row.delivery, &endpoint, &keys, row.attempt + 1).await;
                        // The loop may have stopped; a restart sends again.
                        drop(went.send((item, row, outcome)));
                        bell.ring();
                    });
                    return;
                }
                Err(reason) => reason,
            },
        };
        let now = records::cancelled(item.partition, &row, refused, now);
        self.write(Closing { item: Some(item), now, then: None });
    }

    fn keys(&self, delivery: &Message, endpoint: &Endpoint, now: Millis) -> Result<Keys, &'static str> {
        let open = |sealed: &SealedSecret| {
            let opened = self.setup.key.open(&delivery.project, &delivery.endpoint_id, sealed);
            opened.map_err(|_| "secret_unreadable")
        };
        let current = open(endpoint.secret.as_ref().ok_or("secret_missing")?)?;
        let previous = endpoint.previous_secret.as_ref().filter(|p| now < p.until_ms);
        Ok(Keys { current, previous: previous.map(|p| open(&p.secret)).transpose()? })
    }

    /// Takes what attempts and appends have to say.
    fn finish(&mut self) -> bool {
        let mut worked = false;
        while let Ok((item, row, went)) = self.went.1.try_recv() {
            worked = true;
            if self.fold(item.partition).is_some() || went.outcome == Outcome::Delivered {
                self.judge(item, &row, went);
            } else {
                // Another process owns it by now, or it is being opened again:
                // the attempt counts as one that a crash has swallowed. A success
                // is final, whoever tells of it.
                self.release(&item);
            }
        }
        let again = self.refused_at.is_some_and(|at| at.elapsed() >= REWRITE_PAUSE);
        if again && self.setup.log.is_writable().is_ok() {
            self.refused_at = None;
            for closing in std::mem::take(&mut self.refused) {
                self.write(closing);
            }
        }
        while let Ok((tag, outcome)) = self.acks.1.try_recv() {
            worked = true;
            let Some(mut closing) = self.closing.remove(&tag) else { continue };
            match (outcome, closing.then.take()) {
                (Err(error), then) => {
                    tracing::warn!(%error, "the outcome of an attempt cannot be written down yet");
                    closing.then = then;
                    self.refused.push(closing);
                    self.refused_at = Some(Instant::now());
                }
                (Ok(_), Some(next)) => self.write(Closing { now: next, ..closing }),
                (Ok(_), None) => {
                    if let Some(item) = &closing.item {
                        self.release(item);
                    }
                }
            }
        }
        worked
    }

    /// Whether it was cancelled while the attempt was under way.
    fn is_cancelled(&self, item: &Item) -> bool {
        let row = self.fold(item.partition).map(|fold| fold.find(&item.delivery_id));
        matches!(row, Some(Ok(None | Some(Row { phase: Phase::CancelOwed { .. }, .. }))))
    }

    fn judge(&mut self, item: Item, row: &Row, went: Went) {
        let attempt = row.attempt + 1;
        let first_started_at = row.first_started_at.unwrap_or(went.started_at);
        let metrics = crate::metrics::get();
        metrics.delivery_attempts.with_label_values(&[went.outcome.name()]).inc();
        metrics.delivery_attempt_seconds.observe(went.duration_ms as f64 / 1_000.0);
        let mut record = AttemptRecord {
            attempt,
            started_at: went.started_at,
            duration_ms: went.duration_ms,
            http_status: went.http_status,
            outcome: went.outcome,
            error: went.error,
            response: went.response,
            first_started_at,
            ..records::about(&row.delivery)
        };
        if went.outcome == Outcome::Delivered {
            let latency = (went.ended_at - row.delivery.created_at).max(0) as f64 / 1_000.0;
            metrics.delivery_latency_seconds.observe(latency);
            record.ended = Some(Ended::Delivered);
            return self.close(item, &record, row, None);
        }
        if self.is_cancelled(&item) {
            record.ended = Some(Ended::Cancelled);
            record.reason = Some("user_erased".into());
            return self.close(item, &record, row, None);
        }
        let due_at = if attempt == 1 { went.started_at } else { row.due_at };
        let next = match self.endpoint(&item, &row.delivery) {
            None => Err("endpoint_removed"),
            Some(endpoint) => retry::next(
                &endpoint.retry,
                Failed {
                    delivery_id: &row.delivery.delivery_id,
                    attempt,
                    first_started_at,
                    due_at,
                    ended_at: went.ended_at,
                    status: went.http_status,
                    retry_after: went.retry_after,
                },
            )
            .map_err(|end| match end {
                End::AttemptsExhausted => "attempts_exhausted",
                End::MaxAge => "max_age",
                End::TerminalStatus => "terminal_status",
            }),
        };
        let then = match next {
            Ok(next_due_at) => {
                record.next_due_at = Some(next_due_at);
                let wait = next_due_at - went.ended_at;
                records::retry(item.partition, row, (attempt, next_due_at, first_started_at, wait))
            }
            Err(reason) => {
                metrics.delivery_dead.with_label_values(&[reason]).inc();
                record.ended = Some(Ended::Dead);
                record.reason = Some(reason.to_owned());
                records::dead(item.partition, row, attempt, reason, went.ended_at)
            }
        };
        self.close(item, &record, row, Some(then));
    }

    /// First the attempt's record; when it is durable, what comes of it.
    fn close(&mut self, item: Item, record: &AttemptRecord, row: &Row, then: Option<Write>) {
        let now = records::attempt(item.partition, row, record);
        self.write(Closing { item: Some(item), now, then });
    }

    fn write(&mut self, closing: Closing) {
        self.next_tag += 1;
        let (to, new) = closing.now.clone();
        self.closing.insert(self.next_tag, closing);
        let ack = Ack::Tagged { tag: self.next_tag, queue: self.acks.0.clone(), bell: self.bell.clone() };
        self.setup.log.append(to, vec![new], ack);
    }

    fn release(&mut self, item: &Item) {
        self.held.remove(&item.delivery_id);
        self.flying.remove(&item.delivery_id);
        self.lanes.done(item);
        if let Some((partition, due_key)) = self.deferred.remove(&item.delivery_id)
            && let Err(error) = self.enqueue(partition, &due_key)
        {
            self.fail(partition, &error);
        }
    }
}

/// The topic whose partitions the delivery owns.
pub const OWNED: Topic = Topic::Deliveries;

/// Whether a position is at least where its topic ended.
pub fn reached(positions: &[(At, u64)], at: At, end: u64) -> bool {
    positions.iter().any(|(of, next)| *of == at && *next >= end)
}
