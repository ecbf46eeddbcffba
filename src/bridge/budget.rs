//! The bytes that requests and answers of all connections may hold together. They are
//! counted as they come, whatever length was declared, and released when the request ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// An eighth of the budget is reserved for requests of up to this size, so that large
/// bodies leave room for small ones.
pub const SMALL_BYTES: usize = 16 << 10;
const RESERVED_SHARE: usize = 8;

/// There was no room for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetExhausted;

#[derive(Debug)]
pub struct Budget {
    limit_bytes: AtomicUsize,
    used_bytes: AtomicUsize,
    pub(super) waiting: AtomicUsize,
    pub(super) freed: Notify,
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

    pub(super) fn take(&self, bytes: usize, small: bool) -> bool {
        let limit = self.limit_bytes();
        let most = if small { limit } else { limit - limit / RESERVED_SHARE };
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= most);
        self.used_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::AcqRel);
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.freed.notify_waiters();
        }
    }
}
