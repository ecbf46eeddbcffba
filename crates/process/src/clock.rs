//! The only reader of wall time. Everything that asks for the time is handed a
//! [`Clock`]; a test clock runs ahead of the wall by what it was told. Waiting
//! is measured on [`Clock::monotonic`], which no step of the wall moves.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use askwhen_domain::time::{DAY, MINUTE, Millis};

/// A wall that is further from the time that has passed was stepped; less is how clocks
/// are slewed.
const STEP: Millis = MINUTE;

#[derive(Debug, Clone)]
pub struct Clock {
    /// How far ahead of the wall, in milliseconds; zero but under `--test-clock`.
    ahead_ms: Arc<AtomicI64>,
    source: Source,
    steady: Arc<Mutex<SteadyWall>>,
}

/// How the wall has gone; see [`Clock::cautious`].
#[derive(Debug, Default)]
struct SteadyWall {
    /// As of `monotonic`.
    cautious: Millis,
    /// What both clocks said when they were looked at last.
    wall: Millis,
    monotonic: Duration,
    /// The wall has made no step since.
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
        let clock = Clock { ahead_ms: Arc::default(), source, steady: Arc::default() };
        let (wall, monotonic) = (clock.wall(), clock.monotonic());
        // The wall of a process that begins is believed, unless something else is said.
        let steady = SteadyWall { cautious: wall, wall, monotonic, since: monotonic };
        *clock.steady.lock().expect("no panic holds this lock") = steady;
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

    /// The wall's time, or an earlier one where the wall may be wrong: for what cannot be
    /// undone, such as the removal of what is old. A wall that steps forwards is believed
    /// when it has gone steadily for a day; until then only the time counts that has
    /// passed. [`Clock::goes_on_from`] says where it began.
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

    /// Lets [`Clock::cautious`] go on from a time before which nothing is to be removed for
    /// its age: a wall that was wrong already when the process began makes nothing old.
    pub fn goes_on_from(&self, time: Millis) {
        let mut steady = self.steady.lock().expect("no panic holds this lock");
        steady.cautious = steady.cautious.min(time);
        steady.since = self.monotonic();
    }

    pub fn ahead(&self) -> Millis {
        self.ahead_ms.load(Ordering::Acquire)
    }

    /// Sets the test clock; it never moves backwards.
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
