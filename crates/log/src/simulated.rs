//! A log in memory for tests, shared by several clients like brokers.
//!
//! Legal faults: an append waits in the queue of its client and partition until a test lets
//! it land. A queue keeps its order; two queues have none between them. A client may die:
//! of each of its queues some of the first appends are left, which may land much later,
//! after what others wrote; the rest is lost. The outcome of an append may be reported as
//! unknown, and it may land all the same; it may be refused and never land; it may fail.
//! What has landed is durable and never changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::frame;
use crate::ack::Ack;
use crate::error::Error;
use crate::record::{AppendedRange, NewRecord, Record, TopicPartition, Watermarks};
use askwhen_domain::time::Millis;
use askwhen_process::thread::Notify;

/// The log as one client sees it.
#[derive(Debug)]
pub struct Simulated {
    client: u32,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    incarnation: u128,
    partitions: u32,
    now: AtomicI64,
    /// Whether it counts as founded by version 0.1.0.
    old: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<TopicPartition, SimulatedPartition>,
    /// Appends that are held back until a test lets them land.
    waiting: Vec<Waiting>,
    manual_sync: bool,
    failing: BTreeSet<TopicPartition>,
}

#[derive(Debug, Default)]
struct SimulatedPartition {
    start: u64,
    records: Vec<Record>,
    listeners: Vec<Arc<Notify>>,
}

/// The appends of one client to one partition, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppendQueue {
    pub client: u32,
    pub at: TopicPartition,
}

struct Waiting {
    client: u32,
    at: TopicPartition,
    records: Vec<NewRecord>,
    /// `None` once its outcome was reported.
    ack: Option<Ack>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {} of {}", self.at, self.records.len(), self.client)
    }
}

impl Simulated {
    pub fn new(incarnation: u128, partitions: u32) -> Simulated {
        let (now, old) = (AtomicI64::new(0), AtomicBool::new(false));
        let shared = Shared { incarnation, partitions, now, old, state: Mutex::default() };
        Simulated { client: 0, shared: Arc::new(shared) }
    }

    /// The same log for another client.
    pub fn client(&self, client: u32) -> Simulated {
        Simulated { client, shared: self.shared.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no panic holds this lock")
    }

    pub fn incarnation(&self) -> u128 {
        self.shared.incarnation
    }

    pub fn partitions(&self) -> u32 {
        self.shared.partitions
    }

    pub fn binds_macs(&self) -> bool {
        !self.shared.old.load(Ordering::Acquire)
    }

    /// From now on it counts as a log that version 0.1.0 has founded.
    pub fn make_old(&self) {
        self.shared.old.store(true, Ordering::Release);
    }

    /// Sets the append time of later appends.
    pub fn set_now(&self, now: Millis) {
        self.shared.now.store(now, Ordering::Release);
    }

    /// From now on appends are held back until they are let land.
    pub fn hold(&self) {
        self.state().manual_sync = true;
    }

    /// Lets all held appends land.
    pub fn sync(&self) {
        let mut state = self.state();
        for waiting in std::mem::take(&mut state.waiting) {
            self.store(&mut state, waiting);
        }
    }

    /// Queues with appends that have not landed, sorted.
    pub fn append_queues(&self) -> Vec<AppendQueue> {
        let queue_of = |w: &Waiting| AppendQueue { client: w.client, at: w.at };
        let queues: BTreeSet<AppendQueue> = self.state().waiting.iter().map(queue_of).collect();
        queues.into_iter().collect()
    }

    fn first_of(&self, state: &State, queue: AppendQueue) -> Option<usize> {
        state.waiting.iter().position(|w| w.client == queue.client && w.at == queue.at)
    }

    /// Lets the oldest append of a queue land, and acknowledges it.
    pub fn land(&self, queue: AppendQueue) {
        let mut state = self.state();
        if let Some(first) = self.first_of(&state, queue) {
            let waiting = state.waiting.remove(first);
            self.store(&mut state, waiting);
        }
    }

    /// Lets this client's appends to a partition land.
    pub fn land_own(&self, at: TopicPartition) {
        let queue = AppendQueue { client: self.client, at };
        while self.first_of(&self.state(), queue).is_some() {
            self.land(queue);
        }
    }

    /// Refuses the oldest append of a queue; it is never stored.
    pub fn refuse(&self, queue: AppendQueue) {
        let mut state = self.state();
        if let Some(first) = self.first_of(&state, queue) {
            let ack = state.waiting.remove(first).ack;
            drop(state);
            if let Some(ack) = ack {
                ack.send(Err(Error::Unavailable("injected".into())));
            }
        }
    }

    /// Reports the outcome of a queue's oldest append as unknown. It may still land.
    pub fn time_out(&self, queue: AppendQueue) {
        let mut state = self.state();
        if let Some(first) = self.first_of(&state, queue)
            && let Some(ack) = state.waiting[first].ack.take()
        {
            drop(state);
            ack.send(Err(Error::Unknown("injected".into())));
        }
    }

    /// A client dies. `kept` returns for each of its queues how many of the first appends
    /// may still land; the others are lost without an outcome.
    pub fn die(&self, client: u32, mut kept: impl FnMut(TopicPartition, usize) -> usize) {
        let mut state = self.state();
        let mut lengths: BTreeMap<TopicPartition, usize> = BTreeMap::new();
        for waiting in state.waiting.iter().filter(|w| w.client == client) {
            *lengths.entry(waiting.at).or_default() += 1;
        }
        let mut left: BTreeMap<TopicPartition, usize> =
            lengths.into_iter().map(|(at, length)| (at, kept(at, length))).collect();
        state.waiting.retain_mut(|waiting| {
            if waiting.client != client {
                return true;
            }
            waiting.ack = None;
            let left = left.entry(waiting.at).or_default();
            let stays = *left > 0;
            *left = left.saturating_sub(1);
            stays
        });
    }

    /// All clients crash: what has not landed is lost without an outcome.
    pub fn crash(&self) {
        self.state().waiting.clear();
    }

    /// Lets appends to this partition fail from now on, or succeed again.
    pub fn fail(&self, at: TopicPartition, failing: bool) {
        let mut state = self.state();
        if failing {
            state.failing.insert(at)
        } else {
            state.failing.remove(&at)
        };
    }

    fn store(&self, state: &mut State, Waiting { at, records, ack, .. }: Waiting) {
        let tell = |outcome| {
            if let Some(ack) = ack {
                ack.send(outcome);
            }
        };
        if state.failing.contains(&at) {
            return tell(Err(Error::Unknown("injected".into())));
        }
        let appended_at = self.shared.now.load(Ordering::Acquire);
        let part = state.parts.entry(at).or_default();
        let first = part.start + part.records.len() as u64;
        let count = records.len() as u64;
        for (offset, new) in (first..).zip(records) {
            let mut bytes = bytes::BytesMut::new();
            frame::encode(&mut bytes, &new, offset, appended_at, 0);
            let frame = frame::decode(&bytes.freeze()).expect("just encoded");
            part.records.push(frame.record);
        }
        for notify in &part.listeners {
            notify.notify();
        }
        tell(Ok(AppendedRange { first, end: first + count }));
    }

    pub fn append(&self, at: TopicPartition, records: Vec<NewRecord>, ack: Ack) {
        let mut state = self.state();
        let waiting = Waiting { client: self.client, at, records, ack: Some(ack) };
        if state.manual_sync {
            state.waiting.push(waiting);
        } else {
            self.store(&mut state, waiting);
        }
    }

    pub fn read(&self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        let state = self.state();
        let Some(part) = state.parts.get(&at) else { return Ok(Vec::new()) };
        if from < part.start {
            return Err(Error::Trimmed { at, offset: from, start: part.start });
        }
        let mut taken = 0;
        let mut records = Vec::new();
        for record in part.records.iter().skip((from - part.start) as usize) {
            taken += record.len_bytes().max(1);
            records.push(record.clone());
            if taken >= max_bytes {
                break;
            }
        }
        Ok(records)
    }

    pub fn bounds(&self, at: TopicPartition) -> Watermarks {
        let state = self.state();
        let part = state.parts.get(&at);
        part.map_or(Watermarks { start: 0, end: 0 }, |p| Watermarks {
            start: p.start,
            end: p.start + p.records.len() as u64,
        })
    }

    pub fn subscribe(&self, at: TopicPartition, notify: Arc<Notify>) {
        let mut state = self.state();
        let listeners = &mut state.parts.entry(at).or_default().listeners;
        // Listeners of dead processes are dropped.
        listeners.retain(|known| Arc::strong_count(known) > 1);
        if !listeners.iter().any(|known| Arc::ptr_eq(known, &notify)) {
            listeners.push(notify);
        }
    }

    /// Removes the records of a partition from an offset on; returns them.
    pub fn cut(&self, at: TopicPartition, end: u64) -> Vec<Record> {
        let mut state = self.state();
        let Some(part) = state.parts.get_mut(&at) else { return Vec::new() };
        part.records.split_off(end.saturating_sub(part.start) as usize)
    }

    /// Adds removed records again.
    pub fn put_back(&self, at: TopicPartition, records: Vec<Record>) {
        let mut state = self.state();
        state.parts.entry(at).or_default().records.extend(records);
    }

    pub fn trim(&self, at: TopicPartition, below: u64) {
        let mut state = self.state();
        if let Some(part) = state.parts.get_mut(&at) {
            let old = below.saturating_sub(part.start).min(part.records.len() as u64);
            part.records.drain(..old as usize);
            part.start += old;
        }
    }
}
