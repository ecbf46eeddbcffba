//! The status of the delivery, for readiness, the test clock and the bridge.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::hold::HeldEndpoint;
use askwhen_domain::time::Millis;
use askwhen_log::TopicPartition;
use askwhen_process::thread::Notify;

/// Default of the bytes that attempts in flight hold in memory together.
const MEMORY_BYTES: u64 = 64 << 20;

/// The status of the delivery. The loop writes it in every turn.
#[derive(Debug)]
pub struct Status {
    /// By partition.
    pub partitions: Vec<Arc<askwhen_partition::Status>>,
    /// The number of the loop's turns; the members below are as of the last one.
    pub turn: AtomicU64,
    /// Whether nothing is due, in flight or being appended.
    pub idle: AtomicBool,
    /// Wakes the loop.
    pub notify: Arc<Notify>,
    /// Whether a test clock reads [`Status::positions`].
    pub watched: bool,
    /// The next offsets to be read.
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

    /// Endpoints to which nothing can be sent by a fault of this process.
    pub fn held(&self) -> Vec<HeldEndpoint> {
        self.held.lock().expect("no panic holds this lock").clone()
    }

    /// Why an endpoint is held, and since when.
    pub fn hold_of(&self, project: &str, endpoint_id: &str) -> Option<(&'static str, Millis)> {
        let held = self.held.lock().expect("no panic holds this lock");
        let found = held.iter().find(|held| held.project == project && held.endpoint_id == endpoint_id)?;
        Some((found.reason.name(), found.since))
    }

    /// About how many bytes waiting deliveries and attempts in flight take.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Acquire)
    }

    /// Sets the bytes that attempts in flight may hold in memory together.
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
