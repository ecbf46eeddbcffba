//! Partitions that come and go, for any role that owns some: each is opened in a thread
//! of its own, because that may take long; it is given up when its owner says that all
//! of it is settled, or when its time is over; and it is opened again after a failure,
//! unless a person has to look first. It must never know what a partition does, or read
//! a clock: times are monotonic, and passed in.
//!
//! A partition that is given up while it is being opened leaves a stray thread behind;
//! it is not opened a second time beside that one.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::status::{Phase, Status};
use super::stop::{PartitionError, WaitReason};
use askwhen_process::thread::{Notify, Thread, WaitGroup};
use askwhen_wire::error::Class;

/// How long a partition that is given up may take to settle.
const DRAIN: Duration = Duration::from_secs(5);
/// How long its last writes may take after that.
pub const LAST_WRITE: Duration = Duration::from_secs(5);
/// Pause before a partition that waits is opened again.
const WAIT_PAUSE: Duration = Duration::from_secs(2);
/// Pause before a partition is opened again after a failure.
pub const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Brings a partition's state here and opens it; called again for every restart.
pub type Opener<T, E> = Arc<dyn Fn(u32, Arc<Notify>, Arc<Status>) -> Result<T, E> + Send + Sync>;

/// How openings are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Openings {
    /// Each in a thread; this is what begins their names.
    Threads(&'static str),
    /// At once, where a simulation steps everything itself.
    Inline,
}

/// What tells one role's assignments from another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignmentOptions {
    /// Its name in log lines.
    pub role: &'static str,
    pub openings: Openings,
    /// How long an opening that is given up is waited for beyond [`DRAIN`].
    pub opening_grace: Duration,
}

/// What the opener of a partition says.
struct OpeningResult<T, E> {
    partition: u32,
    /// Which opening it was: an earlier one may have been given up.
    opening: u64,
    outcome: Result<T, E>,
}

/// Both ends of the queue in which openings end.
type Outcomes<T, E> = (mpsc::Sender<OpeningResult<T, E>>, mpsc::Receiver<OpeningResult<T, E>>);

enum State<T> {
    /// Openings are numbered. Without a thread its outcome is there already.
    Opening(u64, Option<Thread>),
    Open(T),
    /// To be opened again then, or never.
    Down(Option<Duration>),
}

struct Slot<T> {
    state: State<T>,
    /// Given up and given back before it was gone.
    again: bool,
    leaving: Option<Leaving>,
}

struct Leaving {
    settle: bool,
    deadline: Duration,
    /// Dropped when the partition is gone.
    _done: Option<WaitGroup>,
}

/// How much patience there is with a partition that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Otherwise nothing of it is worth waiting for: others may own it.
    pub settle: bool,
    /// Its time to settle is over.
    pub is_late: bool,
    /// So is the time for its last writes.
    pub is_overdue: bool,
}

/// The partitions that one thread owns.
pub struct Assignments<T, E> {
    open: Opener<T, E>,
    options: AssignmentOptions,
    statuses: Vec<Arc<Status>>,
    notify: Arc<Notify>,
    outcomes: Outcomes<T, E>,
    slots: BTreeMap<u32, Slot<T>>,
    /// Still opening what was given up long ago.
    strays: Vec<(u32, Thread)>,
    last_opening: u64,
}

impl<T: Send + 'static, E: PartitionError> Assignments<T, E> {
    /// With no partitions. `notify` is rung when an opening is over.
    pub fn new(
        open: Opener<T, E>,
        options: AssignmentOptions,
        statuses: Vec<Arc<Status>>,
        notify: Arc<Notify>,
    ) -> Assignments<T, E> {
        Assignments {
            open,
            options,
            statuses,
            notify,
            outcomes: mpsc::channel(),
            slots: BTreeMap::new(),
            strays: Vec::new(),
            last_opening: 0,
        }
    }

    /// A partition is given to this process.
    pub fn take(&mut self, partition: u32, now: Duration) {
        match self.slots.get_mut(&partition) {
            Some(slot) => slot.again = true,
            None => self.begin(partition, now),
        }
    }

    fn begin(&mut self, partition: u32, now: Duration) {
        let status = self.status(partition).clone();
        self.strays.retain(|(_, stray)| !stray.is_over());
        if self.strays.iter().any(|(of, _)| *of == partition) {
            status.set(Phase::Opening("an earlier opening is coming to its end".into()));
            return self.set(partition, State::Down(Some(now + RESTART_PAUSE)));
        }
        // Who waits goes on saying why.
        if !status.waits() {
            status.set(Phase::Opening("opening its state".into()));
        }
        status.unwanted.store(false, Ordering::Release);
        self.last_opening += 1;
        let opening = self.last_opening;
        let (open, own, notify) = (self.open.clone(), self.outcomes.0.clone(), self.notify.clone());
        let work = move || {
            let outcome = open(partition, notify.clone(), status);
            drop(open);
            // Nobody may wait for it any more.
            own.send(OpeningResult { partition, opening, outcome }).ok();
            notify.notify();
        };
        let thread = match self.options.openings {
            Openings::Threads(name) => match Thread::spawn(format!("{name}{partition}"), work) {
                Ok(thread) => Some(thread),
                Err(error) => {
                    let outcome = Err(E::no_thread(error));
                    // The other end is this struct's own.
                    self.outcomes.0.send(OpeningResult { partition, opening, outcome }).ok();
                    None
                }
            },
            Openings::Inline => {
                work();
                None
            }
        };
        self.set(partition, State::Opening(opening, thread));
    }

    fn set(&mut self, partition: u32, state: State<T>) {
        self.slots.insert(partition, Slot { state, again: false, leaving: None });
    }

    /// The next partition whose opening is over, and is still wanted. It counts as down
    /// until it is [installed](Assignments::install) or has [failed](Assignments::fail).
    pub fn next_opened(&mut self) -> Option<(u32, Result<T, E>)> {
        while let Ok(OpeningResult { partition, opening, outcome }) = self.outcomes.1.try_recv() {
            let Some(slot) = self.slots.get_mut(&partition) else { continue };
            if !matches!(&slot.state, State::Opening(expected, _) if *expected == opening) {
                continue;
            }
            slot.state = State::Down(None);
            // Given up in the meantime: it is nobody's loss.
            if slot.leaving.is_none() {
                return Some((partition, outcome));
            }
        }
        None
    }

    /// From now on it runs.
    pub fn install(&mut self, partition: u32, opened: T) {
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        slot.state = State::Open(opened);
        let status = self.status(partition);
        status.set_poisoned(None);
        status.clock_behind.store(false, Ordering::Release);
        status.set(Phase::Running);
    }

    /// Shows why a partition does not go on; gives when it may be opened again, `None`
    /// when a person has to look first.
    pub fn halt(&self, partition: u32, error: &E, now: Duration) -> Option<Duration> {
        let status = self.status(partition);
        let (clock, poison) = match error.waits_on() {
            Some(WaitReason::Clock) => (true, None),
            Some(WaitReason::Skip { offset }) => (false, Some(offset)),
            None => (false, None),
        };
        let refused = error.class() == Class::Refuse;
        let stopped = Phase::Stopped { why: error.to_string(), refused };
        // Who waits is tried again and again, and says it once.
        if !status.waits() || status.phase() != stopped {
            tracing::error!(role = self.options.role, partition, reason = %error, "the partition has stopped");
        }
        status.clock_behind.store(clock, Ordering::Release);
        status.set_poisoned(poison);
        status.set(stopped);
        if status.waits() {
            return Some(now + WAIT_PAUSE);
        }
        status.damaged.store(error.class() == Class::Fatal, Ordering::Release);
        (!refused).then(|| now + RESTART_PAUSE)
    }

    /// A partition does not go on: it is closed, and opened again if that may help.
    pub fn fail(&mut self, partition: u32, error: &E, now: Duration) {
        let reopen_at = self.halt(partition, error, now);
        self.close(partition, reopen_at);
    }

    /// Closes a partition that has halted, until it is opened again.
    pub fn close(&mut self, partition: u32, reopen_at: Option<Duration>) {
        if let Some(slot) = self.slots.get_mut(&partition)
            && !matches!(slot.state, State::Opening(..))
        {
            slot.state = State::Down(reopen_at);
        }
    }

    /// A partition is taken from this process; gives what it is to settle. `done` is
    /// dropped when it is gone.
    pub fn release(&mut self, partition: u32, settle: bool, done: Option<WaitGroup>, now: Duration) -> Option<&mut T> {
        let slot = self.slots.get_mut(&partition)?;
        slot.again = false;
        slot.leaving = Some(Leaving { settle, deadline: now + DRAIN, _done: done });
        self.statuses[partition as usize].unwanted.store(true, Ordering::Release);
        match &mut slot.state {
            State::Open(open) => Some(open),
            State::Opening(..) | State::Down(_) => None,
        }
    }

    pub fn is_leaving(&self, partition: u32) -> bool {
        self.slots.get(&partition).is_some_and(|slot| slot.leaving.is_some())
    }

    /// Lets a partition go that is given up, once it is settled; gives whether it is
    /// gone. What is being opened has heard of it, and gives up as soon as it can.
    pub fn let_go(
        &mut self,
        partition: u32,
        now: Duration,
        is_settled: impl FnOnce(Option<&mut T>, Patience) -> bool,
    ) -> bool {
        let Some(slot) = self.slots.get_mut(&partition) else { return false };
        let Some(leaving) = &slot.leaving else { return false };
        let (is_late, is_overdue) = (now >= leaving.deadline, now >= leaving.deadline + LAST_WRITE);
        let patience = Patience { settle: leaving.settle, is_late, is_overdue };
        let gone = match &mut slot.state {
            State::Opening(..) => now >= leaving.deadline + self.options.opening_grace,
            State::Open(open) => is_settled(Some(open), patience),
            State::Down(_) => is_settled(None, patience),
        };
        if gone && let Some(slot) = self.slots.remove(&partition) {
            match slot.state {
                State::Opening(_, stray) => self.strays.extend(stray.map(|stray| (partition, stray))),
                // Its store is closed before anyone hears of it.
                state => drop(state),
            }
            let status = self.status(partition);
            status.clock_behind.store(false, Ordering::Release);
            status.time.store(0, Ordering::Release);
            status.set_poisoned(None);
            status.set(Phase::NotOwned);
            drop(slot.leaving);
            if slot.again {
                self.begin(partition, now);
            }
        }
        gone
    }

    /// Opens a partition again whose time has come; gives whether it has.
    pub fn reopen(&mut self, partition: u32, now: Duration) -> bool {
        let is_time =
            |slot: &Slot<T>| slot.leaving.is_none() && matches!(slot.state, State::Down(Some(at)) if now >= at);
        let is_due = self.slots.get(&partition).is_some_and(is_time);
        if is_due {
            self.begin(partition, now);
        }
        is_due
    }

    /// Says of every partition that this process does not own it any more: the process
    /// ends.
    pub fn disown(&self) {
        for partition in self.slots.keys() {
            self.status(*partition).unwanted.store(true, Ordering::Release);
            self.status(*partition).set(Phase::NotOwned);
        }
    }

    pub fn get(&self, partition: u32) -> Option<&T> {
        match &self.slots.get(&partition)?.state {
            State::Open(open) => Some(open),
            State::Opening(..) | State::Down(_) => None,
        }
    }

    pub fn get_mut(&mut self, partition: u32) -> Option<&mut T> {
        match &mut self.slots.get_mut(&partition)?.state {
            State::Open(open) => Some(open),
            State::Opening(..) | State::Down(_) => None,
        }
    }

    /// Those that are open.
    pub fn open(&self) -> impl Iterator<Item = &T> {
        self.slots.keys().filter_map(|partition| self.get(*partition))
    }

    /// All that are owned, open or not.
    pub fn partitions(&self) -> Vec<u32> {
        self.slots.keys().copied().collect()
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn is_owned(&self, partition: u32) -> bool {
        self.slots.contains_key(&partition)
    }

    /// Whether any is being opened.
    pub fn any_opening(&self) -> bool {
        self.slots.values().any(|slot| matches!(slot.state, State::Opening(..)))
    }

    /// Whether any is being given up.
    pub fn any_leaving(&self) -> bool {
        self.slots.values().any(|slot| slot.leaving.is_some())
    }

    pub fn status(&self, partition: u32) -> &Arc<Status> {
        &self.statuses[partition as usize]
    }
}

#[cfg(test)]
mod tests;
