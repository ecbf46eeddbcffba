//! The time by which deliveries wait. Due times in the topics are wall times, but waiting
//! must not stop when the wall clock steps back: so this time follows the wall clock
//! forwards and never goes back with it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use askwhen_domain::time::{DAY, Millis};
use askwhen_process::clock::Clock;

/// A time that never goes back: the largest of the wall clock, the last reading plus the
/// monotonic time since then, and the times in the topics. Clones share it.
#[derive(Clone)]
pub struct MonotoneClock {
    clock: Clock,
    reached: Arc<Mutex<ClockReading>>,
}

struct ClockReading {
    now: Millis,
    /// Monotonic time, less than a millisecond, that `now` does not count yet.
    rest: Duration,
    /// The monotonic clock as it was read last.
    read_at: Duration,
}

impl MonotoneClock {
    pub fn new(clock: Clock) -> MonotoneClock {
        let reached = ClockReading { now: clock.now(), rest: Duration::ZERO, read_at: clock.monotonic() };
        MonotoneClock { clock, reached: Arc::new(Mutex::new(reached)) }
    }

    /// Milliseconds since the epoch; never less than before.
    pub fn now(&self) -> Millis {
        let mut reached = self.reached.lock().expect("no panic holds this lock");
        let read_at = self.clock.monotonic();
        // The monotonic clock of a simulated machine may go back; time goes on from there.
        let passed = reached.rest + read_at.saturating_sub(reached.read_at);
        reached.read_at = read_at;
        let whole = Millis::try_from(passed.as_millis()).unwrap_or(Millis::MAX);
        reached.rest = passed - Duration::from_millis(whole.unsigned_abs());
        reached.now = reached.now.saturating_add(whole).max(self.clock.now());
        reached.now
    }

    /// Goes on from the largest time in the topics, if that is ahead: the wall clock has
    /// stepped back since it was written. It never goes ahead by more than a day: a time
    /// further ahead was wrong when it was written.
    pub fn advance_to(&self, recorded: Millis) {
        let most = self.clock.now().saturating_add(DAY);
        let now = self.now();
        let mut reached = self.reached.lock().expect("no panic holds this lock");
        reached.now = now.max(recorded.min(most));
    }

    /// The time of the wall clock, which may step back. Times of other processes are
    /// compared with it.
    pub fn now_by_wall(&self) -> Millis {
        self.clock.now()
    }

    /// The time of the wall clock without a test clock's offset.
    pub fn wall(&self) -> Millis {
        self.clock.wall()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_domain::time::{HOUR, SECOND};

    #[test]
    fn a_step_back_stops_nothing_and_a_step_forward_is_followed() {
        let clock = Clock::simulated(100 * HOUR);
        let time = MonotoneClock::new(clock.clone());
        clock.set_wall(97 * HOUR);
        assert_eq!(time.now(), 100 * HOUR, "it does not go back");
        clock.pass(Duration::from_secs(90));
        assert_eq!(time.now(), 100 * HOUR + 90 * SECOND, "it goes on at its pace");
        clock.set_wall(103 * HOUR);
        assert_eq!(time.now(), 103 * HOUR);
        clock.set_wall(97 * HOUR);
        clock.pass(Duration::from_micros(1_500));
        clock.pass(Duration::from_secs(1));
        assert!((103 * HOUR + SECOND..103 * HOUR + SECOND + 2).contains(&time.now()));
        assert_eq!(time.now_by_wall() / HOUR, 97);
    }

    #[test]
    fn what_the_topics_tell_is_gone_on_from_but_for_a_day_at_most() {
        let clock = Clock::simulated(100 * HOUR);
        let time = MonotoneClock::new(clock.clone());
        time.advance_to(99 * HOUR);
        assert_eq!(time.now(), 100 * HOUR);
        time.advance_to(105 * HOUR);
        assert_eq!(time.now(), 105 * HOUR);
        time.advance_to(100_000 * HOUR);
        assert_eq!(time.now(), 124 * HOUR, "a wrong clock does not decide for years");
    }
}
