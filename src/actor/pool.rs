//! Threads that step partitions, as many as there are cores. Partitions come
//! and go: taking one up may take long and happens beside; giving one up waits
//! for its acknowledgements.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::partition::{Progress, Stop};
use super::{Machine, Partition, Phase, Status};
use crate::thread::Bell;

/// How long a partition that is given up may wait for its acknowledgements.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the last checkpoint of one may take after that.
const LAST_WRITE: Duration = Duration::from_secs(5);
/// Pause before a partition is taken up again after a failure.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Brings a partition's state here and opens it; called again for every restart.
pub type Open<M> = Arc<dyn Fn(u32, Arc<Bell>, Arc<Status>) -> Result<Partition<M>, Stop> + Send + Sync>;

enum Command<M> {
    Take(u32),
    Opened(u32, Result<Box<Partition<M>>, Stop>),
    /// Without `settle` nothing is worth waiting for: others may own it.
    Release {
        partition: u32,
        settle: bool,
        done: mpsc::Sender<()>,
    },
    Stop,
}

struct Worker<M> {
    commands: mpsc::Sender<Command<M>>,
    bell: Arc<Bell>,
    thread: JoinHandle<()>,
}

/// Running threads; stopping them settles and checkpoints what they own.
pub struct Pool<M> {
    workers: Vec<Worker<M>>,
}

impl<M: Machine + 'static> Pool<M> {
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(open: &Open<M>, statuses: &[Arc<Status>], threads: usize) -> std::io::Result<Pool<M>> {
        let mut workers = Vec::new();
        for i in 0..threads.max(1) {
            let (sender, commands) = mpsc::channel();
            let bell = Arc::new(Bell::default());
            let mut driver = Driver {
                open: open.clone(),
                statuses: statuses.to_vec(),
                own: sender.clone(),
                commands,
                bell: bell.clone(),
                slots: BTreeMap::new(),
            };
            let thread = std::thread::Builder::new().name(format!("actors-{i}"));
            let thread = thread.spawn(move || driver.run())?;
            workers.push(Worker { commands: sender, bell, thread });
        }
        Ok(Pool { workers })
    }

    fn tell(&self, partition: u32, command: Command<M>) {
        let worker = &self.workers[partition as usize % self.workers.len()];
        // A worker ends only when it is told to.
        worker.commands.send(command).ok();
        worker.bell.ring();
    }

    pub fn take(&self, partition: u32) {
        self.tell(partition, Command::Take(partition));
    }

    /// Gives partitions up and waits until they are.
    pub fn release(&self, partitions: &[u32], settle: bool) {
        let (done, released) = mpsc::channel();
        for partition in partitions {
            self.tell(*partition, Command::Release { partition: *partition, settle, done: done.clone() });
        }
        drop(done);
        // Ends when every sender is gone.
        while released.recv().is_ok() {}
    }

    /// Stops intake, waits for acknowledgements, checkpoints.
    pub fn stop(self) {
        for worker in &self.workers {
            worker.commands.send(Command::Stop).ok();
            worker.bell.ring();
        }
        for worker in self.workers {
            if worker.thread.join().is_err() {
                tracing::error!("an actor thread had panicked");
            }
        }
    }
}

enum State<M> {
    /// A thread of its own brings it here.
    Opening,
    Running(Box<Partition<M>>),
    /// Stopped; its last checkpoint may still be being written.
    Leaving(Box<Partition<M>>),
    /// To be taken up again then, or never.
    Down(Option<Instant>),
}

struct Slot<M> {
    state: State<M>,
    /// Taken up again when the state has left.
    again: bool,
    releasing: Option<Releasing>,
}

struct Releasing {
    settle: bool,
    deadline: Instant,
    /// Dropped when the partition is gone.
    _done: Option<mpsc::Sender<()>>,
}

struct Driver<M> {
    open: Open<M>,
    statuses: Vec<Arc<Status>>,
    own: mpsc::Sender<Command<M>>,
    commands: mpsc::Receiver<Command<M>>,
    bell: Arc<Bell>,
    slots: BTreeMap<u32, Slot<M>>,
}

impl<M: Machine + 'static> Driver<M> {
    fn run(&mut self) {
        let mut stopping = false;
        loop {
            let mut worked = false;
            while let Ok(command) = self.commands.try_recv() {
                worked = true;
                stopping |= matches!(command, Command::Stop);
                self.obey(command);
            }
            for partition in self.slots.keys().copied().collect::<Vec<_>>() {
                worked |= self.turn(partition);
            }
            if stopping && self.slots.is_empty() {
                return;
            }
            if !worked {
                let releasing = self.slots.values().any(|slot| slot.releasing.is_some());
                self.bell.wait(Duration::from_millis(if releasing { 5 } else { 200 }));
            }
        }
    }

    fn obey(&mut self, command: Command<M>) {
        match command {
            Command::Take(partition) => match self.slots.get_mut(&partition) {
                Some(slot) => {
                    // Given up and given back before it was gone.
                    slot.again = true;
                }
                None => self.take(partition),
            },
            Command::Opened(partition, opened) => self.opened(partition, opened),
            Command::Release { partition, settle, done } => self.release(partition, settle, Some(done)),
            Command::Stop => {
                for partition in self.slots.keys().copied().collect::<Vec<_>>() {
                    self.release(partition, true, None);
                }
            }
        }
    }

    fn take(&mut self, partition: u32) {
        let status = self.statuses[partition as usize].clone();
        status.set(Phase::Opening("opening its state".into()));
        self.slots.insert(partition, Slot { state: State::Opening, again: false, releasing: None });
        let (open, own, bell) = (self.open.clone(), self.own.clone(), self.bell.clone());
        let opening = std::thread::Builder::new().name(format!("open-{partition}")).spawn(move || {
            let opened = open(partition, bell.clone(), status).map(Box::new);
            // The driver may have stopped in the meantime.
            own.send(Command::Opened(partition, opened)).ok();
            bell.ring();
        });
        if let Err(error) = opening {
            self.opened(partition, Err(Stop::Restart(error.to_string())));
        }
    }

    fn opened(&mut self, partition: u32, opened: Result<Box<Partition<M>>, Stop>) {
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        match opened {
            Ok(running) => {
                self.statuses[partition as usize].set(Phase::Running);
                slot.state = State::Running(running);
            }
            Err(stop) => {
                slot.state = State::Down(halt(partition, &self.statuses[partition as usize], &stop));
            }
        }
    }

    fn release(&mut self, partition: u32, settle: bool, done: Option<mpsc::Sender<()>>) {
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        slot.again = false;
        slot.releasing = Some(Releasing { settle, deadline: Instant::now() + DRAIN, _done: done });
        if let State::Running(running) = &mut slot.state {
            running.stop_reading();
            if settle {
                running.checkpoint_now();
            }
        }
    }

    /// Moves one partition on; gives whether there was something to do.
    fn turn(&mut self, partition: u32) -> bool {
        let slot = self.slots.get_mut(&partition).expect("just listed");
        let now = Instant::now();
        let Some(releasing) = &slot.releasing else {
            return self.step(partition, now);
        };
        let gone = match &mut slot.state {
            // What is being opened is not used any more; the thread gives it up.
            State::Opening => now >= releasing.deadline + LAST_WRITE,
            State::Running(running) => {
                let late = now >= releasing.deadline;
                let settled = !releasing.settle || running.settle() || late;
                settled && (!running.is_writing() || now >= releasing.deadline + LAST_WRITE)
            }
            State::Leaving(leaving) => !leaving.is_writing() || now >= releasing.deadline + LAST_WRITE,
            State::Down(_) => true,
        };
        if gone && let Some(slot) = self.slots.remove(&partition) {
            // Its store is closed before anyone hears of it.
            drop(slot.state);
            self.statuses[partition as usize].set(Phase::Elsewhere);
            drop(slot.releasing);
            if slot.again {
                self.take(partition);
            }
        }
        gone
    }

    fn step(&mut self, partition: u32, now: Instant) -> bool {
        let slot = self.slots.get_mut(&partition).expect("just listed");
        match &mut slot.state {
            State::Opening => false,
            State::Running(running) => match running.step() {
                Ok(progress) => progress == Progress::Worked,
                Err(stop) => {
                    let retry = halt(partition, &self.statuses[partition as usize], &stop);
                    running.stop_reading();
                    slot.again = retry.is_some();
                    let State::Running(leaving) = std::mem::replace(&mut slot.state, State::Down(retry)) else {
                        unreachable!("just matched")
                    };
                    if retry.is_some() {
                        slot.state = State::Leaving(leaving);
                    }
                    false
                }
            },
            State::Leaving(leaving) => {
                if !leaving.is_writing() {
                    slot.state = State::Down(Some(now + RESTART_PAUSE));
                }
                false
            }
            State::Down(Some(at)) if now >= *at => {
                self.slots.remove(&partition);
                self.take(partition);
                true
            }
            State::Down(_) => false,
        }
    }
}

/// Says why a partition has stopped; gives when it is to be taken up again.
fn halt(partition: u32, status: &Status, stop: &Stop) -> Option<Instant> {
    tracing::error!(partition, reason = %stop, "the partition has stopped");
    let refused = matches!(stop, Stop::Refused(_));
    status.damaged.store(matches!(stop, Stop::Damaged(_)), Ordering::Release);
    status.set(Phase::Stopped { why: stop.to_string(), refused });
    (!refused).then(|| Instant::now() + RESTART_PAUSE)
}
