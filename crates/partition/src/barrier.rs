//! Makes the partitions of a starting process wait for each other before they write: when
//! the state of one does not belong to the log, the start is refused, and the log must then
//! be as it was found.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::status::Status;

/// How often a waiting partition checks whether it still has to wait.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Shared by the partitions of all roles at the start of a process. Nothing is appended
/// until the state of each has been compared with the log.
#[derive(Debug)]
pub struct StartBarrier {
    /// Roles and partitions whose state has not been compared yet.
    awaited: Mutex<BTreeSet<(&'static str, u32)>>,
    changed: Condvar,
    /// Then the others go on without those that take longer.
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

    /// The state of this partition belongs to the log, or nothing will be written for it.
    pub fn arrive(&self, role: &'static str, partition: u32) {
        let mut awaited = self.awaited.lock().expect("no panic holds this lock");
        if awaited.remove(&(role, partition)) && awaited.is_empty() {
            self.changed.notify_all();
        }
    }

    /// Waits for all others; returns whether the partition is still wanted.
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
