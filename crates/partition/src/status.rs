//! What a partition lets others see of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use askwhen_domain::time::{Millis, SECOND};
use askwhen_process::clock::Clock;

/// An owner whose clock is further behind the log decides nothing.
pub const MAX_CLOCK_LAG: Millis = 300 * SECOND;

/// Whether a machine's clock is too far behind a journal's time.
pub fn is_behind(clock: &Clock, time: Millis) -> bool {
    clock.wall().saturating_add(MAX_CLOCK_LAG) < time
}

/// Where a partition stands in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Phase {
    /// Another process owns it, or none.
    #[default]
    NotOwned,
    /// Its state is being brought here: what is being done, and how far it is.
    Opening(String),
    Running,
    Stopped {
        why: String,
        /// A person has to look.
        refused: bool,
    },
}

/// What others may see of a partition.
#[derive(Debug, Default)]
pub struct Status {
    /// The next journal offset to apply.
    pub next: AtomicU64,
    /// Where the journal ended when the partition was taken up: below it, the
    /// partition is catching up.
    pub goal: AtomicU64,
    /// All that was put out or forwarded is durable.
    pub settled: AtomicBool,
    /// Its store is to be set aside before it is opened again.
    pub damaged: AtomicBool,
    /// The journal's time as far as it is applied, without what a test clock adds.
    pub time: AtomicI64,
    /// This machine's clock is behind the journal's time: nothing is decided.
    pub clock_behind: AtomicBool,
    /// The offset of a record that it waits for an operator's word on, plus one;
    /// 0 when there is none.
    poisoned_at: AtomicU64,
    /// Given up while it is still being opened.
    pub unwanted: AtomicBool,
    phase: Mutex<Phase>,
    /// Sources of state that were not sound when it was last taken up, and why.
    passed_over: Mutex<Vec<String>>,
}

impl Status {
    pub fn phase(&self) -> Phase {
        self.phase.lock().expect("no panic holds this lock").clone()
    }

    /// Whether what it is given now would only be kept, because this machine's
    /// clock is behind. Asked again here: the partition itself finds out at its
    /// next turn.
    pub fn is_behind(&self, clock: &Clock) -> bool {
        self.clock_behind.load(Ordering::Acquire) || is_behind(clock, self.time.load(Ordering::Acquire))
    }

    /// Whether it stands still until its clock is right or an operator has spoken.
    pub fn waits(&self) -> bool {
        self.clock_behind.load(Ordering::Acquire) || self.poisoned_at().is_some()
    }

    /// The record that an operator has to say a word on.
    pub fn poisoned_at(&self) -> Option<u64> {
        self.poisoned_at.load(Ordering::Acquire).checked_sub(1)
    }

    pub fn set_poisoned(&self, offset: Option<u64>) {
        self.poisoned_at.store(offset.map_or(0, |offset| offset + 1), Ordering::Release);
    }

    /// Asked by whoever is opening the partition, which may take long.
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
