//! The part of the budget that one request or answer holds.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::budget::{Budget, BudgetExhausted, SMALL_BYTES};
use super::connections::{Connection, Connections};

/// How long a body waits for room.
const WAIT: Duration = Duration::from_millis(500);
const MAX_WAITING: usize = 64;
/// How often a body that waits looks again.
const LOOK: Duration = Duration::from_millis(20);

/// Bytes of the budget that a request or answer holds, released when dropped.
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

    /// Takes more, and waits a little if there is no room. Meanwhile connections that hold
    /// much without progress are closed.
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

    /// Bytes that release their part of the budget when the last clone is dropped.
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
