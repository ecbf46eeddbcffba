//! Writes what is queued in groups: to the segments and the commit log, then sync, publish
//! the frontier, acknowledge. A group that meets a full disk is taken back and refused; any
//! other error of a write, and every error of a sync, leaves the outcome unknown, and the
//! writer stops for good.

use bytes::BytesMut;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::super::disk::{self, Disk};
use super::super::frame;
use super::commit::{self, CommitLog, Piece, PrepareError};
use super::cursor::FrameStart;
use super::partition::{PartitionLog, Target};
use super::space::{Purpose, Space};
use super::syncer::Syncer;
use crate::ack::{Ack, Append, Urgency};
use crate::error::Error;
use crate::record::{AppendedRange, NewRecord, TopicPartition};
use askwhen_domain::time::Millis;
use askwhen_process::clock::Clock;
use askwhen_process::thread::{STUCK_AFTER, beat, resting, watch};

/// The most bytes queued for one writer.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// The most bytes written before a sync.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// How long appends that are not urgent wait for one that is.
const LINGER: Duration = Duration::from_millis(10);

struct Job {
    part: Arc<PartitionLog>,
    records: Vec<NewRecord>,
    len_bytes: usize,
    ack: Ack,
}

/// The queue of a writer.
#[derive(Default)]
pub struct Queue {
    jobs: Mutex<Jobs>,
    filled: Condvar,
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    queued_bytes: usize,
    /// When the queue is to be written at the latest; `None` while it is empty.
    due: Option<Instant>,
    /// When the writer looks by itself; `None` while it writes.
    looks_at: Option<Instant>,
    closed: bool,
    /// Why nothing more is accepted, once a write has failed.
    failed: Option<Error>,
}

/// The error of a record that came after a write had failed: it was not written, while the
/// outcome of those before is unknown.
fn not_written(failed: &Error) -> Error {
    match failed {
        Error::Unknown(why) => Error::Failed(why.clone()),
        other => other.clone(),
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

impl Job {
    /// Measures an append, or says which record no frame can hold.
    fn of(part: Arc<PartitionLog>, append: Append) -> Result<(Job, Urgency), (Ack, Error)> {
        let Append { records, ack, urgency, .. } = append;
        if let Some(why) = records.iter().find_map(|record| frame::fits(record).err()) {
            return Err((ack, Error::Refused(why.to_string())));
        }
        let len_bytes = records.iter().map(frame::encoded_len).sum();
        Ok((Job { part, records, len_bytes, ack }, urgency))
    }
}

impl Jobs {
    /// Queues an append, or says why not.
    fn push(&mut self, job: Job, urgency: Urgency) -> Result<(), (Ack, Error)> {
        let refusal = if let Some(failed) = &self.failed {
            Some(not_written(failed))
        } else if self.closed {
            Some(Error::Closed)
        } else if !matches!(job.ack, Ack::Tagged { .. }) && self.queued_bytes + job.len_bytes > MAX_QUEUED_BYTES {
            // Partitions bound their unacknowledged bytes themselves.
            Some(Error::Overloaded)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return Err((job.ack, refusal));
        }
        let now = Instant::now();
        let due = if urgency == Urgency::Lingers { now + LINGER } else { now };
        self.due = Some(self.due.map_or(due, |known| known.min(due)));
        self.queued_bytes += job.len_bytes;
        self.queue.push_back(job);
        Ok(())
    }

    /// How long until the queue is to be written; `None` while it is empty.
    fn wait(&self) -> Option<Duration> {
        let due = self.due.filter(|_| !self.closed && self.failed.is_none());
        match due {
            Some(due) => Some(due.saturating_duration_since(Instant::now())),
            None => (!self.queue.is_empty()).then_some(Duration::ZERO),
        }
    }
}

impl Queue {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().expect("no panic holds this lock")
    }

    /// Queues appends, which are written in one group if they fit in it.
    pub fn append_all(&self, appends: Vec<(Arc<PartitionLog>, Append)>) {
        // Before the lock, for which others wait.
        let measured: Vec<_> = appends.into_iter().map(|(part, append)| Job::of(part, append)).collect();
        let mut refused = Vec::new();
        let mut jobs = self.jobs();
        for job in measured {
            refused.extend(job.and_then(|(job, urgency)| jobs.push(job, urgency)).err());
        }
        let is_earlier = jobs.looks_at.zip(jobs.due).is_some_and(|(looks_at, due)| due < looks_at);
        drop(jobs);
        if is_earlier {
            self.filled.notify_one();
        }
        for (ack, refusal) in refused {
            ack.send(Err(refusal));
        }
    }

    pub fn close(&self) {
        self.jobs().closed = true;
        self.filled.notify_all();
    }

    /// Bytes in the queue.
    pub fn queued_bytes(&self) -> usize {
        self.jobs().queued_bytes
    }

    /// Why nothing more is accepted, once a write has failed.
    pub fn failed(&self) -> Option<Error> {
        self.jobs().failed.clone()
    }

    /// Accepts nothing more.
    pub fn fail(&self, why: Error) {
        self.jobs().failed = Some(why);
    }

    /// Takes jobs from the queue, up to a bound; none when it is empty.
    fn take_group(jobs: &mut Jobs) -> Vec<Job> {
        if let Some(failed) = jobs.failed.clone() {
            for job in std::mem::take(&mut jobs.queue) {
                job.ack.send(Err(not_written(&failed)));
            }
            jobs.queued_bytes = 0;
            jobs.due = None;
        }
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(job) = jobs.queue.front() {
            if bytes > 0 && bytes + job.len_bytes > MAX_GROUP_BYTES {
                break;
            }
            bytes += job.len_bytes;
            group.extend(jobs.queue.pop_front());
        }
        jobs.queued_bytes -= bytes;
        if jobs.queue.is_empty() {
            jobs.due = None;
        }
        group
    }

    /// Waits for jobs; `None` when the log closes.
    fn next_group(&self) -> Option<Vec<Job>> {
        let mut jobs = self.jobs();
        // Behind a group others follow often that linger: the writer need not be woken for
        // them if it looks by itself in time.
        let mut idle = LINGER;
        loop {
            let wait = jobs.wait();
            if wait.is_some_and(|wait| wait.is_zero()) {
                let group = Queue::take_group(&mut jobs);
                if !group.is_empty() {
                    return Some(group);
                }
                continue;
            }
            if wait.is_none() && jobs.closed {
                return None;
            }
            let longest = wait.unwrap_or(std::mem::replace(&mut idle, Duration::from_secs(1)));
            jobs.looks_at = Some(Instant::now() + longest);
            jobs = resting(|| self.filled.wait_timeout(jobs, longest)).expect("no panic holds this lock").0;
            jobs.looks_at = None;
        }
    }
}

/// Why a group was not written.
enum Failure {
    /// The disk is full; nothing of the group is in the log.
    Full,
    /// The outcome is unknown: all, some or none of the group may be in the log.
    Fatal(Error),
}

/// The records of a group for one partition, encoded.
struct Draft<'a> {
    part: &'a Arc<PartitionLog>,
    bytes: BytesMut,
    /// The start of each frame in `bytes`.
    frames: Vec<FrameStart>,
    end: u64,
}

pub struct Writer {
    pub queue: Arc<Queue>,
    pub purpose: Purpose,
    pub clock: Clock,
    pub disk: Disk,
    pub space: Arc<Space>,
    pub syncer: Syncer,
    pub commits: CommitLog,
}

impl Writer {
    /// Writes until the log closes.
    pub fn run(&mut self) {
        watch(STUCK_AFTER);
        while let Some(group) = self.queue.next_group() {
            beat();
            self.write_and_answer(group);
        }
        self.finish();
    }

    /// Unless the log has failed, nothing is left for the next start to replay.
    pub fn finish(&mut self) {
        if self.queue.failed().is_some() {
            return;
        }
        if let Err(error) = self.commits.close(&self.syncer) {
            self.queue.fail(Error::Unknown(error.to_string()));
            tracing::error!(%error, "the log could not be closed in order: the next start writes its commit logs again");
        }
    }

    /// Writes one group, if anything is queued; returns whether there was.
    pub fn step(&mut self) -> bool {
        let group = Queue::take_group(&mut self.queue.jobs());
        let worked = !group.is_empty();
        if worked {
            self.write_and_answer(group);
        }
        worked
    }

    fn write_and_answer(&mut self, group: Vec<Job>) {
        let started = std::time::Instant::now();
        match self.write(&group) {
            Ok(firsts) => {
                askwhen_process::metrics::get().log_append_seconds.observe(started.elapsed().as_secs_f64());
                for (job, first) in group.into_iter().zip(firsts) {
                    job.ack.send(Ok(AppendedRange { first, end: first + job.records.len() as u64 }));
                }
            }
            Err(Failure::Full) => {
                for job in group {
                    job.ack.send(Err(self.space.refusal()));
                }
            }
            Err(Failure::Fatal(error)) => {
                let failed = Error::Unknown(error.to_string());
                // First, so that no append is accepted after this.
                self.queue.fail(failed.clone());
                for job in group {
                    job.ack.send(Err(failed.clone()));
                }
                tracing::error!(%error, "the log failed to write; it takes nothing more until a restart");
            }
        }
    }

    /// Writes and syncs a group; returns the first offset of each job.
    fn write(&mut self, group: &[Job]) -> Result<Vec<u64>, Failure> {
        let now = self.clock.wall();
        let mut by_part: BTreeMap<TopicPartition, Vec<usize>> = BTreeMap::new();
        for (i, job) in group.iter().enumerate() {
            by_part.entry(job.part.at).or_default().push(i);
        }
        let mut firsts = vec![0; group.len()];
        let mut drafts = Vec::new();
        for jobs in by_part.values() {
            let part = &group[jobs[0]].part;
            let durable = part.end();
            let len_bytes = jobs.iter().map(|i| group[*i].len_bytes).sum();
            let mut draft = Draft { part, bytes: BytesMut::with_capacity(len_bytes), frames: Vec::new(), end: durable };
            for i in jobs {
                firsts[*i] = draft.end;
                for record in &group[*i].records {
                    draft.frames.push(FrameStart { position: draft.bytes.len() as u64, offset: draft.end });
                    frame::encode(&mut draft.bytes, record, draft.end, now, durable);
                    draft.end += 1;
                }
            }
            drafts.push(draft);
        }
        let bytes = drafts.iter().map(|draft| draft.bytes.len() as u64).sum();
        self.space.reserve(bytes, self.purpose).map_err(|_| Failure::Full)?;
        let written = self.write_drafts(&drafts, now);
        self.space.release(bytes);
        for (draft, target) in drafts.into_iter().zip(written?) {
            draft.part.publish(&target, draft.frames, draft.bytes.freeze(), draft.end, now);
        }
        askwhen_process::fault::point("appended");
        Ok(firsts)
    }

    fn write_drafts(&mut self, drafts: &[Draft<'_>], now: Millis) -> Result<Vec<Target>, Failure> {
        let mut targets = Vec::new();
        let bytes = drafts.iter().map(|draft| draft.bytes.len()).sum();
        let is_committed = commit::takes(drafts.len(), bytes);
        if is_committed {
            self.prepare(drafts.len(), bytes, now)?;
        }
        if drafts.iter().any(|draft| draft.part.begins_segment(draft.bytes.len() as u64)) {
            self.commits.settle().map_err(Failure::Fatal)?;
        }
        for draft in drafts {
            let named = |file: String, error: std::io::Error| Failure::Fatal(Error::io(file, error));
            let written = match draft.part.target(&self.disk, draft.bytes.len() as u64) {
                Ok(target) => {
                    targets.push(target.clone());
                    let written = target.file.append_all(&draft.bytes);
                    written.map_err(|error| (target.path.display().to_string(), error))
                }
                Err(error) => Err((draft.part.at.to_string(), error)),
            };
            match written {
                Ok(()) => {}
                Err((_, error)) if disk::is_full(&error) => {
                    self.take_back(&targets).map_err(Failure::Fatal)?;
                    self.space.met_a_full_disk();
                    tracing::warn!(%error, at = %draft.part.at, "the disk is full: the log takes nothing for now");
                    return Err(Failure::Full);
                }
                Err((file, error)) => return Err(named(file, error)),
            }
        }
        askwhen_process::fault::point("written");
        if !askwhen_process::fault::mutant("ack_before_sync") {
            let durable = if is_committed {
                let both = drafts.iter().zip(&targets);
                let piece = both.map(|(draft, target)| Piece { at: draft.part.at, target, frames: &draft.bytes });
                let pieces: Vec<Piece<'_>> = piece.collect();
                self.commits.write(&pieces)
            } else {
                self.syncer.sync_all(targets.iter().map(|target| &target.file))
            };
            durable.map_err(Failure::Fatal)?;
        }
        Ok(targets)
    }

    /// Makes space in the commit log, before anything of a group is written.
    fn prepare(&mut self, pieces: usize, bytes: usize, now: Millis) -> Result<(), Failure> {
        match self.commits.prepare(pieces, bytes, now, &self.syncer) {
            Err(PrepareError::Disk(error)) if disk::is_full(&error) => {
                self.space.met_a_full_disk();
                tracing::warn!(%error, "the disk is full: the log takes nothing for now");
                Err(Failure::Full)
            }
            Err(PrepareError::Disk(error)) => Err(Failure::Fatal(Error::io("the commit log", error))),
            Err(PrepareError::Unknown(error)) => Err(Failure::Fatal(error)),
            Ok(()) => Ok(()),
        }
    }

    /// Truncates what was written of a refused group, durably, so that it is not there
    /// after a crash.
    fn take_back(&self, targets: &[Target]) -> Result<(), Error> {
        for target in targets {
            let cut = target.file.set_len(target.len_bytes).and_then(|()| target.file.sync_data());
            cut.map_err(|e| Error::io(target.path.display().to_string(), e))?;
        }
        Ok(())
    }
}
