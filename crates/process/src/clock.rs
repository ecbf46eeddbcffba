//! The only reader of wall time. Everything that needs the time gets a [`Clock`]; a test
//! clock is ahead of the wall clock by an offset. Waiting is measured by
//! [`Clock::monotonic`], which steps of the wall clock do not change.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use askwhen_domain::time::{DAY, MINUTE, Millis};

/// How far the wall clock may deviate from the time that has passed before that counts as a
/// step, in milliseconds; less is how clocks are slewed.
const STEP: Millis = MINUTE;

#[derive(Debug, Clone)]
pub struct Clock {
    /// How far it is ahead of the wall clock, in milliseconds; 0 without `--test-clock`.
    ahead_ms: Arc<AtomicI64>,
    source: Source,
    steady: Arc<Mutex<SteadyWall>>,
}

/// What [`Clock::cautious`] knows of the wall clock.
#[derive(Debug, Default)]
struct SteadyWall {
    /// The cautious time at `monotonic`.
    cautious: Millis,
    /// The readings of both clocks at the last call.
    wall: Millis,
    monotonic: Duration,
    /// When the wall clock made its last step, on the monotonic clock.
    since: Duration,
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

/// A wall clock and a monotonic clock that tests set: the former can step in both
/// directions, the latter only grows.
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
        let clock = Clock { ahead_ms: Arc::default(), source, steady: Arc::default() };
        let (wall, monotonic) = (clock.wall(), clock.monotonic());
        // The wall clock is trusted when the process starts, until [`Clock::goes_on_from`]
        // is called.
        let steady = SteadyWall { cautious: wall, wall, monotonic, since: monotonic };
        *clock.steady.lock().expect("no panic holds this lock") = steady;
        clock
    }

    /// A clock for tests that stands still until it is moved. Clones share it.
    pub fn simulated(start_ms: Millis) -> Clock {
        let time = SimulatedTime { wall_ms: AtomicI64::new(start_ms), passed_ms: AtomicI64::new(0) };
        Clock::of(Source::Simulated(Arc::new(time)))
    }

    /// Steps a simulated wall clock to a time, forwards or backwards, as an operator or a
    /// time server would; the monotonic clock stays. Does nothing to a real clock.
    pub fn set_wall(&self, wall_ms: Millis) {
        if let Source::Simulated(time) = &self.source {
            time.wall_ms.store(wall_ms, Ordering::Release);
        }
    }

    /// Lets time pass on a simulated clock, for wall and monotonic time alike. Does nothing
    /// to a real clock.
    pub fn pass(&self, by: Duration) {
        if let Source::Simulated(time) = &self.source {
            let by_ms = Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX);
            time.wall_ms.fetch_add(by_ms, Ordering::AcqRel);
            time.passed_ms.fetch_add(by_ms, Ordering::AcqRel);
        }
    }

    /// The time for decisions: wall time plus the offset of a test clock, in milliseconds
    /// since the epoch.
    pub fn now(&self) -> Millis {
        self.wall() + self.ahead_ms.load(Ordering::Acquire)
    }

    /// Wall time, without the offset of a test clock, in milliseconds since the epoch. It
    /// can step backwards.
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

    /// The time since a fixed moment of this process; it never goes back. Use it for
    /// waiting and deadlines.
    pub fn monotonic(&self) -> Duration {
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        match &self.source {
            Source::Simulated(time) => Duration::from_millis(time.passed_ms.load(Ordering::Acquire).unsigned_abs()),
            Source::Machine => BEGINNING.get_or_init(Instant::now).elapsed(),
        }
    }

    /// Wall time, or an earlier time while the wall clock may be wrong: for what cannot be
    /// undone, such as removing what is old. After a step forwards the wall clock is
    /// trusted again when it has run steadily for a day; until then only the time that has
    /// passed is counted. [`Clock::goes_on_from`] sets where it starts.
    pub fn cautious(&self) -> Millis {
        let (wall, monotonic) = (self.wall(), self.monotonic());
        let mut steady = self.steady.lock().expect("no panic holds this lock");
        let passed = millis(monotonic.saturating_sub(steady.monotonic));
        if wall.abs_diff(steady.wall.saturating_add(passed)) > STEP.unsigned_abs() {
            steady.since = monotonic;
        }
        let is_believed = millis(monotonic.saturating_sub(steady.since)) >= DAY;
        let counted = steady.cautious.saturating_add(passed);
        steady.cautious = if is_believed { wall } else { counted };
        (steady.wall, steady.monotonic) = (wall, monotonic);
        wall.min(steady.cautious)
    }

    /// Lets [`Clock::cautious`] continue from a time before which nothing is to be removed
    /// for its age, so that a wall clock that was wrong when the process started makes
    /// nothing old.
    pub fn goes_on_from(&self, time: Millis) {
        let mut steady = self.steady.lock().expect("no panic holds this lock");
        steady.cautious = steady.cautious.min(time);
        steady.since = self.monotonic();
    }

    pub fn ahead(&self) -> Millis {
        self.ahead_ms.load(Ordering::Acquire)
    }

    /// Sets the offset of the test clock in milliseconds; it never becomes smaller.
    pub fn set_ahead(&self, ahead_ms: Millis) {
        self.ahead_ms.fetch_max(ahead_ms, Ordering::AcqRel);
    }
}

fn millis(span: Duration) -> Millis {
    Millis::try_from(span.as_millis()).unwrap_or(Millis::MAX)
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
    }

    #[test]
    fn a_wall_makes_nothing_old_before_it_has_gone_steadily_for_a_day() {
        let clock = Clock::simulated(1_000 * DAY);
        clock.set_wall(1_040 * DAY);
        for hour in 1..=24 {
            assert_eq!(clock.cautious(), 1_000 * DAY + (hour - 1) * 60 * MINUTE);
            clock.pass(Duration::from_secs(3_600));
        }
        assert_eq!(clock.cautious(), 1_041 * DAY, "a day without another step");
        // Put right, it counts at once.
        clock.set_wall(1_001 * DAY);
        assert_eq!(clock.cautious(), 1_001 * DAY);

        let clock = Clock::simulated(1_040 * DAY);
        clock.goes_on_from(1_000 * DAY);
        clock.pass(Duration::from_secs(3_600));
        assert_eq!(clock.clone().cautious(), 1_000 * DAY + 60 * MINUTE, "it was wrong from the start on");
        clock.pass(Duration::from_secs(23 * 3_600));
        assert_eq!(clock.cautious(), 1_041 * DAY, "the server was not used for forty days");
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
