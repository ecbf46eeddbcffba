//! Threads that step partitions, as many as there are cores. A partition that is given up
//! waits for its acknowledgements and its last checkpoint; the rest of its life is in
//! `assignment`.

use std::marker::PhantomData;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::assignment::{self, AssignmentOptions, Assignments, LAST_WRITE, Openings, Patience, RESTART_PAUSE};
use super::machine::Machine;
use super::partition::Partition;
use super::partition::Progress;
use super::status::Status;
use super::stop::StopReason;
use askwhen_process::thread::{Notify, STUCK_AFTER, Thread, WaitGroup, beat, wait_for_tokens, watch};

const ASSIGNMENT: AssignmentOptions =
    AssignmentOptions { role: "engine", openings: Openings::Threads("open-"), opening_grace: LAST_WRITE };

/// Restores the state of a partition and opens it; called again for every restart.
pub type OpenPartition<M> = assignment::Opener<Partition<M>, StopReason>;

enum Command {
    Take(u32),
    /// Without `settle` it is not waited for: another process may own the partition
    /// already.
    Release {
        partition: u32,
        settle: bool,
        done: WaitGroup,
    },
    StopReason,
}

struct Worker {
    commands: mpsc::Sender<Command>,
    notify: Arc<Notify>,
    _thread: Thread,
}

/// The running threads. Dropping the pool settles and checkpoints their partitions.
pub struct Pool<M> {
    workers: Vec<Worker>,
    _machine: PhantomData<fn() -> M>,
}

impl<M: Machine + 'static> Pool<M> {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(open: &OpenPartition<M>, statuses: &[Arc<Status>], threads: usize) -> std::io::Result<Pool<M>> {
        let mut pool = Pool { workers: Vec::new(), _machine: PhantomData };
        for i in 0..threads.max(1) {
            let (sender, commands) = mpsc::channel();
            let notify = Arc::new(Notify::default());
            let open = open.clone();
            let open = move |partition, notify, status| open(partition, notify, status).map(Actor::running);
            let assignments = Assignments::new(Arc::new(open), ASSIGNMENT, statuses.to_vec(), notify.clone());
            let mut driver = Driver { commands, notify: notify.clone(), assignments, started: Instant::now() };
            let thread = Thread::spawn(format!("actors-{i}"), move || driver.run())?;
            pool.workers.push(Worker { commands: sender, notify, _thread: thread });
        }
        Ok(pool)
    }

    fn send(&self, partition: u32, command: Command) {
        let worker = &self.workers[partition as usize % self.workers.len()];
        // A worker ends only when it is told to.
        worker.commands.send(command).ok();
        worker.notify.notify();
    }

    pub fn take(&self, partition: u32) {
        self.send(partition, Command::Take(partition));
    }

    /// Gives partitions up and waits until they are gone.
    pub fn release(&self, partitions: &[u32], settle: bool) {
        wait_for_tokens(|done| {
            for partition in partitions {
                self.send(*partition, Command::Release { partition: *partition, settle, done: done.clone() });
            }
        });
    }
}

impl<M> Drop for Pool<M> {
    /// Stops reading, waits for acknowledgements, writes checkpoints.
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.commands.send(Command::StopReason).ok();
            worker.notify.notify();
        }
    }
}

/// A partition that a worker steps.
struct Actor<M> {
    partition: Box<Partition<M>>,
    /// It has stopped; its last checkpoint may still be being written.
    has_halted: bool,
}

impl<M: Machine + 'static> Actor<M> {
    fn running(partition: Partition<M>) -> Actor<M> {
        Actor { partition: Box::new(partition), has_halted: false }
    }

    fn stop_reading(&mut self, settle: bool) {
        if self.has_halted {
            return;
        }
        self.partition.stop_reading();
        if settle {
            self.partition.checkpoint_now();
        }
    }

    /// Whether there is nothing left to wait for.
    fn is_settled(&mut self, patience: Patience) -> bool {
        let settled = self.has_halted || !patience.settle || self.partition.settle() || patience.is_late;
        settled && (!self.partition.is_writing() || patience.is_overdue)
    }
}

struct Driver<M> {
    commands: mpsc::Receiver<Command>,
    notify: Arc<Notify>,
    assignments: Assignments<Actor<M>, StopReason>,
    started: Instant,
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
                stopping |= matches!(command, Command::StopReason);
                self.obey(command);
            }
            while let Some((partition, outcome)) = self.assignments.next_opened() {
                worked = true;
                match outcome {
                    Ok(actor) => self.assignments.install(partition, actor),
                    Err(stop) => self.assignments.fail(partition, &stop, self.started.elapsed()),
                }
            }
            for partition in self.assignments.partitions() {
                worked |= self.turn(partition);
            }
            if stopping && self.assignments.is_empty() {
                return;
            }
            if !worked {
                let pause_ms = if self.assignments.any_leaving() { 5 } else { 200 };
                self.notify.wait(Duration::from_millis(pause_ms));
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Take(partition) => self.assignments.take(partition, self.started.elapsed()),
            Command::Release { partition, settle, done } => self.release(partition, settle, Some(done)),
            Command::StopReason => {
                for partition in self.assignments.partitions() {
                    self.release(partition, true, None);
                }
            }
        }
    }

    fn release(&mut self, partition: u32, settle: bool, done: Option<WaitGroup>) {
        if let Some(actor) = self.assignments.release(partition, settle, done, self.started.elapsed()) {
            actor.stop_reading(settle);
        }
    }

    /// Steps one partition; returns whether it did anything.
    fn turn(&mut self, partition: u32) -> bool {
        let now = self.started.elapsed();
        if self.assignments.is_leaving(partition) {
            let is_settled =
                |actor: Option<&mut Actor<M>>, patience| actor.is_none_or(|actor| actor.is_settled(patience));
            return self.assignments.let_go(partition, now, is_settled);
        }
        if self.assignments.reopen(partition, now) {
            return true;
        }
        let Some(actor) = self.assignments.get_mut(partition) else { return false };
        if actor.has_halted {
            if !actor.partition.is_writing() {
                self.assignments.close(partition, Some(now + RESTART_PAUSE));
            }
            return false;
        }
        match actor.partition.step() {
            Ok(progress) => progress == Progress::Worked,
            Err(stop) => {
                actor.partition.stop_reading();
                actor.has_halted = true;
                // It is opened again only when its last checkpoint is written.
                if self.assignments.halt(partition, &stop, now).is_none() {
                    self.assignments.close(partition, None);
                }
                false
            }
        }
    }
}
