//! What a start waits for before it writes: a partition whose state and log do not
//! belong together ends the start, and the log must then be as it was found.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::status::Status;

/// How often a partition that waits looks whether it still has to.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Held by the partitions of every role that a process starts with. Nothing is
/// appended before the state of each has been compared with the log.
#[derive(Debug)]
pub struct StartBarrier {
    /// Whose state has not been compared yet: role and partition.
    awaited: Mutex<BTreeSet<(&'static str, u32)>>,
    changed: Condvar,
    /// The others do not wait for a partition that takes longer.
    deadline: Instant,
}

impl StartBarrier {
    pub fn new(roles: &[&'static str], partitions: u32, patience: Duration) -> StartBarrier {
        let awaited = roles.iter().flat_map(|role| (0..partitions).map(move |partition| (*role, partition)));
        StartBarrier {
            awaited: Mutex::new(awaited.collect()),
            changed: Condvar::new(),
            deadline: Instant::now() + patience,
        }
    }

    /// The state of this one belongs to the log, or nothing is going to be written
    /// for it.
    pub fn arrive(&self, role: &'static str, partition: u32) {
        let mut awaited = self.awaited.lock().expect("no panic holds this lock");
        if awaited.remove(&(role, partition)) && awaited.is_empty() {
            self.changed.notify_all();
        }
    }

    /// Waits for all others; gives whether the partition is still wanted.
    pub fn wait(&self, status: &Status) -> bool {
        let mut awaited = self.awaited.lock().expect("no panic holds this lock");
        while !awaited.is_empty() && Instant::now() < self.deadline && status.is_wanted() {
            awaited = self.changed.wait_timeout(awaited, LOOK_EVERY).expect("no panic holds this lock").0;
        }
        drop(awaited);
        status.is_wanted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn nobody_goes_on_before_everybody_has_arrived() {
        let barrier = StartBarrier::new(&["engine", "delivery"], 2, LONG);
        let gone_on = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for (role, partition) in [("engine", 0), ("engine", 1), ("delivery", 0)] {
                let (barrier, gone_on) = (&barrier, &gone_on);
                scope.spawn(move || {
                    barrier.arrive(role, partition);
                    assert!(barrier.wait(&Status::default()));
                    gone_on.fetch_add(1, Ordering::AcqRel);
                });
            }
            std::thread::sleep(Duration::from_millis(20));
            // One that is opened a second time.
            barrier.arrive("engine", 0);
            assert_eq!(gone_on.load(Ordering::Acquire), 0);
            barrier.arrive("delivery", 1);
        });
        assert_eq!(gone_on.load(Ordering::Acquire), 3);
        assert!(barrier.wait(&Status::default()), "it stays open");
    }

    #[test]
    fn who_is_given_up_or_has_waited_long_enough_waits_no_more() {
        let status = Status::default();
        assert!(StartBarrier::new(&["engine"], 1, Duration::ZERO).wait(&status));
        status.unwanted.store(true, Ordering::Release);
        assert!(!StartBarrier::new(&["engine"], 1, LONG).wait(&status));
    }
}
