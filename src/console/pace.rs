//! How often the lists are brought up to date: often while somebody looks at them, rarely
//! otherwise, because records that are taken in together cost less. Whoever looks after a
//! while without anybody waits until what was there when they came is in the lists.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The pause between two rounds while somebody looks, so that records which belong together are
/// written at once: a delivery with its attempt, and the counters of a survey once for all.
const WATCHED: Duration = Duration::from_millis(50);
/// The longest pause while nobody does.
const UNWATCHED: Duration = Duration::from_secs(1);
/// How long somebody counts as looking.
const LOOK: Duration = Duration::from_secs(10);
/// How many bytes a round should read at most: pauses are shorter when more comes.
const WANTED_BYTES: usize = 1 << 20;
/// How long a reader waits for a round. One that takes longer is of a log or a disk that hangs:
/// the reader gets the lists as they are.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a pause looks whether it is to end.
const SLICE: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    /// Ends a pause.
    asked: Condvar,
    /// How many readers had asked when the newest round that took in everything began; more than
    /// ever ask while no thread makes rounds.
    served: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    looked_at: Option<Instant>,
    /// How many readers have come after a while without any.
    asked: u64,
}

impl State {
    fn is_watched(&self) -> bool {
        self.looked_at.is_some_and(|at| at.elapsed() < LOOK)
    }
}

/// Says that rounds are made, until it is dropped.
pub(super) struct Following<'a>(&'a Pace);

impl Default for Pace {
    fn default() -> Pace {
        Pace { state: Mutex::default(), asked: Condvar::new(), served: watch::channel(u64::MAX).0 }
    }
}

impl Pace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds this lock")
    }

    /// Notes that somebody looks, and after a while without anybody asks for a round. Returns how
    /// many have asked.
    pub fn look(&self) -> u64 {
        let mut state = self.state();
        let was_watched = state.is_watched();
        state.looked_at = Some(Instant::now());
        if !was_watched {
            state.asked += 1;
            self.asked.notify_all();
        }
        state.asked
    }

    /// The same, and waits until every round that was asked for is over.
    pub async fn look_and_wait(&self) {
        let asked = self.look();
        let mut served = self.served.subscribe();
        drop(tokio::time::timeout(PATIENCE, served.wait_for(|served| *served >= asked)).await);
    }

    /// From now on a thread makes rounds.
    pub fn follow(&self) -> Following<'_> {
        self.end(0);
        Following(self)
    }

    /// A round begins; returns what to [end](Pace::end) it with.
    pub fn begin(&self) -> u64 {
        self.state().asked
    }

    /// A round is over, and all that was there when it began is in the lists.
    pub fn end(&self, began: u64) {
        self.served.send_if_modified(|served| std::mem::replace(served, began) != began);
    }

    /// How long after its beginning a round that read so many bytes, so long after the
    /// beginning of the last one, is to be followed by the next.
    fn after(&self, bytes: usize, since_last: Duration) -> Duration {
        if self.state().is_watched() {
            return WATCHED;
        }
        let fitting = since_last.as_secs_f64() * WANTED_BYTES as f64 / bytes.max(1) as f64;
        Duration::from_secs_f64(fitting.clamp(WATCHED.as_secs_f64(), UNWATCHED.as_secs_f64()))
    }

    /// Pauses after a round that began at `began`, `since_last` after the one before, and read
    /// so many bytes. Ends early when somebody asks for a round, or `go_on` says no.
    pub fn pause(&self, began: Instant, since_last: Duration, bytes: usize, go_on: impl Fn() -> bool) {
        let until = began + self.after(bytes, since_last);
        while go_on() {
            let left = until.saturating_duration_since(Instant::now());
            let state = self.state();
            if left.is_zero() || *self.served.borrow() < state.asked {
                return;
            }
            drop(self.asked.wait_timeout(state, left.min(SLICE)).expect("no panic holds this lock"));
        }
    }
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.0.end(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// Makes rounds that read little until it is dropped.
    struct Follower {
        pace: Arc<Pace>,
        /// Rounds that have begun.
        rounds: Arc<AtomicU64>,
        ended: Arc<AtomicBool>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl Follower {
        fn start() -> Follower {
            let (pace, rounds, ended) =
                (Arc::<Pace>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
            let (own, counted, over) = (pace.clone(), rounds.clone(), ended.clone());
            #[expect(clippy::disallowed_methods, reason = "it is joined when it is dropped")]
            let thread = std::thread::spawn(move || {
                let _following = own.follow();
                while !over.load(Ordering::Acquire) {
                    let (asked, began) = (own.begin(), Instant::now());
                    counted.fetch_add(1, Ordering::AcqRel);
                    own.end(asked);
                    own.pause(began, UNWATCHED, 1, || !over.load(Ordering::Acquire));
                }
            });
            while rounds.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            Follower { pace, rounds, ended, thread: Some(thread) }
        }
    }

    impl Drop for Follower {
        fn drop(&mut self) {
            self.ended.store(true, Ordering::Release);
            self.thread.take().expect("it is dropped once").join().expect("no panic");
        }
    }

    #[tokio::test]
    async fn who_comes_after_a_while_gets_a_round_that_began_after_they_came() {
        let follower = Follower::start();
        for come in [1, 2] {
            let before = follower.rounds.load(Ordering::Acquire);
            // The second comes while a round is owed to the first.
            follower.pace.look();
            assert_eq!(
                follower.pace.state().asked,
                1,
                "{come}: whoever comes behind another asks for none of their own"
            );
            follower.pace.look_and_wait().await;
            assert!(follower.rounds.load(Ordering::Acquire) > before || come == 2, "no round was made for the reader");
            assert!(*follower.pace.served.borrow() >= 1);
        }
    }

    #[tokio::test]
    async fn nobody_waits_where_no_rounds_are_made() {
        let pace = Pace::default();
        let waited = tokio::time::timeout(Duration::from_secs(60), pace.look_and_wait());
        waited.await.expect("it is over");
        let follower = Follower::start();
        let pace = follower.pace.clone();
        drop(follower);
        let began = Instant::now();
        pace.look_and_wait().await;
        assert!(began.elapsed() < PATIENCE, "the thread that made rounds is gone");
    }

    #[test]
    fn rounds_come_rarely_only_while_little_comes_and_nobody_looks() {
        let pace = Pace::default();
        assert_eq!(pace.after(1_000, WATCHED), UNWATCHED);
        assert_eq!(pace.after(WANTED_BYTES, UNWATCHED / 4), UNWATCHED / 4);
        assert_eq!(pace.after(WANTED_BYTES * 100, UNWATCHED), WATCHED);
        pace.look();
        assert_eq!(pace.after(1_000, WATCHED), WATCHED);
    }
}
