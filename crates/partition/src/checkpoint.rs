//! What a checkpoint says beside the state itself, and the thread that writes
//! checkpoints off the hot path.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::stop::StopReason;
use askwhen_domain::LOGIC_VERSION;
use askwhen_domain::time::Millis;
use askwhen_process::thread::{Notify, Thread, resting, watch};
use askwhen_store::{Batch, Family, Store};
use askwhen_wire::record::Forward;

/// Makes the frozen changes into a batch; runs off the hot path.
pub type Frozen = Box<dyn FnOnce() -> Batch + Send>;

/// The family of the checkpoint's metadata, in the store of any machine.
pub const META: Family = Family::original("meta");
const KEY: &[u8] = b"checkpoint";
/// A checkpoint that takes longer is stuck.
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);

/// Written in one batch with the users it speaks of. Members may be added, with a
/// default; what an earlier version must not pass over takes another layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// The next journal offset to apply; everything below is in the state.
    pub next: u64,
    /// Checksum of the record below `next`, 0 when there is none.
    pub crc: u32,
    /// Hex of the log's incarnation.
    pub incarnation: String,
    pub partitions: u32,
    pub now: Millis,
    /// How far a test clock is ahead of append times.
    pub ahead: Millis,
    pub logic_version: u32,
    /// How often a replayed state has taken the place of the one before.
    pub generation: u64,
    /// Last sequence number taken from each partition.
    pub inbox: Vec<u64>,
    /// Last sequence number given to each partition.
    pub forward: Vec<u64>,
    /// Per output topic, where outputs of records from `next` on can begin.
    pub out_start: BTreeMap<String, u64>,
    /// From this offset on only MACs that name log and partition count; absent
    /// while processes of version 0.1.0 may write to the journal.
    #[serde(default)]
    pub bound_macs_from: Option<u64>,
    /// Records that an operator has taken out of the way.
    #[serde(default)]
    pub skipped: Vec<u64>,
    /// Requests by which an operator has accepted the time.
    #[serde(default)]
    pub accepted_times: Vec<String>,
    /// Requests by which an operator has accepted that records are lost.
    #[serde(default)]
    pub accepted_losses: Vec<String>,
    /// Partitions whose next forward may have any later number: what stood between
    /// is lost.
    #[serde(default)]
    pub gaps: Vec<u32>,
    /// Version of the program that wrote it.
    #[serde(default = "first_program")]
    pub program: String,
}

/// Before 0.2.0 a checkpoint did not say who wrote it.
fn first_program() -> String {
    "0.1.0".into()
}

/// This program's own version.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");

impl CheckpointMeta {
    pub fn new(incarnation: u128, partitions: u32, logic_version: u32) -> CheckpointMeta {
        CheckpointMeta {
            next: 0,
            crc: 0,
            incarnation: format!("{incarnation:032x}"),
            partitions,
            now: 0,
            ahead: 0,
            logic_version,
            generation: 0,
            inbox: vec![0; partitions as usize],
            forward: vec![0; partitions as usize],
            out_start: BTreeMap::new(),
            bound_macs_from: None,
            skipped: Vec::new(),
            accepted_times: Vec::new(),
            accepted_losses: Vec::new(),
            gaps: Vec::new(),
            program: PROGRAM.into(),
        }
    }

    /// The partition's time without what a test clock adds: comparable with a
    /// machine's.
    pub fn time(&self) -> Millis {
        self.now - self.ahead
    }

    /// Whether a forward is the next of its sender, which it has been from then
    /// on; `None` when this log has no such sender.
    pub fn take_forward(&mut self, forward: &Forward) -> Option<bool> {
        let last = self.inbox.get_mut(forward.from as usize)?;
        let gap = self.gaps.iter().position(|sender| *sender == forward.from).filter(|_| forward.seq > *last);
        let is_next = forward.seq == *last + 1 || gap.is_some();
        if is_next {
            *last = forward.seq;
        }
        if let Some(gap) = gap {
            self.gaps.remove(gap);
        }
        Some(is_next)
    }

    /// What a partition has told this one may be lost: its next forward is taken
    /// whatever its number, if it is a later one.
    pub fn expect_gap(&mut self, sender: u32) {
        if !self.gaps.contains(&sender) {
            self.gaps.push(sender);
        }
    }

    pub fn save(&self, batch: &mut Batch) {
        batch.put(META, KEY, serde_json::to_vec(self).expect("meta serialises"));
    }

    /// # Errors
    /// When the store cannot be read, when what is there is no checkpoint, or
    /// when a later version has written it.
    pub fn load(store: &Store) -> Result<Option<CheckpointMeta>, StopReason> {
        let Some(bytes) = store.get(META, KEY)? else { return Ok(None) };
        // Before anything else: a later version may have changed all the rest.
        if let Ok(Written { logic_version, program }) = serde_json::from_slice(&bytes)
            && logic_version > LOGIC_VERSION
        {
            return Err(StopReason::refused(format!(
                "the state was made by rules of version {logic_version} (askwhen {program}), and this program \
                 (askwhen {PROGRAM}) has rules up to version {LOGIC_VERSION}: use the later version, or restore a \
                 backup that is older"
            )));
        }
        // A checkpoint is written whole: what cannot be read is damage.
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| StopReason::damaged(format!("the checkpoint is unreadable: {e}")))
    }
}

/// What every version of a checkpoint says.
#[derive(Deserialize)]
struct Written {
    logic_version: u32,
    #[serde(default = "first_program")]
    program: String,
}

/// Who is told that a checkpoint was written, and how that went.
#[derive(Clone)]
pub struct CheckpointDone {
    pub written: mpsc::Sender<Result<(), askwhen_store::Error>>,
    pub notify: Arc<Notify>,
}

struct Job {
    store: Arc<Store>,
    frozen: Frozen,
    meta: CheckpointMeta,
    done: CheckpointDone,
}

impl Job {
    fn run(self) {
        let Job { store, frozen, meta, done } = self;
        let mut batch = frozen();
        meta.save(&mut batch);
        let written = store.write(batch);
        askwhen_process::fault::point("checkpointed");
        // Whoever hears of it may close the store and open it anew.
        drop(store);
        // The partition may have been given up.
        done.written.send(written).ok();
        done.notify.notify();
    }
}

/// Writes checkpoints one after the other.
#[derive(Clone)]
pub struct Checkpointer {
    // Dropped with its last clone, and before the thread that it keeps alive.
    jobs: mpsc::Sender<Job>,
    writer: Writer,
}

#[derive(Clone)]
enum Writer {
    Thread {
        _thread: Arc<Thread>,
    },
    /// [`Checkpointer::step`] writes.
    Stepped(Arc<Mutex<mpsc::Receiver<Job>>>),
}

impl Checkpointer {
    /// # Errors
    /// When the thread cannot be started.
    pub fn start() -> std::io::Result<Checkpointer> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = Thread::spawn("checkpoint", move || {
            watch(WRITTEN_WITHIN);
            while let Ok(job) = resting(|| queue.recv()) {
                job.run();
            }
        })?;
        Ok(Checkpointer { jobs, writer: Writer::Thread { _thread: Arc::new(thread) } })
    }

    /// One without a thread, for whoever steps everything itself.
    pub fn stepped() -> Checkpointer {
        let (jobs, queue) = mpsc::channel();
        Checkpointer { jobs, writer: Writer::Stepped(Arc::new(Mutex::new(queue))) }
    }

    /// Writes the oldest checkpoint that waits; gives whether there was one. With
    /// a thread there never is.
    pub fn step(&self) -> bool {
        let Writer::Stepped(queue) = &self.writer else { return false };
        let job = queue.lock().expect("no panic holds this lock").try_recv();
        let found = job.is_ok();
        job.into_iter().for_each(Job::run);
        found
    }

    pub fn write(&self, store: Arc<Store>, frozen: Frozen, meta: CheckpointMeta, done: CheckpointDone) {
        // The thread ends only when every sender is gone.
        self.jobs.send(Job { store, frozen, meta, done }).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_domain::json::Json;

    #[test]
    fn a_gap_lets_one_later_forward_pass_and_the_sequence_goes_on_from_it() {
        let mut meta = CheckpointMeta::new(1, 2, LOGIC_VERSION);
        let forward =
            |seq| Forward { from: 1, seq, key: None, value: Json::empty_object(), trusted: false, reply_to: None };
        let take = |meta: &mut CheckpointMeta, seq| meta.take_forward(&forward(seq));
        assert_eq!(take(&mut meta, 1), Some(true));
        assert_eq!(take(&mut meta, 3), Some(false), "the second is still to come");
        meta.expect_gap(1);
        assert_eq!(take(&mut meta, 1), Some(false), "it was taken before");
        assert_eq!(take(&mut meta, 9), Some(true));
        assert_eq!(take(&mut meta, 11), Some(false), "one gap was accepted");
        assert_eq!(take(&mut meta, 10), Some(true));
    }
}
