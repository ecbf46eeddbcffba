//! Checkpoint metadata, and the thread that writes checkpoints in the background.

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

/// Turns frozen changes into a batch; runs in the background.
pub type Frozen = Box<dyn FnOnce() -> Batch + Send>;

/// The column family of checkpoint metadata, the same for every machine.
pub const META: Family = Family::original("meta");
const KEY: &[u8] = b"checkpoint";
/// A checkpoint that takes longer counts as stuck.
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);

/// Written in one batch with the state that it describes. Members may be added with a
/// default; anything that an earlier version must not ignore needs a new format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// The next journal offset to apply; everything below is in the state.
    pub next: u64,
    /// Checksum of the record before `next`; 0 when there is none.
    pub crc: u32,
    /// The log's incarnation in hex.
    pub incarnation: String,
    pub partitions: u32,
    pub now: Millis,
    /// How far a test clock is ahead of append times, in milliseconds.
    pub ahead: Millis,
    pub logic_version: u32,
    /// How often a replayed state has replaced the serving one.
    pub generation: u64,
    /// The sequence number of the last forward taken from each partition.
    pub inbox: Vec<u64>,
    /// The sequence number of the last forward sent to each partition.
    pub forward: Vec<u64>,
    /// By output topic, the first offset at which outputs of records from `next` on may be.
    pub out_start: BTreeMap<String, u64>,
    /// From this offset on only MACs that name log and partition are valid; `None` while
    /// processes of version 0.1.0 may write to the journal.
    #[serde(default)]
    pub bound_macs_from: Option<u64>,
    /// Offsets of records that an operator has skipped.
    #[serde(default)]
    pub skipped: Vec<u64>,
    /// Ids of requests with which an operator accepted the time.
    #[serde(default)]
    pub accepted_times: Vec<String>,
    /// Ids of requests with which an operator accepted a loss of records.
    #[serde(default)]
    pub accepted_losses: Vec<String>,
    /// Partitions whose next forward may skip numbers, because records between are lost.
    #[serde(default)]
    pub gaps: Vec<u32>,
    /// Version of the program that wrote it.
    #[serde(default = "first_program")]
    pub program: String,
}

/// Checkpoints from before 0.2.0 do not name the version.
fn first_program() -> String {
    "0.1.0".into()
}

/// Version of this program.
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

    /// The partition's time without the offset of a test clock, to be compared with a
    /// machine's clock.
    pub fn time(&self) -> Millis {
        self.now - self.ahead
    }

    /// Whether a forward has the next number of its sender; if so, the number is taken.
    /// `None` when the log has no such sender.
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

    /// Expects that forwards of `sender` are lost: its next one is taken if its number is
    /// any later one.
    pub fn expect_gap(&mut self, sender: u32) {
        if !self.gaps.contains(&sender) {
            self.gaps.push(sender);
        }
    }

    pub fn save(&self, batch: &mut Batch) {
        batch.put(META, KEY, serde_json::to_vec(self).expect("meta serialises"));
    }

    /// Loads the metadata from a store.
    ///
    /// # Errors
    /// When the store cannot be read, or its metadata cannot be decoded or is of a later
    /// version.
    pub fn load(store: &Store) -> Result<Option<CheckpointMeta>, StopReason> {
        let Some(bytes) = store.get(META, KEY)? else { return Ok(None) };
        // First, because a later version may have changed everything else.
        if let Ok(Written { logic_version, program }) = serde_json::from_slice(&bytes)
            && logic_version > LOGIC_VERSION
        {
            return Err(StopReason::refused(format!(
                "the state was made by rules of version {logic_version} (askwhen {program}), and this program \
                 (askwhen {PROGRAM}) has rules up to version {LOGIC_VERSION}: use the later version, or restore a \
                 backup that is older"
            )));
        }
        // A checkpoint is written as a whole, so what cannot be read is damage.
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| StopReason::damaged(format!("the checkpoint is unreadable: {e}")))
    }
}

/// The members that every version writes.
#[derive(Deserialize)]
struct Written {
    logic_version: u32,
    #[serde(default = "first_program")]
    program: String,
}

/// Where the result of writing a checkpoint goes.
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
        // Closed first, because the receiver may open the store again.
        drop(store);
        // The partition may have been given up.
        done.written.send(written).ok();
        done.notify.notify();
    }
}

/// Writes checkpoints one after the other.
#[derive(Clone)]
pub struct Checkpointer {
    // Dropped with the last clone, which ends the thread.
    jobs: mpsc::Sender<Job>,
    writer: Writer,
}

#[derive(Clone)]
enum Writer {
    Thread {
        _thread: Arc<Thread>,
    },
    /// Checkpoints are written by [`Checkpointer::step`].
    Stepped(Arc<Mutex<mpsc::Receiver<Job>>>),
}

impl Checkpointer {
    /// Starts the thread.
    ///
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

    /// Without a thread, for a simulation that steps everything itself.
    pub fn stepped() -> Checkpointer {
        let (jobs, queue) = mpsc::channel();
        Checkpointer { jobs, writer: Writer::Stepped(Arc::new(Mutex::new(queue))) }
    }

    /// Writes the oldest pending checkpoint; returns whether there was one. Always `false`
    /// with a thread.
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
        let forward = |seq| Forward {
            from: 1,
            seq,
            key: None,
            value: Json::empty_object(),
            trusted: false,
            reply_to: None,
            passed_on: None,
        };
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
