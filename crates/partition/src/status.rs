//! The status of a partition, for other parts of the process.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use askwhen_domain::time::{Millis, SECOND};
use askwhen_process::clock::Clock;
use askwhen_wire::topic::Topic;

/// How far a machine's clock may be behind the journal's time, in milliseconds; beyond that
/// its partitions decide nothing.
pub const MAX_CLOCK_LAG: Millis = 300 * SECOND;

/// Whether a machine's clock is too far behind a journal's time.
pub fn is_behind(clock: &Clock, time: Millis) -> bool {
    clock.wall().saturating_add(MAX_CLOCK_LAG) < time
}

/// The phase of a partition in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Phase {
    /// Another process owns it, or none.
    #[default]
    NotOwned,
    /// Its state is being restored; the text says what is being done.
    Opening(String),
    Running,
    Stopped {
        why: String,
        /// Whether an operator has to look.
        refused: bool,
    },
}

/// Requests to write to the store what a partition has in memory.
#[derive(Debug, Default)]
pub struct CheckpointRequests {
    /// The number of the last request.
    last: AtomicU64,
    /// The number of the last request that has been met.
    met: AtomicU64,
}

impl CheckpointRequests {
    /// Requests a checkpoint of everything that is applied now; returns the request's number.
    pub fn request(&self) -> u64 {
        self.last.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The number of the last request, for whoever begins to write.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Whether a request is waiting.
    pub fn any(&self) -> bool {
        self.met.load(Ordering::Acquire) < self.last()
    }

    /// Notes that everything up to a request has been written.
    pub fn meet(&self, request: u64) {
        self.met.fetch_max(request, Ordering::AcqRel);
    }

    pub fn is_met(&self, request: u64) -> bool {
        self.met.load(Ordering::Acquire) >= request
    }
}

/// The status of a partition.
#[derive(Debug, Default)]
pub struct Status {
    /// The next journal offset to apply.
    pub next: AtomicU64,
    /// The end of the journal when the partition was opened; below it the partition is
    /// catching up.
    pub goal: AtomicU64,
    /// Whether all outputs and forwards are durable.
    pub settled: AtomicBool,
    /// Whether its store is to be set aside before it is opened again.
    pub damaged: AtomicBool,
    /// The journal's time as far as it is applied, in milliseconds since the epoch, without
    /// the offset of a test clock.
    pub time: AtomicI64,
    /// Whether nothing is decided because this machine's clock is behind the journal's
    /// time.
    pub clock_behind: AtomicBool,
    /// The record for which it waits for an operator.
    poisoned_at: Mutex<Option<(Topic, u64)>>,
    /// Whether it was given up while it is being opened.
    pub unwanted: AtomicBool,
    pub checkpoints: CheckpointRequests,
    phase: Mutex<Phase>,
    /// Sources of state that were found damaged when it was last opened, and why.
    passed_over: Mutex<Vec<String>>,
}

impl Status {
    pub fn phase(&self) -> Phase {
        self.phase.lock().expect("no panic holds this lock").clone()
    }

    /// Whether new records would only be kept, because this machine's clock is behind. It
    /// is checked here because the partition itself notices at its next step.
    pub fn is_behind(&self, clock: &Clock) -> bool {
        self.clock_behind.load(Ordering::Acquire) || is_behind(clock, self.time.load(Ordering::Acquire))
    }

    /// Whether it waits for its clock or for an operator.
    pub fn waits(&self) -> bool {
        self.clock_behind.load(Ordering::Acquire) || self.poisoned_at().is_some()
    }

    /// Topic and offset of the record for which it waits for an operator.
    pub fn poisoned_at(&self) -> Option<(Topic, u64)> {
        *self.poisoned_at.lock().expect("no panic holds this lock")
    }

    pub fn set_poisoned(&self, record: Option<(Topic, u64)>) {
        *self.poisoned_at.lock().expect("no panic holds this lock") = record;
    }

    /// Whether opening should go on; checked now and then, because it may take long.
    pub fn is_wanted(&self) -> bool {
        !self.unwanted.load(Ordering::Acquire)
    }

    pub fn passed_over(&self) -> Vec<String> {
        self.passed_over.lock().expect("no panic holds this lock").clone()
    }

    pub fn set_passed_over(&self, reasons: Vec<String>) {
        *self.passed_over.lock().expect("no panic holds this lock") = reasons;
    }

    pub fn set(&self, phase: Phase) {
        *self.phase.lock().expect("no panic holds this lock") = phase;
    }
}
