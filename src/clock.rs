//! The only reader of wall time. Everything that asks for the time is handed a
//! [`Clock`]; a test clock runs ahead of the wall by what it was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::time::Millis;

#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// How far ahead of the wall, in milliseconds; zero but under `--test-clock`.
    ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    pub fn new() -> Clock {
        Clock::default()
    }

    /// The time that decides: wall time plus what a test clock was moved by.
    pub fn now(&self) -> Millis {
        self.wall() + self.ahead_ms.load(Ordering::Acquire)
    }

    /// The real time, also under a test clock.
    pub fn wall(&self) -> Millis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
    }

    pub fn ahead(&self) -> Millis {
        self.ahead_ms.load(Ordering::Acquire)
    }

    /// Sets the test clock; it never moves backwards.
    pub fn set_ahead(&self, ahead_ms: Millis) {
        self.ahead_ms.fetch_max(ahead_ms, Ordering::AcqRel);
    }
}
