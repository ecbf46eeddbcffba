//! The only reader of wall time. Everything that asks for the time is handed a
//! [`Clock`]; a test clock runs ahead of the wall by what it was told. Waiting
//! is measured on [`Clock::monotonic`], which no step of the wall moves.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use askwhen_domain::time::Millis;

#[derive(Debug, Clone)]
pub struct Clock {
    /// How far ahead of the wall, in milliseconds; zero but under `--test-clock`.
    ahead_ms: Arc<AtomicI64>,
    source: Source,
    /// What wall and monotonic time were when this clock was made.
    began: (Millis, Duration),
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::of(Source::default())
    }
}

/// Where the time comes from.
#[derive(Debug, Clone, Default)]
enum Source {
    #[default]
    Machine,
    Simulated(Arc<SimulatedTime>),
}

/// Two hands that tests set: the wall can step in both directions, and the time
/// that has passed only grows.
#[derive(Debug)]
struct SimulatedTime {
    wall_ms: AtomicI64,
    passed_ms: AtomicI64,
}

impl Clock {
    pub fn new() -> Clock {
        Clock::default()
    }

    fn of(source: Source) -> Clock {
        let mut clock = Clock { ahead_ms: Arc::default(), source, began: Default::default() };
        clock.began = (clock.wall(), clock.monotonic());
        clock
    }

    /// A clock for tests that stands still until it is moved. Its clones share
    /// its hands.
    pub fn simulated(start_ms: Millis) -> Clock {
        let time = SimulatedTime { wall_ms: AtomicI64::new(start_ms), passed_ms: AtomicI64::new(0) };
        Clock::of(Source::Simulated(Arc::new(time)))
    }

    /// Steps a simulated wall clock to a time, forwards or backwards, as an
    /// operator or a time server does; no time passes by it. A clock of the
    /// machine is left alone.
    pub fn set_wall(&self, wall_ms: Millis) {
        if let Source::Simulated(time) = &self.source {
            time.wall_ms.store(wall_ms, Ordering::Release);
        }
    }

    /// Lets time pass on a simulated clock: wall and monotonic time alike. A
    /// clock of the machine is left alone.
    pub fn pass(&self, by: Duration) {
        if let Source::Simulated(time) = &self.source {
            let by_ms = Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX);
            time.wall_ms.fetch_add(by_ms, Ordering::AcqRel);
            time.passed_ms.fetch_add(by_ms, Ordering::AcqRel);
        }
    }

    /// The time that decides: wall time plus what a test clock was moved by.
    pub fn now(&self) -> Millis {
        self.wall() + self.ahead_ms.load(Ordering::Acquire)
    }

    /// The real time, also under a test clock. It can step backwards.
    pub fn wall(&self) -> Millis {
        match &self.source {
            Source::Simulated(time) => time.wall_ms.load(Ordering::Acquire),
            Source::Machine => {
                #[expect(clippy::disallowed_methods, reason = "this is the clock")]
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
            }
        }
    }

    /// Time that has passed since some fixed moment of this process; it never
    /// goes back. Deadlines that only wait compare with it.
    pub fn monotonic(&self) -> Duration {
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        match &self.source {
            Source::Simulated(time) => Duration::from_millis(time.passed_ms.load(Ordering::Acquire).unsigned_abs()),
            Source::Machine => BEGINNING.get_or_init(Instant::now).elapsed(),
        }
    }

    /// The wall's time, or an earlier one while the wall has run ahead of the time
    /// that has passed since this clock was made (or since the newest record of the log
    /// was taken, see [`Clock::from_newest`]): for what cannot be undone, such as the
    /// removal of what is old.
    pub fn cautious(&self) -> Millis {
        let (wall, monotonic) = self.began;
        let passed = self.monotonic().saturating_sub(monotonic).as_millis();
        self.wall().min(wall.saturating_add(Millis::try_from(passed).unwrap_or(Millis::MAX)))
    }

    /// The same clock, which takes no word of the wall but the log's for how late it is:
    /// [`Clock::cautious`] goes on from when the newest record was taken. A wall that was
    /// wrong already when the process began makes nothing old.
    #[must_use]
    pub fn from_newest(mut self, appended_at: Millis) -> Clock {
        self.began.0 = self.began.0.min(appended_at);
        self
    }

    pub fn ahead(&self) -> Millis {
        self.ahead_ms.load(Ordering::Acquire)
    }

    /// Sets the test clock; it never moves backwards.
    pub fn set_ahead(&self, ahead_ms: Millis) {
        self.ahead_ms.fetch_max(ahead_ms, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_wall_steps_both_ways_and_waiting_goes_on() {
        let clock = Clock::simulated(1_000_000);
        let other = clock.clone();
        clock.pass(Duration::from_secs(5));
        assert_eq!((other.wall(), other.monotonic()), (1_005_000, Duration::from_secs(5)));
        assert_eq!(other.cautious(), 1_005_000);
        clock.set_wall(400);
        assert_eq!((other.wall(), other.now(), other.monotonic()), (400, 400, Duration::from_secs(5)));
        clock.set_ahead(50);
        clock.set_wall(9_000_000);
        assert_eq!((other.now(), other.monotonic()), (9_000_050, Duration::from_secs(5)));
        assert_eq!(other.cautious(), 1_005_000, "a jump makes nothing old");
        clock.set_wall(600);
        assert_eq!(other.cautious(), 600);
        clock.set_wall(9_000_000);
        let by_the_log = clock.clone().from_newest(500_000);
        assert_eq!(by_the_log.cautious(), 505_000, "a wall that was wrong at the start makes nothing old");
        assert_eq!(clock.clone().from_newest(20_000_000).cautious(), 1_005_000);
    }

    #[test]
    fn the_machines_own_waiting_never_goes_back() {
        let clock = Clock::new();
        let before = clock.monotonic();
        assert!(clock.clone().monotonic() >= before);
        // Only tests' own clocks are set.
        clock.set_wall(0);
        assert!(clock.wall() > 0);
    }
}
