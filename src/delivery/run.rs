//! The delivery's loop: fold what the topics say, start what is due, write down
//! how it went. One thread decides; the attempts themselves run on tokio.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;

use super::Status;
use super::attempt::{Sender, Went};
use super::fold::{Error, Fold, Heard, Phase, Row, TOPICS, due_id};
use super::lanes::{Item, Lanes};
use crate::clock::Clock;
use crate::domain::endpoint::{Endpoint, SealedSecret};
use crate::domain::message::Delivery as Message;
use crate::domain::retry::{self, End, Failed};
use crate::domain::time::{Millis, SECOND};
use crate::log::{self, Ack, At, Bell, Log, New};
use crate::store::{Store, keys};
use crate::wire::output::{self, AttemptRecord, DeadRecord, Ended, ID_HEADER, Outcome, RetryRecord};
use crate::wire::profile::Keys;
use crate::wire::seal::ClusterKey;
use crate::wire::topic::Topic;

/// Ids held in memory at most; the rest waits in the store.
const MAX_QUEUED: usize = 20_000;
const LOAD: usize = 1_000;

pub struct Setup {
    pub log: Log,
    pub clock: Clock,
    pub key: ClusterKey,
    pub stores: Vec<Arc<Store>>,
    pub allow_targets: Vec<IpNet>,
    pub max_in_flight: u32,
    pub runtime: tokio::runtime::Handle,
    pub status: Arc<Status>,
}

/// A running delivery; stopping it lets attempts under way finish.
pub struct Delivery {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
}

/// Both ends of a queue that this loop reads and others fill.
type Ends<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

/// An attempt that is over and whose records are being written. Without an
/// item it is a record that a crash had swallowed.
struct Closing {
    item: Option<Item>,
    /// What is being written; written again should the log refuse it.
    now: (At, New),
    /// Written when that is durable.
    then: Option<(At, New)>,
}

struct Loop {
    setup: Setup,
    folds: Vec<Fold>,
    /// Per partition: everything in the due index up to here is in memory.
    loaded: Vec<Vec<u8>>,
    /// Per partition: when the next one behind that is due; `None` until it is
    /// looked up again.
    due: Vec<Option<Option<Millis>>>,
    lanes: Lanes,
    /// Deliveries in the lanes, under way or closing.
    held: HashSet<String>,
    /// Those under way or closing.
    flying: HashSet<String>,
    /// Due again while the records of the attempt before are being written.
    deferred: HashMap<String, (usize, Vec<u8>)>,
    sender: Sender,
    went: Ends<(Item, Row, Went)>,
    acks: Ends<(u64, Result<u64, log::Error>)>,
    closing: HashMap<u64, Closing>,
    /// Records that the log would not take for now.
    refused: Vec<Closing>,
    next_tag: u64,
    bell: Arc<Bell>,
    /// A read or a write failed: what is in memory may not be what is stored.
    doubtful: bool,
}

impl Delivery {
    /// Opens every partition and starts.
    ///
    /// # Errors
    /// When a store and the log do not belong together, or TLS cannot be set up.
    pub fn start(setup: Setup) -> Result<Delivery, Error> {
        let mut folds = Vec::new();
        let bell = Arc::new(Bell::default());
        for (partition, store) in (0..).zip(&setup.stores) {
            for topic in TOPICS {
                setup.log.subscribe(At { topic, partition }, bell.clone());
            }
            folds.push(Fold::open(partition, setup.log.clone(), store.clone())?);
        }
        let sender = Sender::new(setup.allow_targets.clone(), setup.clock.clone());
        let sender = sender.map_err(|e| Error::Refused(format!("the HTTP client cannot be set up: {e}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut run = Loop {
            loaded: vec![Vec::new(); folds.len()],
            due: vec![None; folds.len()],
            lanes: Lanes::new(setup.max_in_flight),
            held: HashSet::new(),
            flying: HashSet::new(),
            deferred: HashMap::new(),
            folds,
            sender,
            went: mpsc::channel(),
            acks: mpsc::channel(),
            closing: HashMap::new(),
            refused: Vec::new(),
            next_tag: 0,
            bell: bell.clone(),
            doubtful: false,
            setup,
        };
        let stopping = stop.clone();
        let thread = std::thread::Builder::new().name("delivery".into());
        let thread = thread.spawn(move || run.run(&stopping)).map_err(|e| Error::Refused(e.to_string()))?;
        Ok(Delivery { thread, stop, bell })
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
        if self.thread.join().is_err() {
            tracing::error!("the delivery had panicked");
        }
    }
}

impl Loop {
    fn run(&mut self, stop: &AtomicBool) {
        if let Err(error) = self.recover() {
            tracing::error!(%error, "the delivery cannot take up its work");
            return;
        }
        self.setup.status.ready.store(true, Ordering::Release);
        while !stop.load(Ordering::Acquire) {
            let turned = if self.doubtful { self.reset() } else { self.turn() };
            match turned {
                Ok(true) => {}
                Ok(false) => self.bell.wait(self.pause()),
                Err(error) => {
                    tracing::error!(%error, "the delivery pauses");
                    self.setup.status.ready.store(false, Ordering::Release);
                    self.doubtful = true;
                    self.bell.wait(Duration::from_secs(1));
                }
            }
        }
        // Attempts under way may finish; what they say is written down.
        let deadline = Instant::now() + Duration::from_secs(20);
        while (self.lanes.under_way() > 0 || !self.closing.is_empty() || !self.refused.is_empty())
            && Instant::now() < deadline
        {
            if self.finish().is_err() {
                return;
            }
            self.bell.wait(Duration::from_millis(20));
        }
    }

    /// Reads all topics to their end before anything is sent, and writes what a
    /// crash between two records has left out.
    fn recover(&mut self) -> Result<(), Error> {
        for at in 0..self.folds.len() {
            while self.folds[at].step()?.is_some() {}
            for row in self.folds[at].owed()? {
                let (to, new) = match &row.phase {
                    Phase::RetryOwed { next_due_at } => {
                        let first = row.first_started_at.unwrap_or(row.due_at);
                        let wait = next_due_at - first.max(row.due_at);
                        self.retry_record(self.folds[at].partition, &row, (row.attempt, *next_due_at, first, wait))
                    }
                    Phase::DeadOwed { reason, died_at } => {
                        dead_record(self.folds[at].partition, &row, row.attempt, reason, *died_at)
                    }
                    Phase::Due => continue,
                };
                self.write(Closing { item: None, now: (to, new), then: None });
            }
        }
        Ok(())
    }

    /// Takes everything from the stores again; attempts under way go on.
    fn reset(&mut self) -> Result<bool, Error> {
        self.finish()?;
        for at in 0..self.folds.len() {
            let store = self.setup.stores[at].clone();
            self.folds[at] = Fold::open(at as u32, self.setup.log.clone(), store)?;
            self.loaded[at].clear();
            self.due[at] = None;
        }
        self.lanes.forget_queued();
        self.held = self.flying.clone();
        self.deferred.clear();
        self.doubtful = false;
        Ok(true)
    }

    fn write(&mut self, closing: Closing) {
        let tag = self.tag();
        let (to, new) = closing.now.clone();
        self.closing.insert(tag, closing);
        self.setup.log.append(to, vec![new], self.tagged(tag));
    }

    /// One round; gives whether there is more to do at once.
    fn turn(&mut self) -> Result<bool, Error> {
        let mut worked = self.finish()?;
        let mut behind = false;
        for at in 0..self.folds.len() {
            if let Some(heard) = self.folds[at].step()? {
                worked = true;
                behind = true;
                self.due[at] = None;
                self.hear(at, heard)?;
            }
        }
        let now = self.setup.clock.now();
        for at in 0..self.folds.len() {
            worked |= self.load(at, now)?;
            self.folds[at].prune(now)?;
        }
        worked |= self.dispatch()?;
        self.publish(behind, now)?;
        Ok(worked)
    }

    fn publish(&mut self, behind: bool, now: Millis) -> Result<(), Error> {
        let mut next_due: Option<Millis> = None;
        for at in 0..self.folds.len() {
            let due = self.next_due(at)?;
            next_due = [next_due, due].into_iter().flatten().min();
        }
        let status = &self.setup.status;
        let due_now = next_due.is_some_and(|due| due <= now);
        let writing = !self.closing.is_empty() || !self.refused.is_empty();
        let idle = !behind && !due_now && self.held.is_empty() && !writing;
        status.next_due.store(next_due.unwrap_or(i64::MAX), Ordering::Release);
        status.idle.store(idle, Ordering::Release);
        status.ready.store(true, Ordering::Release);
        status.turn.fetch_add(1, Ordering::AcqRel);
        let metrics = crate::metrics::get();
        let (open, retrying) = self.folds.iter().fold((0, 0), |(o, r), f| (o + f.open, r + f.retrying));
        metrics.delivery_waiting.with_label_values(&["retry"]).set(retrying as i64);
        metrics.delivery_waiting.with_label_values(&["first"]).set(open.saturating_sub(retrying) as i64);
        metrics.delivery_inflight.set(i64::from(self.lanes.under_way()));
        Ok(())
    }

    fn pause(&self) -> Duration {
        if self.lanes.queued() >= MAX_QUEUED || self.setup.log.is_writable().is_err() {
            return Duration::from_millis(100);
        }
        let now = self.setup.clock.now();
        let due = self.setup.status.next_due().map_or(i64::MAX, |due| due - now);
        Duration::from_millis(due.clamp(1, 100).unsigned_abs())
    }

    /// New dues behind what is loaded are found by the next load.
    fn hear(&mut self, at: usize, heard: Vec<Heard>) -> Result<(), Error> {
        let mut endpoints_changed = false;
        for one in heard {
            match one {
                Heard::Due { key } if key <= self.loaded[at] => self.enqueue(at, &key)?,
                Heard::Due { .. } => {}
                Heard::Endpoint => endpoints_changed = true,
            }
        }
        if endpoints_changed {
            let all = self.folds.first().map(|f| &f.endpoints);
            let count = |enabled: bool| {
                all.map_or(0, |all| all.values().flatten().filter(|e| e.enabled == enabled).count() as i64)
            };
            let metrics = crate::metrics::get();
            metrics.delivery_endpoints.with_label_values(&["healthy"]).set(count(true));
            metrics.delivery_endpoints.with_label_values(&["disabled"]).set(count(false));
        }
        Ok(())
    }

    /// From memory while nothing has changed: the store is asked once per change.
    fn next_due(&mut self, at: usize) -> Result<Option<Millis>, Error> {
        if let Some(known) = self.due[at] {
            return Ok(known);
        }
        let due = self.folds[at].next_due(&self.loaded[at])?;
        self.due[at] = Some(due);
        Ok(due)
    }

    fn load(&mut self, at: usize, now: Millis) -> Result<bool, Error> {
        if self.lanes.queued() >= MAX_QUEUED {
            return Ok(false);
        }
        if self.next_due(at)?.is_none_or(|due| due > now) {
            return Ok(false);
        }
        self.due[at] = None;
        let due = self.folds[at].due(&self.loaded[at], now, LOAD)?;
        let Some(last) = due.last().cloned() else { return Ok(false) };
        self.loaded[at] = last;
        for key in due {
            self.enqueue(at, &key)?;
        }
        Ok(true)
    }

    fn enqueue(&mut self, at: usize, due_key: &[u8]) -> Result<(), Error> {
        let delivery_id = due_id(due_key);
        let Some(row) = self.folds[at].find(&delivery_id)? else { return Ok(()) };
        if row.phase != Phase::Due {
            return Ok(());
        }
        if !self.held.insert(delivery_id.clone()) {
            self.deferred.insert(delivery_id, (at, due_key.to_vec()));
            return Ok(());
        }
        let endpoint = format!("{}\0{}", row.delivery.project, row.delivery.endpoint_id);
        let lane = xxhash_rust::xxh3::xxh3_64(format!("{endpoint}\0{}", row.delivery.user_id).as_bytes());
        let first = row.attempt == 0;
        self.lanes.push(Item { partition: at as u32, delivery_id, due_at: row.due_at, first, endpoint, lane });
        Ok(())
    }

    fn dispatch(&mut self) -> Result<bool, Error> {
        let mut worked = false;
        if self.setup.log.is_writable().is_err() {
            // What an attempt does could not be written down.
            return Ok(false);
        }
        loop {
            let endpoints = self.folds.first().map(|f| &f.endpoints);
            let concurrency = |key: &str| {
                let found = endpoints.and_then(|all| all.get(key.as_bytes())).cloned().flatten();
                found.map_or(10, |endpoint| endpoint.concurrency)
            };
            let Some(item) = self.lanes.next(concurrency) else { return Ok(worked) };
            worked = true;
            let Some(row) = self.folds[item.partition as usize].find(&item.delivery_id)? else {
                self.release(&item)?;
                continue;
            };
            self.flying.insert(item.delivery_id.clone());
            self.start(item, row);
        }
    }

    fn endpoint(&self, item: &Item, delivery: &Message) -> Option<Arc<Endpoint>> {
        let key = keys::named(&delivery.project, &delivery.endpoint_id);
        self.folds[item.partition as usize].endpoints.get(&key).cloned().flatten()
    }

    fn start(&mut self, item: Item, row: Row) {
        let now = self.setup.clock.now();
        let refused = match self.endpoint(&item, &row.delivery) {
            None => Some("endpoint_removed"),
            Some(endpoint) if !endpoint.enabled => Some("endpoint_disabled"),
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
                Err(reason) => Some(reason),
            },
        };
        let record = AttemptRecord {
            attempt: row.attempt,
            started_at: now,
            duration_ms: 0,
            http_status: None,
            outcome: Outcome::NotSent,
            error: None,
            response: None,
            first_started_at: row.first_started_at.unwrap_or(now),
            next_due_at: None,
            ended: Some(Ended::Cancelled),
            reason: refused.map(str::to_owned),
            ..about(&row.delivery)
        };
        self.close(item, &record, None);
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
    fn finish(&mut self) -> Result<bool, Error> {
        let mut worked = false;
        while let Ok((item, row, went)) = self.went.1.try_recv() {
            worked = true;
            self.judge(item, &row, went);
        }
        if !self.refused.is_empty() && self.setup.log.is_writable().is_ok() {
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
                }
                (Ok(_), Some(next)) => self.write(Closing { now: next, ..closing }),
                (Ok(_), None) => {
                    if let Some(item) = &closing.item {
                        self.release(item)?;
                    }
                }
            }
        }
        Ok(worked)
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
            next_due_at: None,
            ended: None,
            reason: None,
            ..about(&row.delivery)
        };
        if went.outcome == Outcome::Delivered {
            let latency = (went.ended_at - row.delivery.created_at).max(0) as f64 / 1_000.0;
            metrics.delivery_latency_seconds.observe(latency);
            record.ended = Some(Ended::Delivered);
            return self.close(item, &record, None);
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
                self.retry_record(item.partition, row, (attempt, next_due_at, first_started_at, wait))
            }
            Err(reason) => {
                metrics.delivery_dead.with_label_values(&[reason]).inc();
                record.ended = Some(Ended::Dead);
                record.reason = Some(reason.to_owned());
                dead_record(item.partition, row, attempt, reason, went.ended_at)
            }
        };
        self.close(item, &record, Some(then));
    }

    /// First the attempt's record; when it is durable, what comes of it.
    fn close(&mut self, item: Item, record: &AttemptRecord, then: Option<(At, New)>) {
        let at = At { topic: Topic::Attempts, partition: item.partition };
        let id = match record.ended {
            Some(Ended::Cancelled) => format!("{}/cancelled", record.delivery_id),
            _ => format!("{}/{}", record.delivery_id, record.attempt),
        };
        let new = keyed(&record.user_id, id, output::encode(record));
        self.write(Closing { item: Some(item), now: (at, new), then });
    }

    fn retry_record(
        &self,
        partition: u32,
        row: &Row,
        (attempt, due_at, first_started_at, wait): (u32, Millis, Millis, Millis),
    ) -> (At, New) {
        let delivery = Box::new(row.delivery.clone());
        let id = format!("{}/{attempt}/0", delivery.delivery_id);
        let record = RetryRecord { delivery, attempt, moved: 0, due_at, first_started_at };
        let at = At { topic: Topic::for_wait(wait.max(SECOND)), partition };
        (at, keyed(&row.delivery.user_id, id, output::encode(&record)))
    }

    fn release(&mut self, item: &Item) -> Result<(), Error> {
        self.held.remove(&item.delivery_id);
        self.flying.remove(&item.delivery_id);
        self.lanes.done(item);
        match self.deferred.remove(&item.delivery_id) {
            Some((at, due_key)) => self.enqueue(at, &due_key),
            None => Ok(()),
        }
    }

    fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    fn tagged(&self, tag: u64) -> Ack {
        Ack::Tagged { tag, queue: self.acks.0.clone(), bell: self.bell.clone() }
    }
}

fn dead_record(partition: u32, row: &Row, attempts: u32, reason: &str, died_at: Millis) -> (At, New) {
    let delivery = Box::new(row.delivery.clone());
    let id = format!("{}/dead", delivery.delivery_id);
    let record = DeadRecord { delivery, attempts, reason: reason.to_owned(), died_at };
    (At { topic: Topic::Dead, partition }, keyed(&row.delivery.user_id, id, output::encode(&record)))
}

fn keyed(user_id: &str, id: String, value: Vec<u8>) -> New {
    let new = New { key: Some(Bytes::from(user_id.to_owned())), headers: Vec::new(), value: Some(value.into()) };
    new.header(ID_HEADER, id)
}

/// What every attempt of a delivery has in common.
fn about(delivery: &Message) -> AttemptRecord {
    AttemptRecord {
        delivery_id: delivery.delivery_id.clone(),
        message_id: delivery.message_id.clone(),
        endpoint_id: delivery.endpoint_id.clone(),
        project: delivery.project.clone(),
        user_id: delivery.user_id.clone(),
        survey_id: delivery.survey_id.clone(),
        attempt: 0,
        started_at: 0,
        duration_ms: 0,
        http_status: None,
        outcome: Outcome::NotSent,
        error: None,
        response: None,
        first_started_at: 0,
        next_due_at: None,
        ended: None,
        reason: None,
    }
}
