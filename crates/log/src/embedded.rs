//! The embedded log: segment files for each partition. One thread writes the journal and
//! one everything else, each in a loop: take what is queued, write it, make it durable with
//! one sync of the commit log, publish the frontier, acknowledge. Readers never get records
//! above the frontier. After a failed sync the outcome is unknown, and the writer stops for
//! good: the process has to end. A full disk makes the log read-only until there is space.

mod commit;
mod compaction;
mod cursor;
mod ends;
pub mod files;
pub mod follow;
mod identity;
mod log_state;
mod partition;
mod recovery;
mod segment;
mod space;
mod syncer;
mod tail;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::disk::{Disk, DiskLock};
use crate::ack::{Ack, Append, Urgency};
use crate::error::Error;
use crate::record::{NewRecord, Record, TopicPartition, Watermarks};
use askwhen_domain::time::Millis;
use askwhen_process::clock::Clock;
use askwhen_process::thread::{Notify, Service, Thread};
use askwhen_wire::topic::Topic;
use commit::CommitLog;
use identity::EmbeddedIdentity;
use log_state::{LogState, NOTE_EVERY};
use partition::PartitionLog;
use space::Purpose;
use syncer::Syncer;
use writer::Writer;

pub use log_state::Options;
pub use segment::SEGMENT_BYTES;
pub use space::{DiskClaim, free_mark_bytes};

#[derive(Debug)]
pub struct Embedded {
    state: Arc<LogState>,
    run: Mutex<Run>,
    /// Released last.
    _lock: DiskLock,
}

/// Who runs the writers.
enum Run {
    Threads {
        writers: Vec<Thread>,
        notes: Option<Service>,
    },
    /// The caller, with [`Embedded::step`].
    Steps(Vec<Writer>),
    Closed,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Run::Threads { .. } => "Threads",
            Run::Steps(_) => "Steps",
            Run::Closed => "Closed",
        })
    }
}

impl Embedded {
    /// Opens the log in `dir`, or creates one with `partitions`.
    ///
    /// # Errors
    /// [`Error::Refused`] when the log is of another format or partition count, or in use;
    /// [`Error::Damaged`] when acknowledged records are missing.
    pub fn open(dir: &Path, partitions: u32, clock: Clock) -> Result<Embedded, Error> {
        Embedded::open_on(Disk::Real, dir, partitions, clock, Options::default())
    }

    /// As [`Embedded::open`], on any disk.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_on(disk: Disk, dir: &Path, partitions: u32, clock: Clock, options: Options) -> Result<Embedded, Error> {
        let log = Embedded::open_stepped(disk, dir, partitions, clock, options)?;
        let io = |e: std::io::Error| Error::io(dir.display().to_string(), e);
        let mut run = log.run.lock().expect("just made");
        if let Run::Steps(steps) = std::mem::replace(&mut *run, Run::Closed) {
            let mut writers = Vec::new();
            for (name, writer) in ["log-journal", "log-outputs"].into_iter().zip(steps) {
                let mut writer = Writer { syncer: Syncer::start().map_err(io)?, ..writer };
                writers.push(Thread::spawn(name, move || writer.run()).map_err(io)?);
            }
            let state = log.state.clone();
            let notes = Service::spawn("log-notes", Arc::default(), move |turns| {
                while turns.go_on() {
                    turns.wait(Duration::from_millis(NOTE_EVERY as u64));
                    state.do_upkeep(state.clock.wall());
                }
            });
            *run = Run::Threads { writers, notes: Some(notes.map_err(io)?) };
        }
        drop(run);
        Ok(log)
    }

    /// Opens a log without threads: appends are written when the caller calls
    /// [`Embedded::step`], in the caller's thread. On a simulated disk with a simulated
    /// clock it is deterministic.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_stepped(
        disk: Disk,
        dir: &Path,
        partitions: u32,
        clock: Clock,
        options: Options,
    ) -> Result<Embedded, Error> {
        disk.create_dir_all(dir).map_err(|e| Error::io(dir.display().to_string(), e))?;
        let lock = identity::lock(&disk, dir)?;
        log_state::tighten(&disk, dir, partitions)?;
        let state = LogState::open(disk.clone(), dir, partitions, clock.clone(), options)?;
        let purposes = [Purpose::Journal, Purpose::Outputs].into_iter().zip(commit::NAMES);
        let writers = state.queues.iter().zip(purposes).map(|(queue, (purpose, name))| Writer {
            queue: queue.clone(),
            purpose,
            clock: clock.clone(),
            disk: disk.clone(),
            space: state.space.clone(),
            syncer: Syncer::Inline,
            commits: CommitLog::new(disk.clone(), dir.to_owned(), name, state.identity.clone())
                .with_files_of(options.commit_file_bytes),
        });
        let run = Mutex::new(Run::Steps(writers.collect()));
        Ok(Embedded { state: Arc::new(state), run, _lock: lock })
    }

    /// Writes, syncs and acknowledges one group of each writer, and does the upkeep that is
    /// due; returns whether anything was written. Does nothing in a log with threads.
    pub fn step(&self) -> bool {
        let mut run = self.run.lock().expect("no panic holds this lock");
        let Run::Steps(writers) = &mut *run else { return false };
        // Both writers, not only the first with something to do.
        let worked: Vec<bool> = writers.iter_mut().map(Writer::step).collect();
        self.state.do_upkeep(self.state.clock.wall());
        worked.contains(&true)
    }

    /// Incarnation and partitions of the log in `dir`, if there is one.
    ///
    /// # Errors
    /// When its identity cannot be read.
    pub fn identity_of(dir: &Path) -> Result<Option<(u128, u32)>, Error> {
        let read = |identity: EmbeddedIdentity| Ok((identity.incarnation(dir)?, identity.partitions));
        EmbeddedIdentity::read(&Disk::Real, dir)?.map(read).transpose()
    }

    /// Whether every MAC of the log in `dir` names log and partition.
    ///
    /// # Errors
    /// When its identity cannot be read.
    pub fn binds_macs_in(dir: &Path) -> Result<bool, Error> {
        Ok(EmbeddedIdentity::read(&Disk::Real, dir)?.is_some_and(|identity| identity.bound_macs))
    }

    /// The number of partitions of the log in `dir`, if there is one.
    ///
    /// # Errors
    /// When its identity cannot be read.
    pub fn partitions_of(dir: &Path) -> Result<Option<u32>, Error> {
        Ok(EmbeddedIdentity::read(&Disk::Real, dir)?.map(|identity| identity.partitions))
    }

    /// Checks that the log in `dir`, if there is one, has so many partitions; writes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] when it has others, or when its identity cannot be read.
    pub fn check_partitions(dir: &Path, partitions: u32) -> Result<(), Error> {
        EmbeddedIdentity::read(&Disk::Real, dir)?.map_or(Ok(()), |identity| identity.check(dir, partitions))
    }

    /// A consistent cut: the ends of all partitions at one moment, by name. The cause of
    /// every record below them is below them, too.
    pub fn cut(&self) -> BTreeMap<String, u64> {
        let ends = || -> Vec<u64> { self.state.parts.values().map(|part| part.end()).collect() };
        let mut before = ends();
        loop {
            let now = ends();
            // Ends only grow, so when they are the same twice they were so in between.
            if now == before {
                return self.state.parts.keys().map(ToString::to_string).zip(now).collect();
            }
            before = now;
        }
    }

    pub fn incarnation(&self) -> u128 {
        self.state.incarnation
    }

    pub fn binds_macs(&self) -> bool {
        self.state.binds_macs
    }

    pub fn partitions(&self) -> u32 {
        self.state.partitions
    }

    pub fn dir(&self) -> &Path {
        &self.state.dir
    }

    fn part(&self, at: TopicPartition) -> &Arc<PartitionLog> {
        self.state.parts.get(&at).expect("partitions are those of the declared topics")
    }

    pub fn append(&self, at: TopicPartition, records: Vec<NewRecord>, ack: Ack) {
        self.append_all(vec![Append { at, records, ack, urgency: Urgency::Now }]);
    }

    /// Appends of one call that go to one writer are written in one group.
    pub fn append_all(&self, appends: Vec<Append>) {
        let mut of_queues = [Vec::new(), Vec::new()];
        for append in appends {
            of_queues[usize::from(append.at.topic != Topic::Events)].push((self.part(append.at).clone(), append));
        }
        for (queue, appends) in self.state.queues.iter().zip(of_queues) {
            if !appends.is_empty() {
                queue.append_all(appends);
            }
        }
    }

    pub fn read(&self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        self.part(at).read(from, max_bytes)
    }

    pub fn bounds(&self, at: TopicPartition) -> Watermarks {
        self.part(at).bounds()
    }

    /// One past the last durable record.
    pub fn end(&self, at: TopicPartition) -> u64 {
        self.part(at).end()
    }

    pub fn subscribe(&self, at: TopicPartition, notify: Arc<Notify>) {
        self.part(at).subscribe(notify);
    }

    /// Removes whole segments below an offset, never the one being written.
    ///
    /// # Errors
    /// When files cannot be removed.
    pub fn trim(&self, at: TopicPartition, below: u64) -> Result<(), Error> {
        self.state.trim(self.part(at), below)
    }

    /// Bytes that are queued for writing, and those of the newest records in memory.
    pub fn memory_bytes(&self) -> usize {
        let queued: usize = self.state.queues.iter().map(|queue| queue.queued_bytes()).sum();
        queued + self.state.parts.values().map(|part| part.tail_bytes()).sum::<usize>()
    }

    /// Whether an append has a chance at the moment.
    ///
    /// # Errors
    /// Why it has none.
    pub fn is_writable(&self) -> Result<(), Error> {
        if let Some(failed) = self.state.failed() {
            return Err(failed);
        }
        if self.state.space.is_read_only() {
            return Err(self.state.space.refusal());
        }
        Ok(())
    }

    /// Whether outputs of what was taken have a chance right now.
    ///
    /// # Errors
    /// Why not.
    pub fn takes_outputs(&self) -> Result<(), Error> {
        if let Some(failed) = self.state.failed() {
            return Err(failed);
        }
        if self.state.space.is_blocked_for_outputs() {
            return Err(self.state.space.refusal());
        }
        Ok(())
    }

    /// Checks the free space; to be called now and then, because a log that became
    /// read-only on a full disk becomes writable again here. Returns the free bytes.
    pub fn check_space(&self) -> Option<u64> {
        self.state.space.look()
    }

    /// A claim on disk space for a store on the same disk.
    pub fn claim(&self) -> DiskClaim {
        DiskClaim::on(self.state.space.clone())
    }

    /// Bytes of all segments of a topic.
    pub fn topic_bytes(&self, topic: Topic) -> u64 {
        self.state.parts.values().filter(|part| part.at.topic == topic).map(|part| part.len_bytes()).sum()
    }

    /// The newest append time in any partition: a clock behind it is wrong.
    pub fn newest_at(&self) -> Option<Millis> {
        self.state.parts.values().filter_map(|part| part.newest_at()).max()
    }

    /// Writes what is queued, notes the ends, and ends the threads.
    pub fn close(&self) {
        for queue in &self.state.queues {
            queue.close();
        }
        // Dropping a thread joins it.
        match std::mem::replace(&mut *self.run.lock().expect("no panic holds this lock"), Run::Closed) {
            Run::Closed => return,
            Run::Threads { writers, notes } => {
                drop(notes);
                drop(writers);
            }
            Run::Steps(mut writers) => {
                for writer in &mut writers {
                    while writer.step() {}
                    writer.finish();
                }
            }
        }
        if self.state.failed().is_none() {
            if let Err(error) = self.state.identity.update(EmbeddedIdentity::without_commit_logs) {
                tracing::warn!(%error, "the log was closed in order, but could not note that: earlier versions refuse it");
            }
            self.state.note_ends();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
