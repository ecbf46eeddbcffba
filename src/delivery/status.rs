//! What others may see of the delivery, and tell it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::hold::HeldEndpoint;
use askwhen_domain::time::Millis;
use askwhen_log::TopicPartition;
use askwhen_process::thread::Notify;

/// What attempts under way may hold in memory together, unless something else is
/// said.
const MEMORY_BYTES: u64 = 64 << 20;

/// What others may see of the delivery.
#[derive(Debug)]
pub struct Status {
    /// By partition.
    pub partitions: Vec<Arc<askwhen_partition::Status>>,
    /// Counts the turns of the loop: what is read below is as of then.
    pub turn: AtomicU64,
    /// Nothing is being sent, written or due.
    pub idle: AtomicBool,
    /// Rung, the loop turns at once.
    pub notify: Arc<Notify>,
    /// Whether somebody wants to know [`Status::positions`].
    pub watched: bool,
    /// Where the topics have been read up to.
    pub positions: Mutex<Vec<(TopicPartition, u64)>>,
    pub(super) next_due: AtomicI64,
    pub(super) held: Mutex<Vec<HeldEndpoint>>,
    pub(super) memory_bytes: AtomicU64,
    pub(super) memory_limit: AtomicU64,
}

impl Status {
    pub fn new(partitions: u32, watched: bool) -> Status {
        Status {
            partitions: (0..partitions).map(|_| Arc::default()).collect(),
            turn: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            notify: Arc::default(),
            watched,
            positions: Mutex::default(),
            next_due: AtomicI64::new(i64::MAX),
            held: Mutex::default(),
            memory_bytes: AtomicU64::new(0),
            memory_limit: AtomicU64::new(MEMORY_BYTES),
        }
    }

    /// When the next attempt is due, if any waits.
    pub fn next_due(&self) -> Option<Millis> {
        Some(self.next_due.load(Ordering::Acquire)).filter(|due| *due != i64::MAX)
    }

    /// Endpoints that nothing can be sent to by this process's own fault.
    pub fn held(&self) -> Vec<HeldEndpoint> {
        self.held.lock().expect("no panic holds this lock").clone()
    }

    /// Why an endpoint is held, and since when.
    pub fn hold_of(&self, project: &str, endpoint_id: &str) -> Option<(&'static str, Millis)> {
        let held = self.held.lock().expect("no panic holds this lock");
        let found = held.iter().find(|held| held.project == project && held.endpoint_id == endpoint_id)?;
        Some((found.reason.name(), found.since))
    }

    /// What waits in memory and what is under way takes about so much.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Acquire)
    }

    /// What attempts under way may hold in memory together, about.
    pub fn limit_memory(&self, bytes: u64) {
        self.memory_limit.store(bytes, Ordering::Release);
        self.notify.notify();
    }

    pub(super) fn memory_limit(&self) -> usize {
        usize::try_from(self.memory_limit.load(Ordering::Acquire)).unwrap_or(usize::MAX)
    }

    pub(super) fn set_held(&self, held: Vec<HeldEndpoint>) {
        *self.held.lock().expect("no panic holds this lock") = held;
    }

    pub(super) fn set_next_due(&self, due: Option<Millis>) {
        self.next_due.store(due.unwrap_or(i64::MAX), Ordering::Release);
    }
}
