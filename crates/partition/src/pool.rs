//! Threads that step partitions, as many as there are cores. Partitions come
//! and go: taking one up may take long and happens beside; giving one up waits
//! for its acknowledgements.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::machine::Machine;
use super::partition::Partition;
use super::partition::Progress;
use super::status::{Phase, Status};
use super::stop::{Stop, WaitReason};
use askwhen_process::thread::{Notify, STUCK_AFTER, Thread, WaitGroup, beat, wait_for_tokens, watch};

/// How long a partition that is given up may wait for its acknowledgements.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the last checkpoint of one may take after that.
const LAST_WRITE: Duration = Duration::from_secs(5);
/// Pause before a partition that waits is tried again.
const WAIT_PAUSE: Duration = Duration::from_secs(2);
/// Pause before a partition is taken up again after a failure.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Brings a partition's state here and opens it; called again for every restart.
pub type Open<M> = Arc<dyn Fn(u32, Arc<Notify>, Arc<Status>) -> Result<Partition<M>, Stop> + Send + Sync>;

enum Command<M> {
    Take(u32),
    Opened(Opened<M>),
    /// Without `settle` nothing is worth waiting for: others may own it.
    Release {
        partition: u32,
        settle: bool,
        done: WaitGroup,
    },
    Stop,
}

/// What the thread says that opened a partition.
struct Opened<M> {
    partition: u32,
    /// Which opening it was: an earlier one may have been given up.
    opening: u64,
    outcome: Result<Box<Partition<M>>, Stop>,
}

struct Worker<M> {
    commands: mpsc::Sender<Command<M>>,
    notify: Arc<Notify>,
    _thread: Thread,
}

/// Running threads; dropping them settles and checkpoints what they own.
pub struct Pool<M> {
    workers: Vec<Worker<M>>,
}

impl<M: Machine + 'static> Pool<M> {
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(open: &Open<M>, statuses: &[Arc<Status>], threads: usize) -> std::io::Result<Pool<M>> {
        let mut pool = Pool { workers: Vec::new() };
        for i in 0..threads.max(1) {
            let (sender, commands) = mpsc::channel();
            let notify = Arc::new(Notify::default());
            let mut driver = Driver {
                open: open.clone(),
                statuses: statuses.to_vec(),
                own: sender.clone(),
                commands,
                notify: notify.clone(),
                slots: BTreeMap::new(),
                strays: Vec::new(),
                openings: 0,
            };
            let thread = Thread::spawn(format!("actors-{i}"), move || driver.run())?;
            pool.workers.push(Worker { commands: sender, notify, _thread: thread });
        }
        Ok(pool)
    }

    fn tell(&self, partition: u32, command: Command<M>) {
        let worker = &self.workers[partition as usize % self.workers.len()];
        // A worker ends only when it is told to.
        worker.commands.send(command).ok();
        worker.notify.notify();
    }

    pub fn take(&self, partition: u32) {
        self.tell(partition, Command::Take(partition));
    }

    /// Gives partitions up and waits until they are.
    pub fn release(&self, partitions: &[u32], settle: bool) {
        wait_for_tokens(|done| {
            for partition in partitions {
                self.tell(*partition, Command::Release { partition: *partition, settle, done: done.clone() });
            }
        });
    }
}

impl<M> Drop for Pool<M> {
    /// Stops intake, waits for acknowledgements, checkpoints.
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.commands.send(Command::Stop).ok();
            worker.notify.notify();
        }
    }
}

enum State<M> {
    /// A thread of its own brings it here; openings are numbered.
    Opening(u64, Thread),
    Running(Box<Partition<M>>),
    /// Stopped; its last checkpoint may still be being written.
    Leaving(Box<Partition<M>>),
    /// To be taken up again then, or never.
    Down(Option<Instant>),
}

struct Slot<M> {
    state: State<M>,
    /// Given up and given back before it was gone.
    again: bool,
    releasing: Option<Releasing>,
}

struct Releasing {
    settle: bool,
    deadline: Instant,
    /// Dropped when the partition is gone.
    _done: Option<WaitGroup>,
}

struct Driver<M> {
    open: Open<M>,
    statuses: Vec<Arc<Status>>,
    own: mpsc::Sender<Command<M>>,
    commands: mpsc::Receiver<Command<M>>,
    notify: Arc<Notify>,
    slots: BTreeMap<u32, Slot<M>>,
    /// Still opening what was given up long ago; not taken up again beside it.
    strays: Vec<(u32, Thread)>,
    openings: u64,
}

impl<M: Machine + 'static> Driver<M> {
    fn run(&mut self) {
        let mut stopping = false;
        watch(STUCK_AFTER);
        loop {
            beat();
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
                self.notify.wait(Duration::from_millis(if releasing { 5 } else { 200 }));
            }
        }
    }

    fn obey(&mut self, command: Command<M>) {
        match command {
            Command::Take(partition) => match self.slots.get_mut(&partition) {
                Some(slot) => slot.again = true,
                None => self.take(partition),
            },
            Command::Opened(opened) => self.opened(opened),
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
        self.strays.retain(|(_, stray)| !stray.is_over());
        if self.strays.iter().any(|(of, _)| *of == partition) {
            status.set(Phase::Opening("an earlier opening is coming to its end".into()));
            let state = State::Down(Some(Instant::now() + RESTART_PAUSE));
            self.slots.insert(partition, Slot { state, again: false, releasing: None });
            return;
        }
        // Who waits goes on saying why.
        if !status.waits() {
            status.set(Phase::Opening("opening its state".into()));
        }
        status.unwanted.store(false, Ordering::Release);
        self.openings += 1;
        let (opening, open, own, notify) = (self.openings, self.open.clone(), self.own.clone(), self.notify.clone());
        let thread = Thread::spawn(format!("open-{partition}"), move || {
            let outcome = open(partition, notify.clone(), status).map(Box::new);
            drop(open);
            // The driver may not wait for it any more.
            own.send(Command::Opened(Opened { partition, opening, outcome })).ok();
            notify.notify();
        });
        let state = match thread {
            Ok(thread) => State::Opening(opening, thread),
            Err(error) => halt(partition, &self.statuses[partition as usize], &Stop::Restart(error.to_string())),
        };
        self.slots.insert(partition, Slot { state, again: false, releasing: None });
    }

    fn opened(&mut self, Opened { partition, opening, outcome }: Opened<M>) {
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        if !matches!(&slot.state, State::Opening(expected, _) if *expected == opening) {
            return;
        }
        slot.state = match outcome {
            // Given up in the meantime: it is nobody's loss.
            _ if slot.releasing.is_some() => State::Down(None),
            Ok(running) => {
                self.statuses[partition as usize].set_poisoned(None);
                self.statuses[partition as usize].clock_behind.store(false, Ordering::Release);
                self.statuses[partition as usize].set(Phase::Running);
                State::Running(running)
            }
            Err(stop) => halt(partition, &self.statuses[partition as usize], &stop),
        };
    }

    fn release(&mut self, partition: u32, settle: bool, done: Option<WaitGroup>) {
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        slot.again = false;
        slot.releasing = Some(Releasing { settle, deadline: Instant::now() + DRAIN, _done: done });
        self.statuses[partition as usize].unwanted.store(true, Ordering::Release);
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
            // Its thread has heard of it, and gives up as soon as it can.
            State::Opening(..) => now >= releasing.deadline + LAST_WRITE,
            State::Running(running) => {
                let late = now >= releasing.deadline;
                let settled = !releasing.settle || running.settle() || late;
                settled && (!running.is_writing() || now >= releasing.deadline + LAST_WRITE)
            }
            State::Leaving(leaving) => !leaving.is_writing() || now >= releasing.deadline + LAST_WRITE,
            State::Down(_) => true,
        };
        if gone && let Some(slot) = self.slots.remove(&partition) {
            match slot.state {
                State::Opening(_, stray) => self.strays.push((partition, stray)),
                // Its store is closed before anyone hears of it.
                state => drop(state),
            }
            let status = &self.statuses[partition as usize];
            status.clock_behind.store(false, Ordering::Release);
            status.time.store(0, Ordering::Release);
            status.set_poisoned(None);
            status.set(Phase::NotOwned);
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
            State::Opening(..) => false,
            State::Running(running) => match running.step() {
                Ok(progress) => progress == Progress::Worked,
                Err(stop) => {
                    running.stop_reading();
                    let down = halt(partition, &self.statuses[partition as usize], &stop);
                    if let State::Running(stopped) = std::mem::replace(&mut slot.state, down)
                        && matches!(slot.state, State::Down(Some(_)))
                    {
                        slot.state = State::Leaving(stopped);
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

/// Says why a partition has stopped, and whether it is taken up again.
fn halt<M>(partition: u32, status: &Status, stop: &Stop) -> State<M> {
    let (clock, poison) = match stop {
        Stop::Waits { on: WaitReason::Clock, .. } => (true, None),
        Stop::Waits { on: WaitReason::Skip { offset }, .. } => (false, Some(*offset)),
        _ => (false, None),
    };
    let stopped = Phase::Stopped { why: stop.to_string(), refused: false };
    // Who waits is tried again and again, and says it once.
    if !status.waits() || status.phase() != stopped {
        tracing::error!(partition, reason = %stop, "the partition has stopped");
    }
    status.clock_behind.store(clock, Ordering::Release);
    status.set_poisoned(poison);
    if status.waits() {
        status.set(stopped);
        return State::Down(Some(Instant::now() + WAIT_PAUSE));
    }
    let refused = matches!(stop, Stop::Refused(_));
    status.damaged.store(matches!(stop, Stop::Damaged(_)), Ordering::Release);
    status.set(Phase::Stopped { why: stop.to_string(), refused });
    State::Down((!refused).then(|| Instant::now() + RESTART_PAUSE))
}
