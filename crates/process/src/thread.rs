//! Threads that end with their owners. When a process exits while a thread still works,
//! libraries are torn down beneath it, so no thread is detached. A thread that panics ends
//! the process at once, because the state that it kept is not consistent any more; the next
//! start restores it. A thread that runs for ever gives a sign of life in each turn, and
//! readiness notices when it does not.

use futures_util::FutureExt as _;
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After this time the same message is logged again.
const AGAIN: Duration = Duration::from_secs(60);

/// Wakes a thread that waits for one of several things. Where several wait, a notification ends
/// the wait of at least one.
///
/// Most notifications are for a thread that works or was notified already: they change one
/// number and call nothing of the system.
#[derive(Debug, Default)]
pub struct Notify {
    /// [`QUIET`], [`WAITING`] or [`NOTIFIED`].
    state: AtomicU8,
    /// Held between the last look at `state` and the wait.
    sleep: Mutex<()>,
    woken: Condvar,
}

/// Nobody waits, and nobody has notified since the last wait.
const QUIET: u8 = 0;
/// A thread waits, or has stopped waiting because its time was up.
const WAITING: u8 = 1;
/// There was a notification since the last wait.
const NOTIFIED: u8 = 2;

impl Notify {
    pub fn notify(&self) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) != WAITING {
            return;
        }
        // Whoever has set the state to waiting holds the lock until it sleeps. It is free again
        // when they wake, or they would sleep a second time.
        drop(self.sleep());
        self.woken.notify_all();
    }

    /// Waits until notified since the last wait, but no longer than `longest`.
    pub fn wait(&self, longest: Duration) {
        let sleep = self.sleep();
        let entered = self.state.compare_exchange(QUIET, WAITING, Ordering::AcqRel, Ordering::Acquire);
        if entered != Err(NOTIFIED) {
            let is_waiting = |_: &mut ()| self.state.load(Ordering::Acquire) == WAITING;
            let waited = resting(|| self.woken.wait_timeout_while(sleep, longest, is_waiting));
            drop(waited.expect("no panic holds this lock"));
        }
        // What was written before a notification is seen by whoever takes it. Another thread
        // may still wait.
        self.state.compare_exchange(NOTIFIED, QUIET, Ordering::AcqRel, Ordering::Acquire).ok();
    }

    fn sleep(&self) -> MutexGuard<'_, ()> {
        self.sleep.lock().expect("no panic holds this lock")
    }
}

/// After this time in one turn a thread counts as stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(30);

/// The last sign of life of a thread that runs for ever.
#[derive(Debug)]
struct Heartbeat {
    thread: String,
    stuck_after: Duration,
    /// When it last gave one, in milliseconds of [`uptime_ms`].
    beat_at_ms: AtomicU64,
    /// Whether it waits for work, which may take any time.
    resting: AtomicBool,
    /// Whether its work is over although it was not told to end.
    gone: AtomicBool,
}

static HEARTBEATS: Mutex<Vec<Weak<Heartbeat>>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: RefCell<Option<Arc<Heartbeat>>> = const { RefCell::new(None) };
}

/// Milliseconds since the first call.
fn uptime_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

fn heartbeats() -> MutexGuard<'static, Vec<Weak<Heartbeat>>> {
    HEARTBEATS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on this thread has to call [`beat`] or [`resting`]; a turn that takes longer
/// than `stuck_after` is reported by [`stuck_threads`].
pub fn watch(stuck_after: Duration) {
    let heartbeat = Arc::new(Heartbeat {
        thread: std::thread::current().name().unwrap_or("without a name").to_owned(),
        stuck_after,
        beat_at_ms: AtomicU64::new(uptime_ms()),
        resting: AtomicBool::new(false),
        gone: AtomicBool::new(false),
    });
    let mut all = heartbeats();
    all.retain(|one| one.strong_count() > 0);
    all.push(Arc::downgrade(&heartbeat));
    OWN.set(Some(heartbeat));
}

/// Notes that this thread has done another turn.
pub fn beat() {
    OWN.with_borrow(|own| {
        if let Some(own) = own {
            own.beat_at_ms.store(uptime_ms(), Ordering::Relaxed);
        }
    });
}

/// Waits for work; meanwhile the thread does not count as stuck.
pub fn resting<T>(wait: impl FnOnce() -> T) -> T {
    let set = |resting| {
        OWN.with_borrow(|own| {
            if let Some(own) = own {
                own.beat_at_ms.store(uptime_ms(), Ordering::Relaxed);
                own.resting.store(resting, Ordering::Release);
            }
        });
    };
    set(true);
    let done = wait();
    set(false);
    done
}

/// The threads that should be running and are stuck or gone, each with how long.
pub fn stuck_threads() -> Vec<String> {
    let now_ms = uptime_ms();
    let all: Vec<Arc<Heartbeat>> = heartbeats().iter().filter_map(Weak::upgrade).collect();
    let mut stuck = Vec::new();
    for one in all {
        let busy = Duration::from_millis(now_ms.saturating_sub(one.beat_at_ms.load(Ordering::Relaxed)));
        if one.gone.load(Ordering::Acquire) {
            stuck.push(format!("thread {} has ended", one.thread));
        } else if !one.resting.load(Ordering::Acquire) && busy > one.stuck_after {
            stuck.push(format!("thread {} has been at one thing for {} s", one.thread, busy.as_secs()));
        }
    }
    stuck
}

/// Runs a task that the server needs; ends the process if it panics.
pub async fn vital<T>(name: &str, task: impl Future<Output = T>) -> T {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(done) => done,
        Err(_) => crate::end(&format!("task {name} has panicked: the process ends")),
    }
}

/// A thread that is joined when it is dropped.
#[derive(Debug)]
pub struct Thread {
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts a thread.
    ///
    /// # Errors
    /// When the system cannot start one.
    pub fn spawn(name: impl Into<String>, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        let name = name.into();
        let refused = format!("the thread {name} cannot be started");
        #[expect(clippy::disallowed_methods, reason = "this is what the others use")]
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                let own = std::thread::current();
                crate::end(&format!("thread {} has panicked: the process ends", own.name().unwrap_or_default()));
            }
        });
        let handle = handle.map_err(|error| {
            let advice = "raise the limit of processes or of memory (ulimit -u, ulimit -v, the container's)";
            io::Error::new(error.kind(), format!("{refused}: {error}; {advice}"))
        })?;
        Ok(Thread { handle: Some(handle) })
    }

    /// Whether its work is over.
    pub fn is_over(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // A panic has ended the process, so there is no other error.
        drop(self.handle.take().map(JoinHandle::join));
    }
}

/// A thread that works until it is dropped.
#[derive(Debug)]
pub struct Service {
    turns: StopToken,
    // Joined when it is dropped, after it was told to end.
    _thread: Thread,
}

/// Tells the thread of a [`Service`] whether to go on.
#[derive(Debug, Clone)]
pub struct StopToken {
    ended: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl StopToken {
    /// Whether to go on; to be called once a turn, as the thread's sign of life.
    pub fn go_on(&self) -> bool {
        beat();
        !self.ended.load(Ordering::Acquire)
    }

    /// Waits until notified, but no longer than `longest`.
    pub fn wait(&self, longest: Duration) {
        self.notify.wait(longest);
    }
}

impl Service {
    /// Starts the thread. `notify` wakes it for its work and for its end.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn spawn(
        name: impl Into<String>,
        notify: Arc<Notify>,
        work: impl FnOnce(&StopToken) + Send + 'static,
    ) -> io::Result<Service> {
        let turns = StopToken { ended: Arc::default(), notify };
        let own = turns.clone();
        let thread = Thread::spawn(name, move || {
            watch(STUCK_AFTER);
            work(&own);
            if !own.ended.load(Ordering::Acquire)
                && let Some(heartbeat) = OWN.take()
            {
                heartbeat.gone.store(true, Ordering::Release);
                // Kept for good, so that it can be seen that the thread has ended.
                std::mem::forget(heartbeat);
            }
        })?;
        Ok(Service { turns, _thread: thread })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.turns.ended.store(true, Ordering::Release);
        self.turns.notify.notify();
    }
}

/// Keeps a loop from logging the same message in every turn: it is logged once a minute.
#[derive(Debug, Default)]
pub struct LogThrottle {
    last: Option<(String, Instant)>,
}

impl LogThrottle {
    pub fn is_new(&mut self, message: &str) -> bool {
        let old = self.last.as_ref().is_some_and(|(last, at)| last == message && at.elapsed() < AGAIN);
        if !old {
            self.last = Some((message.to_owned(), Instant::now()));
        }
        !old
    }
}

/// One of several clones; the group is done when all are dropped.
#[derive(Debug, Clone)]
pub struct WaitGroup {
    _end: mpsc::Sender<()>,
}

impl WaitGroup {
    /// A clone, and a receiver that is disconnected when all clones are dropped.
    pub fn new() -> (WaitGroup, mpsc::Receiver<()>) {
        let (end, over) = mpsc::channel();
        (WaitGroup { _end: end }, over)
    }
}

/// Waits until every clone that `hand_out` has given away is dropped.
pub fn wait_for_tokens(hand_out: impl FnOnce(WaitGroup)) {
    let (token, over) = WaitGroup::new();
    hand_out(token);
    // Nothing is ever sent: it returns when the last clone is dropped.
    over.recv().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_notification_is_lost_and_one_before_the_wait_counts() {
        const ROUNDS: u64 = 20_000;
        let (there, back) = (Notify::default(), Notify::default());
        let (sent, seen) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while seen.load(Ordering::Relaxed) < ROUNDS {
                    there.wait(Duration::from_secs(60));
                    seen.store(sent.load(Ordering::Relaxed), Ordering::Relaxed);
                    back.notify();
                }
            });
            let began = Instant::now();
            for n in 1..=ROUNDS {
                sent.store(n, Ordering::Relaxed);
                there.notify();
                back.wait(Duration::from_secs(60));
                assert_eq!(seen.load(Ordering::Relaxed), n);
            }
            assert!(began.elapsed() < Duration::from_secs(60), "a wait has ended by its time");
        });
        there.notify();
        there.notify();
        let began = Instant::now();
        there.wait(Duration::from_secs(60));
        assert!(began.elapsed() < Duration::from_secs(30), "it was notified before");
        let began = Instant::now();
        there.wait(Duration::from_millis(20));
        assert!(began.elapsed() >= Duration::from_millis(20), "two notifications are one");
    }

    #[test]
    fn of_several_that_wait_each_notification_wakes_one() {
        let (notify, taken, left) = (Notify::default(), AtomicU64::new(0), AtomicU64::new(3));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while taken.load(Ordering::Acquire) < 200 {
                        notify.wait(Duration::from_secs(60));
                        taken.fetch_add(1, Ordering::AcqRel);
                    }
                    left.fetch_sub(1, Ordering::AcqRel);
                });
            }
            let began = Instant::now();
            while taken.load(Ordering::Acquire) < 200 {
                let before = taken.load(Ordering::Acquire);
                notify.notify();
                while taken.load(Ordering::Acquire) == before {
                    assert!(began.elapsed() < Duration::from_secs(30), "nobody was woken");
                    std::thread::yield_now();
                }
            }
            while left.load(Ordering::Acquire) > 0 {
                notify.notify();
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_service_has_ended_when_it_is_dropped() {
        let (turned, notify) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::default()));
        let mark = turned.clone();
        let service = Service::spawn("test", notify, move |turns| {
            while turns.go_on() {
                turns.wait(Duration::from_secs(60));
            }
            mark.store(true, Ordering::Release);
        });
        drop(service.unwrap());
        assert!(turned.load(Ordering::Acquire));
    }

    /// Runs `dies` in a process of its own, which nobody listens to; returns its exit code.
    fn exit_code(test: &str, dies: fn()) -> Option<i32> {
        const ALONE: &str = "ASKWHEN_TEST_ALONE";
        if std::env::var_os(ALONE).is_some() {
            crate::install_panic_hook();
            dies();
            std::thread::sleep(Duration::from_secs(60));
            #[expect(clippy::disallowed_methods, reason = "nothing is to be written any more")]
            std::process::exit(99);
        }
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("thread::tests::{test}"), "--nocapture"]).env(ALONE, "1");
        command.stderr(full).stdout(std::process::Stdio::null()).status().unwrap().code()
    }

    #[test]
    fn a_panic_of_a_thread_that_serves_ends_the_process() {
        let code = exit_code("a_panic_of_a_thread_that_serves_ends_the_process", || {
            std::mem::forget(Thread::spawn("panics", || panic!("on purpose")));
        });
        assert_eq!(code, Some(1));
    }

    #[test]
    fn a_panic_of_a_task_that_serves_ends_the_process() {
        let code = exit_code("a_panic_of_a_task_that_serves_ends_the_process", || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.spawn(vital::<()>("panics", async { panic!("on purpose") }));
            std::mem::forget(runtime);
        });
        assert_eq!(code, Some(1));
    }

    #[test]
    fn a_lock_that_a_panic_has_left_behind_ends_the_process() {
        let code = exit_code("a_lock_that_a_panic_has_left_behind_ends_the_process", || {
            let lock = Mutex::new(());
            let left = catch_unwind(AssertUnwindSafe(|| {
                let _held = lock.lock().expect("no panic holds this lock");
                panic!("on purpose");
            }));
            assert!(left.is_err());
            drop(catch_unwind(AssertUnwindSafe(|| drop(lock.lock().expect("no panic holds this lock")))));
        });
        assert_eq!(code, Some(1));
    }

    fn is_stuck(name: &str) -> bool {
        stuck_threads().iter().any(|one| one.contains(name))
    }

    #[test]
    fn a_thread_that_hangs_or_ends_by_itself_is_seen_and_one_that_rests_is_not() {
        let (release, held) = mpsc::channel::<()>();
        let (rested, rests) = mpsc::channel::<()>();
        let hanging = Thread::spawn("hangs-in-a-test", move || {
            watch(Duration::from_millis(20));
            held.recv().ok();
            resting(|| rests.recv().ok());
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_stuck("hangs-in-a-test") {
            assert!(Instant::now() < deadline, "it was not seen");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(release);
        while is_stuck("hangs-in-a-test") {
            assert!(Instant::now() < deadline, "it rests");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(rested);
        drop(hanging);
        let ended = Service::spawn("ends-in-a-test", Arc::default(), |_| ()).unwrap();
        while !is_stuck("ends-in-a-test") {
            assert!(Instant::now() < deadline, "its end was not seen");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(ended);
    }
}
