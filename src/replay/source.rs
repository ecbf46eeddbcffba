//! The log as read by a process that does not serve it: beside the writers, without a
//! lock, from any offset on.

use crate::engine::families;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::Error;
use askwhen_domain::time::{Millis, format_time};
use askwhen_domain::{LOGIC_VERSION, goes_on_from};
use askwhen_log::embedded::follow::Follower;
use askwhen_log::{Fetch as _, Log, Reader, Record, TopicPartition, Watermarks};
use askwhen_partition::admission::Admission;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_process::thread::Notify;
use askwhen_store::bucket;
use askwhen_store::snapshot::{Manifest, SnapshotRepository};
use askwhen_store::{Rocks, Shared, Store};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;

/// Bytes that one read of the brokers gives at most.
const READ_BYTES: usize = 1 << 20;
/// The role under which the repository keeps snapshots of the engine.
const ENGINE: &str = "engine";

/// Where the log is.
pub enum LogSource {
    /// The folder of an embedded one, which another process may write.
    Files(PathBuf),
    /// The embedded one of this process, which knows where in its files an offset is.
    Own(Log),
    Brokers(Log),
}

/// A log, its cluster key, and the snapshots of the state that was made from it.
pub struct Source {
    pub key: ClusterKey,
    pub incarnation: u128,
    pub partitions: u32,
    /// See [`Log::binds_macs`].
    pub binds_macs: bool,
    pub place: LogSource,
    /// The error says why there is none.
    pub repository: Result<SnapshotRepository, Error>,
    /// Block cache and write buffers of all stores that are made while reading.
    pub shared: Shared,
    /// Where states are made that are only looked at; `None` for the system's temporary folder.
    pub scratch: Option<PathBuf>,
}

/// What a replay of a partition can begin with.
pub(super) struct Usable {
    /// The offset of the journal's first record.
    pub start: u64,
    /// The snapshots that the journal goes on from, the furthest first.
    pub snapshots: Vec<Manifest>,
}

/// The state that a partition's journal is applied to, on a store of its own.
pub struct StartingState {
    pub store: Arc<Store>,
    /// Its `next` is the first record to be applied.
    pub meta: CheckpointMeta,
    /// The snapshot that it comes from; `None` when it is empty.
    pub snapshot: Option<Manifest>,
}

impl Source {
    /// The rules by which a partition's records are taken.
    pub fn rules(&self, partition: u32) -> Admission {
        Admission::of_log(self.incarnation, self.partitions, self.binds_macs, &self.key, partition)
    }

    /// A folder for a state that is only looked at.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch_folder(&self) -> std::io::Result<tempfile::TempDir> {
        let Some(scratch) = &self.scratch else { return tempfile::tempdir() };
        std::fs::create_dir_all(scratch)?;
        tempfile::tempdir_in(scratch)
    }

    /// Records of a partition from an offset on. Where others append, it may have no end.
    pub fn journal_reader(&self, at: TopicPartition, from: u64) -> JournalReader {
        self.reader_for("replay", at, from)
    }

    /// Records of a partition from an offset on, up to the end that it has now.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn reader_to_end(&self, purpose: &'static str, at: TopicPartition, from: u64) -> Result<JournalReader, Error> {
        let end = self.bounds(at)?.end;
        Ok(JournalReader { end: Some(end), ..self.reader_for(purpose, at, from) })
    }

    /// On brokers each purpose has a consumer of its own, which reads a partition
    /// at one place.
    fn reader_for(&self, purpose: &'static str, at: TopicPartition, from: u64) -> JournalReader {
        let records = match &self.place {
            LogSource::Files(dir) => RecordSource::Files(Follower::from(dir, at, from)),
            LogSource::Own(log) => RecordSource::Own(log.clone()),
            LogSource::Brokers(log) => {
                let notify = Arc::new(Notify::default());
                RecordSource::Brokers { reader: log.reader(purpose, notify.clone()), notify }
            }
        };
        JournalReader { at, next: from, end: None, records, spent: Duration::ZERO }
    }

    /// Where a partition begins and ends, without records that came with an export.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn bounds(&self, at: TopicPartition) -> Result<Watermarks, Error> {
        match &self.place {
            LogSource::Files(dir) => Follower::bounds(dir, at).map_err(read_error),
            LogSource::Own(log) | LogSource::Brokers(log) => {
                let bounds = log.bounds(at)?;
                let begins = if at.topic == Topic::Events { log.begins(at.partition) } else { 0 };
                Ok(Watermarks { start: bounds.start.max(begins), end: bounds.end })
            }
        }
    }

    /// The first offset whose record was appended at `time` or later.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn offset_at(&self, at: TopicPartition, time: Millis) -> Result<u64, Error> {
        match &self.place {
            LogSource::Files(dir) => Follower::offset_at(dir, at, time).map_err(read_error),
            LogSource::Own(log) | LogSource::Brokers(log) => Ok(log.offset_at(at, time)?),
        }
    }

    /// # Errors
    /// Why there is none.
    pub fn repository(&self) -> Result<&SnapshotRepository, Error> {
        self.repository.as_ref().map_err(|why| Error::usage(why.to_string()))
    }

    /// The snapshot of a partition that counts, with its repository: the furthest one of
    /// the highest generation, whatever version of the rules made it.
    ///
    /// # Errors
    /// When they are out of reach.
    pub fn newest(&self, role: &str, partition: u32) -> Result<Option<(&SnapshotRepository, Manifest)>, Error> {
        let repository = self.repository()?;
        let own = format!("{:032x}", self.incarnation);
        let listed = repository.list(role, partition).map_err(unreachable)?.into_iter();
        let newest = listed
            .filter(|m| m.subject.incarnation == own)
            .max_by_key(|m| (m.subject.generation, m.subject.position, m.subject.created_at));
        Ok(newest.map(|manifest| (repository, manifest)))
    }

    /// Snapshots of a partition that this program can go on from, the furthest first.
    ///
    /// # Errors
    /// When they are out of reach.
    pub fn snapshots(&self, partition: u32) -> Result<Vec<Manifest>, Error> {
        let mut found = self.repository()?.list(ENGINE, partition).map_err(unreachable)?;
        let own = format!("{:032x}", self.incarnation);
        found.retain(|m| m.subject.incarnation == own && goes_on_from(m.subject.logic_version));
        found.sort_by_key(|m| std::cmp::Reverse(m.subject.position));
        Ok(found)
    }

    /// The state before `time`: that of the newest snapshot from before then, else an
    /// empty one where the journal still has its beginning. The store is made in the
    /// folder `into`.
    ///
    /// # Errors
    /// When what was before the journal's beginning is known from no snapshot.
    pub fn begin(&self, partition: u32, time: Millis, into: &Path) -> Result<StartingState, Error> {
        let usable = self.usable(partition)?;
        self.begin_with(partition, time, usable, |manifest| self.open(manifest, time, into))
    }

    /// The same with states that `open` makes: of a snapshot, unless it turns out to be
    /// damaged or too late, or the empty one. `usable` is what [`Source::usable`] says.
    ///
    /// # Errors
    /// As [`Source::begin`].
    pub(super) fn begin_with<T>(
        &self,
        partition: u32,
        time: Millis,
        usable: Usable,
        mut open: impl FnMut(Option<&Manifest>) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        for manifest in usable.snapshots.iter().filter(|manifest| manifest.subject.created_at <= time) {
            if let Some(opened) = open(Some(manifest))? {
                return Ok(opened);
            }
        }
        let untrimmed = refuse_trimmed(TopicPartition { topic: Topic::Events, partition }, usable.start);
        untrimmed.map_err(|why| match usable.snapshots.last() {
            Some(earliest) => Error::refused(format!(
                "{why}. The earliest that can be begun with is of {}",
                format_time(earliest.subject.created_at)
            )),
            None => why,
        })?;
        open(None)?.ok_or_else(|| Error::failed("the state before the first record cannot be made"))
    }

    /// The state of a snapshot, or the empty one, in a new store; `None` when the snapshot
    /// is damaged, or of after `time`.
    ///
    /// # Errors
    /// When it cannot be fetched, or the store cannot be made.
    pub(super) fn open(
        &self,
        manifest: Option<&Manifest>,
        time: Millis,
        into: &Path,
    ) -> Result<Option<StartingState>, Error> {
        let Some(manifest) = manifest else { return self.empty(into).map(Some) };
        if let Some((store, meta)) = self.restored(manifest, into)?.filter(|(_, meta)| meta.now <= time) {
            return Ok(Some(StartingState { store, meta, snapshot: Some(manifest.clone()) }));
        }
        std::fs::remove_dir_all(into)?;
        Ok(None)
    }

    /// The earliest state: an empty one where the journal has its beginning, else that of
    /// the oldest snapshot that the journal goes on from.
    ///
    /// # Errors
    /// When there is none.
    pub fn begin_early(&self, partition: u32, into: &Path) -> Result<StartingState, Error> {
        let Usable { start, snapshots } = self.usable(partition)?;
        for manifest in snapshots.into_iter().rev().filter(|_| start > 0) {
            match self.restored(&manifest, into)? {
                Some((store, meta)) => return Ok(StartingState { store, meta, snapshot: Some(manifest) }),
                None => std::fs::remove_dir_all(into)?,
            }
        }
        self.begin_empty(partition, start, into)
    }

    /// Where the journal begins, and the snapshots that it goes on from, the furthest
    /// first.
    ///
    /// # Errors
    /// When the journal or the snapshots cannot be read.
    pub(super) fn usable(&self, partition: u32) -> Result<Usable, Error> {
        let start = self.bounds(TopicPartition { topic: Topic::Events, partition })?.start;
        let listed = match self.snapshots(partition) {
            Err(error) if start == 0 => {
                tracing::warn!(%error, "snapshots cannot be listed; the journal is read from its beginning");
                Vec::new()
            }
            listed => listed?,
        };
        Ok(Usable { start, snapshots: going_on_from(start, listed) })
    }

    /// The same of snapshots that were listed before.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(super) fn usable_of(&self, partition: u32, listed: Vec<Manifest>) -> Result<Usable, Error> {
        let start = self.bounds(TopicPartition { topic: Topic::Events, partition })?.start;
        Ok(Usable { start, snapshots: going_on_from(start, listed) })
    }

    fn begin_empty(&self, partition: u32, start: u64, into: &Path) -> Result<StartingState, Error> {
        refuse_trimmed(TopicPartition { topic: Topic::Events, partition }, start)?;
        self.empty(into)
    }

    /// The state before the first record.
    fn empty(&self, into: &Path) -> Result<StartingState, Error> {
        let meta = CheckpointMeta::new(self.incarnation, self.partitions, LOGIC_VERSION);
        Ok(StartingState { store: self.store(into)?, meta, snapshot: None })
    }

    /// Restores a snapshot to a store in the folder `into`; `None` when it is damaged.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub fn restored(&self, manifest: &Manifest, into: &Path) -> Result<Option<(Arc<Store>, CheckpointMeta)>, Error> {
        match self.repository()?.restore(manifest, into, |_, _| true) {
            Ok(()) => {}
            Err(bucket::Error::Damaged { what, detail }) => {
                tracing::warn!(what, detail, "a snapshot is damaged; the one before it is taken");
                return Ok(None);
            }
            Err(error) => return Err(unreachable(error)),
        }
        let store = self.store(into)?;
        let meta = CheckpointMeta::load(&store)?;
        Ok(meta.map(|meta| (store, meta)))
    }

    /// Opens or makes a store of the engine.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn store(&self, path: &Path) -> Result<Arc<Store>, Error> {
        std::fs::create_dir_all(path)?;
        Ok(Arc::new(Store::Rocks(Rocks::open(path, families::ALL, &self.shared)?)))
    }
}

/// Those that a journal which begins at `start` goes on from.
fn going_on_from(start: u64, mut listed: Vec<Manifest>) -> Vec<Manifest> {
    listed.retain(|manifest| manifest.subject.position >= start);
    listed
}

fn refuse_trimmed(at: TopicPartition, start: u64) -> Result<(), Error> {
    if start == 0 {
        return Ok(());
    }
    Err(Error::refused(format!(
        "{at} begins at {start}: what was before has been trimmed, and no snapshot from before that time is there that \
         these rules (version {LOGIC_VERSION}) can begin with"
    )))
}

/// Damage refuses a start; for a process that only reads, it is a failure. What was trimmed
/// while it was read cannot be told any more.
fn read_error(error: askwhen_log::Error) -> Error {
    match error {
        askwhen_log::Error::Damaged { .. } => Error::failed(error),
        askwhen_log::Error::Trimmed { .. } => Error::refused(error),
        error => error.into(),
    }
}

fn unreachable(error: bucket::Error) -> Error {
    Error::unreachable(error)
}

enum RecordSource {
    Files(Follower),
    Own(Log),
    Brokers { reader: Reader, notify: Arc<Notify> },
}

/// Reads a partition from an offset on.
pub struct JournalReader {
    at: TopicPartition,
    next: u64,
    /// The offset at which it ends, whatever comes behind.
    end: Option<u64>,
    records: RecordSource,
    /// How long reads have taken.
    pub spent: Duration,
}

impl JournalReader {
    /// The next records. Empty at the end: that of the log, behind which a later call goes
    /// on, or the reader's own.
    ///
    /// # Errors
    /// When it cannot be read, or something is missing in between.
    pub fn read(&mut self) -> Result<Vec<Record>, Error> {
        if self.end.is_some_and(|end| self.next >= end) {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let mut records = match &mut self.records {
            RecordSource::Files(follower) => {
                let records = follower.read().map_err(read_error)?;
                // The offsets of an embedded log have no gaps.
                let mut expected = self.next;
                for record in &records {
                    if record.offset != expected && expected > 0 {
                        return Err(Error::refused(format!(
                            "{} goes on at {} where {expected} is expected: the log is damaged there, or has been \
                             trimmed in the meantime",
                            self.at, record.offset
                        )));
                    }
                    expected = record.offset + 1;
                }
                records
            }
            RecordSource::Own(log) => log.read(self.at, self.next, READ_BYTES).map_err(read_error)?,
            RecordSource::Brokers { reader, notify } => loop {
                let chunk = reader.read(self.at, self.next, READ_BYTES)?;
                if !chunk.records.is_empty() || chunk.at_end {
                    break chunk.records;
                }
                notify.wait(Duration::from_millis(100));
            },
        };
        if let Some(end) = self.end {
            records.truncate(records.partition_point(|record| record.offset < end));
        }
        self.next = records.last().map_or(self.next, |last| last.offset + 1);
        self.spent += started.elapsed();
        Ok(records)
    }
}
