//! Threads that step partitions: as many as there are cores, each with its
//! share of the partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::partition::{Progress, Stop};
use super::{Machine, Partition, Status};
use crate::log::Bell;

/// How long a revoked partition may wait for its acknowledgements.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause before a partition is taken up again after a failure.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Opens a partition; called again for every restart.
pub type Open<M> = Box<dyn Fn(Arc<Bell>, Arc<Status>) -> Result<Partition<M>, Stop> + Send>;

struct Slot<M> {
    partition: u32,
    open: Open<M>,
    running: Option<Partition<M>>,
    /// A stopped instance whose last checkpoint is still being written.
    leaving: Option<Partition<M>>,
    retry_at: Option<Instant>,
    status: Arc<Status>,
}

/// Running threads; stopping them drains and checkpoints.
pub struct Pool {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    bells: Vec<Arc<Bell>>,
}

impl Pool {
    /// Opens every partition and starts to step them.
    ///
    /// # Errors
    /// The first partition that refuses to open.
    pub fn start<M: Machine + 'static>(opens: Vec<(u32, Open<M>, Arc<Status>)>, threads: usize) -> Result<Pool, Stop> {
        let mut shares: Vec<Vec<Slot<M>>> = (0..threads.max(1)).map(|_| Vec::new()).collect();
        let bells: Vec<Arc<Bell>> = shares.iter().map(|_| Arc::default()).collect();
        for (i, (partition, open, status)) in opens.into_iter().enumerate() {
            let which = i % shares.len();
            let running = Some(open(bells[which].clone(), status.clone())?);
            shares[which].push(Slot { partition, open, running, leaving: None, retry_at: None, status });
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for (i, share) in shares.into_iter().enumerate() {
            let (bell, stop) = (bells[i].clone(), stop.clone());
            let thread = std::thread::Builder::new().name(format!("actors-{i}"));
            let thread = thread.spawn(move || drive(share, &bell, &stop));
            running.push(thread.map_err(|e| Stop::Restart(e.to_string()))?);
        }
        Ok(Pool { threads: running, stop, bells })
    }

    /// Stops intake, waits for acknowledgements, checkpoints.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        for bell in &self.bells {
            bell.ring();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an actor thread had panicked");
            }
        }
    }
}

fn drive<M: Machine>(mut slots: Vec<Slot<M>>, bell: &Arc<Bell>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let mut worked = false;
        for slot in &mut slots {
            worked |= slot.step(bell);
        }
        if !worked {
            bell.wait(Duration::from_millis(200));
        }
    }
    let deadline = Instant::now() + DRAIN;
    for slot in &mut slots {
        if let Some(partition) = &mut slot.running {
            partition.checkpoint_now();
        }
    }
    while Instant::now() < deadline {
        let unsettled = slots.iter_mut().filter_map(|s| s.running.as_mut()).any(|p| !p.settle());
        if !unsettled {
            break;
        }
        bell.wait(Duration::from_millis(20));
    }
}

impl<M: Machine> Slot<M> {
    fn step(&mut self, bell: &Arc<Bell>) -> bool {
        let Some(partition) = &mut self.running else { return self.reopen(bell) };
        match partition.step() {
            Ok(progress) => progress == Progress::Worked,
            Err(stop) => {
                self.leaving = self.running.take();
                self.halt(&stop);
                false
            }
        }
    }

    fn reopen(&mut self, bell: &Arc<Bell>) -> bool {
        if self.retry_at.is_none_or(|at| Instant::now() < at) {
            return false;
        }
        if self.leaving.as_mut().is_some_and(Partition::is_writing) {
            return false;
        }
        self.leaving = None;
        match (self.open)(bell.clone(), self.status.clone()) {
            Ok(partition) => {
                self.running = Some(partition);
                self.retry_at = None;
                *self.status.stopped.lock().expect("no panic holds this lock") = None;
                true
            }
            Err(stop) => {
                self.halt(&stop);
                false
            }
        }
    }

    fn halt(&mut self, stop: &Stop) {
        tracing::error!(partition = self.partition, reason = %stop, "the partition has stopped");
        *self.status.stopped.lock().expect("no panic holds this lock") = Some(stop.to_string());
        self.status.caught_up.store(false, Ordering::Release);
        self.retry_at = matches!(stop, Stop::Restart(_)).then(|| Instant::now() + RESTART_PAUSE);
    }
}
