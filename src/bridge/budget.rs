//! The bytes that requests and answers may hold, all connections together. They
//! are counted as they come, whatever was declared, and given back when the
//! request is over.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

use super::connections::{Connection, Connections};

/// A request of this size has bytes of its own to fall back on, an eighth of all:
/// large bodies leave room for the many small ones.
const SMALL_BYTES: usize = 16 << 10;
const RESERVED_SHARE: usize = 8;
/// How long a body waits for room, and how many large ones may do so.
const WAIT: Duration = Duration::from_millis(500);
const MAX_WAITING: usize = 64;
/// How often whoever waits looks again, should nothing be given back.
const LOOK: Duration = Duration::from_millis(20);

/// There is no room now, and there was none for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetExhausted;

#[derive(Debug)]
pub struct Budget {
    limit_bytes: AtomicUsize,
    used_bytes: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
}

impl Budget {
    pub fn new(limit_bytes: usize) -> Budget {
        Budget {
            limit_bytes: AtomicUsize::new(limit_bytes),
            used_bytes: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize, small: bool) -> bool {
        let limit = self.limit_bytes();
        let most = if small { limit } else { limit - limit / RESERVED_SHARE };
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= most);
        self.used_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::AcqRel);
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.freed.notify_waiters();
        }
    }
}

/// Bytes that one request or answer holds; given back when it is dropped.
#[derive(Debug)]
pub struct HeldBytes {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
    bytes: usize,
}

impl HeldBytes {
    pub fn none(connection: &Arc<Connection>) -> HeldBytes {
        HeldBytes { connections: connection.all().clone(), connection: connection.clone(), bytes: 0 }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more if there is room now.
    pub fn try_grow(&mut self, bytes: usize) -> Result<(), BudgetExhausted> {
        if !self.connections.budget.take(bytes, self.bytes + bytes <= SMALL_BYTES) {
            return Err(BudgetExhausted);
        }
        self.bytes += bytes;
        self.connection.holds(bytes);
        Ok(())
    }

    /// Takes more, and waits a little for it. Meanwhile those who hold much and do
    /// not move lose their place.
    ///
    /// # Errors
    /// When there is no room.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), BudgetExhausted> {
        if self.try_grow(bytes).is_ok() {
            return Ok(());
        }
        let connections = self.connections.clone();
        let budget = &connections.budget;
        let waiting = WaitingGuard::enter(budget);
        if waiting.before >= MAX_WAITING && self.bytes + bytes > SMALL_BYTES {
            return Err(BudgetExhausted);
        }
        let deadline = Instant::now() + WAIT;
        loop {
            connections.free_bytes();
            let freed = budget.freed.notified();
            if self.try_grow(bytes).is_ok() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(BudgetExhausted);
            }
            tokio::time::timeout(LOOK, freed).await.ok();
        }
    }

    /// Bytes that give back what they hold when the last of them is dropped.
    pub fn counted<T: AsRef<[u8]> + Send + 'static>(self, bytes: T) -> Bytes {
        Bytes::from_owner(Counted { bytes, _held: self })
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.connection.holds_no_longer(self.bytes);
        self.connections.budget.give_back(self.bytes);
    }
}

struct Counted<T> {
    bytes: T,
    _held: HeldBytes,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Counted<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

struct WaitingGuard<'a> {
    budget: &'a Budget,
    before: usize,
}

impl WaitingGuard<'_> {
    fn enter(budget: &Budget) -> WaitingGuard<'_> {
        WaitingGuard { budget, before: budget.waiting.fetch_add(1, Ordering::AcqRel) }
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.budget.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
