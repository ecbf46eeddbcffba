//! The partitions that a process owns, for any role. Each is opened in a thread of its own,
//! because opening may take long; it is given up when its owner says that it is settled or
//! its time is over; and it is opened again after a failure, unless an operator has to look
//! first. It must never know what a partition does, or read a clock: times are monotonic
//! and passed in.
//!
//! A partition that is given up while it is being opened leaves a stray thread behind; it
//! is not opened a second time until that has ended.

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
/// How long after that its last write may take.
pub const LAST_WRITE: Duration = Duration::from_secs(5);
/// Pause before a partition that waits for something is opened again.
const WAIT_PAUSE: Duration = Duration::from_secs(2);
/// Pause before a partition is opened again after a failure.
pub const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Restores the state of a partition and opens it; called again for every restart.
pub type Opener<T, E> = Arc<dyn Fn(u32, Arc<Notify>, Arc<Status>) -> Result<T, E> + Send + Sync>;

/// How partitions are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Openings {
    /// Each in a thread whose name begins with this text.
    Threads(&'static str),
    /// In the calling thread, for a simulation that steps everything itself.
    Inline,
}

/// Settings of a role's assignments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignmentOptions {
    /// Name of the role in log lines.
    pub role: &'static str,
    pub openings: Openings,
    /// How long to wait beyond [`DRAIN`] for an opening that is given up.
    pub opening_grace: Duration,
}

/// The result of an opening.
struct OpeningResult<T, E> {
    partition: u32,
    /// Number of the opening: an earlier one may have been given up.
    opening: u64,
    outcome: Result<T, E>,
}

/// Both ends of the queue of results.
type Outcomes<T, E> = (mpsc::Sender<OpeningResult<T, E>>, mpsc::Receiver<OpeningResult<T, E>>);

enum State<T> {
    /// Being opened, with the number of the opening. Without a thread its result is in the
    /// queue already.
    Opening(u64, Option<Thread>),
    Open(T),
    /// Closed; opened again at this time, or never.
    Down(Option<Duration>),
}

struct Slot<T> {
    state: State<T>,
    /// Whether it was assigned to this process again before it was gone.
    again: bool,
    leaving: Option<Leaving>,
}

struct Leaving {
    settle: bool,
    deadline: Duration,
    /// Dropped when the partition is gone.
    _done: Option<WaitGroup>,
}

/// How long to wait for a partition that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Whether to wait for it to settle; `false` when another process may own it already.
    pub settle: bool,
    /// Whether its time to settle is over.
    pub is_late: bool,
    /// Whether the time for its last write is over, too.
    pub is_overdue: bool,
}

/// The partitions of a role that one thread owns.
pub struct Assignments<T, E> {
    open: Opener<T, E>,
    options: AssignmentOptions,
    statuses: Vec<Arc<Status>>,
    notify: Arc<Notify>,
    outcomes: Outcomes<T, E>,
    slots: BTreeMap<u32, Slot<T>>,
    /// Threads that are still opening partitions given up long ago.
    strays: Vec<(u32, Thread)>,
    last_opening: u64,
}

impl<T: Send + 'static, E: PartitionError> Assignments<T, E> {
    /// No partitions at first. `notify` is called when an opening ends.
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

    /// Opens a partition that was assigned to this process.
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
        // A partition that waits keeps its status.
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
            // The receiver may be gone.
            own.send(OpeningResult { partition, opening, outcome }).ok();
            notify.notify();
        };
        let thread = match self.options.openings {
            Openings::Threads(name) => match Thread::spawn(format!("{name}{partition}"), work) {
                Ok(thread) => Some(thread),
                Err(error) => {
                    let outcome = Err(E::no_thread(error));
                    // This struct holds the receiver.
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

    /// The next partition that was opened and is still wanted. It counts as closed until it
    /// is [installed](Assignments::install) or has [failed](Assignments::fail).
    pub fn next_opened(&mut self) -> Option<(u32, Result<T, E>)> {
        while let Ok(OpeningResult { partition, opening, outcome }) = self.outcomes.1.try_recv() {
            let Some(slot) = self.slots.get_mut(&partition) else { continue };
            if !matches!(&slot.state, State::Opening(expected, _) if *expected == opening) {
                continue;
            }
            slot.state = State::Down(None);
            // It was given up meanwhile, so a failure does not matter.
            if slot.leaving.is_none() {
                return Some((partition, outcome));
            }
        }
        None
    }

    /// Puts an opened partition to work.
    pub fn install(&mut self, partition: u32, opened: T) {
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        slot.state = State::Open(opened);
        let status = self.status(partition);
        status.set_poisoned(None);
        status.clock_behind.store(false, Ordering::Release);
        status.set(Phase::Running);
    }

    /// Shows in its status why a partition stopped; returns when it may be opened again,
    /// `None` when an operator has to look first.
    pub fn halt(&self, partition: u32, error: &E, now: Duration) -> Option<Duration> {
        let status = self.status(partition);
        let (clock, poison) = match error.waits_on() {
            Some(WaitReason::Clock) => (true, None),
            Some(WaitReason::Skip { topic, offset }) => (false, Some((topic, offset))),
            None => (false, None),
        };
        let refused = error.class() == Class::Refuse;
        let stopped = Phase::Stopped { why: error.to_string(), refused };
        // A partition that waits is opened again and again, but that is logged once.
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

    /// Closes a partition that failed, to be opened again if that may help.
    pub fn fail(&mut self, partition: u32, error: &E, now: Duration) {
        let reopen_at = self.halt(partition, error, now);
        self.close(partition, reopen_at);
    }

    /// Closes a partition, to be opened again at `reopen_at`.
    pub fn close(&mut self, partition: u32, reopen_at: Option<Duration>) {
        if let Some(slot) = self.slots.get_mut(&partition)
            && !matches!(slot.state, State::Opening(..))
        {
            slot.state = State::Down(reopen_at);
        }
    }

    /// Begins to give a partition up; returns it if it is open, so that it can settle.
    /// `done` is dropped when the partition is gone.
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

    /// Removes a partition that is given up once `is_settled` says so or its time is over;
    /// returns whether it is gone. An opening in progress is told by its status, and ends
    /// as soon as it can.
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
                // Its store is closed before anyone is told.
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

    /// Opens a partition again whose pause is over; returns whether it was.
    pub fn reopen(&mut self, partition: u32, now: Duration) -> bool {
        let is_time =
            |slot: &Slot<T>| slot.leaving.is_none() && matches!(slot.state, State::Down(Some(at)) if now >= at);
        let is_due = self.slots.get(&partition).is_some_and(is_time);
        if is_due {
            self.begin(partition, now);
        }
        is_due
    }

    /// Sets the status of every partition to not owned, when the process ends.
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

    /// The open partitions.
    pub fn open(&self) -> impl Iterator<Item = &T> {
        self.slots.keys().filter_map(|partition| self.get(*partition))
    }

    /// All owned partitions, open or not.
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

    /// Whether any partition is being opened.
    pub fn any_opening(&self) -> bool {
        self.slots.values().any(|slot| matches!(slot.state, State::Opening(..)))
    }

    /// Whether any partition is being given up.
    pub fn any_leaving(&self) -> bool {
        self.slots.values().any(|slot| slot.leaving.is_some())
    }

    pub fn status(&self, partition: u32) -> &Arc<Status> {
        &self.statuses[partition as usize]
    }
}

#[cfg(test)]
mod tests;
