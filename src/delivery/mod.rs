//! The delivery: it takes messages off topic `deliveries`, sends them, and
//! writes down how every attempt went and what waits. Everything it knows it
//! can read back from its topics. It decides nothing about surveys.

mod attempt;
mod fold;
mod guard;
mod lanes;
mod run;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

pub use run::{Delivery, Setup};

use crate::domain::time::Millis;

/// What others may see of the delivery.
#[derive(Debug)]
pub struct Status {
    /// Counts the turns of the loop: what is read below is as of then.
    pub turn: AtomicU64,
    /// Nothing is being sent, written or due.
    pub idle: AtomicBool,
    next_due: AtomicI64,
    pub ready: AtomicBool,
}

impl Default for Status {
    fn default() -> Status {
        Status {
            turn: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            next_due: AtomicI64::new(i64::MAX),
            ready: AtomicBool::new(false),
        }
    }
}

impl Status {
    /// When the next attempt is due, if any waits.
    pub fn next_due(&self) -> Option<Millis> {
        Some(self.next_due.load(Ordering::Acquire)).filter(|due| *due != i64::MAX)
    }
}
