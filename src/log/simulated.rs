//! A log in memory for tests. Legal faults: an append that fails, its outcome
//! unknown; everything not yet synced is lost in a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Ack, At, Bounds, Error, New, Placed, Record, frame};
use crate::domain::time::Millis;
use crate::thread::Bell;

#[derive(Debug)]
pub struct Simulated {
    incarnation: u128,
    partitions: u32,
    now: AtomicI64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    parts: BTreeMap<At, Part>,
    /// Held back until [`Simulated::sync`].
    waiting: Vec<Waiting>,
    manual_sync: bool,
    failing: BTreeSet<At>,
}

#[derive(Debug, Default)]
struct Part {
    start: u64,
    records: Vec<Record>,
    bells: Vec<Arc<Bell>>,
}

struct Waiting {
    at: At,
    records: Vec<New>,
    ack: Ack,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {}", self.at, self.records.len())
    }
}

impl Simulated {
    pub fn new(incarnation: u128, partitions: u32) -> Simulated {
        Simulated { incarnation, partitions, now: AtomicI64::new(0), state: Mutex::default() }
    }

    pub fn incarnation(&self) -> u128 {
        self.incarnation
    }

    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Sets the append time of what comes next.
    pub fn set_now(&self, now: Millis) {
        self.now.store(now, Ordering::Release);
    }

    /// From now on nothing is durable before [`Simulated::sync`].
    pub fn hold(&self) {
        self.state.lock().expect("no panic holds this lock").manual_sync = true;
    }

    /// Makes what waits durable, or with `fail` leaves it unknown and unstored.
    pub fn sync(&self) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        for waiting in std::mem::take(&mut state.waiting) {
            self.store(&mut state, waiting);
        }
    }

    /// A crash: what was not synced is gone, and nobody is told.
    pub fn crash(&self) {
        self.state.lock().expect("no panic holds this lock").waiting.clear();
    }

    /// Appends to this partition fail from now on, or work again.
    pub fn fail(&self, at: At, failing: bool) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        if failing {
            state.failing.insert(at)
        } else {
            state.failing.remove(&at)
        };
    }

    fn store(&self, state: &mut State, Waiting { at, records, ack }: Waiting) {
        if state.failing.contains(&at) {
            return ack.send(Err(Error::Unknown("injected".into())));
        }
        let appended_at = self.now.load(Ordering::Acquire);
        let part = state.parts.entry(at).or_default();
        let first = part.start + part.records.len() as u64;
        let count = records.len() as u64;
        for (offset, new) in (first..).zip(records) {
            let mut bytes = bytes::BytesMut::new();
            frame::encode(&mut bytes, &new, offset, appended_at, 0);
            let frame = frame::decode(&bytes.freeze()).expect("just encoded");
            part.records.push(frame.record);
        }
        for bell in &part.bells {
            bell.ring();
        }
        ack.send(Ok(Placed { first, end: first + count }));
    }

    pub fn append(&self, at: At, records: Vec<New>, ack: Ack) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        let waiting = Waiting { at, records, ack };
        if state.manual_sync {
            state.waiting.push(waiting);
        } else {
            self.store(&mut state, waiting);
        }
    }

    pub fn read(&self, at: At, from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        let state = self.state.lock().expect("no panic holds this lock");
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

    pub fn bounds(&self, at: At) -> Bounds {
        let state = self.state.lock().expect("no panic holds this lock");
        let part = state.parts.get(&at);
        part.map_or(Bounds { start: 0, end: 0 }, |p| Bounds { start: p.start, end: p.start + p.records.len() as u64 })
    }

    pub fn subscribe(&self, at: At, bell: Arc<Bell>) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        let bells = &mut state.parts.entry(at).or_default().bells;
        if !bells.iter().any(|known| Arc::ptr_eq(known, &bell)) {
            bells.push(bell);
        }
    }

    pub fn trim(&self, at: At, below: u64) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        if let Some(part) = state.parts.get_mut(&at) {
            let old = below.saturating_sub(part.start).min(part.records.len() as u64);
            part.records.drain(..old as usize);
            part.start += old;
        }
    }
}
