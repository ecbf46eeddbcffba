//! The state that the threads of an embedded log share, and its upkeep: notes of the ends,
//! checks of the space, compaction and removal of old segments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::commit;
use super::compaction::{self, SealedSegment};
use super::ends::{self, Ends, Merging};
use super::files;
use super::identity::{EmbeddedIdentity, IdentityFile};
use super::partition::{self, PartitionLog};
use super::recovery;
use super::segment::{SEGMENT_BYTES, Segment};
use super::space::{Purpose, Space};
use super::tail::{self, Tail};
use super::writer::Queue;
use crate::disk::{self, Disk};
use crate::error::Error;
use crate::record::TopicPartition;
use askwhen_domain::time::{Millis, SECOND};
use askwhen_process::clock::Clock;
use askwhen_wire::topic::Topic;

/// How often at most the ends of all partitions are noted, in milliseconds.
pub const NOTE_EVERY: Millis = SECOND;
/// A larger note is written less often, so that many segments cost no more.
const NOTE_BYTES_PER_SECOND: usize = 64 << 10;
/// Pause after a failed compaction, in milliseconds.
const COMPACT_AGAIN: Millis = 60 * SECOND;

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

/// State that the log's threads share.
#[derive(Debug)]
pub struct LogState {
    pub disk: Disk,
    pub dir: PathBuf,
    pub clock: Clock,
    pub incarnation: u128,
    pub partitions: u32,
    pub binds_macs: bool,
    pub identity: Arc<IdentityFile>,
    pub parts: BTreeMap<TopicPartition, Arc<PartitionLog>>,
    pub space: Arc<Space>,
    /// The queues of the journal and of all other topics.
    pub queues: [Arc<Queue>; 2],
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

impl LogState {
    pub fn open(disk: Disk, dir: &Path, partitions: u32, clock: Clock, options: Options) -> Result<LogState, Error> {
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
        let core = LogState {
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
        core.note_ends();
        Ok(core)
    }

    /// The error that ended the writers, once a write has failed.
    pub fn failed(&self) -> Option<Error> {
        self.queues.iter().find_map(|queue| queue.failed())
    }

    /// Upkeep that is due: notes of the ends, checks of the space, compaction.
    pub fn do_upkeep(&self, now: Millis) {
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
            self.note_ends();
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
        let mut merged = Segment::open(&self.disk, &draft, sealed[0].base)?;
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
    pub fn note_ends(&self) {
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
    pub fn trim(&self, part: &PartitionLog, below: u64) -> Result<(), Error> {
        let mut upkeep = self.upkeep.lock().expect("no panic holds this lock");
        let old = part.take_below(below);
        if old.is_empty() {
            return Ok(());
        }
        let io = |path: &Path, e: std::io::Error| Error::io(path.display().to_string(), e);
        if let Err(error) = self.note(&mut upkeep, None) {
            // On a full disk space must be freed all the same, without a note.
            let forgotten = if disk::is_full(&error) { ends::forget(&self.disk, &self.dir) } else { Err(error) };
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

/// Removes the permissions of others from files that earlier versions created.
pub fn tighten(disk: &Disk, dir: &Path, partitions: u32) -> Result<(), Error> {
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
