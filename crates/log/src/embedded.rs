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
mod partition;
mod recovery;
mod segment;
mod space;
mod syncer;
mod tail;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::disk::{Disk, DiskLock};
use crate::ack::Ack;
use crate::error::Error;
use crate::record::{NewRecord, Record, TopicPartition, Watermarks};
use askwhen_domain::time::{Millis, SECOND};
use askwhen_process::clock::Clock;
use askwhen_process::thread::{Notify, Service, Thread};
use askwhen_wire::topic::Topic;
use commit::CommitLog;
use compaction::SealedSegment;
use ends::Ends;
use ends::Merging;
use identity::{EmbeddedIdentity, IdentityFile};
use partition::PartitionLog;
use space::{Purpose, Space};
use syncer::Syncer;
use tail::Tail;
use writer::{Queue, Writer};

pub use segment::SEGMENT_BYTES;
pub use space::{DiskClaim, free_mark_bytes};

/// How often at most the ends of all partitions are noted, in milliseconds.
const NOTE_EVERY: Millis = SECOND;
/// A larger note is written less often, so that many segments cost no more.
const NOTE_BYTES_PER_SECOND: usize = 64 << 10;
/// Pause after a failed compaction, in milliseconds.
const COMPACT_AGAIN: Millis = 60 * SECOND;

#[derive(Debug)]
pub struct Embedded {
    core: Arc<Core>,
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

/// State that the log's threads share.
#[derive(Debug)]
struct Core {
    disk: Disk,
    dir: PathBuf,
    clock: Clock,
    incarnation: u128,
    partitions: u32,
    binds_macs: bool,
    identity: Arc<IdentityFile>,
    parts: BTreeMap<TopicPartition, Arc<PartitionLog>>,
    space: Arc<Space>,
    /// The queues of the journal and of all other topics.
    queues: [Arc<Queue>; 2],
    /// Locked by whoever changes files other than the newest of a partition.
    upkeep: Mutex<Upkeep>,
}

#[derive(Debug, Default)]
struct Upkeep {
    /// The ends in the last note, so that the same note is not written twice.
    ends: BTreeMap<TopicPartition, u64>,
    noted_at: Millis,
    note_bytes: usize,
    /// After a failed compaction, when the next one may begin.
    compact_at: Millis,
}

/// Options of a log; the defaults are for servers.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A new segment begins when one would grow larger than this.
    pub segment_bytes: u64,
    /// The size of a commit log's file at which the other one is used.
    pub commit_file_bytes: u64,
    /// The most bytes of newest records that each partition keeps in memory.
    pub tail_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_bytes: SEGMENT_BYTES, commit_file_bytes: commit::FILE_BYTES, tail_bytes: tail::TAIL_BYTES }
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
            let core = log.core.clone();
            let notes = Service::spawn("log-notes", Arc::default(), move |turns| {
                while turns.go_on() {
                    turns.wait(Duration::from_millis(NOTE_EVERY as u64));
                    core.upkeep(core.clock.wall());
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
        tighten(&disk, dir, partitions)?;
        let core = Core::open(disk.clone(), dir, partitions, clock.clone(), options)?;
        let purposes = [Purpose::Journal, Purpose::Outputs].into_iter().zip(commit::NAMES);
        let writers = core.queues.iter().zip(purposes).map(|(queue, (purpose, name))| Writer {
            queue: queue.clone(),
            purpose,
            clock: clock.clone(),
            disk: disk.clone(),
            space: core.space.clone(),
            syncer: Syncer::Inline,
            commits: CommitLog::new(disk.clone(), dir.to_owned(), name, core.identity.clone())
                .with_files_of(options.commit_file_bytes),
        });
        let run = Mutex::new(Run::Steps(writers.collect()));
        Ok(Embedded { core: Arc::new(core), run, _lock: lock })
    }

    /// Writes, syncs and acknowledges one group of each writer, and does the upkeep that is
    /// due; returns whether anything was written. Does nothing in a log with threads.
    pub fn step(&self) -> bool {
        let mut run = self.run.lock().expect("no panic holds this lock");
        let Run::Steps(writers) = &mut *run else { return false };
        // Both writers, not only the first with something to do.
        let worked: Vec<bool> = writers.iter_mut().map(Writer::step).collect();
        self.core.upkeep(self.core.clock.wall());
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

    /// A consistent cut: the ends of all partitions at one moment, by name. The cause of
    /// every record below them is below them, too.
    pub fn cut(&self) -> BTreeMap<String, u64> {
        let ends = || -> Vec<u64> { self.core.parts.values().map(|part| part.end()).collect() };
        let mut before = ends();
        loop {
            let now = ends();
            // Ends only grow, so when they are the same twice they were so in between.
            if now == before {
                return self.core.parts.keys().map(ToString::to_string).zip(now).collect();
            }
            before = now;
        }
    }

    pub fn incarnation(&self) -> u128 {
        self.core.incarnation
    }

    pub fn binds_macs(&self) -> bool {
        self.core.binds_macs
    }

    pub fn partitions(&self) -> u32 {
        self.core.partitions
    }

    pub fn dir(&self) -> &Path {
        &self.core.dir
    }

    fn part(&self, at: TopicPartition) -> &Arc<PartitionLog> {
        self.core.parts.get(&at).expect("partitions are those of the declared topics")
    }

    pub fn append(&self, at: TopicPartition, records: Vec<NewRecord>, ack: Ack) {
        self.core.queues[usize::from(at.topic != Topic::Events)].append(self.part(at), records, ack);
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
        self.core.trim(self.part(at), below)
    }

    /// Bytes that are queued for writing, and those of the newest records in memory.
    pub fn memory_bytes(&self) -> usize {
        let queued: usize = self.core.queues.iter().map(|queue| queue.queued_bytes()).sum();
        queued + self.core.parts.values().map(|part| part.tail_bytes()).sum::<usize>()
    }

    /// Whether an append has a chance at the moment.
    ///
    /// # Errors
    /// Why it has none.
    pub fn is_writable(&self) -> Result<(), Error> {
        if let Some(failed) = self.core.failed() {
            return Err(failed);
        }
        if self.core.space.is_read_only() {
            return Err(self.core.space.refusal());
        }
        Ok(())
    }

    /// Checks the free space; to be called now and then, because a log that became
    /// read-only on a full disk becomes writable again here. Returns the free bytes.
    pub fn check_space(&self) -> Option<u64> {
        self.core.space.look()
    }

    /// A claim on disk space for a store on the same disk.
    pub fn claim(&self) -> DiskClaim {
        DiskClaim::on(self.core.space.clone())
    }

    /// Bytes of all segments of a topic.
    pub fn topic_bytes(&self, topic: Topic) -> u64 {
        self.core.parts.values().filter(|part| part.at.topic == topic).map(|part| part.len_bytes()).sum()
    }

    /// The newest append time in any partition: a clock behind it is wrong.
    pub fn newest_at(&self) -> Option<Millis> {
        self.core.parts.values().filter_map(|part| part.newest_at()).max()
    }

    /// Writes what is queued, notes the ends, and ends the threads.
    pub fn close(&self) {
        for queue in &self.core.queues {
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
        if self.core.failed().is_none() {
            if let Err(error) = self.core.identity.update(EmbeddedIdentity::without_commit_logs) {
                tracing::warn!(%error, "the log was closed in order, but could not note that: earlier versions refuse it");
            }
            self.core.note_and_say();
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Core {
    fn open(disk: Disk, dir: &Path, partitions: u32, clock: Clock, options: Options) -> Result<Core, Error> {
        let mut was_used = false;
        for at in all_partitions(partitions) {
            was_used = was_used || recovery::holds_records(&disk, &files::dir_of(dir, at))?;
        }
        was_used = was_used || commit::holds_records(&disk, dir)?;
        let identity = match EmbeddedIdentity::read(&disk, dir)? {
            Some(identity) => identity,
            None if was_used => {
                return Err(Error::Refused(format!(
                    "{} holds records, but log.json, which says whose they are, is gone: restore it from a backup",
                    dir.display()
                )));
            }
            None => {
                let identity = EmbeddedIdentity::new(disk.unique(), partitions);
                identity.write(&disk, dir)?;
                identity
            }
        };
        identity.check(dir, partitions)?;
        let incarnation = identity.incarnation(dir)?;
        commit::replay(&disk, dir)?;
        let ends = Ends::read(&disk, dir)?;
        if ends.noted.is_empty() {
            sync_folders(&disk, dir)?;
        }
        let mut parts = BTreeMap::new();
        let tail_bytes = options.tail_bytes.min(tail::ALL_TAILS_BYTES / all_partitions(partitions).count());
        for at in all_partitions(partitions) {
            let (name, folder) = (at.to_string(), files::dir_of(dir, at));
            let known = recovery::RecoveryHints {
                noted: ends.noted.get(&name),
                plain_end: ends.plain.get(&name).copied().unwrap_or(0),
                was_used,
                has_gaps: partition::has_gaps(at),
            };
            let found = recovery::recover(&disk, at, &folder, known)?;
            let most = if partition::has_gaps(at) { compaction::SEGMENT_BYTES } else { SEGMENT_BYTES };
            let (segment_bytes, tail) = (options.segment_bytes.min(most), Tail::new(tail_bytes));
            parts.insert(at, Arc::new(PartitionLog::new(at, folder, segment_bytes, tail, found)));
        }
        let space = Arc::new(Space::new(disk.clone(), dir.to_owned()));
        let identity_file = Arc::new(IdentityFile::new(disk.clone(), dir.to_owned()));
        let core = Core {
            disk,
            dir: dir.to_owned(),
            clock,
            incarnation,
            partitions,
            binds_macs: identity.bound_macs,
            identity: identity_file,
            parts,
            space,
            queues: [Arc::default(), Arc::default()],
            upkeep: Mutex::default(),
        };
        core.note_and_say();
        Ok(core)
    }

    /// The error that ended the writers, once a write has failed.
    fn failed(&self) -> Option<Error> {
        self.queues.iter().find_map(|queue| queue.failed())
    }

    /// Upkeep that is due: notes of the ends, checks of the space, compaction.
    fn upkeep(&self, now: Millis) {
        if self.failed().is_some() {
            return;
        }
        if let Some(path) = self.parts.values().find_map(|part| part.taken_away(&self.disk)) {
            let why = format!(
                "{} is gone, or another file is in its place: what is written to it cannot be found again. Put it back, \
                 or restore a backup, before the next start",
                path.display()
            );
            tracing::error!(why, "the log takes nothing more until a restart");
            self.queues.iter().for_each(|queue| queue.fail(Error::Unknown(why.clone())));
            return;
        }
        if self.space.is_read_only() {
            self.space.look();
        }
        let upkeep = self.upkeep.lock().expect("no panic holds this lock");
        let pause = NOTE_EVERY * (1 + (upkeep.note_bytes / NOTE_BYTES_PER_SECOND) as Millis);
        // A clock that went back must not delay it.
        let is_due = now < upkeep.noted_at || now - upkeep.noted_at >= pause;
        let has_news = self.parts.iter().any(|(at, part)| upkeep.ends.get(at) != Some(&part.end()));
        let may_compact = now < upkeep.noted_at || now >= upkeep.compact_at;
        drop(upkeep);
        if is_due && has_news {
            self.note_and_say();
        }
        for part in self.parts.values().filter(|part| may_compact && partition::has_gaps(part.at)) {
            let sealed = part.sealed();
            if compaction::is_due(&sealed)
                && let Err(error) = self.compact(part, &sealed, now)
            {
                self.upkeep.lock().expect("no panic holds this lock").compact_at = now + COMPACT_AGAIN;
                tracing::warn!(%error, at = %part.at, "a topic could not be compacted; it is tried again");
            }
        }
    }

    /// Replaces all segments that are not being written by one with the latest record of
    /// each key.
    fn compact(&self, part: &PartitionLog, sealed: &[SealedSegment], now: Millis) -> Result<(), Error> {
        let mut upkeep = self.upkeep.lock().expect("no panic holds this lock");
        let io = |e: std::io::Error| Error::io(sealed[0].path.display().to_string(), e);
        let most = sealed.iter().map(|segment| segment.len_bytes).sum();
        self.space.reserve(most, Purpose::Outputs)?;
        let drafted = compaction::draft(&self.disk, part.at, sealed, now);
        self.space.release(most);
        let merging = drafted?;
        let draft = compaction::draft_path(&sealed[0].path);
        self.identity.update(EmbeddedIdentity::with_gaps).map_err(io)?;
        // The handle stays valid when the file is renamed.
        let mut merged = segment::Segment::open(&self.disk, &draft, sealed[0].base)?;
        merged.path = sealed[0].path.clone();
        let noted = self.note(&mut upkeep, Some((part.at, merging)));
        if let Err(error) = noted.and_then(|()| self.disk.rename(&draft, &sealed[0].path)) {
            self.disk.remove(&draft).ok();
            return Err(io(error));
        }
        let dir = files::dir_of(&self.dir, part.at);
        if let Err(error) = self.disk.sync_dir(&dir) {
            // It is unknown which of the two files is there after a crash, so no later note
            // could be right.
            let failed = Error::Unknown(io(error).to_string());
            self.queues[1].fail(failed.clone());
            return Err(failed);
        }
        part.replace_first(sealed.len(), merged);
        for old in &sealed[1..] {
            self.disk.remove(&old.path).map_err(io)?;
        }
        self.note(&mut upkeep, None).map_err(io)
    }

    /// Notes the ends of all partitions. When that fails, the older note stays valid.
    fn note_and_say(&self) {
        let mut upkeep = self.upkeep.lock().expect("no panic holds this lock");
        if let Err(error) = self.note(&mut upkeep, None) {
            tracing::warn!(%error, "could not note how far the log is; a start reads more of it instead");
        }
    }

    fn note(&self, upkeep: &mut Upkeep, merging: Option<(TopicPartition, Merging)>) -> std::io::Result<()> {
        // Also after a failure: the next try comes after the pause.
        upkeep.noted_at = self.clock.wall();
        let mut noted: Vec<(TopicPartition, ends::NotedEnd)> =
            self.parts.iter().map(|(at, part)| (*at, part.noted())).collect();
        if let Some((at, merging)) = merging
            && let Some((_, noted)) = noted.iter_mut().find(|(known, _)| *known == at)
        {
            noted.merging = Some(merging);
        }
        let ends = noted.iter().map(|(at, noted)| (*at, noted.end)).collect();
        let by_name = noted.into_iter().map(|(at, noted)| (at.to_string(), noted)).collect();
        upkeep.note_bytes = ends::write(&self.disk, &self.dir, by_name)?;
        upkeep.ends = ends;
        Ok(())
    }

    /// Notes which segments stay, then removes the others: a start after a crash in between
    /// removes them.
    fn trim(&self, part: &PartitionLog, below: u64) -> Result<(), Error> {
        let mut upkeep = self.upkeep.lock().expect("no panic holds this lock");
        let old = part.take_below(below);
        if old.is_empty() {
            return Ok(());
        }
        let io = |path: &Path, e: std::io::Error| Error::io(path.display().to_string(), e);
        if let Err(error) = self.note(&mut upkeep, None) {
            // On a full disk space must be freed all the same, without a note.
            let forgotten = if super::disk::is_full(&error) { ends::forget(&self.disk, &self.dir) } else { Err(error) };
            if let Err(error) = forgotten {
                part.put_back(old);
                return Err(io(&self.dir, error));
            }
            upkeep.ends.clear();
        }
        for segment in old {
            self.disk.remove(&segment.path).map_err(|e| io(&segment.path, e))?;
        }
        Ok(())
    }
}

/// The partitions that the log stores; replies do not go through the log.
fn all_partitions(partitions: u32) -> impl Iterator<Item = TopicPartition> {
    let topics = Topic::ALL.iter().copied().filter(|topic| *topic != Topic::Replies);
    topics.flat_map(move |topic| {
        (0..topic.partitions(partitions)).map(move |partition| TopicPartition { topic, partition })
    })
}

/// Makes folders durable that a start before a crash may have created.
fn sync_folders(disk: &Disk, dir: &Path) -> Result<(), Error> {
    for folder in Topic::ALL.iter().map(|topic| dir.join(topic.name())).chain([dir.to_owned()]) {
        match disk.sync_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            synced => synced.map_err(|e| Error::io(folder.display().to_string(), e))?,
        }
    }
    Ok(())
}

/// Removes the permissions of others from files that earlier versions created.
fn tighten(disk: &Disk, dir: &Path, partitions: u32) -> Result<(), Error> {
    let io = |path: &Path, e: std::io::Error| Error::io(path.display().to_string(), e);
    let mut folders = vec![dir.to_owned()];
    folders.extend(Topic::ALL.iter().map(|topic| dir.join(topic.name())));
    folders.extend(all_partitions(partitions).map(|at| files::dir_of(dir, at)));
    for folder in folders {
        let names = match disk.list(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            listed => listed.map_err(|e| io(&folder, e))?,
        };
        disk.tighten(&folder).map_err(|e| io(&folder, e))?;
        for name in names {
            let path = folder.join(name);
            match disk.tighten(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                tightened => tightened.map_err(|e| io(&path, e))?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
