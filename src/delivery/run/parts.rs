//! Partitions of the delivery as they come and go: opened beside the loop,
//! given up once their attempts are written down.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Loop;
use crate::delivery::fold::{Error, Fold};
use crate::delivery::scheduler::Event;
use askwhen_process::fault;
use askwhen_process::thread::{Thread, WaitGroup};
use askwhen_wire::error::Class;

/// How long attempts of a partition that is given up may take to finish.
const DRAIN: Duration = Duration::from_secs(5);
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Whoever takes longer is not waited for by the others.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

pub(super) enum Command {
    Take(u32),
    Opened(Opened),
    /// Without `settle` nothing is worth waiting for: others may own it.
    Release {
        partition: u32,
        settle: bool,
        done: WaitGroup,
    },
}

/// What the thread says that opened a partition.
pub(super) struct Opened {
    partition: u32,
    /// Which opening it was: an earlier one may have been given up.
    opening: u64,
    outcome: Result<Box<Fold>, Error>,
}

/// One partition of this process.
#[derive(Default)]
pub(super) struct Part {
    /// `None` unless it is open.
    pub fold: Option<Box<Fold>>,
    /// The thread that brings it here; openings are numbered.
    opening: Option<(u64, Thread)>,
    /// To be opened again then.
    pub retry_at: Option<Duration>,
    pub releasing: Option<Releasing>,
    /// Given up and given back before it was gone.
    again: bool,
}

pub(super) struct Releasing {
    settle: bool,
    deadline: Duration,
    /// Dropped when the partition is gone.
    _done: WaitGroup,
}

impl Loop {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Take(partition) => match self.parts.get_mut(&partition) {
                Some(part) => part.again = true,
                None => {
                    self.taken_at = Some(self.setup.clock.monotonic());
                    self.open(partition);
                }
            },
            Command::Opened(opened) => self.opened(opened),
            Command::Release { partition, settle, done } => {
                self.status(partition).unwanted.store(true, Ordering::Release);
                let Some(part) = self.parts.get_mut(&partition) else { return };
                part.again = false;
                part.releasing =
                    Some(Releasing { settle, deadline: self.setup.clock.monotonic() + DRAIN, _done: done });
                self.step(Event::Closed { partition });
            }
        }
    }

    /// Brings a partition here in a thread of its own: that may take long.
    pub(super) fn open(&mut self, partition: u32) {
        let status = self.status(partition).clone();
        self.strays.retain(|(_, stray)| !stray.is_over());
        if self.strays.iter().any(|(of, _)| *of == partition) {
            status.set(askwhen_partition::Phase::Opening("an earlier opening is coming to its end".into()));
            let retry_at = Some(self.setup.clock.monotonic() + RESTART_PAUSE);
            self.parts.insert(partition, Part { retry_at, ..Part::default() });
            return;
        }
        status.set(askwhen_partition::Phase::Opening("opening its state".into()));
        status.unwanted.store(false, Ordering::Release);
        if self.transport.is_stepped() {
            let outcome = (self.setup.open.clone())(partition, self.notify.clone(), status).map(Box::new);
            self.parts.insert(partition, Part::default());
            return self.begin_with(partition, outcome);
        }
        self.openings += 1;
        let opening = self.openings;
        let (open, own, notify) = (self.setup.open.clone(), self.commands.0.clone(), self.notify.clone());
        let thread = Thread::spawn(format!("open-d{partition}"), move || {
            let outcome = open(partition, notify.clone(), status).map(Box::new);
            drop(open);
            // The loop may not wait for it any more.
            own.send(Command::Opened(Opened { partition, opening, outcome })).ok();
            notify.notify();
        });
        let (part, failed) = match thread {
            Ok(thread) => (Part { opening: Some((opening, thread)), ..Part::default() }, None),
            Err(error) => (Part::default(), Some(Error::Thread(error))),
        };
        self.parts.insert(partition, part);
        if let Some(error) = failed {
            self.fail(partition, &error);
        }
    }

    fn opened(&mut self, Opened { partition, opening, outcome }: Opened) {
        let Some(part) = self.parts.get_mut(&partition) else { return };
        if part.opening.as_ref().is_none_or(|(expected, _)| *expected != opening) {
            return;
        }
        part.opening = None;
        self.begin_with(partition, outcome);
    }

    fn begin_with(&mut self, partition: u32, outcome: Result<Box<Fold>, Error>) {
        let Some(part) = self.parts.get_mut(&partition) else { return };
        match outcome {
            // Given up in the meantime: it is nobody's loss.
            _ if part.releasing.is_some() => {}
            Ok(fold) => {
                // Known to the group from the first moment: so it can be asked.
                self.setup.standing.commit(partition, fold.next());
                // A test moves time itself, and further than a day.
                let told = fold.time();
                part.fold = Some(fold);
                if !self.setup.status.watched {
                    self.time.advance_to(told);
                }
                match self.contents(partition) {
                    Ok(contents) => _ = self.step(contents),
                    Err(error) => return self.fail(partition, &error),
                }
                self.status(partition).set(askwhen_partition::Phase::Running);
            }
            Err(error) => self.fail(partition, &error),
        }
    }

    /// What the scheduler is told of a partition that has just been opened.
    fn contents(&mut self, partition: u32) -> Result<Event, Error> {
        let (now, watched) = (self.time.now(), self.setup.status.watched);
        let Some(fold) = self.fold_mut(partition) else { return Ok(Event::Closed { partition }) };
        if !watched {
            let early = fold.pull_in(now)?;
            if early > 0 {
                tracing::warn!(partition, early, "retries were put off by a clock that was ahead: they are due now");
            }
        }
        let (endpoints, queues) = (fold.endpoints()?, fold.queue_ids()?);
        let missing = if fault::mutant("leave_owed_unwritten") { Vec::new() } else { fold.missing()? };
        Ok(Event::Opened { partition, endpoints, queues, missing })
    }

    /// What is in memory may not be what is stored: the partition is opened
    /// again, unless a person has to look first.
    pub(super) fn fail(&mut self, partition: u32, error: &Error) {
        tracing::error!(partition, %error, "the delivery of a partition has stopped");
        let refused = error.class() == Class::Refuse;
        self.status(partition).damaged.store(error.class() == Class::Fatal, Ordering::Release);
        self.status(partition).set(askwhen_partition::Phase::Stopped { why: error.to_string(), refused });
        self.step(Event::Closed { partition });
        if let Some(part) = self.parts.get_mut(&partition) {
            part.fold = None;
            part.retry_at = (!refused).then(|| self.setup.clock.monotonic() + RESTART_PAUSE);
        }
    }

    /// Whether partitions that have just been given are being opened: what one of them
    /// knows of an endpoint may hold what another is to send.
    pub(super) fn is_opening(&self) -> bool {
        let lately = self.taken_at.is_some_and(|at| self.setup.clock.monotonic() < at + OPENED_WITHIN);
        lately && self.parts.values().any(|part| part.opening.is_some())
    }

    /// Lets a partition go as soon as its attempts have been written down.
    pub(super) fn let_go(&mut self, partition: u32) -> bool {
        let part = &self.parts[&partition];
        let Some(releasing) = &part.releasing else { return false };
        let in_flight = releasing.settle && self.scheduler.has_flights_of(partition);
        let gone = (!in_flight && part.opening.is_none()) || self.setup.clock.monotonic() >= releasing.deadline;
        if gone && let Some(part) = self.parts.remove(&partition) {
            self.step(Event::Closed { partition });
            // Its store is closed before anyone hears of it.
            drop(part.fold);
            self.strays.extend(part.opening.map(|(_, thread)| (partition, thread)));
            self.status(partition).set(askwhen_partition::Phase::NotOwned);
            drop(part.releasing);
            if part.again {
                self.open(partition);
            }
        }
        gone
    }
}
